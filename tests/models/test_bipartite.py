import pytest
import torch

from promptmm_pyg.models._graphs import bipartite, reverse_type
from tests.models.setting import (
    dense_smooth,
)
from tests.nn.graphs import (
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    dense,
    edges,
    features,
    weights,
)


def convert(edge_index_dict, edge_weight_dict=None):
    return bipartite(
        edge_index_dict,
        edge_weight_dict,
        edge_type=USER_ITEM,
        num_nodes_dict=NUM_NODES,
    )


def test_smoothing_is_the_mean_over_layers():
    user, item = features(3, num=5), features(3, seed=1)
    graph = convert(edges(), weights())
    torch.testing.assert_close(graph.smooth(user, item, 3), dense_smooth(user, item, 3))


def test_each_direction_has_its_own_weights():
    given = {USER_ITEM: weights()[USER_ITEM], ITEM_USER: 2 * weights()[ITEM_USER]}
    graph = convert(edges(), given)
    torch.testing.assert_close(graph.to_item @ torch.eye(5), dense().t())
    torch.testing.assert_close(graph.to_user @ torch.eye(7), 2 * dense())


def test_a_reverse_that_is_missing_is_the_transpose():
    graph = convert({USER_ITEM: edges()[USER_ITEM]}, weights())
    torch.testing.assert_close(graph.to_user @ torch.eye(7), dense())


def test_the_reverse_is_found_by_name_or_if_it_is_the_only_one():
    other = ('item', 'read_by', 'user')
    assert reverse_type([USER_ITEM, other, ITEM_USER], USER_ITEM) == ITEM_USER
    assert reverse_type([USER_ITEM, other], USER_ITEM) == other
    two = [other, ('item', 'seen_by', 'user')]
    assert reverse_type([USER_ITEM, *two], USER_ITEM) is None


def test_other_edge_types_are_left_alone():
    extended = {**edges(), ('item', 'like', 'item'): 'nothing'}
    torch.testing.assert_close(
        convert(extended, weights()).to_user @ torch.eye(7), dense()
    )


def test_an_edge_type_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match=r"'edge_index_dict' must have the edge type"):
        convert({ITEM_USER: edges()[ITEM_USER]})
