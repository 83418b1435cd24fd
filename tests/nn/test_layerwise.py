import pytest
import torch

from promptmm_pyg.nn import CSRPair, SoftPrompt
from promptmm_pyg.nn.layerwise import (
    matmul_in_blocks,
    recall_in_blocks,
    rows_in_blocks,
    sum_of_hops,
)
from tests.nn.graphs import ITEM_USER, USER_ITEM, dense, features


def operator(matrix):
    target, source = matrix.nonzero().t()
    return CSRPair.from_edge_index(
        torch.stack([source, target]),
        matrix[target, source],
        size=(matrix.size(1), matrix.size(0)),
    )


@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.bfloat16])
@pytest.mark.parametrize('block_size', [1, 2, 5, 9])
def test_blocks_of_a_product_make_the_product(block_size, dtype):
    # Row 4 of the matrix is empty: a block of its own has no edge.
    x = features(3).to(dtype)
    adj = operator(dense())
    out = matmul_in_blocks(adj, x, block_size)
    assert out.dtype == dtype
    torch.testing.assert_close(out, adj @ x)


def test_hops_are_summed_as_with_dense_matrices():
    A, x = dense(), features(3)
    adj = {USER_ITEM: operator(A.t()), ITEM_USER: operator(A)}
    out = sum_of_hops({'item': x}, adj, 3, start_weight=0.5, block_size=2)
    torch.testing.assert_close(out['item'], 0.5 * x + A.t() @ A @ x)
    torch.testing.assert_close(out['user'], A @ x + A @ A.t() @ A @ x)
    assert torch.equal(x, features(3))
    first = sum_of_hops({'item': x}, adj, 1, start_weight=0.0)
    assert set(first) == {'user'}


def test_two_edge_types_into_one_node_type_add_up():
    A, x, y = dense(), features(3), features(3, seed=1, num=5)
    adj = {ITEM_USER: operator(A), ('user', 'knows', 'user'): operator(A @ A.t())}
    out = sum_of_hops({'item': x, 'user': y}, adj, 1, block_size=2)
    torch.testing.assert_close(out['user'], y + A @ x + A @ A.t() @ y)


def test_rows_are_computed_in_order_and_in_blocks():
    requested = []

    def rows(n_id):
        requested.append(n_id.tolist())
        return n_id[:, None] * 2

    out = rows_in_blocks(rows, 5, device=torch.device('cpu'), block_size=2)
    assert out.view(-1).tolist() == [0, 2, 4, 6, 8]
    assert requested == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize('num_tokens', [1, 3])
@pytest.mark.parametrize('block_size', [2, 7])
def test_recall_in_blocks_has_value_and_gradient_of_the_plain_product(
    block_size, num_tokens
):
    torch.manual_seed(0)
    prompt = SoftPrompt({'item': features(2, seed=1)}, 4, num_tokens).double()
    x = features(5).double()
    out = recall_in_blocks(prompt, 'item', x, block_size)
    expected = prompt()['item'].t() @ x
    torch.testing.assert_close(out, expected)
    grads = [
        torch.autograd.grad(y.pow(3).sum(), prompt.parameters())
        for y in (out, expected)
    ]
    torch.testing.assert_close(*grads)


def test_the_block_size_must_be_positive():
    with pytest.raises(ValueError, match="'block_size' must be positive"):
        matmul_in_blocks(operator(dense()), features(3), 0)
