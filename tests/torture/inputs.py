"""Bad input through the command line and the Python API, a forked process per case.

``python -m tests.torture.inputs``; ``--show`` prints every message. The exit code is 1
if any case ends in a traceback, hangs, crashes or changes the files of a run.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from promptmm_pyg import Recommender, load_dataset, read_table
from promptmm_pyg.cli import build_parser, main
from promptmm_pyg.data import build_graph
from tests.torture._readers import HEADER, PAIRS, READERS, run_folder
from tests.torture._sandbox import GOOD, Outcome, report, run_cases

_DEEP = '[' * 100_000
_HUGE = '1' * 5000


class Input(NamedTuple):
    """A case: what it is, and what it does."""

    name: str
    call: Callable[[], Outcome]


class Files(NamedTuple):
    """The folders of all cases."""

    run: Path
    """A trained run; its files must not change when a command fails."""
    table: Path
    """Interactions."""
    work: Path
    """An empty folder, for output."""


def command(files: Files, *words: Any) -> Input:
    """The outcome of a command."""
    argv = [str(word) for word in words]

    def call() -> Outcome:
        before, output = _state(files.run), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                status = main(argv)
            except SystemExit as error:
                status = int(error.code or 0)
        text = output.getvalue()
        last = (text.strip().splitlines() or [''])[-1][:300]
        if 'Traceback' in text or 'internal error' in text:
            return Outcome('raw traceback', last)
        missing = set(before) - set(_state(files.run)) if status else ()
        if missing:
            return Outcome('lost', f'{sorted(missing)[:3]}: {last}')
        if status not in (0, 1, 2):
            return Outcome('raw traceback', f'status {status}: {last}')
        is_clear = status == 0 or 'error' in text
        return Outcome(
            ('ok' if status == 0 else 'clear error') if is_clear else 'unnamed file',
            f'status {status}: {last}',
        )

    return Input(' '.join(argv)[:160], _guarded(call))


def function(name: str, call: Callable[[], object]) -> Input:
    """The outcome of a call: bad arguments may also be a ``TypeError``."""

    def classified() -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                call()
            except (ValueError, OSError, TypeError, ImportError) as error:
                text = f'{type(error).__name__}: {error}'
                is_ours = _is_ours(error)
                return Outcome('clear error' if is_ours else 'raw traceback', text)
        return Outcome('ok')

    return Input(name[:160], _guarded(classified))


def _is_ours(error: BaseException) -> bool:
    """Whether the package raised the error or an open() names the file."""
    trace, last = error.__traceback__, ''
    while trace is not None:
        last, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    named = isinstance(error, OSError) and error.filename is not None
    # A call with the wrong ones, or with something that is no path.
    arguments = 'argument' in str(error) or 'os.PathLike' in str(error)
    return 'promptmm_pyg' in last or named or arguments


def _guarded(call: Callable[[], Outcome]) -> Callable[[], Outcome]:
    def guarded() -> Outcome:
        try:
            return call()
        except MemoryError as error:
            return Outcome('memory', repr(error))
        except Exception as error:
            return Outcome('raw traceback', f'{type(error).__name__}: {error}'[:300])

    return guarded


def _state(folder: Path) -> list[tuple[str, int, int]]:
    entries = sorted(x for x in folder.rglob('*') if x.is_file())
    # A part that an earlier failure has left for --resume may be begun anew.
    entries = [x for x in entries if '/.' not in str(x)]
    stats = [(str(x), x.stat()) for x in entries]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in stats]


def bad_paths(folder: Path) -> dict[str, str]:
    """Paths by what is wrong with them."""
    folder.mkdir()
    os.mkfifo(folder / 'pipe.csv')
    (folder / 'loop.csv').symlink_to('loop.csv')
    (folder / 'zero.csv').symlink_to('/dev/zero')
    (folder / 'empty.csv').touch()
    (folder / 'folder.csv').mkdir()
    (folder / 'random.csv').write_bytes(np.random.default_rng(0).bytes(9000))
    (folder / 'deep.csv').write_text(_DEEP)
    names = ['pipe', 'loop', 'zero', 'empty', 'folder', 'random', 'deep', 'missing']
    paths = {name: str(folder / f'{name}.csv') for name in names}
    return paths | {
        'blank': '',
        'folder itself': str(folder),
        'long name': 'a' * 300,
        'long path': '/'.join(['a' * 100] * 60),
        'surrogate': str(folder / 'a\udcff.csv'),
        'line break': str(folder / 'a\nb\x1b[31m.csv'),
        'below a file': str(folder / 'empty.csv' / 'x.csv'),
        'root': '/',
    }


def texts() -> dict[str, bytes]:
    """Contents of tables, by what is wrong with them."""
    rows = [','.join(map(str, row)) for row in PAIRS]
    head = ','.join(HEADER)
    body = '\n'.join([head, *rows])
    cells = ['', ' ', 'NaN', 'null', '-1', '1e30', '1e999', _HUGE, 'a' * 70_000, '\x00']
    cells += ['\x1b[2J', '=1+1', '"', '9223372036854775808', '0x10', '1_000', '\ufeff']
    cells += ['2026-13-45', 'yesterday', 'inf', 'true', '[1]', '{}', '\u0661', '1,5']
    out: dict[str, bytes] = {
        'nothing': b'',
        'line breaks': b'\n\n\n',
        'mark': b'\xef\xbb\xbf',
        'header': head.encode(),
        'no header': '\n'.join(rows).encode(),
        'NULs': b'\0' * 1000,
        'utf-16': body.encode('utf-16'),
        'utf-32': body.encode('utf-32'),
        'latin-1': body.replace('u1', 'ü1').encode('latin-1'),
        'half a character': body.encode() + b'\xe4\xb8',
        'surrogate': body.encode() + b'\n\xed\xa0\x80,i1,1,1',
        'repeated header': f'{head},{head}\n'.encode(),
        'many columns': (','.join(f'c{n}' for n in range(20_000)) + '\n').encode(),
        'open quote': body.replace('u3', '"u3', 1).encode(),
        'quote inside': body.replace('u3', 'u"3').encode(),
        'old Mac': body.replace('\n', '\r').encode(),
        'long line': (head + '\n' + 'x' * 10**6).encode(),
        'short row': (body + '\nu1').encode(),
        'long row': (body + '\nu1,i1,1,1,1,1').encode(),
        'repeated pair': (body + '\n' + rows[0]).encode(),
        'one row': f'{head}\n{rows[0]}'.encode(),
        'one user': '\n'.join([head, *(f'u,i{n},1,1' for n in range(9))]).encode(),
        'one item': '\n'.join([head, *(f'u{n},i,1,1' for n in range(9))]).encode(),
    }
    for place, name in enumerate(HEADER):
        for cell in cells:
            changed = list(map(str, PAIRS[5]))
            changed[place] = cell
            lines = [head, *rows[:5], ','.join(changed), *rows[6:]]
            text = '\n'.join(lines).encode('utf-8', 'surrogatepass')
            out[f'{name}={cell[:12]!r}'] = text
    return out


def objects() -> dict[str, bytes]:
    """JSON lines, by what is wrong with them."""
    values = ['1e400', _HUGE, '-1', 'NaN', 'true', 'null', '[]', '[1,[2]]', '{"a":{}}']
    values += ['"\\ud800"', '"\\u0000"', _DEEP, '{"a":' * 5000, '1.5', '""', '"x"']
    lines = [
        json.dumps(dict(zip(HEADER, row, strict=True)), default=str) for row in PAIRS
    ]
    out = {}
    for name, value in product(HEADER, values):
        entry = {**dict(zip(HEADER, PAIRS[7], strict=True)), name: 0}
        text = json.dumps(entry).replace(f'"{name}": 0', f'"{name}": {value}')
        out[f'{name}={value[:12]}'] = '\n'.join([*lines[:7], text, *lines[8:]]).encode()
    for what in ('[]', '1', '{}', '{"user_id": 1}', '{,}', _DEEP, '"x"', 'NaN'):
        out[what[:12]] = '\n'.join([*lines[:9], what]).encode()
    return out


def _tables(files: Files) -> Iterator[Input]:
    folder = files.work / 'tables'
    folder.mkdir()
    kinds = {'csv': texts(), 'tsv': texts(), 'jsonl': objects()}
    for kind, contents in kinds.items():
        for number, (what, content) in enumerate(contents.items()):
            if kind == 'tsv':
                content = content.replace(b',', b'\t')
            path = folder / f'{number}.{kind}'
            path.write_bytes(content)
            options = ['--time-column', 'timestamp', '--min-rating', '1']
            words = ['data', 'check', path, *options]
            if kind != 'tsv':
                yield command(files, *words)._replace(name=f'data check {kind} {what}')
            yield function(
                f'read_table {kind} {what}',
                lambda path=path: read_table(path, time='timestamp', min_rating=1),
            )


def _paths(files: Files) -> Iterator[Input]:
    paths = bad_paths(files.work / 'paths')
    run, table, out = files.run, files.table, files.work / 'out'
    short = ['--epochs', '1', '--embedding-dim', '4', '--quiet']
    train = ['train', table, '--out', out, '--no-prompt', *short]
    users = ['recommend', run, '--users', 'u1', '--out', out / 'x.csv', '--quiet']
    for path in paths.values():
        yield command(files, 'data', 'check', path)
        yield command(files, 'train', path, '--out', run, '--overwrite', *short)
        yield command(files, 'benchmark', path, '--out', out)
        yield command(files, 'recommend', path, '--users', 'u1')
        yield command(files, 'recommend', run, '--users-file', path)
        yield command(files, 'recommend', run, '--users', 'u1', '--exclude', path)
        yield command(files, 'recommend', run, '--pairs', path)
        yield command(files, *users[:4], '--out', path)
        yield command(files, 'similar', path, '--items', 'i1')
        yield command(files, 'explain', path, '--user', 'u1')
        yield command(files, 'evaluate', path)
        yield command(files, 'distill', path, *short)
        yield command(files, 'refit', path)
        yield command(files, 'update', run, path)
        yield command(files, 'update', path, table)
        yield command(files, 'finish', path)
        yield command(files, 'compare', run, path)
        yield command(files, 'report', path)
        yield command(files, 'add-items', run, '--features', f'text={path}')
        yield command(files, 'export', path, '--embeddings', out / 'x.npz')
        for option in ('--titles', '--config', '--val-file', '--item-ids', '--images'):
            yield command(files, *train, option, path)
        for option in ('--features', '--user-features'):
            yield command(files, *train, option, f'text={path}')
        yield command(files, *train, '--text', f'{path}:title')
        yield command(files, *train, '--item-table', path, '--item-columns', 'a')


def _options(files: Files) -> Iterator[Input]:
    """Numbers out of range for every option with a number."""
    out = files.work / 'out'
    base = {
        'train': ['train', files.table, '--out', out, '--no-prompt', '--quiet'],
        'distill': ['distill', files.run, '--overwrite', '--quiet'],
        'recommend': ['recommend', files.run, '--users', 'u1'],
        'similar': ['similar', files.run, '--items', 'i1'],
        'explain': ['explain', files.run, '--user', 'u1', '--item', 'i1'],
        'export': ['export', files.run, '--torch-export', out / 'x.pt2'],
        'benchmark': ['benchmark', 'x.toml'],
        'data': ['data', 'check', files.table],
    }
    for name, words in base.items():
        parser = build_parser(name)
        actions = parser._subparsers._group_actions[0].choices[name]._actions  # type: ignore[union-attr, index]
        for action in actions:
            kind = getattr(action.type, '__name__', '')
            if kind not in ('int', 'float') or not action.option_strings:
                continue
            option = action.option_strings[-1]
            values = [
                '-1',
                'x',
                '',
                '-9' * 20,
                '1e400' if kind == 'float' else '9' * 30,
            ]
            values += ['nan'] if kind == 'float' else ['1.5']
            if option not in ('--epochs', '--patience', '--validate-every', '--seed'):
                values += ['1000000000']
            short = ['--epochs', '1'] if name in ('train', 'distill') else []
            for value in values:
                yield command(files, *words, *short, f'{option}={value}')


def _ids(files: Files) -> Iterator[Input]:
    strange = [
        '',
        ' ',
        'nobody',
        '\x1b[31m',
        'a' * 10**5,
        '-1',
        '9' * 400,
        'u1\n',
        '\udcff',
    ]
    strange += ['=1+1', '../..', '*', '\u202e', '\x00', '--', '@file', '%s', '{}']
    for value in strange:
        for option in ('--users', '--history', '--deny', '--allow'):
            first = [] if option in ('--users', '--history') else ['--users', 'u1']
            words = ['recommend', files.run, *first, f'{option}={value}']
            yield command(files, *words)
            yield command(files, *words, '--json', '--strict')
        yield command(files, 'similar', files.run, f'--items={value}')
        yield command(files, 'explain', files.run, f'--user={value}', '--item=i1')
        yield command(files, 'data', 'check', files.table, f'--user-column={value}')
        yield command(files, 'data', 'check', files.table, f'--encoding={value}')
        yield command(files, 'data', 'check', files.table, f'--separator={value}')
        yield command(files, value)


def _loaders(files: Files) -> Iterator[Input]:
    """Every reader where its files are something else."""
    places = files.work / 'readers'
    places.mkdir()
    for name, reader in READERS.items():
        valid = places / name
        valid.mkdir()
        reader.write(valid)
        members = sorted(x for x in valid.glob(reader.pattern) if x.is_file())[:4]
        for number, change in enumerate((_to_folder, _to_pipe, _to_empty, _to_zeros)):
            for member, file in enumerate(members):
                place = places / f'{name}-{number}-{member}'
                shutil.copytree(valid, place)
                change(place / file.relative_to(valid))
                yield function(
                    f'{name}: {file.name} {change.__name__}',
                    lambda load=reader.load, place=place: load(place),
                )


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _to_empty(path: Path) -> None:
    path.write_bytes(b'')


def _to_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


class _Nothing:
    """An object of no known kind."""


def _values() -> list[Any]:
    values: list[Any] = [
        -1,
        10**9,
        10**30,
        1.5,
        float('nan'),
        'x',
        '',
        b'x',
        (),
        [],
        {},
        _Nothing(),
    ]
    values += [None, True, np.zeros(3), torch.zeros(2, 2), {'a': 1}, ['x', 1]]
    return values


def _api(files: Files) -> Iterator[Input]:
    """Arguments of other types and sizes."""
    options = ('user', 'item', 'time', 'min_rating', 'where', 'features', 'masks')
    options += ('duplicates', 'separator', 'encoding', 'split', 'item_ids', 'val')
    options += ('item_columns', 'padding_row', 'item_table', 'format')
    for name, value in product(options, _values()):
        yield function(
            f'load_dataset({name}={value!r:.40})'
            if not isinstance(value, list)
            else f'load_dataset({name}=list)',
            lambda name=name, value=value: load_dataset(files.table, **{name: value}),
        )
    served = Recommender.load(files.run / 'recommender')
    for name, value in product(('k', 'deny', 'allow'), _values()):
        yield function(
            f'recommend({name})',
            lambda name=name, value=value: served.recommend(['u1'], **{name: value}),
        )
    for value in _values():
        yield function('recommend(users)', lambda value=value: served.recommend(value))
        yield function('similar', lambda value=value: served.similar_items(value))
        yield function('load', lambda value=value: Recommender.load(value))
        yield function('load_dataset', lambda value=value: load_dataset(value))
        yield function('build_graph', lambda value=value: build_graph(value))
        for name in ('user_ids', 'item_ids', 'titles', 'seen'):
            yield function(
                f'Recommender({name})',
                lambda name=name, value=value: Recommender(
                    torch.zeros(2, 3),
                    torch.zeros(4, 3),
                    **({'user_ids': ['a', 'b'], 'item_ids': list('wxyz'), name: value}),
                ),
            )


def inputs(files: Files) -> list[Input]:
    """All cases."""
    kinds = (_tables, _paths, _options, _ids, _loaders, _api)
    return [case for kind in kinds for case in kind(files)]


def main_inputs() -> int:
    """Runs all cases and prints counts by class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--show', action='store_true', help='print every outcome')
    parser.add_argument('--only', default='', help='cases whose name has this text')
    parser.add_argument('--every', type=int, default=1, help='one case of so many')
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix='inputs-'))
    (work / 'out').mkdir()
    trained = run_folder()
    os.chdir(work)
    cases = inputs(Files(trained / 'run', trained / 'clicks.csv', work))
    cases = [case for case in cases if args.only in case.name][:: args.every]
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    outcomes = run_cases(lambda n: cases[n].call, len(cases), seconds=60, per_process=1)
    for case, outcome in zip(cases, outcomes, strict=True):
        counts[outcome.kind] += 1
        text = f'{case.name!r}: {outcome.text}'
        if args.show:
            print(f'{outcome.kind}: {text}', flush=True)
        if outcome.kind not in GOOD:
            examples.setdefault(outcome.kind, []).append(text)
    shutil.rmtree(work, ignore_errors=True)
    return 0 if report('inputs', counts, examples) else 1


if __name__ == '__main__':
    raise SystemExit(main_inputs())
