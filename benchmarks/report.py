"""Tables in Markdown from the result files.

python -m benchmarks.report benchmarks/results/*.json
python -m benchmarks.report benchmarks/results/suite-tiktok.json --plot suite.png
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ablation_report import ablation_table
from benchmarks.budget_report import budget_table
from benchmarks.content_report import (
    cold_table,
    content_plot,
    missing_table,
    noise_table,
)
from benchmarks.scale_report import scale_plot, scale_table
from benchmarks.shortcuts_report import shortcuts_table
from benchmarks.speed_report import roofline_lines
from benchmarks.suite_report import interval, mean_std, suite_plot, suite_table

METRICS = ('Recall@20', 'NDCG@20')


def table(result: dict[str, Any]) -> str:
    """One data set: mean and standard deviation over seeds, and the differences."""
    seeds = result['seeds']
    lines = [
        f'**{result["setting"]["dataset"]}**, test, mean ± standard deviation of '
        f'{len(seeds)} seeds',
        '',
        '| model | width | parameters | ' + ' | '.join(METRICS) + ' |',
        '|---|---|---|' + '---|' * len(METRICS),
    ]
    for title, model in result['models'].items():
        cells = [
            f'{model["test"][m]["mean"]:.4f} ± {model["test"][m]["std"]:.4f}'
            for m in METRICS
        ]
        lines.append(
            f'| {title} | {model["width"]} | {model["parameters"]:,} | '
            + ' | '.join(cells)
            + ' |'
        )
    lines += ['', '| difference in Recall@20 | mean | 95 % interval |', '|---|---|---|']
    for name, gain in result['differences'].items():
        spread = f'[{gain["low"]:+.4f}, {gain["high"]:+.4f}]'
        lines.append(f'| {name} | {gain["difference"]:+.4f} | {spread} |')
    return '\n'.join(lines)


def speed_table(result: dict[str, Any]) -> str:
    """Medians, each beside its ratio to our own of the same group."""
    lines = ['| what | how | median ms | to ours |', '|---|---|---|---|']
    for title, times in result['sections'].items():
        ours = 1.0
        for name, value in times.items():
            if '(ours)' in name:  # Stands first in its group.
                ours = value['median_ms']
            rate = f', {value["per_second"]:,.0f}/s' if 'per_second' in value else ''
            lines.append(
                f'| {title} | {name}{rate} | {value["median_ms"]:.2f} | '
                f'{value["median_ms"] / ours:.1f}x |'
            )
    lines += ['', f'Peak memory of the whole run: {result["peak_memory_mib"]:.0f} MiB.']
    return '\n'.join([*lines, *roofline_lines(result.get('roofline', []))])


def losses_table(result: dict[str, Any]) -> str:
    """Every loss at every width: mean, share of the teacher, gain on the control."""
    rows = result['losses']
    widths = sorted({row['width'] for row in rows})
    teacher = result['teacher']
    head = [f'width {w} | of teacher | - control (95 %)' for w in widths]
    lines = [
        f'**{result["setting"]["dataset"]}**, test Recall@20, mean of '
        f'{len(result["seeds"])} seeds; the teacher, width {result["teacher_width"]}, '
        f'has {teacher["mean"]:.4f} ± {teacher["std"]:.4f}',
        '',
        '| loss | ' + ' | '.join(head) + ' |',
        '|---|' + '---|---|---|' * len(widths),
    ]
    for name in dict.fromkeys(row['name'] for row in rows):
        cells = []
        for width in widths:
            (row,) = (r for r in rows if (r['name'], r['width']) == (name, width))
            cells += [f'{row["test"]["mean"]:.4f}', f'{row["share_of_teacher"]:.0%}']
            gain = row.get('difference')
            cells.append(
                ''
                if gain is None
                else f'{gain["difference"]:+.4f} '
                f'[{gain["low"]:+.4f}, {gain["high"]:+.4f}]'
            )
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def widths_table(result: dict[str, Any]) -> str:
    """Every start with every loss at every width, and what the tables cost."""
    widths = sorted({row['width'] for row in result['cells']})
    teacher = result['teacher']
    seeds = len(result['seeds'])
    lines = [
        f'**{result["setting"]["dataset"]}**, test Recall@20, mean ± standard '
        f'deviation of {seeds} seeds (share of the teacher; epochs); the teacher, '
        f'width {result["teacher_width"]}, has {teacher["mean"]:.4f} ± '
        f'{teacher["std"]:.4f}',
        *_by_width(result['cells'], widths, _outcome),
    ]
    for key, rival in (
        ('over_control', 'the control of the same start and width'),
        ('over_copy', "the teacher's tables cut to that width, untrained"),
    ):
        lines += ['', f'Recall@20 beyond that of {rival} (95 % interval)']
        rows = [row for row in result['cells'] if key in row]
        lines += _by_width(rows, widths, lambda row, key=key: interval(row[key]))
    return '\n'.join([*lines, '', *_costs(result['costs'])])


def _by_width(
    rows: list[dict[str, Any]], widths: list[int], cell: Callable[..., str]
) -> list[str]:
    found = {(r['init'], r['distillation'], r['width']): cell(r) for r in rows}
    lines = [
        '',
        '| start | distillation | ' + ' | '.join(f'width {w}' for w in widths) + ' |',
        '|---|---|' + '---|' * len(widths),
    ]
    for init, name in dict.fromkeys(key[:2] for key in found):
        cells = ' | '.join(found[init, name, width] for width in widths)
        lines.append(f'| {init} | {name} | {cells} |')
    return lines


def _outcome(row: dict[str, Any]) -> str:
    more = f'{row["share_of_teacher"]:.0%}'
    if 'epochs' in row:
        more += f'; {sum(row["epochs"]) / len(row["epochs"]):.0f}'
    return f'{mean_std(row["test"])} ({more})'


def _costs(rows: list[dict[str, Any]]) -> list[str]:
    times = [key for key in rows[0] if isinstance(rows[0][key], dict)]
    titles = [key.replace('serve_', 'top-20, users: ') + ', ms' for key in times]
    lines = [
        '| tables | width | trainable parameters | MiB served | '
        + ' | '.join(titles)
        + ' |',
        '|---|---|---|---|' + '---|' * len(times),
    ]
    for row in rows:
        cells = [f'{row[key]["median_ms"]:.3f}' for key in times]
        lines.append(
            f'| {row["how"]} | {row["width"]} | {row["parameters"]:,} | '
            f'{row["bytes"] / 2**20:.2f} | ' + ' | '.join(cells) + ' |'
        )
    return lines


_SHOWN = 0.005  # A weight that is not zero in the table.


def mixture_table(result: dict[str, Any]) -> str:
    """The teachers with their weights, and their students beside the control."""
    lines = [
        f'**{result["setting"]["dataset"]}**, test Recall@20, mean ± standard '
        f'deviation of {len(result["seeds"])} seeds',
        '',
        '| teacher | width | weights | validation | test |',
        '|---|---|---|---|---|',
    ]
    for row in result['teachers']:
        means = {
            name: sum(w[name] for w in row['weights']) / len(row['weights'])
            for name in row['weights'][0]
        }
        weights = ', '.join(
            f'{name} {mean:.2f}' for name, mean in means.items() if mean >= _SHOWN
        )
        lines.append(
            f'| {row["name"]} | {row["width"]} | {weights} | '
            f'{mean_std(row["val"])} | {mean_std(row["test"])} |'
        )
    titles = {'over_control': 'no teacher', 'over_LightGCN': 'LightGCN'}
    titles |= {'over_EASE': 'EASE'}
    known = [key for key in titles if any(key in row for row in result['students'])]
    head = ' | '.join(f'- {titles[key]} (95 %)' for key in known)
    lines += [
        '',
        f'| student of | width | test | {head} |',
        '|---|---|---|' + '---|' * len(known),
    ]
    for row in result['students']:
        gains = [interval(row[key]) if key in row else '' for key in known]
        lines.append(
            f'| {row["name"]} | {row["width"]} | {mean_std(row["test"])} | '
            + ' | '.join(gains)
            + ' |'
        )
    return '\n'.join(lines)


# By a key that no other kind of result has.
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    'scale': scale_table,
    'losses': losses_table,
    'suite': suite_table,
    'cells': widths_table,
    'students': mixture_table,
    'noise': noise_table,
    'cold': cold_table,
    'missing': missing_table,
    'shortcuts': shortcuts_table,
    'ablation': ablation_table,
    'budget': budget_table,
    'sections': speed_table,
}


def render(path: Path) -> str:
    """The table of one result file."""
    result = json.loads(path.read_text())
    for key, draw in TABLES.items():
        if key in result:
            return draw(result)
    return table(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', nargs='+', type=Path, help='result files (JSON)')
    parser.add_argument(
        '--plot',
        type=Path,
        help='PNG of one result: a suite, scale, cold items or missing content',
    )
    args = parser.parse_args()
    for path in args.results:
        print(render(path), end='\n\n')
    if args.plot is not None:
        (path,) = args.results
        result = json.loads(path.read_text())
        draw = suite_plot if 'suite' in result else content_plot
        draw = scale_plot if 'scale' in result else draw
        draw(result, args.plot)


if __name__ == '__main__':
    main()
