import math

import pytest
import torch

from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.losses._rows import bpr_of_rows, squared_norm_of_rows

USER, POSITIVE, NEGATIVE = ([0, 2, 2], [1, 0, 1], [3, 1, 1])  # With repeats and a tie.


def make_tables(dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(n, 3, generator=g, dtype=torch.double).to(dtype).requires_grad_()
        for n in (4, 5)
    ]


def losses(user_x, item_x, indices=(USER, POSITIVE, NEGATIVE)):
    user, positive, negative = map(torch.tensor, indices)
    tables = [(user_x, [user]), (item_x, [positive, negative])]
    return torch.stack(
        [
            bpr_of_rows(user_x, item_x, user, positive, negative),
            squared_norm_of_rows(tables, user.numel()),
        ]
    )


def loop(user_x, item_x):
    """Both losses and their gradients, number by number."""
    u, i = user_x.tolist(), item_x.tolist()
    d_u, d_i = ([[[0.0] * 3 for _ in x] for x in (u, i)] for _ in range(2))
    d_u, d_i = list(zip(d_u, d_i, strict=True))  # By table, then by loss.
    bpr = l2 = 0.0
    for a, p, n in zip(USER, POSITIVE, NEGATIVE, strict=True):
        margin = sum(u[a][d] * (i[p][d] - i[n][d]) for d in range(3))
        bpr += math.log(1 + math.exp(-margin)) / 3
        slope = -1 / (1 + math.exp(margin)) / 3
        for d in range(3):
            l2 += (u[a][d] ** 2 + i[p][d] ** 2 + i[n][d] ** 2) / 6
            d_u[0][a][d] += slope * (i[p][d] - i[n][d])
            d_i[0][p][d] += slope * u[a][d]
            d_i[0][n][d] -= slope * u[a][d]
            d_u[1][a][d] += u[a][d] / 3
            d_i[1][p][d] += i[p][d] / 3
            d_i[1][n][d] += i[n][d] / 3
    return [bpr, l2], d_u, d_i


@pytest.mark.parametrize('is_sparse', [False, True])
def test_values_and_gradients_equal_a_loop(is_sparse):
    tables = make_tables()
    values, *expected = loop(*tables)
    for k in range(2):
        with sparse_gradients(tables if is_sparse else []):
            value = losses(*tables)[k]
        assert float(value.detach()) == pytest.approx(values[k])
        grads = torch.autograd.grad(value, tables)
        for grad, by_loss in zip(grads, expected, strict=True):
            assert grad.is_sparse == is_sparse
            torch.testing.assert_close(
                grad.to_dense(), torch.tensor(by_loss[k]).double()
            )


def test_gradcheck():
    assert torch.autograd.gradcheck(losses, make_tables())


def test_a_large_table_equals_its_rows():
    # Most rows are not looked up: they are not read.
    table = torch.zeros(50, 2, dtype=torch.double, requires_grad=True)
    with torch.no_grad():
        table[7] = torch.tensor([3.0, 4.0])
        table[8] = math.nan
    loss = squared_norm_of_rows([(table, [torch.tensor([7, 7])])], 2)
    loss.backward()
    assert float(loss.detach()) == 12.5
    assert table.grad[7].tolist() == [3.0, 4.0]
    assert table.grad.count_nonzero() == 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    table = torch.full((1, 2), 300.0, dtype=dtype)
    index = torch.tensor([0])
    result = squared_norm_of_rows([(table, [index])], 1)
    torch.testing.assert_close(result, torch.tensor(300.0**2))
    half = [x.detach().to(dtype).requires_grad_() for x in make_tables()]
    grads = torch.autograd.grad(losses(*half).sum(), half)
    full = make_tables()
    expected = torch.autograd.grad(losses(*full).sum(), full)
    for grad, x in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), x, atol=0.02, rtol=0.02)


def test_indices_must_be_rows():
    with pytest.raises(IndexError):
        losses(*make_tables(), ([0, 2, 4], POSITIVE, NEGATIVE))
    with pytest.raises(IndexError):
        squared_norm_of_rows([(make_tables()[1], [torch.tensor([1, 2, 9])])], 3)
    with pytest.raises(ValueError, match="'user', 'positive' and 'negative'"):
        losses(*make_tables(), ([0], POSITIVE, NEGATIVE))
