"""What every benchmark can be told."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from benchmarks.settings import SETTINGS


def command_line(
    description: str | None,
    settings: Iterable[str] = sorted(SETTINGS),
    *,
    several: bool = False,
) -> argparse.ArgumentParser:
    """A parser with ``--seeds``, ``--work`` and ``--out``, and with the setting (or
    ``several``) and ``--data`` where there is a choice of settings.
    """
    parser = argparse.ArgumentParser(description=description)
    choices = list(settings)
    if choices:
        folder = 'folder of the data set'
        if several:
            folder += ', or of all of them, named as they are'
        parser.add_argument(
            'setting', choices=choices, nargs='+' if several else None, help='what'
        )
        parser.add_argument('--data', type=Path, help=folder)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--work', type=Path, default=Path('runs/benchmarks'), help='what is kept'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('benchmarks/results'), help='results'
    )
    return parser
