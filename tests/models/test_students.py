from contextlib import nullcontext

import pytest
import torch
import torch_geometric.nn

from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models import LightGCN, MatrixFactorization
from promptmm_pyg.nn import NodeEmbeddings
from tests.nn.graphs import (
    EDGE_INDEX,
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    around,
    edges,
    weights,
)


def test_light_gcn_agrees_with_pyg_on_a_bipartite_graph():
    student = LightGCN(NUM_NODES, embedding_dim=4, num_layers=3)
    reference = torch_geometric.nn.LightGCN(12, embedding_dim=4, num_layers=3)
    tables = student.embeddings()
    reference.embedding.weight.data = torch.cat([tables['user'], tables['item']]).data
    edge_index = EDGE_INDEX + torch.tensor([[0], [5]])
    expected = reference.get_embedding(
        torch.cat([edge_index, edge_index.flip([0])], dim=1)
    )
    out = student(edges(), weights())
    torch.testing.assert_close(torch.cat([out['user'], out['item']]), expected)


def test_matrix_factorization_returns_its_tables_without_a_graph():
    student = MatrixFactorization(NUM_NODES, embedding_dim=4)
    out = student()
    assert out['user'] is student.embeddings.tables['user']
    assert out['item'].shape == (7, 4)


@pytest.mark.parametrize('cls', [LightGCN, MatrixFactorization])
def test_holds_id_tables_and_nothing_else(cls):
    student = cls(NUM_NODES, embedding_dim=4)
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


def test_tables_start_as_published_or_with_the_given_standard_deviation():
    torch.manual_seed(0)
    tables = NodeEmbeddings({'user': 1000}, 64, init_std=0.3)
    assert abs(float(tables()['user'].detach().std()) - 0.3) < 0.01
    bound = (6 / (1000 + 64)) ** 0.5
    for tables in (
        NodeEmbeddings({'user': 1000}, 64),
        LightGCN(dict.fromkeys(NUM_NODES, 1000), embedding_dim=64).embeddings,
    ):
        x = tables()['user'].detach()
        assert 0.99 * bound < float(x.abs().max()) <= bound
        assert abs(float(x.std()) - bound / 3**0.5) < 0.01 * bound
    student = MatrixFactorization(dict.fromkeys(NUM_NODES, 1000), embedding_dim=64)
    assert abs(float(student()['user'].detach().std()) - 0.1) < 0.003


@pytest.mark.parametrize('part', [False, True])
def test_the_penalty_of_light_gcn_is_that_of_its_tables(part):
    student = LightGCN(NUM_NODES, embedding_dim=4)
    # Users 3 and 1, items 5, 0 and 2, in positions of the part.
    n_id_dict = {'user': torch.tensor([3, 1]), 'item': torch.tensor([5, 0, 2])}
    index = torch.tensor([[0, 1], [1, 2]])
    part_edges = {USER_ITEM: index, ITEM_USER: index.flip(0)}
    batch = Triplets(torch.tensor([1, 0]), torch.tensor([2, 1]), torch.tensor([0, 0]))
    output = student(part_edges, None, n_id_dict) if part else student(edges())
    user, item = (x.detach() for x in student.embeddings().values())
    if part:
        user, item = user[n_id_dict['user']], item[n_id_dict['item']]
    rows = user[batch.user], item[batch.positive], item[batch.negative]
    expected = sum(float(x.square().sum()) for x in rows) / (2 * 2)
    assert student.losses(output, batch)['l2'].item() == pytest.approx(expected)


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_rows_and_gradients_of_a_neighborhood_are_those_of_the_graph(num_layers):
    # User 4 and item 6 have no edge.
    seeds = {'user': torch.tensor([1, 4]), 'item': torch.tensor([0, 6])}
    student = LightGCN(NUM_NODES, embedding_dim=4, num_layers=num_layers).double()
    assert student.num_hops == num_layers
    batch = around(seeds, num_layers)
    part = student(
        batch.edge_index_dict, batch.collect('edge_weight'), batch.collect('n_id')
    )
    full = student(edges(), weights())
    grads = []
    for x_dict, index in ((full, seeds), (part, {key: slice(2) for key in seeds})):
        rows = {key: x_dict[key][index[key]] for key in seeds}
        grads.append(
            torch.autograd.grad(
                sum(x.square().sum() for x in rows.values()), student.parameters()
            )
        )
    for key, index in seeds.items():
        torch.testing.assert_close(part[key][:2], full[key][index])
    torch.testing.assert_close(grads[1], grads[0])
    assert all(grad.any() for grad in grads[0])


def test_one_hop_less_is_not_the_graph():
    seeds = {'user': torch.tensor([2]), 'item': torch.tensor([5])}
    student, batch = (
        LightGCN(NUM_NODES, embedding_dim=4, num_layers=2),
        around(seeds, 1),
    )
    part = student(
        batch.edge_index_dict, batch.collect('edge_weight'), batch.collect('n_id')
    )
    full = student(edges(), weights())
    assert (part['user'][0] - full['user'][2]).abs().max() > 1e-4


def test_rows_are_looked_up_by_id():
    student = MatrixFactorization(NUM_NODES, embedding_dim=4)
    n_id = {'user': torch.tensor([3, 0]), 'item': torch.tensor([], dtype=torch.long)}
    out = student(n_id_dict=n_id)
    assert torch.equal(out['user'], student()['user'][[3, 0]])
    assert out['item'].shape == (0, 4)


def test_sparse_gradients_equal_the_dense_ones_within_the_block():
    student = LightGCN(NUM_NODES, embedding_dim=4)
    batch = around({'user': torch.tensor([1]), 'item': torch.tensor([0])}, 2)
    table = student.embeddings.tables['item']
    grads = []
    sparse = sparse_gradients(student.embeddings.tables.values())
    for context in (nullcontext(), sparse, nullcontext()):
        with context:
            out = student(batch.edge_index_dict, None, batch.collect('n_id'))
            (grad,) = torch.autograd.grad(out['user'].pow(3).sum(), [table])
            grads.append(grad)
    assert [grad.is_sparse for grad in grads] == [False, True, False]
    torch.testing.assert_close(grads[1].to_dense(), grads[0])
    assert grads[1].coalesce().indices().numel() < 7


@pytest.mark.parametrize('block_size', [1, 3, 100])
def test_inference_in_blocks_is_the_forward(block_size):
    student = LightGCN(NUM_NODES, embedding_dim=4, num_layers=3)
    before = {k: x.clone() for k, x in student.state_dict().items()}
    out = student.inference(edges(), weights(), block_size=block_size)
    expected = student(edges(), weights())
    for key, x in out.items():
        assert not x.requires_grad
        torch.testing.assert_close(x, expected[key].detach())
    torch.testing.assert_close(dict(student.state_dict()), before)


def test_errors_of_parts_and_blocks():
    student = LightGCN(NUM_NODES, embedding_dim=4)
    with pytest.raises(ValueError, match=r"'n_id_dict' must have ids.*'item'"):
        student(edges(), n_id_dict={'user': torch.arange(5)})
    with pytest.raises(ValueError, match="'block_size' must be positive"):
        student.inference(edges(), block_size=0)
    with pytest.raises(ValueError, match=r"points to \['user'\]"):
        student.inference({USER_ITEM: edges()[USER_ITEM]})
    full = {ITEM_USER: edges()[ITEM_USER], USER_ITEM: edges()[USER_ITEM]}
    with pytest.raises(ValueError, match="'edge_index' requires source ids"):
        student(full, n_id_dict={key: torch.arange(2) for key in NUM_NODES})


def test_errors_and_repr():
    tables = NodeEmbeddings(NUM_NODES, 4)
    assert str(LightGCN(NUM_NODES, embedding_dim=4)) == (
        'LightGCN(NodeEmbeddings(user=5, item=7, embedding_dim=4), num_layers=3)'
    )
    assert str(MatrixFactorization(NUM_NODES, embedding_dim=4)) == (
        'MatrixFactorization(NodeEmbeddings(user=5, item=7, embedding_dim=4))'
    )
    with pytest.raises(ValueError, match=r"'x_dict' must have the node types"):
        tables.load_tables({'user': torch.ones(5, 4)})
    with pytest.raises(ValueError, match='must have shape'):
        tables.load_tables({'user': torch.ones(5, 2), 'item': torch.ones(7, 2)})
    with pytest.raises(ValueError, match=r"num_nodes_dict\['user'\].*positive"):
        NodeEmbeddings({'user': 0}, 4)
