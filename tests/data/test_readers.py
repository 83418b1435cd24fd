import json
import pickle

import numpy as np
import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    load_dataset,
    validate,
)
from promptmm_pyg.data.features import load_array
from promptmm_pyg.data.load import read_resolved

sparse = pytest.importorskip('scipy.sparse')

# Three users, four items; item 3 is in no interaction.
PAIRS = {
    'train': [(0, 0), (0, 1), (2, 2)],
    'val': [(0, 2)],
    'test': [(2, 0), (1, 1)],
}
IMAGE = np.array([[0, -2], [0, 0], [3, 4], [5, 6]], dtype=np.float16)


def matrix(pairs, shape=(3, 4)):
    rows, cols = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    return sparse.coo_matrix((np.ones(len(rows)), (rows, cols)), shape=shape)


def lists(pairs):
    out = {}
    for user, item in pairs:
        out.setdefault(str(user), []).append(item)
    return out


def write_diffmm(folder, pairs=PAIRS):
    for name, part in zip(('trn', 'val', 'tst'), pairs.values(), strict=True):
        (folder / f'{name}Mat.pkl').write_bytes(pickle.dumps(matrix(part)))
    np.save(folder / 'image_feat.npy', IMAGE)
    return folder


def write_mmssl(folder, pairs=PAIRS):
    for name, part in pairs.items():
        (folder / f'{name}.json').write_text(json.dumps(lists(part)))
    np.save(folder / 'image_feat.npy', IMAGE)
    return folder


def write_lattice(folder, pairs=PAIRS):
    (folder / '5-core').mkdir()
    for name, part in pairs.items():
        (folder / '5-core' / f'{name}.json').write_text(json.dumps(lists(part)))
    np.save(folder / 'image_feat.npy', IMAGE)
    return folder


def write_promptmm(folder, pairs=PAIRS):
    for name, part in pairs.items():
        (folder / f'{name}_mat').write_bytes(pickle.dumps(matrix(part).tocsr()))
    np.save(folder / 'image_feat.npy', IMAGE)
    return folder


def write_mmrec(folder, pairs=PAIRS):
    rows = ['userID\titemID\trating\ttimestamp\tx_label']
    # Mixed up, as the real files are.
    for name in ('test', 'train', 'val'):
        code = list(PAIRS).index(name)
        rows += [f'{u}\t{i}\t4.5\t{100 * u + i}\t{code}' for u, i in pairs[name]]
    (folder / 'toys.inter').write_text('\n'.join(rows) + '\n')
    np.save(folder / 'image_feat.npy', IMAGE)
    return folder


WRITERS = [write_diffmm, write_mmssl, write_lattice, write_promptmm, write_mmrec]


@pytest.fixture(params=WRITERS)
def write(request):
    return request.param


def raw_labels(graph):
    users, items = graph[INTERACTS].edge_label_index
    users, items = (
        graph['user'].raw_id[users.numpy()],
        graph['item'].raw_id[items.numpy()],
    )
    return sorted(zip(users.tolist(), items.tolist(), strict=True))


def test_every_format_gives_its_own_split_back(tmp_path, write):
    split = load_dataset(write(tmp_path))
    for name, graph in split._asdict().items():
        expected = sorted((str(u), str(i)) for u, i in PAIRS[name])
        assert raw_labels(graph) == expected
        assert graph['user'].num_nodes == 3
        assert graph['item'].num_nodes == 4
        assert sorted(graph[INTERACTS].edge_index.t().tolist()) == [
            list(pair) for pair in PAIRS['train']
        ]


def test_what_is_read_is_valid(tmp_path, write):
    found = validate(load_dataset(write(tmp_path)))
    assert [finding for finding in found if finding.level == 'error'] == []


def test_rows_of_zeros_are_masked_by_default(tmp_path, write):
    item = load_dataset(write(tmp_path)).train['item']
    assert item.mask_image.tolist() == [True, False, True, True]
    torch.testing.assert_close(item.x_image, torch.from_numpy(IMAGE).float())


def test_rows_of_zeros_can_be_taken_as_they_are(tmp_path, write):
    item = load_dataset(write(tmp_path), masks=None).train['item']
    assert 'mask_image' not in item


def test_features_can_be_added_replaced_and_left_out(tmp_path, write):
    write(tmp_path)
    (tmp_path / 'derived').mkdir()
    np.save(tmp_path / 'derived' / 'text.npy', np.ones((4, 3)))
    features = {'text': 'derived/text.npy', 'image': None}
    item = load_dataset(tmp_path, features=features).train['item']
    assert item.x_text.shape == (4, 3)
    assert 'x_image' not in item
    again = load_dataset(tmp_path, features={'image': tmp_path / 'derived/text.npy'})
    assert again.train['item'].x_image.shape == (4, 3)


def test_dropping_duplicates_keeps_the_pair_in_training(tmp_path, write):
    pairs = {**PAIRS, 'val': [(0, 0), (0, 2)]}
    split = load_dataset(write(tmp_path, pairs), duplicates='first')
    assert raw_labels(split.train) == [('0', '0'), ('0', '1'), ('2', '2')]
    assert raw_labels(split.val) == [('0', '2')]
    assert raw_labels(split.test) == [('1', '1'), ('2', '0')]


def test_a_pair_in_two_parts_is_an_error_by_default(tmp_path, write):
    write(tmp_path, {**PAIRS, 'test': [(0, 0), (2, 0)]})
    with pytest.raises(
        ValueError, match=r'does not fit together: .*first is user 0, item'
    ):
        load_dataset(tmp_path)


def test_features_that_do_not_fit_are_an_error(tmp_path, write):
    write(tmp_path)
    np.save(tmp_path / 'audio_feat.npy', np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"item_features\['audio'\].*shape \[2, 2\]"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, r'be a whole \.npy'),
        (np.array([{}], dtype=object), r'be a whole \.npy'),
        (np.ones(4), 'contain one matrix'),
    ],
)
def test_a_feature_file_of_another_kind_is_named(tmp_path, write, content, message):
    path = write(tmp_path) / 'image_feat.npy'
    if content is None:  # Truncated.
        path.write_bytes(path.read_bytes()[:-3])
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=rf"image_feat\.npy' must {message}"):
        load_dataset(tmp_path)


def test_a_named_feature_file_has_to_be_there(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"none\.npy' must be a file"):
        load_dataset(write(tmp_path), features={'text': 'none.npy'})


def test_no_interactions_are_an_error(tmp_path, write):
    write(tmp_path, {'train': [], 'val': [], 'test': []})
    with pytest.raises(
        ValueError, match=r'must contain (interactions|at least one row)'
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize('layout', ['diffmm', 'mmssl', 'mmrec', 'recbole'])
def test_a_layout_is_a_folder(tmp_path, layout):
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match="'path' must be a folder"):
        load_dataset(tmp_path / 'file', layout)
    options = {'path': tmp_path / 'none', 'format': layout, 'split': None}
    with pytest.raises(FileNotFoundError, match="'path' must exist"):
        read_resolved(options)


def test_the_folder_itself_comes_before_5_core(tmp_path):
    write_lattice(tmp_path)
    np.save(tmp_path / '5-core' / 'image_feat.npy', np.ones((4, 7)))
    np.save(tmp_path / '5-core' / 'text_feat.npy', np.ones((4, 5)))
    item = load_dataset(tmp_path).train['item']
    assert item.x_image.shape == (4, 2)
    assert item.x_text.shape == (4, 5)


def test_names_of_features_become_attributes(tmp_path):
    write_diffmm(tmp_path)
    (tmp_path / 'image_feat.npy').rename(tmp_path / 'image-v2_feat.npy')
    assert 'x_image_v2' in load_dataset(tmp_path).train['item']


@pytest.mark.parametrize(
    ('writer', 'gone'),
    [
        (write_diffmm, 'valMat.pkl'),
        (write_mmssl, 'test.json'),
        (write_lattice, '5-core/val.json'),
        (write_promptmm, 'test_mat'),
    ],
)
def test_a_missing_part_is_named(tmp_path, writer, gone):
    (writer(tmp_path) / gone).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"must contain '{gone.split('/')[-1]}'"
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ('writer', 'cut'),
    [
        (write_diffmm, 'trnMat.pkl'),
        (write_mmssl, 'train.json'),
        (write_promptmm, 'val_mat'),
        (write_mmrec, 'toys.inter'),
    ],
)
def test_a_truncated_part_is_named(tmp_path, writer, cut):
    path = writer(tmp_path) / cut
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f'{cut}.* must .*truncated'):
        load_dataset(tmp_path)


def test_matrices_need_one_shape(tmp_path):
    write_diffmm(tmp_path)
    (tmp_path / 'tstMat.pkl').write_bytes(pickle.dumps(matrix([(0, 1)], (9, 9))))
    with pytest.raises(ValueError, match=r"one shape \(got .*'tstMat.pkl': \(9, 9\)"):
        load_dataset(tmp_path)


def test_mmssl_says_what_it_looks_for(tmp_path):
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(
        FileNotFoundError, match=r"train\.json or train_mat.*\['notes\.txt'\]"
    ):
        load_dataset(tmp_path, 'mmssl')


@pytest.mark.parametrize('text', ['[1, 2]', '{"a": [1]}', '{"0": [0.5]}', '{"0": 3}'])
def test_json_of_another_shape_is_named(tmp_path, text):
    (write_mmssl(tmp_path) / 'val.json').write_text(text)
    with pytest.raises(ValueError, match=r"val\.json' must contain"):
        load_dataset(tmp_path)


def test_users_with_empty_lists_are_fine(tmp_path):
    (write_mmssl(tmp_path) / 'val.json').write_text('{"0": [], "1": [2], "2": []}')
    assert raw_labels(load_dataset(tmp_path).val) == [('1', '2')]


def test_mmrec_keeps_times_with_their_edges(tmp_path):
    split = load_dataset(write_mmrec(tmp_path))
    for graph in split:
        users, items = graph[INTERACTS].edge_label_index
        torch.testing.assert_close(
            graph[INTERACTS].edge_label_time, 100 * users + items
        )


def test_mmrec_without_times(tmp_path):
    write_mmrec(tmp_path)
    (tmp_path / 'toys.inter').write_text('x_label\tuserID\titemID\n0\t1\t2\n2\t1\t0\n')
    split = load_dataset(tmp_path)
    assert raw_labels(split.test) == [('1', '0')]
    assert 'time' not in split.train[INTERACTS]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('userID\titemID\n0\t1\n', r"without \['x_label'\].*'read_table'"),
        ('userID\titemID\tx_label\n0\t1\t3\n', '0, 1 or 2 as x_label'),
        (
            'userID\titemID\tx_label\n0\t1.5\t0\n',
            r"whole numbers from zero .*'itemID' \(got 1.5 in line 2",
        ),
        (
            'userID\titemID\tx_label\n0\t1\t0\n0\tabc\t0\n',
            r"numbers in .*'itemID' \(got 'abc' in line 3",
        ),
        (
            'userID\titemID\tx_label\n0\t1\t0\n0\tnan\t0\n',
            r"'itemID' \(got 1 rows without one, .*line 3",
        ),
        (
            'userID\titemID\tx_label\n0\t1\t0\t7\n',
            r'have 3 cells .*got 4 in line 2',
        ),
    ],
)
def test_mmrec_tables_are_checked(tmp_path, text, message):
    (write_mmrec(tmp_path) / 'toys.inter').write_text(text)
    with pytest.raises(ValueError, match=rf"toys\.inter' must .*{message}"):
        load_dataset(tmp_path)


def test_mmrec_needs_one_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one '<name>\.inter' \(got \[\]\)"):
        load_dataset(tmp_path, 'mmrec')
    write_mmrec(tmp_path)
    (tmp_path / 'more.inter').touch()
    with pytest.raises(ValueError, match=r"\['more\.inter', 'toys\.inter'\]\)"):
        load_dataset(tmp_path, 'mmrec')


def test_two_formats_in_one_folder_ask_for_a_choice(tmp_path):
    write_mmrec(write_diffmm(tmp_path))
    with pytest.raises(ValueError, match=r"files of \['diffmm', 'mmrec'\].*Choose"):
        load_dataset(tmp_path)
    assert 'time' in load_dataset(tmp_path, 'mmrec').train[INTERACTS]
    assert 'time' not in load_dataset(tmp_path, 'diffmm').train[INTERACTS]


def test_no_known_format_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'looked for diffmm: trnMat.pkl; mmssl'
    ):
        load_dataset(tmp_path)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'format' must be one of 'auto', 'diffmm'"):
        load_dataset(tmp_path, 'csv')


def test_unknown_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'masks' must be one of 'zero-rows', None"):
        load_dataset(write_diffmm(tmp_path), masks='nan')


def test_other_files_are_no_advice_to_load_them_unsafely(tmp_path):
    (tmp_path / 'x.npy').write_bytes(b'no array')
    with pytest.raises(ValueError, match='hold objects, which are never loaded') as no:
        load_array(tmp_path / 'x.npy')
    assert 'unsafe' not in str(no.value)


def test_a_folder_of_many_files_is_named_in_short(tmp_path):
    for n in range(30):
        (tmp_path / f'{n:02}.txt').touch()
    with pytest.raises(FileNotFoundError, match=r"'09\.txt', 'and 20 more'\]"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ('lists', 'what'),
    [
        ({'30000000': [1]}, r"'num_users' .*30000000"),
        ({'0': [10**12]}, r"'num_items' .*1000000000000"),
        ({str(10**12): [10**12]}, r"'num_users'"),
    ],
)
def test_numbers_out_of_proportion_are_refused_in_lists(tmp_path, lists, what):
    for part in ('train', 'val', 'test'):
        rest = {'0': [0]} if part == 'train' else {}
        content = {**rest, **lists} if part == 'train' else {}
        (tmp_path / f'{part}.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf'{what}.*Number users and items from zero'):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    'row', ['30000000\t1', '1\t1000000000000', '1\t1e12', '1\t1e17']
)
def test_numbers_out_of_proportion_are_refused_in_mmrec(tmp_path, row):
    content = f'userID\titemID\tx_label\n0\t0\t0\n{row}\t0\n'
    (tmp_path / 'toys.inter').write_text(content)
    with pytest.raises(ValueError, match=r'toys.inter|from zero'):
        load_dataset(tmp_path)


def test_matrices_out_of_proportion_are_refused(tmp_path):
    for name in ('trnMat', 'valMat', 'tstMat'):
        matrix = sparse.coo_matrix(([1.0], ([0], [0])), shape=(30_000_000, 5))
        (tmp_path / f'{name}.pkl').write_bytes(pickle.dumps(matrix))
    with pytest.raises(ValueError, match=r"'num_users' must be at most 100 times"):
        load_dataset(tmp_path)


def test_items_with_features_need_no_interactions(tmp_path):
    for part in ('train', 'val', 'test'):
        lists = {'0': [3]} if part == 'train' else {}
        (tmp_path / f'{part}.json').write_text(json.dumps(lists))
    np.save(tmp_path / 'text_feat.npy', np.ones((200_000, 1), np.float32))
    assert load_dataset(tmp_path).train['item'].num_nodes == 200_000


@pytest.mark.parametrize('duplicates', ['first', 'last', 'sum'])
def test_repeats_across_parts_are_merged(tmp_path, duplicates):
    rows = ['0\t0\t0\t5', '0\t1\t0\t6', '0\t1\t1\t7', '1\t0\t2\t8', '1\t0\t1\t9']
    content = '\n'.join(['userID\titemID\tx_label\ttimestamp', *rows])
    (tmp_path / 'toys.inter').write_text(content)
    split = load_dataset(tmp_path, duplicates=duplicates)
    edges = [graph[INTERACTS].edge_label_index.t().tolist() for graph in split]
    times = [graph[INTERACTS].edge_label_time.tolist() for graph in split]
    if duplicates == 'last':  # By time, and in one part in any case.
        assert edges == [[[0, 0]], [[0, 1], [1, 0]], []]
        assert times == [[5], [7, 9], []]
    else:
        assert edges == [[[0, 0], [0, 1]], [[1, 0]], []]
        assert times == (
            [[5, 6], [9], []] if duplicates == 'first' else [[5, 7], [9], []]
        )
    if duplicates == 'sum':
        assert split.train[INTERACTS].weight.tolist() == [1.0, 2.0]


def test_mmrec_rows_are_selected(tmp_path):
    rows = ['0\t0\t0\t5\ta', '0\t1\t0\t2\ta', '0\t2\t1\t4\tb', '1\t0\t2\t3\ta']
    content = '\n'.join(['userID\titemID\tx_label\trating\tkind', *rows])
    (tmp_path / 'toys.inter').write_text(content)

    def edges(**options):
        split = load_dataset(tmp_path, **options)
        return [graph[INTERACTS].edge_label_index.t().tolist() for graph in split]

    assert edges(min_rating=4) == [[[0, 0]], [[0, 2]], []]
    assert edges(where={'kind': 'a'}) == [[[0, 0], [0, 1]], [], [[1, 0]]]
    split = load_dataset(tmp_path, weight='rating')
    assert split.train[INTERACTS].weight.tolist() == [5.0, 2.0]
    with pytest.raises(ValueError, match=r"'where' .*'c'"):
        edges(where={'kind': 'c'})
    with pytest.raises(ValueError, match=r"must be left out for the layout 'mmrec'"):
        edges(user='userID')


@pytest.mark.parametrize(
    'content', ['{"7": [1], "07": [2]}', '{"1_0": [1]}', '[' * 100_000, '{"7": [1.5]}']
)
def test_users_of_lists_are_numbers_as_written(tmp_path, content):
    for part in ('train', 'val', 'test'):
        (tmp_path / f'{part}.json').write_text(content)
    with pytest.raises(ValueError, match=r"train.json' must contain .*whole numbers"):
        load_dataset(tmp_path)
