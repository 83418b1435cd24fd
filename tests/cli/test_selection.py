"""Users and items from files: unknown ids, pairs and filters."""

import json

import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.serving import Recommender

ITEMS = ['10', '11', '12', '007', 'x y']


@pytest.fixture
def served(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    Recommender(
        torch.randn(4, 3, generator=generator),
        torch.randn(5, 3, generator=generator),
        user_ids=[1, 2, 3, 4],
        item_ids=ITEMS,
        seen=torch.tensor([[0, 1, 2, 3], [0, 4, 4, 4]]),
    ).save(tmp_path / 'served')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, name, *lines):
    (folder / name).write_text('\n'.join(lines) + '\n')


def recommend(capsys, *words):
    """The items of each user, and stderr."""
    capsys.readouterr()
    assert main(['recommend', 'served', '-k', '5', '--json', *words]) == 0
    out, err = capsys.readouterr()
    return {x['user']: [y['item'] for y in x['items']] for x in json.loads(out)}, err


def lists(users, **options):
    ids = Recommender.load('served').recommend(users, 5, **options).ids.tolist()
    return {
        user: [x for x in row if x is not None]
        for user, row in zip(users, ids, strict=True)
    }


def test_unknown_users_are_left_out_and_counted(served, capsys):
    results, err = recommend(capsys, '--users', '1', '9', '33', '2', '88', '99', '9')
    assert results == lists([1, 2])
    assert err == (
        "warning: --users: 5 of 7 ids are unknown and left out: '9', '33' (similar: "
        "'3'), '88', 1 others\n"
    )


def test_unknown_ids_in_files_are_left_out_and_counted(served, capsys):
    write(served, 'users.txt', '2', 'nobody', '1')
    write(served, 'deny.txt', '7', '11')
    write(served, 'pairs.csv', 'user,item', '1,12', 'nobody,12', '2,7')
    words = ['--users-file', 'users.txt', '--deny', 'deny.txt']
    results, err = recommend(capsys, *words, '--exclude', 'pairs.csv')
    assert results == lists([2, 1], deny=['11'], exclude={1: ['12']})
    lines = err.splitlines()
    assert [line.split(': ')[1] for line in lines] == [
        '--exclude (users)',
        '--exclude (items)',
        '--users-file',
        '--deny',
    ]
    assert "1 of 2 ids are unknown and left out: '7' (similar: '007')" in lines[-1]


def test_unknown_items_of_histories_are_left_out(served, capsys):
    words = ['--history', '10', '13', '--history', 'no', '--history', '11']
    results, err = recommend(capsys, *words)
    model = Recommender.load('served')
    ids = model.recommend_from_history([['10'], ['11']], 5).ids.tolist()
    assert list(results.values()) == [row[:4] for row in ids]
    assert list(results) == ['new 1', 'new 3']
    assert '--history: 2 of 4 ids are unknown' in err
    assert "no item of user 'new 2' is known" in err


@pytest.mark.parametrize(
    'words',
    [
        ['--users', '1', 'nobody'],
        ['--users', '1', '--deny', 'ids.txt'],
        ['--users', '1', '--allow', 'ids.txt'],
        ['--users', '1', '--exclude', 'pairs.csv'],
        ['--candidates', 'pairs.csv'],
        ['--users-file', 'users.txt'],
        ['--pairs', 'pairs.csv'],
        ['--history', '10', 'nothing'],
    ],
)
def test_strict_refuses_unknown_ids(served, words, fails, capsys):
    write(served, 'ids.txt', '10', 'nothing')
    write(served, 'users.txt', '1', 'nobody')
    write(served, 'pairs.csv', 'user,item', '1,10', '1,nothing')
    option = words[-2] if words[-1] != 'nobody' and '--history' not in words else None
    message = fails('recommend', 'served', *words, '--strict')
    kind = ' (items)' if 'pairs.csv' in words else ''
    assert f'{option or words[0]}{kind} must contain known ids (got ' in message
    assert main(['recommend', 'served', *words]) == 0


@pytest.mark.parametrize(
    'words',
    [
        ['--users', 'nobody', 'none'],
        ['--history', 'nothing'],
        ['--users', '1', '--deny', 'ids.txt'],
        ['--users', '1', '--exclude', 'pairs.csv'],
        ['--candidates', 'pairs.csv'],
        ['--pairs', 'pairs.csv'],
    ],
)
def test_it_is_a_mistake_if_no_id_is_known(served, words, fails):
    write(served, 'ids.txt', 'nothing')
    write(served, 'pairs.csv', 'user,item', 'nobody,nothing')
    assert 'must contain a known id (got ' in fails('recommend', 'served', *words)


def test_pairs_are_excluded_for_their_user(served, capsys):
    write(served, 'pairs.csv', 'item,when,user', '12,5,1', '007,6,2', '11,7,1')
    results, err = recommend(capsys, '--users', '1', '2', '--exclude', 'pairs.csv')
    assert results == lists([1, 2], exclude={1: ['12', '11'], 2: ['007']})
    assert err == ''


def test_candidates_are_those_of_their_user(served, capsys):
    write(served, 'pairs.csv', 'user_id,item_id', '2,12', '1,11', '2,007', '1,10')
    results, err = recommend(capsys, '--candidates', 'pairs.csv')
    candidates = {2: ['12', '007'], 1: ['11', '10']}
    assert results == lists([2, 1], candidates=candidates)
    assert list(results) == [2, 1]
    words = ['--candidates', 'pairs.csv', '--users', '1', '3', '--include-seen']
    results, err = recommend(capsys, *words)
    assert results == lists([1, 3], candidates=candidates, exclude_seen=False)
    assert err == 'warning: --candidates: 1 of 2 users have none\n'


def test_scores_of_pairs_keep_the_rows_of_the_file(served, capsys):
    write(served, 'pairs.csv', 'user,item', '2,12', 'nobody,12', '01,10', '1,10')
    out = served / 'scores.csv'
    words = ['recommend', 'served', '--pairs', 'pairs.csv']
    assert main([*words, '--out', str(out)]) == 0
    rows = [line.split(',') for line in out.read_text().splitlines()]
    assert [row[:2] for row in rows] == [
        ['user', 'item'],
        ['2', '12'],
        ['nobody', '12'],
        ['01', '10'],
        ['1', '10'],
    ]
    first, second = Recommender.load('served').score([2, 1], ['12', '10'])
    scores = [row[2] for row in rows[1:]]
    assert scores[1:3] == ['', '']
    assert [float(scores[0]), float(scores[3])] == pytest.approx([first, second])
    capsys.readouterr()
    assert main([*words, '--json']) == 0
    printed, err = capsys.readouterr()
    assert [x['score'] is None for x in json.loads(printed)] == [0, 1, 1, 0]
    assert '--pairs (users): 2 of 4 ids are unknown' in err
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ['nobody', '12', '-']


TABLE = ['item,stock,brand', '10,1,a', '11,0,a', '12,1,b', '007,1,c', 'other,1,a']


@pytest.mark.parametrize(
    ('conditions', 'allow'),
    [
        (['stock=1'], ['10', '12', '007']),
        (['brand=a,c'], ['10', '11', '007']),
        (['stock=1', 'brand=a,c'], ['10', '007']),
        (['brand=a,b', 'brand=b,c'], ['12']),
    ],
)
def test_items_are_filtered_by_columns(served, conditions, allow, capsys):
    write(served, 'items.csv', *TABLE)
    words = ['--users', '2', '--item-table', 'items.csv']
    for condition in conditions:
        words += ['--where', condition]
    assert recommend(capsys, *words) == (lists([2], allow=allow), '')
    write(served, 'ids.txt', '10', '12')
    both = [raw for raw in allow if raw in ('10', '12')]
    results, _ = recommend(capsys, *words, '--allow', 'ids.txt')
    assert results == lists([2], allow=both)
    results, _ = recommend(capsys, *words, '--deny', 'ids.txt')
    assert results == lists([2], allow=[raw for raw in allow if raw not in both])


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--where', 'stock=1'], '--where and --item-table must be given together'),
        (['--item-table', 'items.csv'], '--where and --item-table must be given'),
        (['--where', 'stock', '--item-table', 'items.csv'], 'must be COLUMN=VALUE'),
        (['--where', 'color=1', '--item-table', 'items.csv'], "a column 'color' (got"),
        (['--where', 'stock=yes', '--item-table', 'items.csv'], "(got 'yes'; its val"),
        (['--where', 'stock=1', '--item-table', 'no.csv'], "no.csv'"),
        (['--where', 'n=1', '--item-table', 'other.csv'], 'Name yours with --item-col'),
        (
            ['--where', 'n=1', '--item-table', 'other.csv', '--item-column', 'id'],
            '--where must match known items',
        ),
        (['--exclude', 'items.csv'], 'Name yours with --user-column'),
        (['--exclude', 'items.csv', '--user-column', 'who'], "a column 'who' (got"),
        (['--candidates', 'c.csv', '--approximate'], '--candidates must be given with'),
    ],
)
def test_mistakes_about_tables_are_named(served, words, message, fails):
    write(served, 'items.csv', *TABLE)
    write(served, 'other.csv', 'id,n', 'a,1')
    assert message in fails('recommend', 'served', '--users', '1', *words)


def test_options_of_single_users_exclude_histories_and_pairs(served, fails):
    write(served, 'p.csv', 'user,item', '1,10')
    for words in (
        ['--history', '10', '--exclude', 'p.csv'],
        ['--pairs', 'p.csv', '--exclude', 'p.csv'],
    ):
        assert 'exclude each other' in fails('recommend', 'served', *words)


def test_an_empty_file_of_users_is_a_mistake(served, fails):
    (served / 'none.txt').write_text('')
    message = fails('recommend', 'served', '--users-file', 'none.txt')
    assert "there are no users in 'none.txt'" in message
    words = ['--users', '1', '--allow', 'none.txt']
    assert "there are no items in 'none.txt'" in fails('recommend', 'served', *words)


def test_an_empty_file_of_denied_items_denies_none(served, capsys):
    (served / 'none.txt').write_text('')
    assert recommend(capsys, '--users', '1', '--deny', 'none.txt') == (lists([1]), '')
