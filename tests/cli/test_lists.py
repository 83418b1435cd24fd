"""Lists in files: ``recommend --out`` and ``similar --out``."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptmm_pyg.cli import lists, main, similar
from promptmm_pyg.serving import Recommender

TITLES = {'=1+1': '@title', 'b': 'Bé, "quoted"', '-3': None, '+x': '-4.5'}


@pytest.fixture
def served(tmp_path):
    """A recommender of awkward ids."""
    generator = torch.Generator().manual_seed(0)
    titles = {raw: title for raw, title in TITLES.items() if title}
    Recommender(
        torch.randn(5, 3, generator=generator),
        torch.randn(6, 3, generator=generator),
        user_ids=[3, 1, 2, 5, 4],
        item_ids=[*TITLES, '007', 'last'],
        seen=torch.tensor([[0, 0, 1, 2, 3, 4], [1, 2, 5, 5, 5, 5]]),
        titles=titles,
    ).save(tmp_path / 'served')
    return tmp_path / 'served'


def read(path):
    if path.suffix == '.jsonl':
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == '.csv':
        with path.open(encoding='utf-8', newline='') as file:
            return list(csv.DictReader(file))
    parquet = pytest.importorskip('pyarrow.parquet', reason="requires 'frames'")
    return parquet.read_table(path).to_pylist()


def expected_rows(folder, users, k, **options):
    model = Recommender.load(folder)
    result = model.recommend(users, k, **options)
    return [
        (user, rank, item, pytest.approx(score), model.titles.get(item))
        for user, ids, scores in zip(users, result.ids, result.scores, strict=True)
        for rank, (item, score) in enumerate(zip(ids, scores, strict=True), start=1)
        if item is not None
    ]


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize('suffix', ['csv', 'jsonl', 'parquet'])
def test_all_users_are_written_block_by_block(served, suffix, monkeypatch, capsys):
    monkeypatch.setattr(lists, '_ROWS', 8)  # Two users.
    monkeypatch.setattr(lists, '_GROUP', 10)
    out = served.parent / f'lists.{suffix}'
    assert run('recommend', served, '--all-users', '-k', 4, '--out', out) == 0
    rows = read(out)
    assert list(rows[0]) == ['user', 'rank', 'item', 'score', 'title']
    expected = expected_rows(served, [3, 1, 2, 5, 4], 4)
    if suffix == 'csv':
        cells = [[x if x is None else str(x) for x in row[:3]] for row in expected]
        for row, (user, rank, item) in zip(rows, cells, strict=True):
            escaped = {'=1+1': "'=1+1", '+x': "'+x"}.get(item, item)
            assert (row['user'], row['rank'], row['item']) == (user, rank, escaped)
        assert {row['title'] for row in rows} == {"'@title", 'Bé, "quoted"', '-4.5', ''}
        assert [float(row['score']) for row in rows] == [row[3] for row in expected]
    else:
        assert [tuple(row.values()) for row in rows] == expected
    captured, err = capsys.readouterr()
    assert captured.startswith(f'written: {out} (20 rows, 5 users, ')
    assert '\r' not in err


def test_a_file_holds_what_is_printed(served, capsys):
    users = ['4', '3']
    file = served.parent / 'users.txt'
    file.write_text('\n'.join(users) + '\n')
    out = served.parent / 'x.jsonl'
    assert run('recommend', served, '--users-file', file, '--out', out, '-k', 3) == 0
    capsys.readouterr()
    assert run('recommend', served, '--users', *users, '--json', '-k', 3) == 0
    printed = [
        {'user': entry['user'], 'title': None, **item}
        for entry in json.loads(capsys.readouterr().out)
        for item in entry['items']
    ]
    assert read(out) == printed


def test_csv_is_verbatim_if_wanted(served):
    out = served.parent / 'x.csv'
    words = ['recommend', served, '--all-users', '-k', 6, '--verbatim', '--out', out]
    assert run(*words) == 0
    assert {row['item'] for row in read(out)} == {*TITLES, '007', 'last'}
    assert {row['title'] for row in read(out)} == {x or '' for x in TITLES.values()}


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ('+1-2', "'+1-2"),
        ('-1+cmd', "'-1+cmd"),
        ('@SUM', "'@SUM"),
        ('\t=1', "'\t=1"),
        ('\r=1', "'\r=1"),
        ('-1', '-1'),
        ('+12.5', '+12.5'),
        ('a=1', 'a=1'),
        ('', ''),
        (-5, -5),
        (None, None),
    ],
)
def test_formulas_are_quoted_and_numbers_are_not(text, expected):
    assert lists.escape_formula(text) == expected


def test_new_users_are_written_too(served):
    out = served.parent / 'x.jsonl'
    words = ['recommend', served, '--history', 'b', '--history', '007', '-k', 2]
    assert run(*words, '--out', out) == 0
    assert [row['user'] for row in read(out)] == ['new 1', 'new 1', 'new 2', 'new 2']


@pytest.mark.parametrize('suffix', ['csv', 'jsonl', 'parquet'])
def test_an_old_file_survives_an_interruption(served, suffix, monkeypatch, capsys):
    out = served.parent / f'x.{suffix}'
    out.write_text('old')
    before = sorted(path.name for path in served.parent.iterdir())
    calls = []

    def rank(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **options)

    original = Recommender.recommend
    monkeypatch.setattr(lists, '_ROWS', 4)
    monkeypatch.setattr(Recommender, 'recommend', rank)
    words = ['recommend', served, '--all-users', '-k', 4, '--out', out, '--overwrite']
    assert run(*words) == 130
    assert out.read_text() == 'old'
    assert sorted(path.name for path in served.parent.iterdir()) == before
    assert run(*words) == 0
    assert out.read_bytes() != b'old'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--all-users'], '--all-users requires --out FILE'),
        (
            ['--users', '1', '--out', 'x.txt'],
            '--out must end in .parquet, .csv, .jsonl',
        ),
        (['--users', '1', '--out', 'x.csv', '--json'], '--json and --out exclude'),
        (['--users', '1', '--overwrite'], '--overwrite requires --out'),
        (['--users', '1', '--out', 'x.jsonl', '--verbatim'], '--verbatim requires'),
        (['--users', '1', '--out', 'old.csv'], "'old.csv' exists already"),
        (['--users', '1', '--out', 'folder.csv'], '--out must be a file'),
        (
            ['--users', '1', '-k', '1000000000', '--out', 'x.csv'],
            '-k must be between 1',
        ),
    ],
)
def test_mistakes_are_found_before_any_work(served, words, message, fails, monkeypatch):
    monkeypatch.chdir(served.parent)
    Path('old.csv').write_text('old')
    Path('folder.csv').mkdir()
    assert message in fails('recommend', 'served', *words)
    assert sorted(x.name for x in Path().iterdir()) == [
        'folder.csv',
        'old.csv',
        'served',
    ]


def test_parquet_requires_pyarrow(served, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    out = served.parent / 'x.parquet'
    words = ('recommend', served, '--all-users', '--out', out)
    assert "'--out FILE.parquet' requires 'pyarrow'" in fails(*words)


def test_progress_is_lines_without_a_terminal(served, monkeypatch, capsys):
    monkeypatch.setattr('promptmm_pyg._progress.SECONDS', 0.0)
    monkeypatch.setattr(lists, '_ROWS', 2)
    out = served.parent / 'x.csv'
    words = ['recommend', served, '--all-users', '-k', 1, '--overwrite', '--out', out]
    assert run(*words) == 0
    lines = capsys.readouterr().err.splitlines()
    counts = [line.split(',')[0] for line in lines]
    assert counts == ['2 of 5 users', '4 of 5 users', '5 of 5 users']
    assert run(*words, '--quiet') == 0
    assert capsys.readouterr().err == ''


def test_mixed_and_large_ids_are_text(tmp_path):
    x = torch.eye(3)
    Recommender(x, x, user_ids=[1, 'a', 2], item_ids=[2**70, 1, 0], seen=None).save(
        tmp_path
    )
    out = tmp_path / 'x.parquet'
    pytest.importorskip('pyarrow', reason="requires 'frames'")
    assert run('recommend', tmp_path, '--all-users', '-k', 1, '--out', out) == 0
    rows = [(row['user'], row['item']) for row in read(out)]
    assert rows == [('1', str(2**70)), ('a', '1'), ('2', '0')]


def test_similar_items_are_printed(served, capsys):
    model = Recommender.load(served)
    ids, scores = model.similar_items(['b', '007'], 2)
    assert run('similar', served, '--items', 'b', '007', '-k', 2, '--json') == 0
    results = json.loads(capsys.readouterr().out)
    assert [x['item'] for x in results] == ['b', '007']
    for result, row, values in zip(results, ids, scores, strict=True):
        assert [x['item'] for x in result['items']] == row.tolist()
        assert [x['score'] for x in result['items']] == values.tolist()
    assert run('similar', served, '--items', 'b', '-k', 2) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:4] == ['item', 'rank', 'similar', 'score']
    assert out[1].split()[:3] == ['b', '1', ids[0][0]]


def test_similar_items_of_all_are_written(served, monkeypatch):
    monkeypatch.setattr(lists, '_ROWS', 4)
    out = served.parent / 'x.jsonl'
    assert run('similar', served, '--all-items', '-k', 2, '--out', out) == 0
    model = Recommender.load(served)
    expected = model.similar_items(model.item_ids, 2).ids.tolist()
    rows = [(row['item'], row['rank'], row['similar']) for row in read(out)]
    assert rows == [
        (item, rank, other)
        for item, ids in zip(model.item_ids, expected, strict=True)
        for rank, other in enumerate(ids, start=1)
    ]


def test_similar_items_follow_lists_and_report_unknown_ids(served, capsys):
    (served.parent / 'deny.txt').write_text('last\nnothing\n')
    (served.parent / 'items.txt').write_text('b\nnobody\n')
    words = ['--items-file', served.parent / 'items.txt']
    words += ['--deny', served.parent / 'deny.txt', '-k', 6, '--json']
    assert run('similar', served, *words) == 0
    out, err = capsys.readouterr()
    items = [x['item'] for x in json.loads(out)[0]['items']]
    assert set(items) == {*TITLES, '007'} - {'b'}
    assert "warning: --items-file: 1 of 2 ids are unknown and left out: 'nobody'" in err
    assert "warning: --deny: 1 of 2 ids are unknown and left out: 'nothing'" in err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'one of the arguments --items --items-file --all-items is required'),
        (['--all-items'], '--all-items requires --out FILE'),
        (['--items', 'nobody'], "--items must contain a known id (got 'nobody'"),
        (['--items', 'b', 'x', '--strict'], "--items must contain known ids (got 'x'"),
        (['--items', 'b', '-k', '7'], '-k must be between 1 and 6'),
        (['--items-file', 'no.txt'], "there is no file 'no.txt'"),
    ],
)
def test_mistakes_about_similar_items(served, words, message, fails):
    assert message in fails('similar', served, *words)
    assert similar.DESCRIPTION


def shell(command):
    done = subprocess.run(['bash', '-c', command], capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_closed_pipe_is_no_traceback():
    # A command that imports no torch; `main` prepares the streams of all.
    command = f'{sys.executable} -m promptmm_pyg completion bash'
    closed = f'set -o pipefail; {{ sleep 0.2; {command}; }} | head -c 0'
    assert shell(closed) == (141, b'', b'')
    status, _, err = shell(f'{command} >&-')
    assert b'Traceback' not in err
    status, out, _ = shell(f'{command} 2>&-')
    assert (status, out[:9]) == (0, b'_promptmm')


def test_a_narrow_terminal_shows_escapes(served, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', terminal)
    assert run('recommend', served, '--users', 1, 2, 3, '-k', 6) == 0
    assert b'B\\xe9, "quoted"' in terminal.buffer.getvalue()


def test_control_characters_are_shown_escaped(tmp_path, capsys, fails):
    x = torch.eye(2)
    Recommender(
        x,
        x,
        user_ids=['\x1b[31mred', 'u'],
        item_ids=['a\nb', '\u202eevil'],
        seen=None,
        titles={'a\nb': 'T\x07\x9b'},
    ).save(tmp_path)
    assert run('recommend', tmp_path, '--users', '\x1b[31mred', 'u', '-k', 2) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 5
    assert '\\x1b[31mred' in out
    assert 'a\\nb' in out
    assert '\\u202eevil' in out
    assert 'T\\x07\\x9b' in out
    assert '\x1b' not in out
    assert '\\x1b[31mblue' in fails('recommend', tmp_path, '--users', '\x1b[31mblue')
