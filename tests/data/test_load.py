"""``load_dataset``: every kind of data set by one function."""

import numpy as np
import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    load_dataset,
    make_synthetic_dataset,
    read_table,
    split_leave_one_out,
    split_per_user,
    write_mmrec,
)
from promptmm_pyg.data.schema import modality_x_dict
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities

PAIRS = [(f'u{n % 5}', f'i{n % 9}', n) for n in range(40) if (n % 5 + n) % 7]


def write_csv(folder, header='user_id,item_id,timestamp', drop_time=False):
    rows = [f'{u},{i}' if drop_time else f'{u},{i},{t}' for u, i, t in PAIRS]
    path = folder / 'clicks.csv'
    path.write_text('\n'.join([header, *rows]) + '\n')
    return path


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x[INTERACTS].edge_index, y[INTERACTS].edge_index)
        assert torch.equal(x[INTERACTS].edge_label_index, y[INTERACTS].edge_label_index)
        assert x[ITEM].raw_id.tolist() == y[ITEM].raw_id.tolist()


@pytest.mark.parametrize(
    'header', ['user_id,item_id', 'userId,itemId', 'User,Item', 'customer_id,asin']
)
def test_columns_are_recognized_by_their_names(tmp_path, header):
    path = write_csv(tmp_path, header, drop_time=True)
    user, item = header.split(',')
    expected = split_per_user(read_table(path, user=user, item=item), seed=3)
    same(load_dataset(path, seed=3), expected)
    same(load_dataset(str(path), user=user, item=item, seed=3), expected)


@pytest.mark.parametrize('suffix', ['.tsv', '.jsonl', '.parquet'])
def test_other_kinds_of_tables_give_the_split_of_csv(tmp_path, suffix):
    pd = pytest.importorskip('pandas')
    path = write_csv(tmp_path)
    frame, other = pd.read_csv(path), path.with_suffix(suffix)
    if suffix == '.tsv':
        frame.to_csv(other, sep='\t', index=False)
    elif suffix == '.jsonl':
        frame.to_json(other, orient='records', lines=True)
    else:
        pytest.importorskip('pyarrow')
        frame.to_parquet(other)
    ours, expected = load_dataset(other, split='time'), load_dataset(path, split='time')
    same(ours, expected)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a[INTERACTS].edge_label_time, b[INTERACTS].edge_label_time)


def test_json_lines_keep_ids_that_are_texts_of_digits(tmp_path):
    path = tmp_path / 'clicks.jsonl'
    path.write_text('{"user": "07", "item": "1"}\n{"user": "08", "item": "2"}\n')
    assert load_dataset(path).train['user'].raw_id.tolist() == ['07', '08']


def test_times_are_recognized_and_used(tmp_path):
    path = write_csv(tmp_path)
    graph = read_table(path, time='timestamp')
    same(load_dataset(path, split='leave-one-out'), split_leave_one_out(graph))
    with pytest.warns(UserWarning, match='random interactions, not the latest'):
        without = load_dataset(path, split='leave-one-out', time='')
    same(without, split_leave_one_out(graph, by='random'))
    assert 'time' not in without.train[INTERACTS]
    with pytest.raises(ValueError, match="'split' must not be 'time' without times"):
        load_dataset(path, split='time', time='')


def test_a_function_may_split(tmp_path):
    path = write_csv(tmp_path)
    same(
        load_dataset(path, split=lambda graph: split_per_user(graph, seed=9)),
        load_dataset(path, seed=9),
    )


def test_features_of_a_table_are_read(tmp_path):
    path = write_csv(tmp_path)
    lines = [f'i{n},{n}.5,1.0' for n in range(9)]
    (tmp_path / 'text.csv').write_text('\n'.join(['item_id,a,b', *lines]))
    data = load_dataset(path, features={'text': 'text.csv'})
    assert data.train[ITEM].x_text[:, 0].tolist() == [n + 0.5 for n in range(9)]


def test_a_folder_keeps_its_split(tmp_path):
    split = split_per_user(make_synthetic_dataset(30, 20, 4, seed=0))
    write_mmrec(split, tmp_path)
    loaded = load_dataset(tmp_path)
    for a, b in zip(loaded, split, strict=True):
        ours, theirs = (g[INTERACTS].edge_label_index for g in (a, b))
        assert sorted(ours.t().tolist()) == sorted(theirs.t().tolist())


def test_errors_name_the_argument(tmp_path):
    path = write_csv(tmp_path, 'who,what,when')
    with pytest.raises(ValueError, match=r"column of user ids.*'who'.*--user-column"):
        load_dataset(path)
    with pytest.raises(ValueError, match=r"'min_rating' .*Name yours with 'rating'"):
        load_dataset(path, user='who', item='what', min_rating=4)
    with pytest.raises(FileNotFoundError, match="'path' must exist"):
        load_dataset(tmp_path / 'nothing')
    with pytest.raises(ValueError, match="'format' must be one of"):
        load_dataset(path, 'excel')
    with pytest.raises(ValueError, match="'split' must be one of 'per-user'"):
        load_dataset(path, user='who', item='what', split='random')
    split = split_per_user(make_synthetic_dataset(30, 20, 4, seed=0))
    write_mmrec(split, tmp_path / 'folder')
    for argument in ({'user': 'u'}, {'split': 'time'}, {'item_ids': [1]}):
        (name,) = argument
        with pytest.raises(ValueError, match=rf"'{name}' \(--\S+\) must be left out"):
            load_dataset(tmp_path / 'folder', **argument)


def test_a_transformed_split_shares_what_it_shared():
    split = split_per_user(make_synthetic_dataset(30, 20, 4, seed=0))
    before = {k: x['item'].clone() for k, x in modality_x_dict(split.train).items()}
    new = split.transform(StandardizeModalities(), AddModalityPCA(3))
    for old, graph, other in zip(split, new, new[1:] + new[:1], strict=True):
        assert graph['user'].prompt_start is other['user'].prompt_start
        assert graph[INTERACTS].edge_index is old[INTERACTS].edge_index
        assert torch.equal(
            graph[INTERACTS].edge_label_index, old[INTERACTS].edge_label_index
        )
        assert 'prompt_start' not in old['user']
    alone = StandardizeModalities()(split.val)
    for name, x in before.items():
        assert torch.equal(modality_x_dict(split.train)[name]['item'], x)
        found = modality_x_dict(new.test)[name]['item']
        assert torch.equal(found, modality_x_dict(alone)[name]['item'])
        assert not np.allclose(found, x)


def test_a_plain_function_leaves_the_untransformed_split_as_it_was():
    split = split_per_user(make_synthetic_dataset(30, 20, 4, seed=0))

    def without_text(graph):
        del graph[ITEM].x_text
        return graph

    assert 'x_text' not in split.transform(without_text).test[ITEM]
    assert all('x_text' in graph[ITEM] for graph in split)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('ids.txt', 'b\n007\na\n'),
        ('ids.csv', 'b\r\n007\r\na\r\n'),
        ('items.csv', 'title,item_id\nB,b\nSeven,007\nA,a\n'),
        ('items.jsonl', '{"item": "b"}\n{"item": "007"}\n{"item": "a"}\n'),
    ],
)
def test_the_order_of_items_is_that_of_a_file(tmp_path, name, text):
    rows = [f'u{n},{item}' for n in range(12) for item in ('a', 'b')]
    (tmp_path / 'clicks.csv').write_text('user,item\n' + '\n'.join(rows))
    (tmp_path / name).write_text(text, newline='')
    data = load_dataset(tmp_path / 'clicks.csv', item_ids=name)
    assert data.train['item'].raw_id.tolist() == ['b', '007', 'a']


def test_rows_of_zeros_in_npy_features_of_a_table_are_missing(tmp_path):
    x = np.ones((9, 2), np.float64)
    x[4] = 0
    np.save(tmp_path / 'x.npy', x)
    (tmp_path / 'ids.txt').write_text('\n'.join(f'i{n}' for n in range(9)))
    options = {'features': {'text': 'x.npy'}, 'item_ids': 'ids.txt'}
    path = write_csv(tmp_path)
    item = load_dataset(path, **options).train[ITEM]
    assert item.mask_text.tolist() == [n != 4 for n in range(9)]
    assert torch.equal(item.x_text, torch.from_numpy(x).float())
    assert 'mask_text' not in load_dataset(path, **options, masks=None).train[ITEM]


def test_a_path_that_does_not_exist_is_named_as_that(tmp_path):
    with pytest.raises(FileNotFoundError, match="'path' must exist"):
        load_dataset(tmp_path / 'none', format='mmssl')
    path = write_csv(tmp_path)
    with pytest.raises(NotADirectoryError, match="'path' must be a folder"):
        load_dataset(path, format='mmssl')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'item_columns': 'genre'}, r"'item_columns' .*Pass \['genre'\]"),
        ({'drop_columns': 'x'}, r"'drop_columns' .*Pass \['x'\]"),
        ({'where': 'rating=5'}, "'where' must be a dictionary like"),
        ({'features': 'text.csv'}, "'features' must be a dictionary like"),
    ],
)
def test_options_of_another_type_are_refused(tmp_path, options, message):
    with pytest.raises(TypeError, match=message):
        load_dataset(write_csv(tmp_path), **options)
