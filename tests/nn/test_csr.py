import pytest
import torch
from torch_geometric import EdgeIndex

from promptmm_pyg.nn import CSRPair, as_csr_pair, csr_pair_dict
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

SIZE = (5, 7)  # (num_src, num_dst) of user -> item.


def make_pair():
    return CSRPair.from_edge_index(EDGE_INDEX, weights()[USER_ITEM], size=SIZE)


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
@pytest.mark.parametrize('width', [1, 3, 32])
def test_product_and_gradient_equal_the_dense_matrix(dtype, width):
    x = features(width, num=5).to(dtype).requires_grad_()
    weight = features(width, seed=1).to(dtype)
    out = make_pair() @ x
    (out * weight).sum().backward()
    expected = dense(dtype).t() @ x
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, dense(dtype) @ weight)


def test_gradcheck_to_the_second_order():
    pair = make_pair()
    x = features(2, num=5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pair @ x, x)
    assert torch.autograd.gradgradcheck(lambda x: (pair @ x) ** 3, x)


def test_result_does_not_depend_on_memory_left_in_the_output():
    # The kernel writes into uninitialized memory: fill the allocator with NaN.
    pair, x = make_pair(), features(64, num=5)
    expected = pair @ x
    for _ in range(20):
        junk = torch.full((7, 64), float('nan'))
        del junk
        torch.testing.assert_close(pair @ x, expected, rtol=0, atol=0)


def test_rows_without_edges_are_zero():
    out = make_pair() @ features(3, num=5)
    assert (out[[2, 4, 6]] == 0).all()


def test_transpose_is_the_transposed_matrix_and_shares_memory():
    pair = make_pair()
    x = features(3)
    torch.testing.assert_close(pair.t() @ x, dense() @ x)
    ours, theirs = pair.matrices(torch.float), pair.t().matrices(torch.float)
    assert ours[0].values().data_ptr() == theirs[1].values().data_ptr()
    assert pair.t().shape == (5, 7)


def test_a_strided_input_gives_the_same_product():
    x = features(6, num=5)
    torch.testing.assert_close(make_pair() @ x[:, ::2], dense().t() @ x[:, ::2])


def test_parallel_edges_add_up():
    edge_index = torch.tensor([[0, 0, 1], [0, 0, 0]])
    pair = CSRPair.from_edge_index(edge_index, size=(2, 1))
    assert float(pair @ torch.tensor([[1.0], [10.0]])) == 12.0


def test_a_graph_without_edges_gives_zeros():
    pair = CSRPair.from_edge_index(torch.empty(2, 0, dtype=torch.long), size=(3, 2))
    x = torch.ones(3, 4, requires_grad=True)
    out = pair @ x
    out.sum().backward()
    assert out.shape == (2, 4)
    assert (out == 0).all()
    assert (x.grad == 0).all()


def test_indices_are_32_bit():
    matrix, _ = make_pair().matrices(torch.float)
    assert matrix.col_indices().dtype == torch.int32


def make_layouts():
    adj_t = dense().t()
    yield 'edge_index', EDGE_INDEX, weights()[USER_ITEM]
    yield 'EdgeIndex', EdgeIndex(EDGE_INDEX, sparse_size=SIZE), weights()[USER_ITEM]
    yield 'coo', adj_t.to_sparse_coo(), None
    yield 'csr', adj_t.to_sparse_csr(), None
    yield 'csc', adj_t.to_sparse_csc(), None
    yield 'pair', make_pair(), None


@pytest.mark.parametrize(
    ('adjacency', 'weight'), [pytest.param(a, w, id=i) for i, a, w in make_layouts()]
)
def test_every_layout_gives_the_same_product_and_gradient(adjacency, weight):
    x = features(3, num=5).requires_grad_()
    out = as_csr_pair(adjacency, weight, size=SIZE) @ x
    torch.testing.assert_close(out, dense().t() @ x)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    expected = torch.autograd.grad((dense().t() @ x).square().sum(), x)[0]
    torch.testing.assert_close(grad, expected)


@pytest.mark.kernels
def test_torch_sparse_tensor_gives_the_same_product():
    torch_sparse = pytest.importorskip('torch_sparse', reason='requires `make kernels`')
    adj_t = torch_sparse.SparseTensor.from_dense(dense().t())
    x = features(3, num=5)
    torch.testing.assert_close(
        as_csr_pair(adj_t, size=SIZE) @ x, torch_sparse.matmul(adj_t, x)
    )


def test_mirrored_edge_types_share_memory():
    pairs = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    forward, back = (pairs[key].matrices(torch.float) for key in (USER_ITEM, ITEM_USER))
    assert forward[0].values().data_ptr() == back[1].values().data_ptr()
    x = features(3)
    torch.testing.assert_close(pairs[ITEM_USER] @ x, dense() @ x)


@pytest.mark.parametrize('differ', ['edges', 'weights'])
def test_edge_types_that_only_look_mirrored_stay_apart(differ):
    edge_index_dict, edge_weight_dict = edges(), weights()
    if differ == 'edges':
        edge_index_dict[ITEM_USER] = torch.tensor(
            [[0, 3, 3, 1, 5, 4], [0, 0, 1, 2, 2, 3]]
        )
    else:
        edge_weight_dict[ITEM_USER] = 2 * edge_weight_dict[ITEM_USER]
    pairs = csr_pair_dict(edge_index_dict, edge_weight_dict, num_nodes_dict=NUM_NODES)
    x = features(3)
    alone = as_csr_pair(
        edge_index_dict[ITEM_USER], edge_weight_dict[ITEM_USER], size=(7, 5)
    )
    torch.testing.assert_close(pairs[ITEM_USER] @ x, alone @ x)
    assert not torch.allclose(pairs[ITEM_USER] @ x, pairs[USER_ITEM].t() @ x)


def test_double_after_float_keeps_double_precision_of_the_weights():
    pair = make_pair()
    _ = pair @ features(2, num=5)
    out = pair @ features(2, num=5).double()
    assert out.dtype == torch.double


def test_to_moves_the_weights():
    pair = make_pair().to(torch.double)
    assert pair.matrices(torch.double)[0].dtype == torch.double


def test_errors():
    with pytest.raises(ValueError, match=r"'x' must have shape \[5, F\]"):
        make_pair() @ features(3)
    with pytest.raises(ValueError, match=r'target ids in \[0, 6\).*0 to 6'):
        CSRPair.from_edge_index(torch.tensor([[0, 0], [0, 6]]), size=(5, 6))
    with pytest.raises(ValueError, match=r'source ids in \[0, 5\).*-1'):
        CSRPair.from_edge_index(torch.tensor([[-1], [0]]), size=SIZE)
    with pytest.raises(ValueError, match="'edge_weight' must have one value per edge"):
        CSRPair.from_edge_index(EDGE_INDEX, torch.ones(2), size=SIZE)
    with pytest.raises(ValueError, match=r'shape \[2, E\]'):
        CSRPair.from_edge_index(EDGE_INDEX.t(), size=SIZE)
    with pytest.raises(ValueError, match='Pass the transposed matrix'):
        as_csr_pair(dense().to_sparse_csr(), size=SIZE)
    with pytest.raises(TypeError, match='got list'):
        as_csr_pair([[0], [1]], size=SIZE)
    with pytest.raises(TypeError, match=r'torch\.sparse_csr'):
        CSRPair(dense(), dense().t())


def test_repr():
    assert str(make_pair()) == 'CSRPair(7, 5, edges=6)'
