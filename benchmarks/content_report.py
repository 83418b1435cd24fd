"""Tables and figures of what content gives: cold items, noisy and missing content."""

from pathlib import Path
from typing import Any

from benchmarks.suite_report import interval, mean_std


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
    return _share_table(
        result, 'missing', title='model', spoiled='without content', base='LightGCN'
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
    try:
        import matplotlib as mpl

        mpl.use('Agg')
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            "'content_plot' needs 'matplotlib'. Install it with "
            "'pip install promptmm_pyg[viz]'"
        ) from error
    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    if 'cold' in result:
        rows = result['cold'][::-1]
        values = [row['cold']['Recall@20'] for row in rows]
        axes.barh(
            [row['model'] for row in rows],
            [value['mean'] for value in values],
            xerr=[value['std'] for value in values],
        )
        axes.set_xlabel('Recall@20 among cold items')
    else:
        rows = result['missing']
        for model in dict.fromkeys(row['model'] for row in rows):
            mine = [row for row in rows if row['model'] == model]
            axes.errorbar(
                [row['share'] for row in mine],
                [row['test']['mean'] for row in mine],
                [row['test']['std'] for row in mine],
                label=model,
                capsize=3,
            )
        axes.set_xlabel('share of items without content')
        axes.set_ylabel('Recall@20')
        axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
