from pathlib import Path

import numpy as np
import pytest
import torch

from promptmm_pyg.cli import build_parser
from promptmm_pyg.cli.data import data_config
from promptmm_pyg.data import (
    INTERACTS,
    load_dataset,
    read_table,
    split_by_time,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
)
from promptmm_pyg.runs.data import (
    RunError,
    hash_split,
    load_split,
    read_ids,
    read_titles,
)


def config(*argv):
    return data_config(build_parser().parse_args(['data', 'check', *argv]))


def load(*argv):
    return load_split(config(*argv))


def same(a, b):
    edges = torch.equal(a.train[INTERACTS].edge_index, b.train[INTERACTS].edge_index)
    return edges and all(
        torch.equal(x[INTERACTS].edge_label_index, y[INTERACTS].edge_label_index)
        for x, y in zip(a, b, strict=True)
    )


def test_a_folder_keeps_the_split_it_came_with(files):
    assert same(load(files.layout), load_dataset(files.layout))


@pytest.mark.parametrize(
    ('argv', 'split'),
    [
        ([], lambda g: split_per_user(g)),
        (['--split-seed', '3'], lambda g: split_per_user(g, seed=3)),
        (
            ['--val-ratio', '0.3', '--test-ratio', '0.2'],
            lambda g: split_per_user(g, 0.3, 0.2),
        ),
        (['--split', 'leave-one-out'], lambda g: split_leave_one_out(g, 'time')),
        (['--split', 'time', '--val-ratio', '0.2'], lambda g: split_by_time(g, 0.2)),
        (
            ['--split', 'cold-items', '--split-seed', '1'],
            lambda g: split_cold_items(g, seed=1),
        ),
    ],
)
def test_a_table_is_split_as_asked_for(files, argv, split):
    found = load(files.table, '--time-column', 'when', *argv)
    assert same(found, split(read_table(files.table, time='when')))


def test_leave_one_out_without_times_is_by_chance(files):
    found = load(files.table, '--split', 'leave-one-out', '--split-seed', '2')
    graph = read_table(files.table)
    assert same(found, split_leave_one_out(graph, 'random', seed=2))


def test_the_columns_of_a_table_have_names(tmp_path):
    file = tmp_path / 'x.csv'
    file.write_text('who,what\n' + ''.join(f'u{n % 3},i{n}\n' for n in range(12)))
    found = load(str(file), '--user-column', 'who', '--item-column', 'what')
    assert found.train['user'].raw_id.tolist() == ['u0', 'u1', 'u2']


def test_features_in_an_array_need_the_ids_of_its_rows(files, tmp_path):
    ids = read_table(files.table).__getitem__('item').raw_id.tolist()
    (tmp_path / 'ids.txt').write_text('\n'.join(reversed(ids)) + '\n\n')
    x = np.arange(len(ids), dtype=np.float32)[:, None]
    np.save(tmp_path / 'x.npy', x)
    found = load(
        files.table,
        *('--features', f'number={tmp_path / "x.npy"}'),
        *('--item-ids', str(tmp_path / 'ids.txt')),
    )
    assert found.train['item'].raw_id.tolist() == ids[::-1]
    # Beside the table, as the features.
    table = tmp_path / 'clicks.csv'
    table.write_text(Path(files.table).read_text())
    argv = ['--features', 'number=x.npy', '--item-ids', 'ids.txt']
    assert same(found, load(str(table), *argv))
    assert torch.equal(found.train['item'].x_number, torch.from_numpy(x))


def test_features_beside_the_data_are_found_by_name(files):
    found = config(files.table, '--features', 'text=text.csv')
    assert found['features'] == {'text': files.text}


def test_more_than_one_modality_may_be_given_in_either_way(files):
    text = f'={files.text}'
    once = config(files.table, '--features', f'a{text}', f'b{text}')
    twice = config(files.table, '--features', f'a{text}', '--features', f'b{text}')
    assert once == twice
    assert set(once['features']) == {'a', 'b'}


def test_masks_can_be_turned_off(files):
    found = load(files.layout, '--masks', 'none')
    assert 'mask_text' in load(files.layout).train['item']
    assert 'mask_text' not in found.train['item']


@pytest.mark.parametrize(
    ('argv', 'match'),
    [
        (['nowhere'], "there is no file or folder 'nowhere'"),
        (
            ['{layout}', '--split', 'time'],
            "(--split) must be left out for the layout 'mmssl', which comes with",
        ),
        (
            ['{table}', '--split', 'time'],
            "Name their column with 'time' (--time-column)",
        ),
        (['{table}', '--features', 'x=no.csv'], "does not exist: 'no.csv'"),
        (['{table}', '--features', 'x'], 'NAME=VALUE'),
        (['{table}', '--format', 'parquet'], "invalid choice: 'parquet'"),
        (['{table}', '--format', 'mmssl'], 'must be a folder'),
        (['{table}', '--user-column', 'who'], "must have a column 'who'"),
        (
            ['{table}', '--item-column', 'it'],
            "Name yours with 'item' (--item-column)",
        ),
        (['{table}', '--item-ids', 'no.txt'], '--item-ids names a file that does not'),
        (['{table}', '--item-columns', 'no'], 'table with '),
        (['{table}', '--val-ratio', '1.5'], "'val_ratio' must be in"),
        (['.'], 'must contain a known format'),
        (['{table}', '--features', 'text='], 'leaves out what a folder holds'),
        (['{table}', '--text', 'no/texts'], 'folder that does not exist'),
        (['{table}', '--features', 'text={titles}'], "(got ['title'])"),
        (['{table}', '--item-graph', '{table}'], 'objects, which are never loaded'),
        (['{table}', '--item-ids', '/'], "does not exist: '/'"),
    ],
)
def test_what_does_not_fit_is_a_mistake(
    files, fails, tmp_path, monkeypatch, argv, match
):
    monkeypatch.chdir(tmp_path)
    assert match in fails('data', 'check', *(x.format(**vars(files)) for x in argv))


def test_ids_are_the_lines_of_a_file_as_written(tmp_path):
    (tmp_path / 'ids').write_bytes('\ufeff007\r\n7\n\n 3 \nNA\n1e4'.encode())
    assert read_ids(tmp_path / 'ids') == ['007', '7', ' 3 ', 'NA', '1e4']
    (tmp_path / 'ids').write_bytes(b'caf\xe9\n')
    assert read_ids(tmp_path / 'ids', 'latin-1') == ['café']
    with pytest.raises(ValueError, match='must be text in UTF-8'):
        read_ids(tmp_path / 'ids')


def test_empty_titles_are_none(tmp_path):
    file = tmp_path / 't.csv'
    file.write_text('id,name,year\na,"One, two",1\nb,,2\n')
    assert read_titles(file, 'id', 'name') == {'a': 'One, two'}


def test_titles_need_their_file_and_columns(tmp_path):
    with pytest.raises(RunError, match=r'no file .* of titles'):
        read_titles(tmp_path / 'no.csv', 'id', 'title')
    (tmp_path / 't.csv').write_text('id,name\n')
    with pytest.raises(ValueError, match=r"must have a column 'title'.*--title-column"):
        read_titles(tmp_path / 't.csv', 'id', 'title')


def test_the_same_data_have_one_fingerprint(files):
    assert hash_split(load(files.layout)) == hash_split(load(files.layout))


@pytest.mark.parametrize('change', ['edge', 'label', 'feature', 'mask', 'id'])
def test_any_change_shows_in_the_fingerprint(files, change):
    split = load(files.layout)
    before = hash_split(split)
    train = split.train
    if change == 'edge':
        train[INTERACTS].edge_index = train[INTERACTS].edge_index[:, 1:]
    elif change == 'label':
        labels = split.test[INTERACTS].edge_label_index
        split.test[INTERACTS].edge_label_index = labels[:, 1:]
    elif change == 'feature':
        train['item'].x_text = train['item'].x_text + 1e-3
    elif change == 'mask':
        train['item'].mask_text = ~train['item'].mask_text
    else:
        train['user'].raw_id = np.array([*train['user'].raw_id[:-1], 'new'])
    assert hash_split(split) != before
