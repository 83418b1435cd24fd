"""Tables in Markdown and figures from result files."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from promptmm_pyg._utils import check_choice
from promptmm_pyg.benchmark.experiments import (
    BASELINE,
    LEVEL,
    suite_minutes,
    suite_reference,
)
from promptmm_pyg.benchmark.result import load_result, mean
from promptmm_pyg.benchmark.runner import METRIC
from promptmm_pyg.viz.figure import figure_of, new_axes, save_figure

Result = Mapping[str, Any]
Table = Callable[[Any], str]
_SHOWN = 0.005  # The smallest weight of an ensemble that is printed.


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    return lines + ['| ' + ' | '.join(row) + ' |' for row in rows]


def mean_std(values: Mapping[str, Any] | None) -> str:
    """A spread, for a cell."""
    return f'{values["mean"]:.4f} ± {values["std"]:.4f}' if values else ''


def interval(values: Mapping[str, float] | None) -> str:
    """A difference with its interval, for a cell."""
    if values is None:
        return ''
    return f'{values["difference"]:+.4f} [{values["low"]:+.4f}, {values["high"]:+.4f}]'


def _title(result: Result, more: str = '') -> list[str]:
    return [
        f'**{result["dataset"]}**, test {METRIC}, mean ± standard deviation of '
        f'{len(result["seeds"])} seeds{more}',
        '',
    ]


def _recall(row: Mapping[str, Any]) -> str:
    return mean_std(row['test'][METRIC])


def _epochs(row: Mapping[str, Any]) -> str:
    epochs = row.get('epochs')
    return f'{sum(epochs) / len(epochs):.0f}' if epochs else ''


def main_table(result: Result) -> str:
    """Every model, and the differences on the same users."""
    metrics = (METRIC, 'NDCG@20')
    rows = [
        [row['name'], str(row['width']), f'{row["parameters"]:,}']
        + [mean_std(row['test'][m]) for m in metrics]
        for row in result['rows']
    ]
    gains = [
        [
            f'{row["name"]} vs. {key.removeprefix("diff_vs_").replace("_", " ")}',
            f'{gain["difference"]:+.4f}',
            f'[{gain["low"]:+.4f}, {gain["high"]:+.4f}]',
        ]
        for row in result['rows']
        for key, gain in row.items()
        if key.startswith('diff_vs_')
    ]
    head = (
        f'**{result["dataset"]}**, test, mean ± standard deviation of '
        f'{len(result["seeds"])} seeds'
    )
    lines = [head, '', *markdown(['model', 'width', 'parameters', *metrics], rows), '']
    lines += markdown([f'difference in {METRIC}', 'mean', '95 % interval'], gains)
    return '\n'.join(lines)


def by_validation(result: Result) -> list[dict[str, Any]]:
    """The rows of a suite, best on validation first."""
    return sorted(result['rows'], key=lambda row: -mean(row['validation']))


def suite_table(result: Result) -> str:
    """Every model with its difference to LightGCN and its costs."""
    base, minutes = suite_reference(result), suite_minutes(result)
    cost = '' if minutes is None else f'. All trainings: {minutes:.0f} minutes'
    head = (
        f'**{result["dataset"]}**, test, mean ± standard deviation of '
        f'{len(result["seeds"])} seeds; {result["protocol"]["trials"]} trials per '
        'model, sorted by validation. Intervals: bootstrap over users and seeds; p: '
        'permutation test over users, Holm-corrected' + cost
    )
    rows = []
    for row in by_validation(result):
        gain = row.get(f'diff_vs_{base}')
        epochs = [x for x in row['seconds_per_epoch'] if x is not None]
        rows.append(
            [
                row['name'],
                row['kind'],
                f'{row["parameters"]:,}',
                _recall(row),
                mean_std(row['test']['NDCG@20']),
                interval(gain),
                f'{gain["holm_p"]:.4f}' if gain else '',
                f'{sum(epochs) / len(epochs):.2f}' if epochs else '',
                f'{max(row["peak_mib"]):.0f}',
            ]
        )
    names = ['model', 'kind', 'parameters', METRIC, 'NDCG@20', f'vs. {base} (95 %)']
    names += ['Holm p', 's/epoch', 'peak MiB']
    return '\n'.join([head, '', *markdown(names, rows)])


def distillation_table(result: Result) -> str:
    """Losses by width; with several starts, a table per comparison, and costs."""
    (teacher,) = result['teachers']
    widths = sorted({row['width'] for row in result['rows']})
    starts = {row['start'] for row in result['rows'] if row['name'] == BASELINE}
    of_teacher = f'; the teacher, width {teacher["width"]}, has {_recall(teacher)}'
    if len(starts) == 1:
        head = [
            text
            for width in widths
            for text in (f'width {width}', 'of teacher', 'vs. baseline (95 %)')
        ]
        rows = {(row['name'], row['width']): row for row in result['rows']}
        body = []
        for name in dict.fromkeys(name for name, _ in rows):
            cells = [name]
            for width in widths:
                row = rows[name, width]
                cells += [
                    f'{mean(row["test"][METRIC]):.4f}',
                    f'{row["retained_ratio"]:.0%}',
                    interval(row.get('diff_vs_baseline')),
                ]
            body.append(cells)
        title = (
            f'**{result["dataset"]}**, test {METRIC}, mean of '
            f'{len(result["seeds"])} seeds{of_teacher}'
        )
        lines = [title, '', *markdown(['loss', *head], body)]
    else:
        lines = _title(result, f' (share of the teacher; epochs){of_teacher}')
        lines += _by_width(result['rows'], widths, _retained)
        for key, what in (
            ('diff_vs_baseline', 'the baseline of the same start and width'),
            ('diff_vs_truncated_teacher', 'the truncated teacher of the same width'),
        ):
            chosen = [row for row in result['rows'] if key in row]
            lines += ['', f'{METRIC} minus that of {what} (95 % interval)', '']
            lines += _by_width(chosen, widths, partial(_gain, key))
    if 'costs' in result:
        lines += ['', *_costs(result['costs'])]
    return '\n'.join(lines)


def _retained(row: Mapping[str, Any]) -> str:
    more = '; ' + _epochs(row) if _epochs(row) else ''
    return f'{_recall(row)} ({row["retained_ratio"]:.0%}{more})'


def _gain(key: str, row: Mapping[str, Any]) -> str:
    return interval(row[key])


def _by_width(
    rows: Sequence[Mapping[str, Any]],
    widths: Sequence[int],
    cell: Callable[[Mapping[str, Any]], str],
) -> list[str]:
    cells = {(r['start'], r['name'], r['width']): cell(r) for r in rows}
    return markdown(
        ['start', 'distillation', *(f'width {width}' for width in widths)],
        [
            [start, name, *(cells[start, name, width] for width in widths)]
            for start, name in dict.fromkeys(key[:2] for key in cells)
        ],
    )


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    times = [key for key in rows[0] if isinstance(rows[0][key], dict)]
    titles = [key.replace('serve_', 'top-20, users: ') + ', ms' for key in times]
    return markdown(
        ['tables', 'width', 'trainable parameters', 'MiB served', *titles],
        [
            [
                row['name'],
                str(row['width']),
                f'{row["parameters"]:,}',
                f'{row["bytes"] / 2**20:.2f}',
                *(f'{row[key]["median_ms"]:.3f}' for key in times),
            ]
            for row in rows
        ],
    )


def ensemble_table(result: Result) -> str:
    """The teachers with their weights, and their students."""
    teachers = []
    for row in result['teachers']:
        weights = {
            name: sum(w[name] for w in row['weights']) / len(row['weights'])
            for name in row['weights'][0]
        }
        shown = (f'{n} {w:.2f}' for n, w in weights.items() if w >= _SHOWN)
        validation = mean_std(row['validation'])
        cells = [row['name'], str(row['width']), ', '.join(shown)]
        teachers.append([*cells, validation, _recall(row)])
    names = {'baseline': 'baseline', 'LightGCN': 'LightGCN', 'EASE': 'EASE'}
    students = [
        [
            row['name'],
            str(row['width']),
            _recall(row),
            *(interval(row.get(f'diff_vs_{key}')) for key in names),
        ]
        for row in result['rows']
    ]
    gains = [f'vs. {name} (95 %)' for name in names.values()]
    return '\n'.join(
        [
            *_title(result),
            *markdown(['teacher', 'width', 'weights', 'validation', 'test'], teachers),
            '',
            *markdown(['student of', 'width', 'test', *gains], students),
        ]
    )


def ablation_table(result: Result) -> str:
    """Every variant beside the plain model and, without one option, beside all."""
    rows = [
        [
            row['name'],
            ', '.join(
                f'{name} {value:g}'
                for name, value in row['best_params'].items()
                if not isinstance(value, bool) and name != 'l2'
            ),
            _epochs(row),
            _recall(row),
            interval(row.get('diff_vs_baseline')),
            interval(row.get('diff_vs_all_options')),
        ]
        for row in result['rows']
    ]
    head = [result['protocol'].get('model', 'PromptMMPlus'), 'strengths', 'epochs']
    head += [METRIC, 'vs. plain (95 %)', 'vs. all options (95 %)']
    return '\n'.join([*_title(result), *markdown(head, rows)])


def variants_table(result: Result) -> str:
    """Variants by the share of corrupted items, or by group."""
    if 'share' not in result['rows'][0]:
        body = [
            [
                row['group'],
                row['name'],
                f'{row["best_params"]["learning_rate"]:g}'
                if 'learning_rate' in row['best_params']
                else '',
                _epochs(row),
                _recall(row),
                interval(row.get('diff_vs_baseline')),
            ]
            for row in result['rows']
        ]
        names = ['model', 'variant', 'learning rate', 'epochs', METRIC]
        return '\n'.join(
            [*_title(result), *markdown([*names, 'vs. the first (95 %)'], body)]
        )
    rows = {(row['name'], row['share']): row for row in result['rows']}
    shares = sorted({share for _, share in rows})
    what = {
        ('missing', 'items'): 'of items without content',
        ('missing', 'modalities'): 'of each modality missing',
        ('noise', 'items'): 'of items with wrong content',
    }[result['protocol']['corruption'], result['protocol'].get('pattern', 'items')]
    first = result['rows'][0]['name'].partition(',')[0]
    head = ['model']
    for share in shares:
        head += [f'{share:.0%} {what}', f'vs. {first} (95 %)']
    body = []
    for name in dict.fromkeys(name for name, _ in rows):
        cells = [name]
        for share in shares:
            row = rows[name, share]
            cells += [_recall(row), interval(row.get('diff_vs_baseline'))]
        body.append(cells)
    return '\n'.join([*_title(result), *markdown(head, body)])


def cold_table(result: Result) -> str:
    """Every model among cold items and among all items."""
    metrics = (METRIC, 'NDCG@20')
    rows = [
        [
            row['name'],
            *(mean_std(row['test_cold'][m]) for m in metrics),
            interval(row.get('diff_vs_baseline')),
            *(mean_std(row['test'][m]) for m in metrics),
        ]
        for row in result['rows']
    ]
    head = ['model', *(f'{m}, cold' for m in metrics), 'vs. baseline (95 %)']
    title = (
        f'**{result["dataset"]}**, test, {result["cold_items"]["test"]} cold items, '
        f'mean ± standard deviation of {len(result["seeds"])} seeds'
    )
    return '\n'.join(
        [title, '', *markdown([*head, *(f'{m}, all' for m in metrics)], rows)]
    )


def budget_table(result: Result) -> str:
    """Every model under both budgets, sorted by the larger one's validation."""
    small, large = result['small'], result['large']
    title = (
        f'**{result["dataset"]}**, test {METRIC}, mean ± standard deviation of '
        f'{len(small["protocol"]["seeds"])} and {len(large["protocol"]["seeds"])} '
        f'seeds; marked: above {large["reference"]}, Holm p below '
        f'{result["protocol"].get("level", LEVEL)}. Rank correlation of the two '
        f'columns: {result["spearman"]:.2f}'
    )
    both = [row for row in result['rows'] if 'small' in row and 'large' in row]
    both.sort(key=lambda row: -mean(row['large']['validation']))
    rows = [
        [row['name']]
        + [
            mean_std(row[size]['test']) + ' *' * (row['name'] in part['above'])
            for size, part in (('small', small), ('large', large))
        ]
        for row in both
    ]
    return '\n'.join(
        [title, '', *markdown(['model', _budget(small), _budget(large)], rows)]
    )


def _budget(part: Mapping[str, Any]) -> str:
    protocol, minutes = part['protocol'], part['minutes']
    cost = '' if minutes is None else f', {minutes:.0f} min of trainings'
    patience = protocol['training']['patience']
    return f'{protocol["trials"]} trials, patience {patience}{cost}'


TABLES: dict[str, Table] = {
    'main': main_table,
    'suite': suite_table,
    'distillation': distillation_table,
    'ensemble': ensemble_table,
    'ablation': ablation_table,
    'variants': variants_table,
    'cold': cold_table,
    'budget': budget_table,
}


def render(path: str | Path, tables: Mapping[str, Table] = TABLES) -> str:
    """The tables of a result file in Markdown."""
    result = load_result(path)
    check_choice('kind', result['kind'], tables)
    return tables[result['kind']](result)


def update_page(text: str, folder: Path, tables: Mapping[str, Table] = TABLES) -> str:
    """A page whose tables are those of the result files: between the comments
    ``<!-- table: NAME -->`` and ``<!-- end -->`` is the table of ``NAME.json``.
    """

    def drawn(match: re.Match[str]) -> str:
        table = render(folder / f'{match[1]}.json', tables)
        return f'<!-- table: {match[1]} -->\n\n{table}\n\n<!-- end -->'

    pattern = r'<!-- table: ([\w-]+) -->.*?<!-- end -->'
    return re.sub(pattern, drawn, text, flags=re.DOTALL)


def plot(result: Result, path: str | Path) -> None:
    """Writes a PNG of a suite, of cold items or of missing content.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no figure for the kind of result.
    """
    drawings = {'suite': _suite_dots, 'cold': _cold_bars, 'variants': _share_lines}
    if result['kind'] not in drawings:
        raise ValueError(
            f"'plot' requires a result of {', '.join(drawings)} (got "
            f'{result["kind"]!r})'
        )
    height = 1.4 + 0.3 * len(result['rows']) if result['kind'] == 'suite' else 4.0
    axes = new_axes('plot', 7.0, height)
    figure = figure_of(axes)
    drawings[result['kind']](axes, result)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)


def _suite_dots(axes: Any, result: Result) -> None:
    """Differences to LightGCN with their intervals, best on validation on top."""
    base = suite_reference(result)
    colors = {'closed form': 'C7', 'ids': 'C0'}
    rows = by_validation(result)[::-1]
    axes.axvline(0.0, color='black', linewidth=1)
    for place, row in enumerate(rows):
        zero = {'difference': 0.0, 'low': 0.0, 'high': 0.0}
        gain = row.get(f'diff_vs_{base}', zero)
        ends = [[gain['difference'] - gain['low']], [gain['high'] - gain['difference']]]
        color = colors.get(row['kind'], 'C1')
        axes.errorbar([gain['difference']], [place], xerr=ends, fmt='o', color=color)
    labels = [f'{row["name"]}  {mean(row["test"][METRIC]):.4f}' for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel(f'test {METRIC} minus that of {base}, 95 % intervals')
    axes.set_title(f'{result["dataset"]}: best on validation on top')


def _cold_bars(axes: Any, result: Result) -> None:
    rows = result['rows'][::-1]
    values = [row['test_cold'][METRIC] for row in rows]
    axes.barh(
        [row['name'] for row in rows],
        [value['mean'] for value in values],
        xerr=[value['std'] for value in values],
        color=['C0' if 'diff_vs_baseline' in row else '0.65' for row in rows],
        capsize=3,
    )
    axes.set_xlabel(f'{METRIC} among cold items, {_seeds(result)}')
    axes.set_title(f'{result["dataset"]}: items without interactions')


def _share_lines(axes: Any, result: Result) -> None:
    rows = result['rows']
    names = list(dict.fromkeys(row['name'] for row in rows))
    for number, name in enumerate(names):
        own = sorted(
            (row for row in rows if row['name'] == name), key=lambda row: row['share']
        )
        # Side by side, so that no error bar covers another.
        aside = number - (len(names) - 1) / 2
        axes.errorbar(
            [100 * row['share'] + 0.6 * aside for row in own],
            [row['test'][METRIC]['mean'] for row in own],
            [row['test'][METRIC]['std'] for row in own],
            label=name,
            capsize=3,
            **({'color': '0.5', 'linestyle': '--'} if number == 0 else {'marker': 'o'}),
        )
    by_modality = result['protocol'].get('pattern') == 'modalities'
    start = min(row.get('missing_ratio', 0.0) for row in rows)
    more = f' (at 0 %, {100 * start:.0f} % of the content is missing)' if start else ''
    what = '% of each modality missing' if by_modality else '% of items corrupted'
    axes.set_xlabel(what + more)
    axes.set_ylabel(f'{METRIC}, {_seeds(result)}')
    axes.set_title(f'{result["dataset"]}: {result["protocol"]["corruption"]} content')
    axes.legend()


def _seeds(result: Result) -> str:
    return f'mean ± std of {len(result["seeds"])} seeds'
