"""Raw ids: how they are matched, and what an unknown one costs."""

import time

import numpy as np
import pytest
import torch

from promptmm_pyg.serving import RawIds, Recommender


def raw_ids(*ids):
    return RawIds('item_ids', ids, len(ids))


@pytest.mark.parametrize(
    ('known', 'raw', 'row'),
    [
        ((7, 8), '7', 0),
        (('7', '8'), 7, 0),
        (('7', '8'), np.int64(8), 1),
        ((7, '7'), '7', 1),
        (('7', 7), 7, 1),
        (('007', 7), '007', 0),
        ((7,), '007', -1),
        ((7,), ' 7', -1),
        ((7,), '+7', -1),
        ((0,), '-0', -1),
        ((-7,), '-7', 0),
        ((7,), '٧', -1),  # A digit of another alphabet.
        ((7,), '7.0', -1),
        ((1,), True, -1),
        ((1,), 1.0, -1),
        ((10**30,), '1' + '0' * 30, 0),
        ((7,), '9' * 5000, -1),
        (('12e4', 'NA'), 'NA', 1),
        (('',), '', 0),
        ((7,), '-', -1),
        ((7,), [7], -1),
    ],
)
def test_an_id_is_matched_as_it_is_then_by_its_text(known, raw, row):
    ids = raw_ids(*known)
    assert ids.find([raw]) == [row]
    assert (raw in ids) == (row >= 0)


@pytest.mark.parametrize(
    'ids', [np.array([7, 9]), torch.tensor([7, 9]), ['7', '9'], iter([7, 9]), {7, 9}]
)
def test_several_ids_come_in_any_sequence(ids):
    assert sorted(raw_ids(9, 7).find(ids)) == [0, 1]


def test_ids_are_plain_strings_and_integers():
    ids = RawIds('x', np.array(['a', 'b']), 2)
    assert [type(x) for x in ids] == [str, str]
    assert [type(x) for x in RawIds('x', np.array([1, 2]), 2)] == [int, int]
    assert RawIds('x', [np.str_('a'), np.int32(3)], 2)[:] == ['a', 3]
    with pytest.raises(ValueError, match=r"'x' must contain strings or integers \(got"):
        RawIds('x', [1, True], 2)
    with pytest.raises(ValueError, match="'x' must be unique \\(got 'b' twice\\)"):
        RawIds('x', ['a', 'b', 'c', 'b'], 4)


@pytest.fixture(scope='module')
def many():
    return RawIds('users', [f'user-{number:06d}' for number in range(200_000)], 200_000)


@pytest.mark.parametrize(
    ('raw', 'expected'),
    [
        ('user-00042', 'user-000042'),
        ('user-0000042', 'user-000042'),
        ('user_000042', 'user-000042'),
        ('user-000402', 'user-000042'),
        ('USER-000042', 'user-000042'),
        (' user-000042 ', 'user-000042'),
    ],
)
def test_the_closest_of_many_ids_are_suggested(many, raw, expected):
    close = many.close_matches(raw)
    assert 1 <= len(close) <= 3
    if raw != 'user-000402':  # A known id.
        assert expected in close


@pytest.mark.parametrize('raw', ['', '  ', 'x' * 65])
def test_nothing_resembles_an_empty_or_a_very_long_id(raw):
    assert raw_ids(0, 'x').close_matches(raw) == []


def test_leading_zeros_are_suggested():
    ids = RawIds('items', range(2000), 2000)
    assert ids.close_matches('00042')[0] == 42
    text = RawIds('items', [f'{number:05d}' for number in range(2000)], 2000)
    assert text.close_matches(42)[0] == '00042'


def test_an_unknown_id_costs_no_more_with_many_ids(many):
    few = RawIds('users', many[:2000], 2000)
    seconds = []
    for ids in (few, many):
        _ = ids.close_matches('x')  # The characters are collected once.
        start = time.process_time()
        for number in range(20):
            ids.close_matches(f'nobody {number}')
        seconds.append(time.process_time() - start)
    assert seconds[1] <= 5 * seconds[0] + 0.05
    assert many.close_matches('x' * 10_000) == []


def test_the_first_unknown_id_and_their_number_are_named():
    message = r"'users' must contain known ids \(got 'c', 2 unknown in all\)"
    with pytest.raises(ValueError, match=message):
        raw_ids('a', 'b').rows('users', ['a', 'c', 'd'])
    assert raw_ids('a', 'b').rows('users', ['a', 'c'], unknown='ignore') == [0, -1]
    with pytest.raises(ValueError, match="'unknown' must be one of 'raise', 'ignore'"):
        raw_ids('a').rows('users', ['a'], unknown='drop')


def test_a_recommender_matches_by_text_everywhere():
    x = torch.eye(3)
    model = Recommender(
        x, x, user_ids=[7, 8, 9], item_ids=['1', '2', '3'], seen=None, titles={1: 'One'}
    )
    assert model.titles == {'1': 'One'}
    first = model.recommend('7', 3, deny=[2]).ids.tolist()
    assert first == model.recommend(7, 3, deny=['2']).ids.tolist() == ['1', '3', None]
    assert model.similar_items(1, 1).ids.tolist() == ['2']
    assert model.recommend_from_history([1], 1).ids.tolist() == ['2']
    assert model.score('7', [1, '2']).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="'ids' must contain ids that are not in the"):
        model.tables.with_items(x[:1], [3], None)


def test_new_ids_have_the_type_of_the_known_ones():
    assert RawIds('item_ids', [7, -8], 2).typed('ids', ['9', 10, '-1']) == [9, 10, -1]
    assert RawIds('item_ids', [7, 'a'], 2).typed('ids', ['9', 10]) == ['9', '10']


@pytest.mark.parametrize('raw', ['07', '-0', ' 7', '1.0', 'a', '', '\u0663'])
def test_new_ids_that_are_no_integers_raise(raw):
    ids = RawIds('item_ids', [7], 1)
    with pytest.raises(ValueError, match=r"ids must be integers, as '7' .* \(got '"):
        ids.typed('ids', ['8', raw])
