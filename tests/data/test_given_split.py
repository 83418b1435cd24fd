"""A split that came with a table: a column of parts, or a file per part."""

import pandas as pd
import pytest

from promptmm_pyg.data import INTERACTS, load_dataset, read_table, split_by_part

ROWS = [
    ('ann', 'x', 'train'),
    ('ann', 'y', 'Valid'),
    ('bob', 'x', 'TRAIN'),
    ('bob', 'z', 'test'),
    ('cy', 'y', 'train'),
    ('cy', 'x', 'validation'),
]
FRAME = pd.DataFrame(ROWS, columns=['user_id', 'item_id', 'part'])
EXPECTED = {
    'train': {('ann', 'x'), ('bob', 'x'), ('cy', 'y')},
    'val': {('ann', 'y'), ('cy', 'x')},
    'test': {('bob', 'z')},
}


def parts(split):
    users, items = split.train['user'].raw_id, split.train['item'].raw_id
    return {
        name: {
            (str(users[u]), str(items[i]))
            for u, i in graph[INTERACTS].edge_label_index.t().tolist()
        }
        for name, graph in split._asdict().items()
    }


def write_parts(tmp_path, frame=FRAME):
    names = frame.part.str.lower().map(lambda x: x[:3])
    for name, short in (('train', 'tra'), ('val', 'val'), ('test', 'tes')):
        rows = frame[names == short].drop(columns='part')
        rows.to_csv(tmp_path / f'{name}.csv', index=False)
    return tmp_path / 'train.csv'


def test_a_column_of_parts_is_read_in_any_case(tmp_path):
    FRAME.to_csv(tmp_path / 'clicks.csv', index=False)
    split = load_dataset(tmp_path / 'clicks.csv', split_column='part')
    assert parts(split) == EXPECTED
    assert parts(load_dataset(FRAME, split_column='part')) == EXPECTED
    graph = read_table(FRAME, split_column='part')
    assert parts(split_by_part(graph)) == EXPECTED


def test_three_files_are_read_as_given(tmp_path):
    path = write_parts(tmp_path)
    split = load_dataset(path, val='val.csv', test=tmp_path / 'test.csv')
    assert parts(split) == EXPECTED


def test_three_frames_are_read_as_given():
    names = FRAME.part.str.lower()
    frames = [FRAME[names.str.startswith(x)] for x in ('tr', 'va', 'te')]
    split = load_dataset(frames[0], val=frames[1], test=frames[2])
    assert parts(split) == EXPECTED
    without = load_dataset(frames[0], test=frames[2])
    assert parts(without) == {**EXPECTED, 'val': set()}


def test_ids_of_another_type_in_a_part_are_the_same_ids(tmp_path):
    (tmp_path / 'train.csv').write_text('user_id,item_id\n1,7\n2,8\n')
    val = pd.DataFrame({'user_id': [1], 'item_id': [8]})
    split = load_dataset(tmp_path / 'train.csv', val=val)
    assert parts(split)['val'] == {('1', '8')}
    assert split.train['user'].num_nodes == 2


def test_unknown_parts_are_listed():
    frame = FRAME.assign(part=['train', 'eval', None, 'test', 'x', 'train'])
    match = r"column 'part' \(--split-column\).*\(got 'eval', 'x', None\)"
    with pytest.raises(ValueError, match=match):
        load_dataset(frame, split_column='part')


def test_pairs_in_two_parts_are_refused_with_both_parts(tmp_path):
    more = pd.DataFrame(
        [('ann', 'x', 'test'), ('ann', 'y', 'test'), ('bob', 'x', 'test')],
        columns=FRAME.columns,
    )
    frame = pd.concat([FRAME, more])
    match = r"2 in both 'train' and 'test', .*; 1 in both 'val' and 'test', .* user ann"
    with pytest.raises(ValueError, match=match):
        load_dataset(frame, split_column='part')
    path = write_parts(tmp_path, frame)
    with pytest.raises(ValueError, match=match):
        load_dataset(path, val='val.csv', test='test.csv')
    split = load_dataset(frame, split_column='part', duplicates='first')
    assert parts(split) == EXPECTED


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'split_column': 'nothing'}, r"'split_column' \(--split-column\)"),
        ({'split_column': 'part', 'split': 'time'}, "'split' .* must be left out"),
        ({'val': FRAME, 'split': 'per-user'}, r"'val' \(--val-file\)"),
        (
            {'split_column': 'part', 'val': FRAME},
            "'split_column' .* left out with 'val'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        load_dataset(FRAME, **options)
