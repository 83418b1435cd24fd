"""Tables and figures of what content gives: cold items, noisy and missing content."""

from pathlib import Path
from typing import Any

from benchmarks.suite_report import interval, mean_std
from promptmm_pyg.viz.figure import figure_of, new_axes, save_figure


def cold_table(result: dict[str, Any]) -> str:
    """Every model among the cold items of test and among all items."""
    lines = [
        f'**{result["setting"]["dataset"]}**, test, '
        f'{result["cold_items"]["test"]} cold items, mean ± standard '
        f'deviation of {len(result["seeds"])} seeds',
        '',
        '| model | Recall@20, cold | NDCG@20, cold | - control (95 %) | '
        'Recall@20, all | NDCG@20, all |',
        '|---|---|---|---|---|---|',
    ]
    for row in result['cold']:
        gain = row.get('over_control')
        cells = [row['model']]
        cells += [mean_std(row['cold'][k]) for k in ('Recall@20', 'NDCG@20')]
        cells.append(interval(gain) if gain else '')
        cells += [mean_std(row['all'][k]) for k in ('Recall@20', 'NDCG@20')]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def noise_table(result: dict[str, Any]) -> str:
    """Every model at every share of noisy items, beside the plain one."""
    return _share_table(
        result, 'noise', title='PromptMMPlus', spoiled='noisy items', base='plain'
    )


def missing_table(result: dict[str, Any]) -> str:
    """Every model at every share of items without content, beside the floor."""
    spoiled = {
        'items': 'of items without content',
        'modalities': 'of each modality hidden',
    }[result.get('pattern', 'items')]
    return _share_table(
        result, 'missing', title='model', spoiled=spoiled, base='LightGCN'
    )


def _share_table(
    result: dict[str, Any], key: str, *, title: str, spoiled: str, base: str
) -> str:
    shares = sorted({row['share'] for row in result[key]})
    head = [f'{share:.0%} {spoiled} | - {base} (95 %)' for share in shares]
    lines = [
        '**synthetic**, test Recall@20, mean ± standard deviation of '
        f'{len(result["seeds"])} seeds',
        '',
        f'| {title} | ' + ' | '.join(head) + ' |',
        '|---|' + '---|---|' * len(shares),
    ]
    rows = {(row['model'], row['share']): row for row in result[key]}
    for model in dict.fromkeys(model for model, _ in rows):
        cells = []
        for share in shares:
            row = rows[model, share]
            # All but the first model have a difference to it.
            gain = row.get('over_plain', row.get('over_floor'))
            cells += [mean_std(row['test']), interval(gain) if gain else '']
        lines.append(f'| {model} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def content_plot(result: dict[str, Any], path: str | Path) -> None:
    """Writes a PNG of either result: bars of cold items, lines over missing shares."""
    axes = new_axes('content_plot', 7.0, 4.0)
    figure = figure_of(axes)
    if 'cold' in result:
        _cold_bars(axes, result)
    else:
        _missing_lines(axes, result)
    save_figure(figure, path)


def _cold_bars(axes: Any, result: dict[str, Any]) -> None:
    rows = result['cold'][::-1]
    values = [row['cold']['Recall@20'] for row in rows]
    axes.barh(
        [row['model'] for row in rows],
        [value['mean'] for value in values],
        xerr=[value['std'] for value in values],
        color=['C0' if 'over_control' in row else '0.65' for row in rows],
        capsize=3,
    )
    axes.set_xlabel(f'Recall@20 among cold items, {_seeds(result)}')
    axes.set_title(f'{result["setting"]["dataset"]}: items without any interaction')


def _missing_lines(axes: Any, result: dict[str, Any]) -> None:
    rows = result['missing']
    models = list(dict.fromkeys(row['model'] for row in rows))
    for number, model in enumerate(models):
        mine = sorted(
            (row for row in rows if row['model'] == model), key=lambda row: row['share']
        )
        # Side by side, so that no whisker hides another.
        aside = number - (len(models) - 1) / 2
        axes.errorbar(
            [100 * row['share'] + 0.6 * aside for row in mine],
            [row['test']['mean'] for row in mine],
            [row['test']['std'] for row in mine],
            label=model,
            capsize=3,
            # The first has no content to lose.
            **({'color': '0.5', 'linestyle': '--'} if number == 0 else {'marker': 'o'}),
        )
    what = {
        'items': '% of items without any modality',
        'modalities': '% of each modality hidden',
    }[result.get('pattern', 'items')]
    start = min(row.get('absent', 0.0) for row in rows)
    more = f' (at 0 %, {100 * start:.0f} % of the content is missing)' if start else ''
    axes.set_xlabel(what + more)
    axes.set_ylabel(f'Recall@20, {_seeds(result)}')
    axes.set_title('synthetic: what missing content costs')
    axes.legend()


def _seeds(result: dict[str, Any]) -> str:
    return f'mean ± std of {len(result["seeds"])} seeds'
