import numpy as np
import pytest
import torch

from promptmm_pyg.data import INTERACTS, load_dataset, read_table

pd = pytest.importorskip('pandas')


def make_frame(**columns):
    base = {
        'user_id': ['u9', 'u1', 'u9', 'u5'],
        'item_id': ['b', 'c', 'd', 'b'],
        'when': [3, 1, 2, 4],
    }
    return pd.DataFrame({**base, **columns})


TEXT = pd.DataFrame(
    [[1.0, -2.0], [3.0, 4.0], [np.nan, np.nan]],
    index=['d', 'a', 'c'],
    columns=['p', 'q'],
)


def raw_pairs(graph):
    users, items = graph[INTERACTS].edge_index
    return list(
        zip(
            graph['user'].raw_id[users].tolist(),
            graph['item'].raw_id[items].tolist(),
            strict=True,
        )
    )


def test_the_raw_pairs_come_out_as_they_went_in():
    frame = make_frame()
    expected = list(zip(frame['user_id'], frame['item_id'], strict=True))
    assert raw_pairs(read_table(frame)) == expected


def test_nodes_are_numbered_in_sorted_order():
    graph = read_table(make_frame())
    assert graph['user'].raw_id.tolist() == ['u1', 'u5', 'u9']
    assert graph['item'].raw_id.tolist() == ['b', 'c', 'd']


def test_integer_ids_stay_integers():
    graph = read_table(make_frame(user_id=[10, 9, 10, -3]))
    assert graph['user'].raw_id.tolist() == [-3, 9, 10]
    assert graph['user'].raw_id.dtype.kind == 'i'


def test_given_ids_set_the_order_and_add_nodes():
    graph = read_table(make_frame(), item_ids=['d', 'x', 'c', 'b'])
    assert graph['item'].raw_id.tolist() == ['d', 'x', 'c', 'b']
    assert graph[INTERACTS].edge_index[1].tolist() == [3, 2, 0, 3]


def test_features_find_their_item_and_the_rest_is_masked():
    graph = read_table(make_frame(), features={'text': TEXT})
    assert graph['item'].raw_id.tolist() == ['a', 'b', 'c', 'd']
    # 'b' has no row, the row of 'c' is NaN throughout.
    assert graph['item'].mask_text.tolist() == [True, False, False, True]
    expected = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [1.0, -2.0]])
    torch.testing.assert_close(graph['item'].x_text, expected)


def test_items_without_interactions_can_be_dropped():
    graph = read_table(
        make_frame(), features={'text': TEXT}, without_interactions='drop'
    )
    assert graph['item'].raw_id.tolist() == ['b', 'c', 'd']
    assert graph['item'].x_text[2].tolist() == [1.0, -2.0]


def test_feature_rows_outside_of_the_given_ids_are_left_out():
    graph = read_table(make_frame(), item_ids=['b', 'c', 'd'], features={'text': TEXT})
    assert graph['item'].num_nodes == 3


def test_no_mask_where_every_row_is_there():
    full = pd.DataFrame({'p': [1.0, 2.0, 3.0]}, index=['b', 'c', 'd'])
    graph = read_table(make_frame(), features={'text': full})
    assert 'mask_text' not in graph['item']


def test_arrays_are_aligned_with_the_given_ids():
    graph = read_table(
        make_frame(),
        item_ids=['d', 'c', 'b'],
        features={'text': np.array([[1.0], [2.0], [3.0]])},
    )
    assert graph['item'].x_text.tolist() == [[1.0], [2.0], [3.0]]


def test_users_may_have_features():
    age = pd.DataFrame({'age': [30, 40]}, index=['u9', 'u1'])
    graph = read_table(make_frame(), user_features={'age': age})
    assert graph['user'].x_age.tolist() == [[40.0], [0.0], [30.0]]
    assert graph['user'].mask_age.tolist() == [True, False, True]


def test_categorical_and_object_ids_are_strings():
    frame = make_frame()
    for dtype in ('category', object):
        assert raw_pairs(read_table(frame.astype({'user_id': dtype}))) == raw_pairs(
            read_table(frame)
        )


def test_number_times_are_kept():
    graph = read_table(make_frame(), time='when')
    assert graph[INTERACTS].time.tolist() == [3, 1, 2, 4]


@pytest.mark.parametrize('unit', ['s', 'us', 'ns'])
@pytest.mark.parametrize('zone', [None, 'UTC', 'Asia/Tokyo'])
def test_dates_become_nanoseconds_in_utc(unit, zone):
    seconds = [100, 7, 2**31, 5]
    when = pd.Series(pd.to_datetime(seconds, unit='s')).dt.as_unit(unit)
    if zone is not None:
        when = when.dt.tz_localize('UTC').dt.tz_convert(zone)
    graph = read_table(make_frame(when=when), time='when')
    assert graph[INTERACTS].time.tolist() == [x * 10**9 for x in seconds]


def test_duplicates_are_dropped_on_request():
    frame = pd.concat([make_frame(), make_frame()])
    graph = read_table(frame, duplicates='first')
    assert raw_pairs(graph) == raw_pairs(read_table(make_frame()))
    with pytest.raises(ValueError, match=r'got 4 repeated, .*user .*--duplicates'):
        read_table(frame)


def test_a_repeated_pair_is_named_by_its_raw_ids():
    frame = pd.DataFrame({'user_id': ['z', 'a', 'a'], 'item_id': [7, 9, 9]})
    with pytest.raises(ValueError, match='the first is user a, item 9'):
        read_table(frame)


def test_a_frame_without_rows_is_refused():
    with pytest.raises(ValueError, match='must contain at least one row'):
        read_table(make_frame().iloc[:0])


@pytest.mark.parametrize(
    ('frame', 'options', 'message'),
    [
        ({}, {'item': 'sku'}, "must have a column 'sku' .*Name yours"),
        ({}, {'time': 'at'}, "must have a column 'at'"),
        (
            {'user_id': ['a', None, 'b', 'c']},
            {},
            r"'user_id' \(got 1 empty, the first in row 2\)",
        ),
        ({'user_id': [1.0, 2.0, 3.0, 4.5]}, {}, r'integers or text .*\(got double\)'),
        (
            {'when': [1.0, np.nan, 2, 3]},
            {'time': 'when'},
            r"'when' \(got 1 rows without one, the first in row 2",
        ),
        (
            {'when': list('abcd')},
            {'time': 'when'},
            r"numbers or dates .*\(got 'a' in row 1, 4 such.*ISO 8601",
        ),
        ({}, {'without_interactions': 'x'}, "'without_interactions' must be one"),
        ({}, {'item_ids': ['b', 'c']}, r"'item_ids' must contain every item .*'d'"),
        (
            {},
            {'features': {'t': np.ones((3, 2))}},
            r'got shape \[3, 2\] and no ids',
        ),
        (
            {},
            {'features': {'t': np.ones((2, 2))}, 'item_ids': list('bcd')},
            r'got shape \[2, 2\] and 3 ids',
        ),
        (
            {},
            {'features': {'t': pd.concat([TEXT, TEXT])}},
            r"item_features\['t'\].*each id once \(got 'd' again in row 4\)",
        ),
        (
            {},
            {'features': {'t': TEXT.assign(name=['x', 'y', 'z'])}},
            r"numeric .* beside 'item_id' \(got \['name'\]\).*--text FILE:COL",
        ),
        (
            {},
            {'features': {'t': TEXT.set_axis([1, 2, 3])}, 'item_ids': list('bcd')},
            'must share ids .*how they are written',
        ),
        (
            {},
            {'features': {'t': TEXT.assign(item_id=['01', '02', '03'])}},
            r"none in common: '01' here, '\w' there",
        ),
        (
            {},
            {'features': {'t': TEXT.replace(4.0, np.nan)}},
            r"gaps in \['q'\] of 1 items",
        ),
    ],
)
def test_errors_name_what_is_wrong(frame, options, message):
    with pytest.raises(ValueError, match=message):
        read_table(make_frame(**frame), **options)


def test_columns_of_one_name_are_refused():
    frame = pd.DataFrame([['a', 'x', 'y']], columns=['user_id', 'item_id', 'item_id'])
    with pytest.raises(ValueError, match=r"'path' must name each column once.*item_id"):
        load_dataset(frame)
