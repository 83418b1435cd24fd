import importlib.util
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.testing import assert_close

from promptmm_pyg.data import (
    INTERACTS,
    MultiModalDataset,
    load_dataset,
    read_recbole_texts,
    split_by_part,
    split_by_time,
    split_per_user,
    validate,
)
from promptmm_pyg.data.columns import ColumnEncoding, encode_column
from promptmm_pyg.data.tables import Table

HEAD = 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n'
PARTS = {
    'train': ['u1\tb\t5\t10', 'u2\tb\t1\t20', 'u2\ta\t4\t30'],
    'valid': ['u1\ta\t3\t40'],
    'test': ['u2\td\t2\t50', 'u1\td\t5\t60'],
}
ITEMS = (
    'item_id:token\tname:token_seq\tkind:token\tprice:float\temb:float_seq\n'
    'a\tRed Shoe\tshoe\t2.5\t1 -2 0.5\n'
    'b\tLamp\tlamp\t\t0 0 0\n'
    'c\tRed Lamp\tlamp\t-1\t\n'
)
USERS = 'user_id:token\tage:token\nu1\t20\nu3\t\n'


def all_of(split):
    return split_by_part(split, torch.zeros(split[INTERACTS].edge_index.size(1)).long())


def write_whole(folder, item=ITEMS, user=USERS):
    rows = [row for part in PARTS.values() for row in part]
    (folder / 'toy.inter').write_text(HEAD + '\n'.join(rows) + '\n')
    (folder / 'toy.item').write_text(item)
    (folder / 'toy.user').write_text(user)
    return folder


def write_parts(folder, names=('train', 'valid', 'test'), parts=PARTS):
    for name, rows in zip(names, parts.values(), strict=False):
        (folder / f'toy.{name}.inter').write_text(HEAD + '\n'.join(rows) + '\n')
    return folder


def labels(graph):
    users, items = graph[INTERACTS].edge_label_index.numpy()
    users, items = graph['user'].raw_id[users], graph['item'].raw_id[items]
    return list(zip(users.tolist(), items.tolist(), strict=True))


def pairs_of(rows):
    return [tuple(row.split('\t')[:2]) for row in rows]


def test_a_single_file_is_split_as_asked(tmp_path):
    split = load_dataset(write_whole(tmp_path), split=all_of)
    assert labels(split.train) == pairs_of(
        [row for part in PARTS.values() for row in part]
    )
    assert split.train[INTERACTS].time.tolist() == [10, 20, 30, 40, 50, 60]
    by_time = load_dataset(tmp_path, split=lambda g: split_by_time(g, 0.2, 0.2))
    assert labels(by_time.test) == [('u1', 'd')]


@pytest.mark.parametrize(
    'names', [('train', 'valid', 'test'), ('part1', 'part2', 'part3')]
)
def test_a_split_that_came_with_the_data_is_kept(tmp_path, names):
    split = load_dataset(write_parts(tmp_path, names))
    for part, graph in zip(PARTS.values(), split, strict=True):
        assert labels(graph) == pairs_of(part)
        assert graph[INTERACTS].edge_index.size(1) == 3
        times = [int(row.split('\t')[3]) for row in part]
        assert graph[INTERACTS].edge_label_time.tolist() == times
    assert [x for x in validate(split) if x.level == 'error'] == []


def test_the_whole_beside_the_parts_is_left_alone(tmp_path):
    split = load_dataset(write_parts(write_whole(tmp_path)))
    assert labels(split.test) == pairs_of(PARTS['test'])


def test_a_split_that_came_is_never_split_again(tmp_path):
    with pytest.raises(ValueError, match=r"'split' .* must be left out .*came with"):
        load_dataset(write_parts(tmp_path), split='per-user')


def test_without_a_validation_file_that_part_is_empty(tmp_path):
    write_parts(tmp_path)
    (tmp_path / 'toy.valid.inter').unlink()
    split = load_dataset(tmp_path)
    assert labels(split.val) == []
    assert labels(split.test) == pairs_of(PARTS['test'])


@pytest.mark.parametrize('gone', ['train', 'test'])
def test_a_missing_part_is_named(tmp_path, gone):
    (write_parts(tmp_path) / f'toy.{gone}.inter').unlink()
    with pytest.raises(FileNotFoundError, match=rf"without \['{gone}'\]"):
        load_dataset(tmp_path)


def test_two_files_for_one_part_are_refused(tmp_path):
    write_parts(write_parts(tmp_path), ('part1', 'part2', 'part3'))
    with pytest.raises(ValueError, match='one file for each part'):
        load_dataset(tmp_path)


def test_nodes_are_those_of_the_files_and_then_those_mentioned(tmp_path):
    train = load_dataset(write_whole(tmp_path), split=all_of).train
    assert train['item'].raw_id.tolist() == ['a', 'b', 'c', 'd']
    assert train['user'].raw_id.tolist() == ['u1', 'u3', 'u2']


def test_vectors_are_taken_by_default_and_empty_cells_are_missing(tmp_path):
    item = load_dataset(write_whole(tmp_path), split=all_of).train['item']
    rows = [[1, -2, 0.5], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert_close(item.x_emb, torch.tensor(rows))
    assert item.mask_emb.tolist() == [True, True, False, False]
    assert not any(key.startswith('x_') and key != 'x_emb' for key in item)


def test_columns_of_every_type_become_modalities(tmp_path):
    train = load_dataset(
        write_whole(tmp_path),
        split=all_of,
        item_columns=['name', 'kind', 'price'],
        user_columns=['age'],
    ).train
    item = train['item']
    # Lamp, Red, Shoe; lamp, shoe.
    assert item.x_name.tolist() == [[0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert item.x_kind.tolist() == [[0, 1], [1, 0], [1, 0], [0, 0]]
    assert item.x_price.tolist() == [[2.5], [0], [-1], [0]]
    assert item.mask_price.tolist() == [True, False, True, False]
    assert train['user'].x_age.tolist() == [[1], [0], [0]]
    assert train['user'].mask_age.tolist() == [True, False, False]
    assert 'x_emb' not in item
    # New items are encoded alike.
    kind = ColumnEncoding.from_dict(train.column_encodings['item.x_kind'])
    cells = pa.table({'kind': ['shoe', 'hat'], 'name': ['Red Lamp', 'Green']})
    table = Table('new.csv', cells, cells.column_names)
    assert encode_column(table, kind)[0].tolist() == [[0, 1], [0, 0]]
    name = ColumnEncoding.from_dict(train.column_encodings['item.x_name'])
    assert encode_column(table, name)[0].tolist() == [[1, 1, 0], [0, 0, 0]]


def test_files_of_features_have_a_row_for_each_line_of_items(tmp_path):
    write_whole(tmp_path)
    np.save(tmp_path / 'image_feat.npy', np.array([[1.0], [0], [2]]))
    np.save(tmp_path / 'more.npy', np.ones((3, 2)))
    features = {'more': 'more.npy', 'emb': None}
    item = load_dataset(tmp_path, split=all_of, features=features).train['item']
    assert item.x_image.tolist() == [[1], [0], [2], [0]]
    assert item.mask_image.tolist() == [True, False, True, False]
    assert item.mask_more.tolist() == [True, True, True, False]
    assert 'x_emb' not in item
    plain = load_dataset(tmp_path, split=all_of, masks=None).train['item']
    assert plain.mask_image.tolist() == [True, True, True, False]


def test_files_of_features_of_another_length_are_refused(tmp_path):
    np.save(write_whole(tmp_path) / 'image_feat.npy', np.ones((4, 1)))
    with pytest.raises(ValueError, match='4 rows for 3 lines'):
        load_dataset(tmp_path, split=all_of)


def test_low_ratings_are_left_out_of_every_part(tmp_path):
    split = load_dataset(write_parts(tmp_path), min_rating=3)
    assert labels(split.train) == [('u1', 'b'), ('u2', 'a')]
    assert labels(split.val) == [('u1', 'a')]
    assert labels(split.test) == [('u1', 'd')]
    assert split.train[INTERACTS].time.tolist() == [10, 30]


def test_columns_may_have_other_names_and_no_times(tmp_path):
    (tmp_path / 'x.inter').write_text('iid:token\tuid:token\tt:float\na\tu\t0.5\n')
    split = load_dataset(tmp_path, split=all_of, user='uid', item='iid')
    assert labels(split.train) == [('u', 'a')]
    assert 'time' not in split.train[INTERACTS]
    timed = load_dataset(tmp_path, split=all_of, user='uid', item='iid', time='t')
    assert timed.train[INTERACTS].time.tolist() == [0.5]


def test_a_pair_in_two_parts_stays_where_it_is_first(tmp_path):
    parts = {**PARTS, 'test': [*PARTS['test'], 'u1\tb\t1\t70']}
    write_parts(tmp_path, parts=parts)
    with pytest.raises(ValueError, match=r'does not fit together: .*contain each pair'):
        load_dataset(tmp_path)
    split = load_dataset(tmp_path, duplicates='first')
    assert labels(split.test) == pairs_of(PARTS['test'])
    assert split.test[INTERACTS].edge_label_time.tolist() == [50, 60]


def test_the_format_is_recognised(tmp_path):
    split = load_dataset(write_parts(tmp_path))
    assert labels(split.val) == [('u1', 'a')]


def test_a_copy_is_read_anew_when_the_items_change(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    write_parts(write_whole(source))
    before = MultiModalDataset(tmp_path / 'copy', source)
    (source / 'toy.item').write_text(ITEMS.replace('1 -2 0.5', '1 -2 7'))
    after = MultiModalDataset(tmp_path / 'copy', source)
    assert before.split.train['item'].x_emb[0, 2] == 0.5
    assert after.split.train['item'].x_emb[0, 2] == 7


def test_texts_are_columns_by_raw_id(tmp_path):
    write_whole(tmp_path)
    assert read_recbole_texts(tmp_path, ['kind', 'name', 'price']) == {
        'a': 'shoe Red Shoe 2.5',
        'b': 'lamp Lamp',
        'c': 'lamp Red Lamp -1',
    }
    assert read_recbole_texts(tmp_path, ['price'])['b'] is None


def test_texts_need_the_file_of_items(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must contain one '<name>\.item'"):
        read_recbole_texts(write_parts(tmp_path), ['name'])


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('user_id\titem_id:token\n', 'columns like .item_id:token.'),
        ('user_id:token\titem_id:str\n', 'of the types'),
        ('user_id:token\tuser_id:token\n', 'name each column once'),
        ('user_id:token\tx:token\nu\ta\n', r"column of item ids .*\['user_id', 'x'\]"),
        (HEAD, 'must contain at least one row'),
        (HEAD + 'u\ta\t1\t2\nu\tb\t1\n', r'have 4 cells .*got 3 in line 3'),
        (HEAD + 'u\ta\t1\tx\n', r"numbers or dates .*'timestamp' \(got 'x' in line 2"),
        (HEAD + 'u\ta\t1\tinf\n', r"'timestamp' \(got 1 rows without one, .*line 2"),
        (
            HEAD + '\ta\t1\t2\n',
            r"an id in each row .*'user_id' \(got 1 empty, .*line 2",
        ),
        (
            'user_id:token\titem_id:token\titem_id_list:token_seq\nu\ta\tb c\n',
            'histori',
        ),
    ],
)
def test_interactions_are_checked(tmp_path, text, match):
    (tmp_path / 'toy.inter').write_text(text)
    with pytest.raises(ValueError, match=match):
        load_dataset(tmp_path, split=all_of)


def test_ratings_have_to_be_numbers(tmp_path):
    (tmp_path / 'toy.inter').write_text(HEAD + 'u\ta\tgood\t2\n')
    with pytest.raises(ValueError, match=r"the column 'rating' \(got 'good' in line 2"):
        load_dataset(tmp_path, split=all_of, min_rating=1)


def test_text_in_another_code_is_named(tmp_path):
    (tmp_path / 'toy.inter').write_bytes(
        HEAD.encode() + 'u\té\t1\t2\n'.encode('cp1252')
    )
    with pytest.raises(ValueError, match='must be text in utf-8'):
        load_dataset(tmp_path, split=all_of)


@pytest.mark.parametrize(
    ('item', 'columns', 'match'),
    [
        (ITEMS + 'a\t\t\t\t\n', None, r"each id once \(got 'a' again in line 5"),
        (ITEMS + '\t\t\t\t\n', None, r"'item_id' \(got 1 empty, the first in line 5"),
        (ITEMS + 'e\t\t\t\t1 2\n', None, r'vectors of one length .*\[2, 3\]'),
        (ITEMS + 'e\t\t\t\t1 2 x\n', None, r"'emb' \(got 'x'\)"),
        (ITEMS, ['size'], r"have the columns \['size'\]"),
        ('item_id:token\ts:float\na\t\n', ['s'], "contain something in the column 's'"),
    ],
)
def test_items_are_checked(tmp_path, item, columns, match):
    write_whole(tmp_path, item=item)
    with pytest.raises(ValueError, match=match):
        load_dataset(tmp_path, split=all_of, item_columns=columns)


def test_too_many_tokens_are_text(tmp_path):
    rows = ''.join(f'{i}\tw{i}\n' for i in range(10_001))
    write_whole(tmp_path, item='item_id:token\tname:token\n' + rows)
    with pytest.raises(ValueError, match=r'10001.*read_recbole_texts'):
        load_dataset(tmp_path, split=all_of, item_columns=['name'])


def test_columns_need_their_file(tmp_path):
    with pytest.raises(ValueError, match=r"file with the columns \['user_id', 'age'\]"):
        load_dataset(write_parts(tmp_path), user_columns=['age'])


def test_two_files_of_items_are_refused(tmp_path):
    write_whole(tmp_path)
    (tmp_path / 'b.item').write_text(ITEMS)
    with pytest.raises(ValueError, match=r"one '<name>\.item' .*'toy\.item'"):
        load_dataset(tmp_path, split=all_of)


def test_texts_are_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="'path' must exist"):
        read_recbole_texts(tmp_path / 'no', ['name'])


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one '<name>\.inter' \(got \[\]\)"):
        load_dataset(tmp_path, 'recbole')


def shipped_ml100k():
    """The files in RecBole's own wheel, unpacked anywhere or installed."""
    given = os.environ.get('PROMPTMM_RECBOLE')
    spec = None if given else importlib.util.find_spec('recbole')
    if given:
        folder = Path(given)
    elif spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / 'dataset_example' / 'ml-100k'
    else:
        pytest.skip('PROMPTMM_RECBOLE names no folder and recbole is not installed')
    if not (folder / 'ml-100k.inter').is_file():
        pytest.skip(f'no ml-100k.inter in {folder}')
    return folder


@pytest.mark.integration
@pytest.mark.real_data
def test_the_ml100k_that_recbole_ships():
    folder = shipped_ml100k()
    split = load_dataset(
        folder, split=split_per_user, item_columns=['class'], user_columns=['gender']
    )
    train = split.train
    assert (train['user'].num_nodes, train['item'].num_nodes) == (943, 1682)
    assert sum(graph[INTERACTS].edge_label_index.size(1) for graph in split) == 100_000
    assert train['item'].x_class.shape == (1682, 19)
    assert train['user'].x_gender.sum(0).tolist() == [273, 670]  # F, M
    assert [x for x in validate(split) if x.level == 'error'] == []
    # The first line: user 196, item 242, 3 stars, at 881250949.
    users, items = train['user'].raw_id.tolist(), train['item'].raw_id.tolist()
    pair = torch.tensor([users.index('196'), items.index('242')])
    times = [
        int(graph[INTERACTS].edge_label_time[i])
        for graph in split
        for i in (graph[INTERACTS].edge_label_index.t() == pair).all(1).nonzero()
    ]
    assert times == [881250949]
    liked = load_dataset(folder, split=all_of, min_rating=4)
    assert liked.train[INTERACTS].edge_index.size(1) == 55_375
    texts = read_recbole_texts(folder, ['movie_title', 'class'])
    assert texts['1'] == "Toy Story Animation Children's Comedy"


def test_rows_are_selected_and_weighted(tmp_path):
    rows = ['u\ta\t5\tview\t2', 'u\tb\t1\tbuy\t3', 'v\ta\t4\tbuy\t1', 'v\tb\t2\tbuy\t7']
    head = 'user_id:token\titem_id:token\trating:float\tkind:token\tcount:float'
    (tmp_path / 'toy.inter').write_text('\n'.join([head, *rows]) + '\n')

    def read(**options):
        graph = load_dataset(tmp_path, split=lambda graph: (graph,), **options)[0]
        users, items = (x.numpy() for x in graph[INTERACTS].edge_index)
        names = graph['user'].raw_id[users], graph['item'].raw_id[items]
        return graph, [''.join(pair) for pair in zip(*names, strict=True)]

    assert read(min_rating=4)[1] == ['ua', 'va']
    assert read(where={'kind': 'buy'})[1] == ['ub', 'va', 'vb']
    assert read(where={'kind': 'buy'}, min_rating=2)[1] == ['va', 'vb']
    assert read(weight='count')[0][INTERACTS].weight.tolist() == [2.0, 3.0, 1.0, 7.0]
    with pytest.raises(ValueError, match=r"'where' .*'sold'"):
        read(where={'kind': 'sold'})
    (tmp_path / 'toy.inter').write_text('\n'.join([head, *rows, rows[0]]) + '\n')
    with pytest.raises(ValueError, match='the first is user u, item a'):
        read()
    graph, pairs = read(weight='count', duplicates='sum')
    assert pairs == ['ua', 'ub', 'va', 'vb']
    assert graph[INTERACTS].weight.tolist() == [4.0, 3.0, 1.0, 7.0]


def test_ids_are_as_written_in_all_files(tmp_path):
    ids = ['007', '7', ' 7', 'NA', '1.0', '"q"', 'Ünal']
    rows = '\n'.join(f'{x}\t{x}' for x in ids)
    (tmp_path / 'toy.inter').write_text(f'user_id:token\titem_id:token\n{rows}\n')
    items = '\n'.join(f'{x}\t{n}.5' for n, x in enumerate(ids))
    (tmp_path / 'toy.item').write_text(f'item_id:token\tx:float_seq\n{items}\n')
    graph = load_dataset(tmp_path, split=lambda graph: (graph,))[0]
    assert graph['user'].raw_id.tolist() == graph['item'].raw_id.tolist() == ids
    assert graph['item'].x_x[:, 0].tolist() == [n + 0.5 for n in range(len(ids))]
    texts = read_recbole_texts(tmp_path, ['x'])
    assert list(texts) == ids
