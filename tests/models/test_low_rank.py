import pytest
import torch

from promptmm_pyg.models.closed_form import LowRank, truncated_svd
from promptmm_pyg.nn import CSRPair


def make_adj(num_users=30, num_items=20):
    generator = torch.Generator().manual_seed(0)
    index = torch.stack(
        [
            torch.randint(num_users, (80,), generator=generator),
            torch.randint(num_items, (80,), generator=generator),
        ]
    )
    return CSRPair.from_edge_index(index, size=(num_users, num_items))


@pytest.mark.parametrize('rank', [1, 3, 50])
def test_it_is_the_truncated_singular_value_decomposition(rank):
    adj = make_adj()
    full = adj @ torch.eye(30)
    u, s, vh = torch.linalg.svd(full, full_matrices=False)
    expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
    part = truncated_svd(adj, rank)
    torch.testing.assert_close(part @ torch.eye(30), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(part.t() @ torch.eye(20), (part @ torch.eye(30)).t())


def test_the_same_operator_gives_the_same_directions():
    first, second = truncated_svd(make_adj(), 3), truncated_svd(make_adj(), 3)
    assert torch.equal(first.left, second.left)


def test_gradients_and_precision():
    left, right = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [0.0], [-1.0]])
    x = torch.ones(3, 2, dtype=torch.double, requires_grad=True)
    out = LowRank(left, right) @ x
    torch.testing.assert_close(
        out, torch.tensor([[2.0, 2.0], [4.0, 4.0]], dtype=torch.double)
    )
    out.sum().backward()
    expected = torch.tensor([[9.0, 9.0], [0.0, 0.0], [-3.0, -3.0]]).double()
    torch.testing.assert_close(x.grad, expected)
