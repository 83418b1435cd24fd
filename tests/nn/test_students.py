import pytest
import torch
import torch_geometric.nn

from promptmm_pyg.nn import LightGCN, MatrixFactorization, NodeEmbeddings
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, edges, weights


def test_light_gcn_agrees_with_pyg_on_a_bipartite_graph():
    student = LightGCN(NUM_NODES, 4, num_layers=3)
    reference = torch_geometric.nn.LightGCN(12, 4, 3)
    tables = student.embeddings()
    reference.embedding.weight.data = torch.cat([tables['user'], tables['item']]).data
    edge_index = EDGE_INDEX + torch.tensor([[0], [5]])
    expected = reference.get_embedding(
        torch.cat([edge_index, edge_index.flip([0])], dim=1)
    )
    out = student(edges(), weights())
    torch.testing.assert_close(torch.cat([out['user'], out['item']]), expected)


def test_matrix_factorization_returns_its_tables_without_a_graph():
    student = MatrixFactorization(NUM_NODES, 4)
    out = student()
    assert out['user'] is student.embeddings.tables['user']
    assert out['item'].shape == (7, 4)


@pytest.mark.parametrize('cls', [LightGCN, MatrixFactorization])
def test_holds_id_tables_and_nothing_else(cls):
    student = cls(NUM_NODES, 4)
    shapes = sorted(tuple(x.shape) for x in student.state_dict().values())
    assert shapes == [(5, 4), (7, 4)]


def test_loaded_tables_are_copies():
    source = {'user': torch.ones(5, 4), 'item': torch.ones(7, 4)}
    tables = NodeEmbeddings(NUM_NODES, 4)
    tables.load_tables(source)
    torch.testing.assert_close(tables()['item'].data, torch.ones(7, 4))
    with torch.no_grad():
        tables.tables['user'].zero_()
    assert (source['user'] == 1).all()


def test_start_has_the_standard_deviation_asked_for():
    torch.manual_seed(0)
    tables = NodeEmbeddings({'user': 1000}, 64, std=0.3)
    assert abs(float(tables()['user'].detach().std()) - 0.3) < 0.01


def test_errors_and_repr():
    tables = NodeEmbeddings(NUM_NODES, 4)
    assert str(LightGCN(NUM_NODES, 4)) == (
        'LightGCN(NodeEmbeddings(user=5, item=7, embedding_dim=4), num_layers=2)'
    )
    assert str(MatrixFactorization(NUM_NODES, 4)) == (
        'MatrixFactorization(NodeEmbeddings(user=5, item=7, embedding_dim=4))'
    )
    with pytest.raises(ValueError, match=r"'x_dict' needs the node types"):
        tables.load_tables({'user': torch.ones(5, 4)})
    with pytest.raises(ValueError, match='copied at its own width'):
        tables.load_tables({'user': torch.ones(5, 2), 'item': torch.ones(7, 2)})
    with pytest.raises(ValueError, match=r"num_nodes_dict\['user'\].*positive"):
        NodeEmbeddings({'user': 0}, 4)
