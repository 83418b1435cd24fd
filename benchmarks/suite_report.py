"""Table and figure of the suite, from its result file."""

from pathlib import Path
from typing import Any

from promptmm_pyg.viz.figure import figure_of, new_axes, save_figure

REFERENCE = 'LightGCN'


def by_validation(result: dict[str, Any]) -> list[str]:
    """The models, best first, as validation has it; test says nothing here."""
    models = result['models']
    return sorted(models, key=lambda name: -models[name]['validation']['mean'])


def reference(result: dict[str, Any]) -> str:
    """LightGCN; where the suite ran without it, the best model on validation."""
    return REFERENCE if REFERENCE in result['models'] else str(result['best'])


def minutes_in_all(result: dict[str, Any]) -> float | None:
    """What all trainings of all models took; ``None`` where a former version wrote the
    result, which does not tell.
    """
    seconds = [model.get('seconds_in_all') for model in result['models'].values()]
    return None if None in seconds else sum(seconds) / 60


def suite_table(result: dict[str, Any]) -> str:
    """One data set: every model with its test values, its distance to LightGCN and
    its cost, best on validation first.
    """
    suite, base = result['suite'], reference(result)
    rows = result['comparisons'][base]
    minutes = minutes_in_all(result)
    cost = '' if minutes is None else f'. All trainings: {minutes:.0f} minutes'
    lines = [
        f'**{suite["dataset"]}**, test, mean ± standard deviation of '
        f'{len(suite["seeds"])} seeds, {suite["trials"]} trials a model on '
        'validation, by which they are sorted. Intervals: users and seeds drawn '
        "again; p: signs of users' differences drawn again, Holm-corrected" + cost,
        '',
        f'| model | kind | parameters | Recall@20 | NDCG@20 | - {base} (95 %) | '
        'Holm p | s/epoch | peak MiB |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for name in by_validation(result):
        model = result['models'][name]
        gain = rows.get(name)
        epochs = [x for x in model['seconds_per_epoch'] if x is not None]
        cells = [
            name,
            model['kind'],
            f'{model["parameters"]:,}',
            mean_std(model['test']['Recall@20']),
            mean_std(model['test']['NDCG@20']),
            '' if gain is None else interval(gain),
            '' if gain is None else f'{gain["holm_p"]:.4f}',
            f'{sum(epochs) / len(epochs):.2f}' if epochs else '',
            f'{max(model["peak_mib"]):.0f}',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def suite_plot(result: dict[str, Any], path: str | Path) -> None:
    """Writes a PNG: how far every model is from LightGCN in test Recall@20, a dot
    and its 95 % interval a model, best on validation on top.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    base, colors = reference(result), {'untrained': 'C7', 'ids': 'C0'}
    names = by_validation(result)[::-1]
    ax = new_axes('suite_plot', 7.0, 1.4 + 0.3 * len(names))
    figure = figure_of(ax)
    ax.axvline(0.0, color='black', linewidth=1)
    for place, name in enumerate(names):
        zero = {'difference': 0.0, 'low': 0.0, 'high': 0.0}
        gain = result['comparisons'][base].get(name, zero)
        kind = result['models'][name]['kind']
        ends = [[gain['difference'] - gain['low']], [gain['high'] - gain['difference']]]
        color = colors.get(kind, 'C1')
        ax.errorbar([gain['difference']], [place], xerr=ends, fmt='o', color=color)
    means = [result['models'][name]['test']['Recall@20']['mean'] for name in names]
    labels = [f'{name}  {x:.4f}' for name, x in zip(names, means, strict=True)]
    ax.set_yticks(range(len(names)), labels)
    ax.set_xlabel(f'test Recall@20 minus that of {base}, 95 % intervals')
    ax.set_title(f'{result["suite"]["dataset"]}: best on validation on top')
    for side in ('top', 'right'):
        ax.spines[side].set_visible(False)
    save_figure(figure, path)


def mean_std(values: dict[str, Any]) -> str:
    """What :func:`benchmarks.run.spread` says, for a cell."""
    return f'{values["mean"]:.4f} ± {values["std"]:.4f}'


def interval(gain: dict[str, float]) -> str:
    """A difference with its interval, for a cell."""
    return f'{gain["difference"]:+.4f} [{gain["low"]:+.4f}, {gain["high"]:+.4f}]'
