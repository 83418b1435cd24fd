import dataclasses

import pytest
import torch

from promptmm_pyg.explain import Explanation, Side

ITEM_USER = ('item', 'rev_interacts', 'user')
USER_ITEM = ('user', 'interacts', 'item')


def tensor(*values):
    return torch.tensor(values, dtype=torch.double)


def make():
    """Sources a and b; the score is 10."""
    return Explanation(
        user=3,
        item=8,
        score=10.0,
        sources=('a', 'b'),
        pairs=tensor([1.0, 2.0], [3.0, 4.0]),
        user_side=Side(
            'user',
            3,
            tensor(1.0, 0.0),
            {ITEM_USER: torch.tensor([2, 5, 7])},
            {ITEM_USER: tensor([4.0, 3.0], [-1.0, 0.0], [2.0, 1.0])},
        ),
        item_side=Side(
            'item',
            8,
            tensor(3.0, 4.0),
            {USER_ITEM: torch.tensor([3])},
            {USER_ITEM: tensor([1.0, 2.0])},
        ),
        tolerance=1e-9,
    )


def test_interaction_terms_are_split_equally():
    assert make().by_source == {'a': 1 + 2.5, 'b': 4 + 2.5}


def test_the_top_is_by_absolute_value():
    side = make().user_side
    assert [node for _, node, _ in side.top(2)] == [2, 7]
    assert [node for _, node, _ in side.top(9)] == [2, 7, 5]
    values = tensor([-9.0, 0.0], [1.0, 0.0], [2.0, 1.0])
    side = side._replace(value_dict={ITEM_USER: values})
    assert [node for _, node, _ in side.top(1)] == [2]


def test_of_equal_neighbors_the_first_comes_first():
    values = tensor([1.0, 0.0], [0.0, -1.0], [0.5, 0.5])
    side = make().user_side._replace(value_dict={ITEM_USER: values})
    assert [node for _, node, _ in side.top(2)] == [2, 5]


def test_a_negative_number_of_neighbors_is_refused():
    with pytest.raises(ValueError, match=r"'k' must be zero or more \(got -1\)"):
        make().user_side.top(-1)


def test_the_parts_of_a_score_pass():
    assert make().error == 0.0
    make().check()


@pytest.mark.parametrize('place', ['score', 'pairs', 'user_side', 'item_side'])
def test_each_wrong_sum_is_refused(place):
    one = make()
    side = getattr(one, place) if place.endswith('side') else None
    wrong = {
        'score': 10.1,
        'pairs': one.pairs + 0.1,
        'user_side': side and side._replace(own=side.own + 0.1),
        'item_side': side and side._replace(own=side.own + 0.1),
    }[place]
    with pytest.raises(FloatingPointError, match="'score' must be the sum of its"):
        dataclasses.replace(one, **{place: wrong}).check()


def test_the_error_is_relative_to_the_size_of_the_parts():
    one = dataclasses.replace(make(), score=10.5)
    # 10 in pairs and on the item's side, 12 on the user's, where one is negative.
    assert one.error == pytest.approx(0.5 / 10)


def test_nan_is_refused():
    with pytest.raises(FloatingPointError):
        dataclasses.replace(make(), score=float('nan')).check()


def test_the_summary_shows_parts_and_the_first_neighbors():
    text = make().summary(k=2, label=lambda kind, node: f'{kind[0]}{node}')
    assert text == (
        'part     score\n'
        'a      +3.5000\n'
        'b      +6.5000\n'
        'sum   +10.0000\n'
        '\n'
        "the user's items     score        a        b\n"
        'i2                 +7.0000  +4.0000  +3.0000\n'
        'i7                 +3.0000  +2.0000  +1.0000\n'
        '1 other            -1.0000  -1.0000  +0.0000\n'
        'the user itself    +1.0000  +1.0000  +0.0000\n'
        'sum               +10.0000  +6.0000  +4.0000\n'
        'by name: 110% of the score\n'
        '\n'
        "the item's users     score        a        b\n"
        'u3                 +3.0000  +1.0000  +2.0000\n'
        'the item itself    +7.0000  +3.0000  +4.0000\n'
        'sum               +10.0000  +4.0000  +6.0000\n'
        'by name: 100% of the score'
    )


def test_as_many_neighbors_as_are_ninety_percent_of_the_score():
    n_id = torch.arange(9)
    values = tensor(*[[6.0], [0.1], [2.0], [0.2], [0.1], [0.1], [0.2], [0.1], [0.1]])
    side = Side('user', 0, tensor([1.0]), {ITEM_USER: n_id}, {ITEM_USER: values})
    assert side.num_covering() == 2  # 1 + 6 + 2 of 9.9.
    assert side.covered() == pytest.approx(9 / 9.9)
    names = [name for name, _ in side.rows()]
    assert names[:2] == ['item 0', 'item 2']
    assert names[2:] == ['7 others, +0.13 each on average', 'the user itself']
    many = side._replace(
        n_id_dict={ITEM_USER: torch.arange(99)},
        value_dict={ITEM_USER: values[:1] + n_id.new_zeros(99, 1)},
    )
    assert many.num_covering() == 20


def test_without_labels_nodes_are_rows():
    assert '\nitem 2 ' in make().summary()


def test_without_edges_there_is_no_table_of_neighbors():
    one = make()
    alone = Side('user', 3, tensor(6.0, 4.0), {}, {})
    one = dataclasses.replace(one, user_side=alone, item_side=alone)
    assert one.summary().count('sum') == 1
    assert alone.top(3) == []


def test_a_single_source_has_no_column():
    one = dataclasses.replace(
        make(),
        sources=('id',),
        pairs=tensor([10.0]),
        user_side=Side(
            'user',
            3,
            tensor(10.0),
            {ITEM_USER: torch.tensor([1])},
            {ITEM_USER: tensor([0.0])},
        ),
    )
    line = next(x for x in one.summary().splitlines() if x.startswith('the user'))
    assert line.split() == ['the', "user's", 'items', 'score']


def test_small_scores_show_three_digits():
    one = dataclasses.replace(make(), pairs=make().pairs * 1e-6, score=1e-5)
    assert 'sum   +0.0000100' in one.summary()
