import copy

import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.loader.utils import filter_node_store_

from promptmm_pyg import LightGCN
from promptmm_pyg.data import (
    build_graph,
    modality_mask_dict,
    modality_x_dict,
    without_raw_ids,
)


@pytest.fixture
def data():
    return build_graph(
        torch.tensor([[0, 1], [2, 0]]),
        num_users=4,
        item_features={'text': torch.ones(3, 2), 'image': -torch.ones(3, 5)},
        user_features={'text': torch.ones(4, 6)},
        item_masks={'image': torch.tensor([True, False, True])},
        item_ids=['x', 'y', 'z'],
        user_ids=['a', 'b', 'c', 'd'],
    )


def test_nodes_are_counted_users_first(data):
    assert list(data.num_nodes_dict.items()) == [('user', 4), ('item', 3)]


def test_features_are_collected_by_modality_in_sorted_order(data):
    x_dict = modality_x_dict(data)
    assert list(x_dict) == ['image', 'text']
    assert set(x_dict['image']) == {'item'}
    assert x_dict['text']['user'] is data['user'].x_text


def test_masks_are_collected_where_there_are_any(data):
    mask_dict = modality_mask_dict(data)
    assert set(mask_dict) == {'image'}
    assert mask_dict['image']['item'].tolist() == [True, False, True]


def test_a_graph_without_ids_shares_tensors_and_leaves_the_ids_alone(data):
    bare = without_raw_ids(data)
    assert 'raw_id' not in bare['user']
    assert 'raw_id' not in bare['item']
    assert bare['item'].x_text is data['item'].x_text
    assert data['item'].raw_id.tolist() == ['x', 'y', 'z']
    assert 'raw_id' not in without_raw_ids(bare)['user']


def test_neighbor_loaders_can_cut_a_graph_without_ids(data):
    index = torch.tensor([2, 0])
    out = copy.copy(data)['item']
    with pytest.raises(TypeError, match='numpy'):
        filter_node_store_(data['item'], out, index)
    bare = without_raw_ids(data)
    out = copy.copy(bare)['item']
    filter_node_store_(bare['item'], out, index)
    assert out.mask_image.tolist() == [True, True]
    assert out.num_nodes == 2


def test_a_model_does_not_depend_on_the_order_of_node_types(data):
    reversed_types = HeteroData()
    for node_type in ('item', 'user'):
        reversed_types[node_type].num_nodes = data[node_type].num_nodes
    for edge_type in data.edge_types:
        reversed_types[edge_type].edge_index = data[edge_type].edge_index
    assert list(reversed_types.num_nodes_dict) == ['item', 'user']
    models = []
    for graph in (data, reversed_types):
        torch.manual_seed(0)
        models.append(LightGCN.from_data(graph, embedding_dim=4))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)
