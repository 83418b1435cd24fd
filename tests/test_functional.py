import pytest
import torch

from promptmm_pyg.functional import (
    rows,
    score_all,
    score_lists,
    score_pairs,
    sparse_gradients,
)


def tables(dtype=torch.float):
    generator = torch.Generator().manual_seed(0)
    user_x = torch.randn(5, 3, generator=generator, dtype=dtype)
    item_x = torch.randn(7, 3, generator=generator, dtype=dtype)
    return user_x, item_x


def test_pairs_are_inner_products():
    user_x = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    item_x = torch.tensor([[4.0, 1.0], [-1.0, 2.0], [0.0, 0.0]])
    out = score_pairs(user_x, item_x, torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(out, torch.tensor([2.0, -2.0, 0.0]))


def test_lists_and_pairs_pick_from_all_scores():
    user_x, item_x = tables()
    users = torch.tensor([4, 0, 4])
    items = torch.tensor([[0, 6], [3, 3], [2, 1]])
    full = score_all(user_x, item_x)
    assert full.size() == (5, 7)
    assert full.min() < 0 < full.max()
    lists = score_lists(user_x, item_x, users, items)
    torch.testing.assert_close(lists, full[users.unsqueeze(1), items])
    pairs = score_pairs(user_x, item_x, users, items[:, 0])
    torch.testing.assert_close(pairs, full[users, items[:, 0]])


def test_one_user_and_one_candidate():
    user_x, item_x = tables()
    out = score_lists(user_x, item_x, torch.tensor([2]), torch.tensor([[5]]))
    torch.testing.assert_close(out, (user_x[2] @ item_x[5]).view(1, 1))


def test_gradients_reach_both_tables():
    user_x, item_x = (x.requires_grad_() for x in tables(torch.double))
    users = torch.tensor([4, 0, 4])
    items = torch.tensor([[0, 6], [3, 3], [2, 1]])
    assert torch.autograd.gradcheck(score_all, (user_x, item_x))
    assert torch.autograd.gradcheck(
        lambda u, i: score_lists(u, i, users, items), (user_x, item_x)
    )
    assert torch.autograd.gradcheck(
        lambda u, i: score_pairs(u, i, users, items[:, 0]), (user_x, item_x)
    )


@pytest.mark.parametrize('bad', [-1, 7])
def test_an_item_outside_the_table_raises(bad):
    user_x, item_x = tables()
    with pytest.raises(IndexError):
        score_pairs(user_x, item_x, torch.tensor([0]), torch.tensor([bad]))
    with pytest.raises(IndexError):
        score_lists(user_x, item_x, torch.tensor([0]), torch.tensor([[bad]]))


def test_errors():
    user_x, item_x = tables()
    index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r'one width \(got \[5, 3\] and \[7, 2\]\)'):
        score_all(user_x, item_x[:, :2])
    with pytest.raises(ValueError, match=r'one width \(got \[3\] and \[7, 3\]\)'):
        score_all(user_x[0], item_x)
    with pytest.raises(ValueError, match=r'same shape \[B\] \(got \[2\] and \[1\]\)'):
        score_pairs(user_x, item_x, index, index[:1])
    with pytest.raises(ValueError, match=r'\[B, K\].*\(got \[2\] and \[2\]\)'):
        score_lists(user_x, item_x, index, index)
    with pytest.raises(ValueError, match=r'\[B, K\].*\(got \[1, 2\] and \[2\]\)'):
        score_lists(user_x, item_x, index, index.view(1, 2))


@pytest.mark.parametrize('shape', [(4,), (2, 3), (0,), (2, 0)])
def test_rows_are_those_of_indexing_with_their_gradient(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator, dtype=torch.double).requires_grad_()
    index = torch.randint(5, shape, generator=generator)
    weight = torch.randn(*shape, 3, generator=generator, dtype=torch.double)
    torch.testing.assert_close(rows(x, index), x[index])
    (mine,) = torch.autograd.grad((rows(x, index) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((x[index] * weight).sum(), x)
    torch.testing.assert_close(mine, theirs)


def test_lists_score_the_same_with_and_without_gradients():
    user_x, item_x = tables()
    user, items = torch.tensor([0, 1, 0]), torch.tensor([[1, 0], [2, 2], [3, 1]])
    learning = score_lists(user_x.clone().requires_grad_(), item_x, user, items)
    torch.testing.assert_close(
        learning.detach(), score_lists(user_x, item_x, user, items)
    )


def test_lists_of_sparse_tables_have_the_gradient_of_a_loop():
    user_x, item_x = (x.requires_grad_() for x in tables(torch.double))
    user, items = torch.tensor([0, 1, 0]), torch.tensor([[1, 0], [2, 2], [3, 1]])
    factor = torch.arange(1.0, 7.0).view(3, 2).double()
    expected = torch.zeros(5, 3).double(), torch.zeros(7, 3).double()
    for b, u in enumerate(user.tolist()):
        for k, i in enumerate(items[b].tolist()):
            expected[0][u] += factor[b, k] * item_x[i].detach()
            expected[1][i] += factor[b, k] * user_x[u].detach()
    with sparse_gradients([user_x, item_x]):
        (factor * score_lists(user_x, item_x, user, items)).sum().backward()
    for table, grad in zip((user_x, item_x), expected, strict=True):
        assert table.grad.is_sparse
        torch.testing.assert_close(table.grad.to_dense(), grad)
