import pytest
import torch

from promptmm_pyg.models.popularity import Popularity
from promptmm_pyg.ranking import rank_items
from promptmm_pyg.targets import soft_targets
from tests.models.world import operators
from tests.nn.graphs import NUM_NODES, USER_ITEM, edges, weights


def test_items_hold_their_degree_and_users_ones():
    x_dict = soft_targets(Popularity(NUM_NODES, edge_type=USER_ITEM), edges()).x_dict
    expected = torch.tensor([[1.0], [1], [0], [2], [0], [2], [0]])
    torch.testing.assert_close(x_dict['item'], expected)
    torch.testing.assert_close(x_dict['user'], torch.ones(5, 1))


def test_weights_do_not_count():
    model = Popularity(NUM_NODES, edge_type=USER_ITEM)
    plain = model(edges()).x_dict['item']
    assert torch.equal(model(edges(), weights()).x_dict['item'], plain)
    assert torch.equal(model(operators()).x_dict['item'], plain)


def test_everybody_gets_the_same_list():
    x_dict = Popularity(NUM_NODES, edge_type=USER_ITEM)(edges()).x_dict
    lists = rank_items((x_dict['user'], x_dict['item']), torch.arange(5), k=3)
    assert lists.item_index.tolist() == [[3, 5, 0]] * 5


def test_has_nothing_to_train_or_save():
    assert not Popularity(NUM_NODES, edge_type=USER_ITEM).state_dict()


def test_errors_and_repr():
    model = Popularity(NUM_NODES, edge_type=USER_ITEM)
    assert str(model) == "Popularity(('user', 'interacts', 'item'))"
    with pytest.raises(ValueError, match=r"'edge_index_dict' requires edges of"):
        model({})
    with pytest.raises(ValueError, match=r"num_nodes_dict\['item'\].*positive"):
        Popularity({'user': 1, 'item': 0}, edge_type=USER_ITEM)
