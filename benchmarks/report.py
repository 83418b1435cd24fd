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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', nargs='+', type=Path, help='result files (JSON)')
    for path in parser.parse_args().results:
        print(table(json.loads(path.read_text())), end='\n\n')


if __name__ == '__main__':
    main()
