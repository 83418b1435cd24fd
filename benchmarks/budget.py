"""What a smaller budget of the suite would have said of the same models.

    python -m benchmarks.budget SMALL_FOLDER

``SMALL_FOLDER`` holds results of :mod:`benchmarks.suite` run with fewer trials, epochs
or seeds; beside each stands the result of the same data set in ``--out``. Trains and
tests nothing. Writes ``benchmarks/results/budget.json``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.result_file import versions, write_result
from benchmarks.suite_report import minutes_in_all, reference

LEVEL = 0.05
METRIC = 'Recall@20'


def budget(result: dict[str, Any]) -> dict[str, Any]:
    """What is compared of one result of the suite.

    Args:
        result: Of :mod:`benchmarks.suite`.
    """
    models, base = result['models'], reference(result)
    gains = result['comparisons'][base]
    return {
        'suite': result['suite'],
        'best': result['best'],
        'reference': base,
        'above': [
            name
            for name, gain in gains.items()
            if gain['difference'] > 0 and gain['holm_p'] < LEVEL
        ],
        'minutes': minutes_in_all(result),
        'models': {
            name: {'validation': row['validation'], 'test': row['test'][METRIC]}
            for name, row in models.items()
        },
    }


def beside(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """Two results of one data set, the models that both have, and how alike they
    rank them on test.

    Raises:
        ValueError: If they have fewer than two models in common.
    """
    from scipy.stats import spearmanr  # PyG needs it, too.

    parts = {'small': budget(small), 'large': budget(large)}
    names = [n for n in parts['large']['models'] if n in parts['small']['models']]
    if len(names) < 2:
        raise ValueError(
            f"'small' and 'large' requires two models in common (got {names}). Run the "
            f'suite with the same --models'
        )
    means = [
        [part['models'][n]['test']['mean'] for n in names] for part in parts.values()
    ]
    return {
        'dataset': large['suite']['dataset'],
        'names': names,
        'spearman': float(spearmanr(*means).statistic),
        **parts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('small', type=Path, help='folder of results of the suite')
    parser.add_argument(
        '--out', type=Path, default=Path('benchmarks/results'), help='results'
    )
    args = parser.parse_args()
    paths = sorted(args.small.glob('suite-*.json'))
    missing = [path.name for path in paths if not (args.out / path.name).is_file()]
    if not paths or missing:
        parser.error(
            f"'small' requires results of the suite, each also in '{args.out}' (got "
            f'{[path.name for path in paths]}, there are no {missing} in it)'
        )
    rows = [
        beside(
            *(json.loads((at / path.name).read_text()) for at in (args.small, args.out))
        )
        for path in paths
    ]
    write_result(args.out / 'budget.json', {'budget': rows, 'versions': versions()})


if __name__ == '__main__':
    main()
