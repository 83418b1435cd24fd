"""The table of what cheaper training costs."""

from typing import Any

from benchmarks.suite_report import interval, mean_std


def shortcuts_table(result: dict[str, Any]) -> str:
    """Every way to train, beside the same model without a shortcut."""
    lines = [
        f'**{result["setting"]["dataset"]}**, test Recall@20, mean ± standard '
        f'deviation of {len(result["seeds"])} seeds',
        '',
        '| model | way | learning rate | epochs | Recall@20 | - exact (95 %) |',
        '|---|---|---|---|---|---|',
    ]
    for row in result['shortcuts']:
        epochs = sum(row['epochs']) / len(row['epochs'])
        gain = row.get('over_exact')
        cells = [row['model'], row['way'], f'{row["learning_rate"]:g}', f'{epochs:.0f}']
        cells += [mean_std(row['test']), interval(gain) if gain else '']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)
