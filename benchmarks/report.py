"""Tables in Markdown from the result files.

python -m benchmarks.report benchmarks/results/*.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

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
    for name, interval in result['differences'].items():
        lines.append(
            f'| {name} | {interval["difference"]:+.4f} | '
            f'[{interval["low"]:+.4f}, {interval["high"]:+.4f}] |'
        )
    return '\n'.join(lines)


def speed_table(result: dict[str, Any]) -> str:
    """Medians, each beside its ratio to our own of the same group."""
    lines = ['| what | how | median ms | to ours |', '|---|---|---|---|']
    for title, times in result['sections'].items():
        ours = 1.0
        for name, value in times.items():
            if '(ours)' in name:  # Stands first in its group.
                ours = value['median_ms']
            lines.append(
                f'| {title} | {name} | {value["median_ms"]:.2f} | '
                f'{value["median_ms"] / ours:.1f}x |'
            )
    lines += ['', f'Peak memory of the whole run: {result["peak_memory_mib"]:.0f} MiB.']
    return '\n'.join(lines)


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


def render(path: Path) -> str:
    """The table of one result file."""
    result = json.loads(path.read_text())
    if 'losses' in result:
        return losses_table(result)
    return speed_table(result) if 'sections' in result else table(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', nargs='+', type=Path, help='result files (JSON)')
    for path in parser.parse_args().results:
        print(render(path), end='\n\n')


if __name__ == '__main__':
    main()
