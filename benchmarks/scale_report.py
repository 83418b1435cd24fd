"""Table and figure of cost against edges, from the result file."""

from pathlib import Path
from typing import Any

from promptmm_pyg.viz.figure import figure_of, new_axes, save_figure

DRAWN = (
    'propagation',
    'rows gathered alone',
    'teacher step, whole graph',
    'student epoch, lazy',
    'student epoch, dense',
    'distillation epoch',
    'triplets of an epoch',
)


def scale_table(result: dict[str, Any]) -> str:
    """Every cost at every size, seconds measured and, where an epoch was cut or users
    were sampled, estimated; the exponents; sizes and memory.
    """
    rows, setting = result['scale'], result['setting']
    head = [f'{row["interactions"]:,}' for row in rows]
    columns = [f'{name} | all, estimated' for name in head]
    lines = [
        f'Seconds by number of interactions; tables of width {setting["width"]}, '
        f'{setting["features"]}-d item features in float16 on disk, '
        f'{setting["threads"]} threads. Steps are medians of {setting["repeats"]}. '
        'Of an epoch that was cut, or of a sample of users, the share that was '
        'measured stands beside its seconds; the estimate for all is never fitted',
        '',
        '| what | ' + ' | '.join(columns) + ' | exponent | of the last two |',
        '|---|' + '---|---|' * len(rows) + '---|---|',
    ]
    for name in dict.fromkeys(name for row in rows for name in row['costs']):
        cells = [name]
        for row in rows:
            cells += _seconds(row['costs'].get(name))
        fit = result['exponents'].get(name)
        cells += (
            ['', '']
            if fit is None
            else [f'{fit["exponent"]:.2f}', f'{fit["last_two"]:.2f}']
        )
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join([*lines, '', *_memory(rows, setting['memory'])])


def _seconds(cost: dict[str, Any] | None) -> list[str]:
    """Measured, and estimated where that was not the whole."""
    if cost is None:
        return ['does not fit', '']
    if cost['share'] == 1:
        return [f'{cost["seconds"]:.3g}', '']
    return [f'{cost["seconds"]:.3g} ({cost["share"]:.2%})', f'{cost["estimate"]:.3g}']


def _memory(rows: list[dict[str, Any]], budget: int) -> list[str]:
    lines = [
        '| interactions | users | items | trained edges | triplets/s | ranked users/s '
        '| tables MiB | features MiB | peak MiB, student and evaluation | '
        'peak MiB, all | estimated MiB |',
        '|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        costs = row['costs']
        cells = [
            *(f'{row[k]:,}' for k in ('interactions', 'users', 'items', 'edges')),
            f'{costs["triplets of an epoch"]["triplets_per_second"]:,.0f}',
            f'{costs["evaluation"]["users_per_second"]:,.0f} '
            f'({costs["evaluation"]["users"]:,} users)',
            *(f'{row[k] / 2**20:.1f}' for k in ('tables_bytes', 'features_bytes')),
            *(
                f'{row[k]:,.0f}'
                for k in ('student_peak_mib', 'peak_mib', 'estimated_mib')
            ),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    most = max(row['peak_mib'] for row in rows)
    kept = 'kept' if most * 2**20 <= budget else 'EXCEEDED'
    lines += ['', f'The budget of {budget / 2**30:g} GiB was {kept}.']
    return lines


def scale_plot(result: dict[str, Any], path: str | Path) -> None:
    """Writes a PNG: seconds over edges, both logarithmic, a line a cost, named with
    its exponent, beside a line of exponent 1.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    ax = new_axes('scale_plot', 8.5, 4.5)
    figure = figure_of(ax)
    rows, starts = result['scale'], []
    for name in DRAWN:
        edges, seconds = measured(rows, name)
        if edges:
            fit = result['exponents'].get(name)
            label = name if fit is None else f'{name}: {fit["exponent"]:.2f}'
            ax.plot(edges, seconds, 'o-', label=label)
            starts.append(seconds[0] / edges[0])
    ends = [min(row['edges'] for row in rows), max(row['edges'] for row in rows)]
    line = [min(starts) * edges for edges in ends]
    ax.plot(ends, line, 'k:', label='exponent 1')
    ax.set_xscale('log')
    ax.set_yscale('log')
    ax.set_xlabel('edges')
    ax.set_ylabel('seconds')
    ax.set_title('Cost against edges, with fitted exponents')
    figure.legend(loc='outside right upper', fontsize='small')
    for side in ('top', 'right'):
        ax.spines[side].set_visible(False)
    save_figure(figure, path)


def measured(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Edges and seconds of a cost, of the sizes where it was measured as a whole."""
    found = [row for row in rows if row['costs'].get(name, {}).get('share') == 1]
    return (
        [row['edges'] for row in found],
        [row['costs'][name]['seconds'] for row in found],
    )
