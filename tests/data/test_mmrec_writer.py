import numpy as np
import pytest
import torch
from torch.testing import assert_close

from promptmm_pyg.data import (
    INTERACTS,
    MultiModalDataset,
    build_graph,
    load_dataset,
    split_by_part,
    write_mmrec,
)

X = torch.tensor([[0.1, -2.0], [0, 0], [3.0, 1e-8], [float('nan'), 1.0]])


def split(time=(5, 3, 4, 1, 2), ids=('b', 'a,1', 'c d', 'é'), **options):
    # Nobody has touched the last item and the last user.
    edges = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 2, 2]])
    options = {
        'item_features': {'text': X, 'image': torch.ones(4, 1, dtype=torch.half)},
        'item_masks': {'text': torch.tensor([True, False, True, False])},
        **options,
    }
    graph = build_graph(
        edges,
        user_ids=[30, 10, 20],
        item_ids=list(ids),
        edge_time=None if time is None else torch.tensor(time),
        **options,
    )
    return split_by_part(graph, torch.tensor([0, 1, 0, 0, 2]))


def test_what_is_written_is_read_back(tmp_path):
    before = split()
    after = load_dataset(write_mmrec(before, tmp_path / 'toys'))
    assert after.train['user'].raw_id.tolist() == ['30', '10', '20']
    assert after.train['item'].raw_id.tolist() == ['b', 'a,1', 'c d', 'é']
    for old, new in zip(before, after, strict=True):
        for key in ('edge_index', 'edge_label_index', 'edge_label_time'):
            assert_close(new[INTERACTS][key], old[INTERACTS][key])
        assert_close(new['item'].x_text, old['item'].x_text, rtol=0, atol=0)
        assert_close(new['item'].mask_text, old['item'].mask_text)
        assert_close(new['item'].x_image, old['item'].x_image)
        assert 'mask_image' not in new['item']


@pytest.mark.parametrize('time', [None, (0.5, 1.25, 1e9, 1e-7, 3.0)])
def test_times_may_be_fractions_or_not_there(tmp_path, time):
    before = split(time=time)
    after = load_dataset(write_mmrec(before, tmp_path / 'toys'))
    if time is None:
        assert 'time' not in after.train[INTERACTS]
    else:
        times = [graph[INTERACTS].edge_label_time.tolist() for graph in after]
        # Single precision is exact as a double.
        assert times == [g[INTERACTS].edge_label_time.tolist() for g in before]


def test_the_files_are_those_of_mmrec(tmp_path):
    folder = write_mmrec(split(), tmp_path / 'deep' / 'toys')
    assert sorted(path.name for path in folder.iterdir()) == [
        'i_id_mapping.csv',
        'image_feat.npy',
        'text_feat.npy',
        'toys.inter',
        'u_id_mapping.csv',
    ]
    lines = (folder / 'toys.inter').read_text().split('\n')
    assert lines == [
        'userID\titemID\ttimestamp\tx_label',
        *('0\t0\t5\t0', '1\t0\t4\t0', '1\t2\t1\t0', '0\t1\t3\t1', '0\t2\t2\t2', ''),
    ]
    text = np.load(folder / 'text_feat.npy')
    assert text.dtype == np.float32
    assert text[1].tolist() == text[3].tolist() == [0, 0]
    users = (folder / 'u_id_mapping.csv').read_text()
    assert users == 'user_id\tuserID\n30\t0\n10\t1\n20\t2\n'


def test_the_folder_is_recognised(tmp_path):
    folder = write_mmrec(split(), tmp_path / 'toys')
    assert load_dataset(folder).train['item'].num_nodes == 4


def test_a_graph_without_raw_ids_and_features_is_written_too(tmp_path):
    graph = build_graph(torch.tensor([[0, 1], [0, 0]]), num_users=4, num_items=3)
    whole = split_by_part(graph, torch.zeros(2).long())
    after = load_dataset(write_mmrec(whole, tmp_path / 'toys'))
    assert after.train['user'].raw_id.tolist() == ['0', '1', '2', '3']
    assert after.train['item'].raw_id.tolist() == ['0', '1', '2']


def test_the_name_can_be_given_and_the_folder_be_empty(tmp_path):
    folder = write_mmrec(split(), tmp_path, name='baby')
    assert folder == tmp_path
    assert (tmp_path / 'baby.inter').is_file()


@pytest.mark.parametrize('kind', ['folder', 'file'])
def test_nothing_is_overwritten(tmp_path, kind):
    target = tmp_path / 'toys'
    if kind == 'folder':
        target.mkdir()
        (target / 'mine.txt').touch()
    else:
        target.touch()
    with pytest.raises(FileExistsError, match="'folder' must be new or empty"):
        write_mmrec(split(), target)


def test_after_an_error_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match='without tabs and line breaks'):
        write_mmrec(split(ids=('a', 'b', 'c', 'd\t')), tmp_path / 'toys')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('bad', ['', 'a\r', 'a\nb', 'a\tb', 'a\u2028b'])
def test_ids_with_breaks_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="'raw_id' of the items must"):
        write_mmrec(split(ids=('a', 'b', 'c', bad)), tmp_path / 'toys')


def test_rows_of_zeros_that_are_there_are_refused(tmp_path):
    masks = {'text': torch.tensor([True, True, True, False])}
    with pytest.raises(ValueError, match=r"\(got 1 in 'x_text'\).*'mask_text'"):
        write_mmrec(split(item_masks=masks), tmp_path / 'toys')


def test_features_of_users_are_refused(tmp_path):
    before = split(user_features={'bio': torch.ones(3, 1)})
    with pytest.raises(ValueError, match="got 'x_bio' of users"):
        write_mmrec(before, tmp_path / 'toys')


@pytest.mark.parametrize('name', ['', '../up', 'a/b'])
def test_the_name_is_no_path(tmp_path, name):
    with pytest.raises(ValueError, match="'name' must be the name of a file"):
        write_mmrec(split(), tmp_path / 'toys', name=name)


@pytest.mark.parametrize(
    ('text', 'ids'),
    [
        ('asin\titemID\na\t1\nb\t0\nc\t2\nd\t3\n', ['b', 'a', 'c', 'd']),
        ('itemID,id\r\n0,x\r\n2,z\r\n1,y\r\n3,w\r\n4,v', ['x', 'y', 'z', 'w', 'v']),
    ],
)
def test_tables_of_ids_may_come_in_any_order(tmp_path, text, ids):
    folder = write_mmrec(split(item_features={}, item_masks={}), tmp_path / 'toys')
    (folder / 'i_id_mapping.csv').write_text(text, newline='')
    assert load_dataset(folder).train['item'].raw_id.tolist() == ids


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('id\tnumber\na\t0\n', r"must be a table .*columns \['id', 'number'\]"),
        ('asin\titemID\na\tx\n', "must be a table of an id and its 'itemID'"),
        ('asin\titemID\na\t0\nb\t2\n', 'an id for each number'),
        ('asin\titemID\na\t0\nb\t1\n', 'an id for each number from 0 to 3'),
        ('asin\titemID\na\t0\nb\t1\nc\t2\nd\t3\ne\n', 'got 4 in 5 rows'),
    ],
)
def test_tables_of_ids_are_checked(tmp_path, text, match):
    folder = write_mmrec(split(), tmp_path / 'toys')
    (folder / 'i_id_mapping.csv').write_text(text)
    with pytest.raises(ValueError, match=match):
        load_dataset(folder)


def test_without_tables_ids_are_numbers(tmp_path):
    folder = write_mmrec(split(), tmp_path / 'toys')
    for node_type in 'ui':
        (folder / f'{node_type}_id_mapping.csv').unlink()
    train = load_dataset(folder).train
    assert train['user'].raw_id.tolist() == ['0', '1']
    assert train['item'].raw_id.tolist() == ['0', '1', '2', '3']


def test_a_copy_is_read_anew_when_a_table_of_ids_changes(tmp_path):
    folder = write_mmrec(split(), tmp_path / 'toys')
    MultiModalDataset(tmp_path / 'copy', folder)
    file = folder / 'i_id_mapping.csv'
    file.write_text(file.read_text(encoding='utf-8').replace('a,1', 'new'), 'utf-8')
    after = MultiModalDataset(tmp_path / 'copy', folder).split
    assert after.train['item'].raw_id.tolist() == ['b', 'new', 'c d', 'é']
