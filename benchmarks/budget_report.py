"""The table of what a smaller budget of the suite says."""

from typing import Any

from benchmarks.budget import LEVEL
from benchmarks.suite_report import by_validation, mean_std


def budget_table(result: dict[str, Any]) -> str:
    """Every model under both budgets, a table a data set, best first as the larger
    budget's validation has it.
    """
    return '\n\n'.join(_one(row) for row in result['budget'])


def _one(row: dict[str, Any]) -> str:
    small, large = row['small'], row['large']
    lines = [
        f'**{row["dataset"]}**, test Recall@20, mean ± standard deviation of '
        f'{len(small["suite"]["seeds"])} and {len(large["suite"]["seeds"])} seeds; '
        f'marked: above {large["reference"]}, Holm p below {LEVEL}. Rank correlation '
        f'of the two columns: {row["spearman"]:.2f}',
        '',
        f'| model | {_budget(small)} | {_budget(large)} |',
        '|---|---|---|',
    ]
    for name in by_validation(large):
        if name not in row['names']:
            continue
        cells = [
            mean_std(part['models'][name]['test']) + ' *' * (name in part['above'])
            for part in (small, large)
        ]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _budget(part: dict[str, Any]) -> str:
    suite, minutes = part['suite'], part['minutes']
    cost = '' if minutes is None else f', {minutes:.0f} min of trainings'
    return f'{suite["trials"]} trials, patience {suite["schedule"]["patience"]}{cost}'
