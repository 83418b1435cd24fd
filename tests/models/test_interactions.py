import pytest
import torch

from promptmm_pyg.models.closed_form import Interactions
from tests.nn.graphs import EDGE_INDEX


def dense():
    out = torch.zeros(5, 7)
    out[EDGE_INDEX[0], EDGE_INDEX[1]] = 1
    return out


@pytest.mark.parametrize('block_size', [1, 3, 7, 100])
def test_blocks_make_up_the_product_with_itself(block_size):
    # Repeats and another order change nothing.
    edge_index = torch.cat([EDGE_INDEX.flip([1]), EDGE_INDEX[:, :2]], dim=1)
    blocks = list(Interactions(edge_index, 5, 7).cooccurrence(block_size))
    assert [start for start, _ in blocks] == list(range(0, 7, block_size))
    rows = torch.cat([block.to_dense() for _, block in blocks])
    torch.testing.assert_close(rows, dense().t() @ dense())


def test_operator_sums_items_per_user():
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    operator = Interactions(EDGE_INDEX, 5, 7).operator
    torch.testing.assert_close(operator @ x, dense() @ x)
    torch.testing.assert_close(operator.t() @ (dense() @ x), dense().t() @ dense() @ x)


def test_histories_follow_the_given_users():
    users = torch.tensor([2, 4, 0, 2])
    place, item = Interactions(EDGE_INDEX, 5, 7).histories(users)
    out = torch.zeros(4, 7)
    out[place, item] = 1
    torch.testing.assert_close(out, dense()[users])


def test_errors():
    with pytest.raises(ValueError, match='target ids in'):
        Interactions(torch.tensor([[0], [7]]), 5, 7)
    interactions = Interactions(EDGE_INDEX, 5, 7)
    with pytest.raises(ValueError, match=r"'users' requires ids in \[0, 5\) \(got -1"):
        interactions.histories(torch.tensor([-1, 2]))
    with pytest.raises(ValueError, match=r"'users' must have shape"):
        interactions.histories(torch.tensor([[1]]))
