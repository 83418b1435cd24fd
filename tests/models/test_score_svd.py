import pytest
import torch

from promptmm_pyg.models.closed_form import low_rank


def matrix(rows=30, cols=20):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, cols, generator=g)


@pytest.mark.parametrize('width', [1, 6, 20])
def test_is_the_best_approximation_of_its_rank(width):
    m = matrix()
    rows, cols = low_rank(lambda x: m @ x, lambda x: m.t() @ x, (30, 20), width)
    u, sigma, vh = torch.linalg.svd(m, full_matrices=False)
    expected = (u[:, :width] * sigma[:width]) @ vh[:width]
    torch.testing.assert_close(rows @ cols.t(), expected, atol=1e-3, rtol=1e-3)
    # Both tables carry the root of the singular values.
    torch.testing.assert_close(rows.norm(dim=0), cols.norm(dim=0))


def test_a_zero_matrix_gives_zero_tables():
    m = torch.zeros(4, 3)
    rows, cols = low_rank(lambda x: m @ x, lambda x: m.t() @ x, (4, 3), 2)
    assert not (rows @ cols.t()).any()


def test_the_seed_decides():
    m = matrix()
    tables = [
        low_rank(lambda x: m @ x, lambda x: m.t() @ x, (30, 20), 2, seed=seed)[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_errors():
    with pytest.raises(ValueError, match=r"'width' must be at most 3"):
        low_rank(lambda x: x, lambda x: x, (5, 3), 4)
    with pytest.raises(ValueError, match=r"'width' must be positive"):
        low_rank(lambda x: x, lambda x: x, (5, 3), 0)
