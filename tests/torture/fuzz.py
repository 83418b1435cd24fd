"""Damages the files of every reader for some minutes and counts what happens.

``python -m tests.torture.fuzz --minutes 10 --reader csv jsonl``; all readers share the
minutes of one call. The exit code is 1 if there is any fault.
"""

import argparse
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.torture._mutations import damage
from tests.torture._readers import READERS, _digest
from tests.torture._sandbox import (
    GOOD,
    Case,
    Outcome,
    attempt,
    report,
    run_cases,
    until,
)

_SHOWN = 6


class Target:
    """A reader with its valid files in a folder, restored before each case."""

    def __init__(self, name: str) -> None:
        self.name, self.reader = name, READERS[name]
        self.valid = Path(tempfile.mkdtemp(prefix=f'{name}-'))
        self.work = Path(tempfile.mkdtemp(prefix=f'{name}-'))
        self.reader.write(self.valid)
        files = [x for x in self.valid.glob(self.reader.pattern) if x.is_file()]
        self.files = sorted(x.relative_to(self.valid) for x in files)
        self.expected = _digest(self.reader.load(self._restore()))

    def _restore(self) -> Path:
        shutil.rmtree(self.work)
        shutil.copytree(self.valid, self.work)
        return self.work

    def case(self, seed: int) -> Case:
        """Damages one file, by the seed, and reads the folder."""

        def run() -> Outcome:
            draw = random.Random(f'{self.name}{seed}')
            folder = self._restore()
            file = draw.choice(self.files)
            how = damage(folder / file, draw)
            return self._read(folder, f'{self.name} {seed} {how} {file}')

        return run

    def flip(self, file: Path, draw: random.Random) -> Outcome:
        """Flips one bit of a file and reads the folder."""
        folder = self._restore()
        content = bytearray((folder / file).read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (folder / file).write_bytes(content)
        return self._read(folder, f'{self.name} {file}')

    def _read(self, folder: Path, what: str) -> Outcome:
        # Damaged settings name other files than their own.
        names = [*(file.name for file in self.files), tempfile.gettempdir()]
        kind, text = attempt(lambda: self._load(folder), names)
        if 'ChangedError' in text:
            kind = 'changed'
        return Outcome(kind, f'{what}: {text}')

    def _load(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            content = self.reader.load(folder)
        if self.reader.same and _digest(content) != self.expected:
            raise ChangedError

    def close(self) -> None:
        """Removes the folders."""
        shutil.rmtree(self.valid, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)


class ChangedError(Exception):
    """A damaged file of our own was read without an error and with other content."""


def fuzz(
    names: Sequence[str], stop: Callable[[], bool], cases: int, first: int = 0
) -> tuple[Counter[str], dict[str, list[str]], Counter[str]]:
    """Runs blocks of cases of each reader in turn until ``stop``."""
    counts: Counter[str] = Counter()
    per_reader: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    targets = [Target(name) for name in names]
    try:
        while True:
            for target in targets:
                begin = first
                outcomes = run_cases(lambda n, t=target, b=begin: t.case(b + n), cases)
                for outcome in outcomes:
                    kind = outcome.kind
                    counts[kind] += 1
                    per_reader[target.name] += 1
                    shown = examples.setdefault(kind, [])
                    if kind not in GOOD and len(shown) < _SHOWN * len(targets):
                        shown.append(outcome.text)
                    if stop():
                        return counts, examples, per_reader
            first += cases
            if stop():
                return counts, examples, per_reader
    finally:
        for target in targets:
            target.close()


def main() -> int:
    """Fuzzes and prints counts by class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=1.0)
    parser.add_argument('--reader', nargs='+', default=list(READERS), choices=READERS)
    parser.add_argument('--cases', type=int, default=200, help='cases per process')
    parser.add_argument('--first', type=int, default=0, help='the first seed')
    args = parser.parse_args()
    counts, examples, per_reader = fuzz(
        args.reader, until(args.minutes), args.cases, args.first
    )
    print(', '.join(f'{name} {number}' for name, number in per_reader.items()))
    title = f'fuzz {args.minutes:g} minutes'
    shown = {k: x for k, x in examples.items() if k not in GOOD}
    return 0 if report(title, counts, shown) else 1


if __name__ == '__main__':
    raise SystemExit(main())
