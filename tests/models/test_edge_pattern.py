import pytest
import torch

from promptmm_pyg.models._graphs import EdgePattern
from promptmm_pyg.nn import CSRPair
from tests.nn.graphs import EDGE_INDEX, features


def make():
    # In no order, with a node on either side without edges.
    return EdgePattern(EDGE_INDEX[:, [4, 0, 5, 2, 3, 1]], size=(5, 7))


def make_weight(pattern):
    g = torch.Generator().manual_seed(3)
    return torch.randn(pattern.source.numel(), generator=g, dtype=torch.double)


def test_edges_are_those_given_sorted_by_destination():
    pattern = make()
    assert pattern.target.tolist() == sorted(EDGE_INDEX[1].tolist())
    ours = set(zip(pattern.source.tolist(), pattern.target.tolist(), strict=True))
    assert ours == set(map(tuple, EDGE_INDEX.t().tolist()))


def test_sum_equals_a_loop_over_edges():
    pattern = make()
    weight, x = make_weight(pattern), features(3, num=5).double()
    expected = torch.zeros(7, 3, dtype=torch.double)
    for e, (a, b) in enumerate(zip(pattern.source, pattern.target, strict=True)):
        expected[b] += weight[e] * x[a]
    torch.testing.assert_close(pattern.sum(weight, x), expected)


def test_dot_equals_a_loop_over_edges():
    pattern = make()
    x, y = features(3, num=5), features(3, seed=1)
    ends = zip(pattern.source, pattern.target, strict=True)
    expected = torch.stack([x[a] @ y[b] for a, b in ends])
    torch.testing.assert_close(pattern.dot(x, y), expected)


def test_gradients_reach_weights_and_rows():
    pattern = make()
    weight = make_weight(pattern).requires_grad_()
    x = features(2, num=5).double().requires_grad_()
    y = features(2, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(pattern.sum, (weight, x))
    assert torch.autograd.gradcheck(pattern.dot, (x, y))


def test_a_gradient_that_is_no_memory_of_its_own_is_read_right():
    pattern = make()
    weight = make_weight(pattern).requires_grad_()
    x = features(3, num=5).double().requires_grad_()
    ours = torch.autograd.grad(pattern.sum(weight, x).sum(), (weight, x))
    theirs = torch.autograd.grad(
        (pattern.sum(weight, x) * torch.ones(7, 3, dtype=torch.double)).sum(),
        (weight, x),
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('turned', [False, True])
def test_edges_of_an_operator_and_of_its_transpose(turned):
    adj = CSRPair.from_edge_index(EDGE_INDEX, size=(5, 7))
    pattern = EdgePattern.of(adj.t() if turned else adj)
    ends = (pattern.source, pattern.target)
    ours = zip(*(x.tolist() for x in (ends[::-1] if turned else ends)), strict=True)
    assert sorted(ours) == sorted(map(tuple, EDGE_INDEX.t().tolist()))
    assert pattern.size == ((7, 5) if turned else (5, 7))


def test_no_edges_give_zeros():
    pattern = EdgePattern(torch.empty(2, 0, dtype=torch.long), size=(2, 3))
    x = torch.ones(2, 4, requires_grad=True)
    out = pattern.sum(torch.empty(0), x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(3, 4))
    assert torch.equal(x.grad, torch.zeros(2, 4))
    assert pattern.dot(x, torch.ones(3, 4)).shape == (0,)
