"""Tables of people, read by the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from promptmm_pyg.cli import build_parser, main
from promptmm_pyg.cli.data import data_config
from promptmm_pyg.data import INTERACTS, read_table
from promptmm_pyg.runs.data import load_split
from promptmm_pyg.serving import Recommender

pytest.importorskip('pyarrow')
HEADER = 'customer;sku;stars;behavior;times;when'
ROWS = [
    f'{u:03};{i:02};{(u + i) % 5 + 1};{("view", "purchase", "cart")[i % 3]};{i};{u + i}'
    for u in range(8)
    for i in range(12)
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / 'clicks.csv'
    path.write_bytes('\n'.join([HEADER, *ROWS]).encode('cp1252'))
    return path


def config(*words):
    words = ['data', 'check', *map(str, words)]
    return data_config(build_parser().parse_args(words))


def pairs(split):
    """Raw pairs of all parts."""
    ids = [split.train[key].raw_id for key in ('user', 'item')]
    edges = np.concatenate([g[INTERACTS].edge_label_index for g in split], axis=1)
    return {(ids[0][u], ids[1][i]) for u, i in edges.T}


def expected(test):
    cells = [row.split(';') for row in ROWS]
    return {(row[0], row[1]) for row in cells if test(*row[2:])}


@pytest.mark.parametrize(
    ('words', 'test'),
    [
        ([], lambda *_: True),
        (['--min-rating', '4'], lambda stars, *_: int(stars) >= 4),
        (
            ['--min-rating', '9', '--rating-column', 'when'],
            lambda stars, behavior, times, when: int(when) >= 9,
        ),
        (['--where', 'behavior=purchase'], lambda s, behavior, *_: behavior[0] == 'p'),
        (
            ['--where', 'behavior=purchase,cart', '--where', 'stars=5'],
            lambda stars, behavior, *_: stars == '5' and behavior != 'view',
        ),
    ],
)
def test_rows_are_selected_and_a_run_reads_them_again(table, words, test):
    options = config(table, *words)
    assert pairs(load_split(options)) == expected(test)
    again = json.loads(json.dumps(options))
    assert pairs(load_split(again)) == expected(test)


def test_what_was_recognized_is_recorded(table):
    options = config(table, '--split', 'leave-one-out', '--min-rating', '2')
    names = ('format', 'user', 'item', 'time', 'rating')
    assert [options[x] for x in names] == ['table', 'customer', 'sku', '', 'stars']
    assert options['split'] == {'method': 'leave-one-out', 'by': 'random', 'seed': 0}
    options = config(table, '--split', 'leave-one-out', '--time-column', 'when')
    assert options['split']['by'] == 'time'


def test_weights_are_stored_with_the_interactions(table):
    split = load_split(config(table, '--weight-column', 'times'))
    weight = split.train[INTERACTS].weight
    items = split.train['item'].raw_id[split.train[INTERACTS].edge_index[1].numpy()]
    assert weight.tolist() == [float(item) for item in items]


@pytest.mark.parametrize('duplicates', ['first', 'last', 'sum'])
def test_repeats_are_merged(table, duplicates):
    table.write_text('\n'.join([HEADER, *ROWS, *ROWS[:5]]))
    words = ['--duplicates', duplicates, '--weight-column', 'times']
    split = load_split(config(table, *words))
    graph = read_table(
        table, user='customer', item='sku', weight='times', duplicates=duplicates
    )
    assert pairs(split) == expected(lambda *_: True)
    assert graph[INTERACTS].edge_index.size(1) == len(ROWS)


@pytest.mark.parametrize(
    ('words', 'match'),
    [
        (['--separator', ','], 'The header is one column: name the character'),
        (['--separator', '::'], '(--separator) must be one character'),
        (['--encoding', 'klingon'], '(--encoding) must be the name of one'),
        (['--user-column', 'who'], "Name yours with 'user' (--user-column)"),
        (['--rating-column', 'stars'], '(--min-rating)'),
        (['--min-rating', '3', '--rating-column', 'sterne'], '(--rating-column)'),
        (['--weight-column', 'behavior'], "column 'behavior' (got 'view' in line 2)"),
        (['--where', 'behavior=buy'], '(--where behavior=...) must name values'),
        (['--where', 'behavior'], 'NAME=VALUE'),
        (
            ['--where', 'stars=1', '--where', 'stars=2'],
            '--where must name each column once',
        ),
        (['--duplicates', 'drop'], "invalid choice: 'drop'"),
        (['--split', 'time'], '(--time-column)'),
    ],
)
def test_mistakes_name_the_option(table, fails, words, match):
    assert match in fails('data', 'check', table, *words)


def test_the_line_of_a_damaged_row_is_named(table, fails):
    table.write_text('\n'.join([HEADER, *ROWS[:3], '009;01;5']))
    assert f"{table}' must have 6 cells in each row" in fails('data', 'check', table)
    assert 'got 3 in line 5' in fails('data', 'check', table)


def test_an_encoding_is_asked_for_by_its_option(table, fails):
    table.write_bytes('\n'.join([HEADER, *ROWS, 'Zoë;x;1;cart;1;1']).encode('cp1252'))
    message = fails('data', 'check', table)
    assert f'in line {len(ROWS) + 2}' in message
    assert '(--encoding)' in message
    split = load_split(config(table, '--encoding', 'cp1252'))
    assert 'Zoë' in split.train['user'].raw_id.tolist()


def write(path, text):
    path.write_text(text)
    return path


def test_ids_are_as_written_from_the_table_to_the_list(tmp_path, capsys):
    """Leading zeros from CSV to recommendations, with all files of ids."""
    users = [f'{u:03}' for u in range(12)]
    items = [f'{i:04}' for i in range(30)]
    rows = [(u, i) for n, u in enumerate(users) for i in items[n : n + 12]]
    table = write(
        tmp_path / 'clicks.csv',
        'user_id,item_id\n'
        + '\n'.join(map(','.join, rows))
        + '\n7,0007\n7,7\n7,0008\n',
    )
    lines = [f'{item},{n % 7},{n % 5}' for n, item in enumerate([*items, '7'])]
    write(tmp_path / 'text.csv', '\n'.join(['item_id,a,b', *lines]))
    titles = write(tmp_path / 'titles.csv', 'item_id,title\n0007,Padded\n7,Plain\n')
    deny = write(tmp_path / 'deny.txt', '0012\n0013\n')
    run = tmp_path / 'run'
    words = ['train', table, '--features', 'text=text.csv', '--titles', titles]
    words += ['--out', run, '--epochs', '1', '--embedding-dim', '4', '--quiet']
    assert main([*map(str, words)]) == 0
    small = ['--epochs', '1', '--embedding-dim', '4', '--quiet']
    assert main(['distill', str(run), *small]) == 0
    capsys.readouterr()
    words = ['recommend', str(run), '--users', '007', '7', '-k', '20', '--json']
    assert main([*words, '--deny', str(deny)]) == 0
    lists = json.loads(capsys.readouterr().out)
    assert [entry['user'] for entry in lists] == ['007', '7']
    recommended = {x['item']: x.get('title') for entry in lists for x in entry['items']}
    assert set(recommended) <= {*items, '7'} - {'0012', '0013'}
    assert recommended.get('0007', 'Padded') == 'Padded'
    assert recommended.get('7', 'Plain') == 'Plain'
    new = write(tmp_path / 'new.csv', 'item_id,a,b\n0100,1,2\n100,2,3\n')
    words = ['add-items', str(run), '--features', f'text={new}']
    assert main([*words, '--out', str(tmp_path / 'served')]) == 0
    added = Recommender.load(Path(tmp_path) / 'served')
    assert added.item_ids[-2:] == ['0100', '100']


def test_titles_that_match_no_item_are_a_warning(table, tmp_path, capsys):
    def titles(*ids):
        rows = [f'{raw},Title' for raw in ids]
        return write(tmp_path / 'titles.csv', '\n'.join(['sku,title', *rows]))

    words = ['train', table, '--no-prompt', '--split', 'leave-one-out', '--quiet']
    words += ['--epochs', '1', '--overwrite', '--out', tmp_path / 'run']
    words += ['--monitor', 'Recall@5', '--titles']
    for ids, warned in [
        ([str(n) for n in range(12)], True),
        ([f'{n:02}' for n in range(15)], False),  # More items than in the data.
        ([f'{n:02}' for n in range(5)], False),  # Some items have none.
    ]:
        assert main([str(word) for word in [*words, titles(*ids)]]) == 0
        shown = capsys.readouterr().err
        assert ("10 of 12 titles match no item, such as '0'" in shown) == warned
        assert ('have no title' in shown) == warned
