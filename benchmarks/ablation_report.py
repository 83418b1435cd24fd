"""The table of what each option of ``PromptMMPlus`` is worth."""

from typing import Any

from benchmarks.suite_report import interval, mean_std


def ablation_table(result: dict[str, Any]) -> str:
    """Every model beside the plain one and, with an option left out, beside all."""
    lines = [
        f'**{result["setting"]["dataset"]}**, test Recall@20, mean ± standard '
        f'deviation of {len(result["seeds"])} seeds',
        '',
        '| PromptMMPlus | strengths | epochs | Recall@20 | - plain (95 %) '
        '| - all options (95 %) |',
        '|---|---|---|---|---|---|',
    ]
    for row in result['ablation']:
        strengths = ', '.join(
            f'{name} {value:g}'
            for name, value in row['options'].items()
            if not isinstance(value, bool)
        )
        epochs = sum(row['epochs']) / len(row['epochs'])
        cells = [row['model'], strengths, f'{epochs:.0f}', mean_std(row['test'])]
        gains = [row.get(key) for key in ('over_plain', 'over_all')]
        cells += [interval(gain) if gain else '' for gain in gains]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)
