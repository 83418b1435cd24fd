"""Tables in Markdown and LaTeX, and figures of results."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from promptmm_pyg._utils import check_choice
from promptmm_pyg.benchmark.result import load_result
from promptmm_pyg.benchmark.runner import METRIC, row_name
from promptmm_pyg.benchmark.stats import compare, mean, spread
from promptmm_pyg.viz.figure import figure_of, save_figure

Result = Mapping[str, Any]
LAST_EPOCH = '†'
# Columns of a row beside its hyper-parameters and values.
FACTORS = {
    'group': 'model',
    'name': 'variant',
    'width': 'width',
    'start': 'start',
    'share': 'share',
}


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


def recall(row: Mapping[str, Any]) -> str:
    """The test value of a row, for a cell."""
    return mean_std(row.get('test', {}).get(METRIC))


def mean_epochs(row: Mapping[str, Any]) -> str:
    """The mean of the best epochs, for a cell; marked where it is the last allowed."""
    epochs = row.get('epochs')
    if not epochs:
        return ''
    mark = f' {LAST_EPOCH}' if last_epochs(row) else ''
    return f'{sum(epochs) / len(epochs):.0f}{mark}'


def last_epochs(row: Mapping[str, Any]) -> int:
    """The number of seeds whose best epoch is the last allowed: more may be better."""
    return sum(epoch == row.get('max_epochs') for epoch in row.get('epochs', ()))


def convergence(result: Result) -> list[str]:
    """The line below a table that names its rows that may not have converged, after an
    empty one; none if all have.
    """
    rows = (*result.get('teachers', ()), *result['rows'])
    names = [
        f'{row_name(row)} ({last_epochs(row)} of {len(row["epochs"])} seeds)'
        for row in rows
        if last_epochs(row)
    ]
    if not names:
        return []
    text = f'{LAST_EPOCH} The best epoch is the last, so more epochs may be better: '
    return ['', text + ', '.join(dict.fromkeys(names))]


def seeds_of(result: Result) -> str:
    """What the values of a table are."""
    number = len(result['seeds'])
    if number == 1:
        return 'one seed: intervals do not include training noise'
    return f'mean ± standard deviation of {number} seeds'


def title(result: Result, more: str = '') -> list[str]:
    """The line above a table, and an empty one."""
    return [f'**{result["dataset"]}**, test {METRIC}, {seeds_of(result)}{more}', '']


def rows_table(result: Result, names: Mapping[str, str] | None = None) -> str:
    """Every row with its factors, hyper-parameters, test value and differences.

    Args:
        result: A result of any kind.
        names: Titles of the references. (default: their keys)
    """
    rows = result['rows']
    keys = dict.fromkeys(key for row in rows for key in row)
    factors = [key for key in FACTORS if key in keys]
    params = list(dict.fromkeys(p for row in rows for p in row.get('best_params', ())))
    references = [key for key in keys if key.startswith('diff_vs_')]
    head = [FACTORS[key] for key in factors] + [p.replace('_', ' ') for p in params]
    head += ['epochs', METRIC]
    for key in references:
        reference = key.removeprefix('diff_vs_')
        head.append(f'vs. {(names or {}).get(reference, reference)} (95 %)')
    body = [
        [
            *(str(row.get(key, '')) for key in factors),
            *(_cell(row.get('best_params', {}).get(param, '')) for param in params),
            mean_epochs(row),
            recall(row),
            *(interval(row.get(key)) for key in references),
        ]
        for row in rows
    ]
    lines = title(result) if 'seeds' in result else [f'**{result["dataset"]}**', '']
    return '\n'.join([*lines, *markdown(head, body)])


def _cell(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)


TableForm = Literal['markdown', 'latex']
_STYLES = {
    'markdown': ('**{}**', '<u>{}</u>'),
    'latex': (r'\textbf{{{}}}', r'\underline{{{}}}'),
}
_LATEX = {
    **{x: f'\\{x}' for x in '&%$#_{}'},
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '±': r'$\pm$',
    '<': '$<$',
}


def paper_table(
    paths: Sequence[str | Path],
    form: TableForm = 'markdown',
    *,
    metrics: Sequence[str] = (METRIC, 'NDCG@20'),
    reference: str | None = None,
) -> str:
    """One table of several results with the same rows, for a paper: a column per data
    set and metric, best values bold and second ones underlined, and the difference to
    one row with its 95 % interval, marked where it is significant.

    Differences are those of Recall@20 on the same test users, over users and training
    seeds (:func:`~promptmm_pyg.evaluation.paired_test`). A mark ``*`` is a p-value
    below .05, corrected by Holm's method for all rows of a data set.

    Args:
        paths: Result files, each with its test values per user beside it.
        form: ``'markdown'`` or ``'latex'``, for the package ``booktabs``.
            (default: ``'markdown'``)
        metrics: Test metrics. (default: Recall@20 and NDCG@20)
        reference: The name of the row that others are compared with. (default: the
            best on validation, over the data sets)

    Raises:
        ValueError: If a result has no such row or metric, or no values per user.
    """
    check_choice('form', form, ('markdown', 'latex'))
    results = [load_result(path) for path in paths]
    by_name = [{row_name(row): row for row in result['rows']} for result in results]
    names = list(dict.fromkeys(name for rows in by_name for name in rows))
    if reference is None:
        reference = max(names, key=lambda name: _validation(by_name, name))
    check_choice('reference', reference, names)
    columns = []
    for path, result, rows in zip(paths, results, by_name, strict=True):
        columns += [_values(rows, names, metric, form) for metric in metrics]
        columns.append(_gains(Path(path), result, names, reference, form))
    body = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    head = [*metrics, f'vs. {reference} (95 %)']
    seeds = sorted({len(result['seeds']) for result in results})
    caption = (
        f'Test metrics, mean ± standard deviation of {" or ".join(map(str, seeds))} '
        f'training seeds; best values are bold, second ones underlined. Differences in '
        f'{METRIC} to {reference} with 95 % intervals over users and training seeds; '
        f'* p < .05 (paired test, Holm-corrected)'
    )
    datasets = [result['dataset'] for result in results]
    if form == 'latex':
        return _latex(datasets, head, body, caption)
    names_of_columns = [f'{data} {x}' for data in datasets for x in head]
    return '\n'.join([f'{caption}.', '', *markdown(['model', *names_of_columns], body)])


def _validation(by_name: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean over data sets; rows that are missing in one are not the best."""
    values = [rows[name]['validation'] for rows in by_name if name in rows]
    return sum(map(mean, values)) / len(by_name)


def _values(
    rows: Mapping[str, Any], names: Sequence[str], metric: str, form: TableForm
) -> list[str]:
    """The cells of a metric; equal shown values share a rank."""
    spreads = {name: row['test'].get(metric) for name, row in rows.items()}
    known = sorted({key for row in rows.values() for key in row['test']})
    if None in spreads.values():
        raise ValueError(
            f"'metrics' must be in all rows of the results, such as {known} (got "
            f'{metric!r}). Choose one of these'
        )
    shown = {name: f'{mean(x):.4f}' for name, x in spreads.items() if x}
    is_low = metric.partition('@')[0] in ('Gini', 'AveragePopularity', 'PopularityLift')
    ranked = sorted(set(shown.values()), key=float, reverse=not is_low)[:2]
    cells = []
    for name in names:
        if name not in shown:
            cells.append('')
            continue
        text, seeds = shown[name], spreads[name]['seeds']
        if text in ranked and len(shown) > 1:
            text = _STYLES[form][ranked.index(text)].format(text)
        std = spread(seeds)['std']
        noise = f' {_escaped("±", form)} {std:.4f}' if len(seeds) > 1 else ''
        cells.append(text + noise)
    return cells


def _gains(
    path: Path,
    result: Result,
    names: Sequence[str],
    reference: str,
    form: TableForm,
) -> list[str]:
    """The differences to the reference on a data set."""
    file = path.with_name(result.get('per_user', f'{path.stem}-per-user.npz'))
    if not file.is_file():
        raise ValueError(
            f"'{path}' must have its test values per user beside it (got no '{file}'). "
            f'Run the benchmark again, or move the file there'
        )
    with np.load(file) as arrays:
        values = {x: torch.from_numpy(arrays[x]) for x in names if x in arrays}
    if reference not in values:
        return [''] * len(names)
    gains = compare(values, reference)
    cells = {
        name: interval(gain) + ('*' if gain['holm_p'] < 0.05 else '')
        for name, gain in gains.items()
    }
    # As minus signs.
    minus = r'\g<1>$-$' if form == 'latex' else r'\g<0>'
    return [re.sub(r'(^|[ [])-', minus, cells.get(name, '')) for name in names]


def _escaped(text: str, form: TableForm) -> str:
    if form == 'markdown':
        return text
    return re.sub('.', lambda match: _LATEX.get(match[0], match[0]), text)


def _latex(
    datasets: Sequence[str],
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    caption: str,
) -> str:
    """A table for booktabs; the cells of ``body`` are LaTeX, names are not."""
    width = len(head)
    groups = [
        rf'\multicolumn{{{width}}}{{c}}{{{_escaped(name, "latex")}}}'
        for name in datasets
    ]
    rules = [
        rf'\cmidrule(lr){{{2 + place * width}-{1 + (place + 1) * width}}}'
        for place in range(len(datasets))
    ]
    titles = ['model', *(_escaped(x, 'latex') for x in [*head] * len(datasets))]
    rows = [[_escaped(row[0], 'latex'), *row[1:]] for row in body]
    return '\n'.join(
        [
            r'\begin{table}[t]',
            r'\centering',
            rf'\caption{{{_escaped(caption, "latex")}.}}',
            rf'\begin{{tabular}}{{l{"r" * (width * len(datasets))}}}',
            r'\toprule',
            ' & '.join(['', *groups]).strip() + r' \\',
            ' '.join(rules),
            ' & '.join(titles) + r' \\',
            r'\midrule',
            *(' & '.join(row) + r' \\' for row in rows),
            r'\bottomrule',
            r'\end{tabular}',
            r'\end{table}',
        ]
    )


def save_plot(axes: Any, path: str | Path) -> None:
    """Writes the figure of the axes as PNG."""
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    save_figure(figure_of(axes), path)
