import pytest
import torch
import torch_geometric.nn

from promptmm_pyg.nn import HeteroPropagation, csr_pair_dict, propagate_blocks
from tests.nn.graphs import (
    EDGE_INDEX,
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    dense,
    edges,
    features,
    weights,
)


def make_x(width=4):
    return {'user': features(width, num=5), 'item': features(width, seed=1)}


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_agrees_with_pyg_light_gcn(num_layers):
    x_dict = make_x()
    model = torch_geometric.nn.LightGCN(5 + 7, embedding_dim=4, num_layers=num_layers)
    model.embedding.weight.data = torch.cat([x_dict['user'], x_dict['item']])
    edge_index = EDGE_INDEX + torch.tensor([[0], [5]])
    expected = model.get_embedding(torch.cat([edge_index, edge_index.flip([0])], dim=1))
    out = HeteroPropagation(num_layers)(x_dict, edges(), weights())
    torch.testing.assert_close(torch.cat([out['user'], out['item']]), expected)


def test_users_get_items_and_items_get_users():
    # One user, 100 items: a stacked adjacency with its blocks in the wrong place
    # would sum user rows into user rows.
    edge_index = torch.stack([torch.zeros(100, dtype=torch.long), torch.arange(100)])
    x_dict = {'user': torch.full((1, 1), 1.0), 'item': torch.full((100, 1), 100.0)}
    out = HeteroPropagation(1)(
        x_dict, {USER_ITEM: edge_index, ITEM_USER: edge_index.flip([0])}
    )
    assert float(out['user']) == (1 + 100 * 100) / 2
    assert (out['item'] == (100 + 1) / 2).all()


def test_converted_once_or_at_every_call_is_the_same():
    x_dict, conv = make_x(), HeteroPropagation(2)
    pairs = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    torch.testing.assert_close(conv(x_dict, pairs), conv(x_dict, edges(), weights()))


def test_a_node_without_edges_has_its_own_row_only():
    x_dict = make_x()
    out = HeteroPropagation(2)(x_dict, edges(), weights())
    torch.testing.assert_close(out['user'][4], x_dict['user'][4] / 3)
    torch.testing.assert_close(out['item'][6], x_dict['item'][6] / 3)


def test_edge_order_does_not_matter():
    x_dict, conv = make_x(), HeteroPropagation(2)
    perm = torch.tensor([5, 2, 0, 4, 1, 3])
    shuffled = conv(
        x_dict,
        {k: v[:, perm] for k, v in edges().items()},
        {k: v[perm] for k, v in weights().items()},
    )
    torch.testing.assert_close(shuffled, conv(x_dict, edges(), weights()))


def test_edge_types_into_one_node_type_add_up():
    x_dict, conv = make_x(), HeteroPropagation(1)
    edge_index_dict = edges()
    once = conv(x_dict, edge_index_dict)['item']
    edge_index_dict['user', 'likes', 'item'] = EDGE_INDEX
    twice = conv(x_dict, edge_index_dict)['item']
    torch.testing.assert_close(twice - once, once - x_dict['item'] / 2)


def test_input_is_left_alone():
    x_dict = make_x()
    before = {key: x.clone() for key, x in x_dict.items()}
    HeteroPropagation(2)(x_dict, edges(), weights())
    torch.testing.assert_close(x_dict, before)


def test_blocks_in_one_product_equal_blocks_on_their_own():
    pairs = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    a, b = features(3, num=5), features(2, seed=3, num=5)
    both = propagate_blocks({'user': {'a': a, 'b': b}, 'item': {}}, pairs)
    torch.testing.assert_close(both['item']['a'], dense().t() @ a)
    torch.testing.assert_close(both['item']['b'], dense().t() @ b)
    assert both['user'] == {}


def test_errors():
    x_dict, edge_index_dict = make_x(), edges()
    del edge_index_dict[ITEM_USER]
    with pytest.raises(ValueError, match=r"\['user'\].*ToUndirected"):
        HeteroPropagation(2)(x_dict, edge_index_dict)
    with pytest.raises(ValueError, match="'num_layers' must be positive"):
        HeteroPropagation(0)


def test_repr():
    assert str(HeteroPropagation(3)) == 'HeteroPropagation(num_layers=3)'
