import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.transforms import AddBipartiteNorm

EDGE_INDEX = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 1]])


def make_data():
    data = HeteroData()
    data['user'].num_nodes = 4
    data['item'].num_nodes = 3
    data[INTERACTS].edge_index = EDGE_INDEX
    data[REV_INTERACTS].edge_index = EDGE_INDEX.flip([0])
    return data


def test_sym_agrees_with_pyg_gcn_norm_on_the_stacked_graph():
    data = AddBipartiteNorm('sym')(make_data())
    stacked = EDGE_INDEX + torch.tensor([[0], [4]])
    both = torch.cat([stacked, stacked.flip([0])], dim=1)
    _, weight = gcn_norm(both, num_nodes=7, add_self_loops=False)
    torch.testing.assert_close(data[INTERACTS].edge_weight, weight[:4])
    torch.testing.assert_close(data[REV_INTERACTS].edge_weight, weight[4:])


def test_row_gives_the_mean_of_the_neighbors():
    data = AddBipartiteNorm('row')(make_data())
    torch.testing.assert_close(
        data[INTERACTS].edge_weight, torch.tensor([1, 1 / 3, 1 / 3, 1 / 3])
    )
    torch.testing.assert_close(
        data[REV_INTERACTS].edge_weight, torch.tensor([0.5, 0.5, 1, 1])
    )


def test_left_sqrt_divides_by_the_root_of_the_target_degree():
    data = AddBipartiteNorm('left_sqrt')(make_data())
    torch.testing.assert_close(
        data[REV_INTERACTS].edge_weight, torch.tensor([0.5, 0.5, 1, 1]).sqrt()
    )


def test_the_graph_given_is_left_alone():
    data = make_data()
    AddBipartiteNorm()(data)
    assert 'edge_weight' not in data[INTERACTS]


def test_error_and_repr():
    assert str(AddBipartiteNorm('row')) == "AddBipartiteNorm(norm='row')"
    with pytest.raises(ValueError, match=r"'norm' must be one of 'sym'.*'mean'"):
        AddBipartiteNorm('mean')
