import pytest
import torch

from promptmm_pyg.models._graphs import EdgeSampler
from promptmm_pyg.nn import CSRPair
from tests.nn.graphs import EDGE_INDEX


def make_adj():
    return CSRPair.from_edge_index(EDGE_INDEX, size=(5, 7))


def as_dense(adj):
    return adj @ torch.eye(adj.shape[1])


@pytest.mark.parametrize('keep_ratio', [0.01, 0.5, 0.8, 1.0])
def test_a_subgraph_is_normalized_and_its_transpose_agrees(keep_ratio):
    torch.manual_seed(0)
    full = as_dense(make_adj())
    part = EdgeSampler(make_adj()).sample(keep_ratio)
    A = (as_dense(part) > 0).float()
    assert part.num_edges == A.sum() == max(1, round(keep_ratio * 6))
    assert (full >= A).all()
    degrees = A.sum(dim=1, keepdim=True) * A.sum(dim=0, keepdim=True)
    expected = torch.where(A > 0, degrees.clamp_min(1).rsqrt(), 0.0)
    torch.testing.assert_close(as_dense(part), expected)
    torch.testing.assert_close(as_dense(part.t()), expected.t())


def test_draws_differ_and_follow_the_global_seed():
    sampler = EdgeSampler(make_adj())
    torch.manual_seed(0)
    draws = [as_dense(sampler.sample(0.5)) for _ in range(5)]
    assert any(not torch.equal(draws[0], other) for other in draws[1:])
    torch.manual_seed(0)
    assert torch.equal(as_dense(sampler.sample(0.5)), draws[0])


def test_one_edge_is_drawn_in_proportion_to_the_inverse_root_of_degrees():
    # Users 0, 0, 0, 1 and items 0, 1, 2, 2: degrees 3 and 1, 1, 1, 2.
    index = torch.tensor([[0, 0, 0, 1], [0, 1, 2, 2]])
    sampler = EdgeSampler(CSRPair.from_edge_index(index, size=(2, 3)))
    torch.manual_seed(0)
    num = 3000
    counts = sum((as_dense(sampler.sample(0.25)) > 0).float() for _ in range(num))
    chance = torch.tensor([3.0, 3.0, 6.0, 2.0]).rsqrt()
    expected = torch.zeros(3, 2)
    expected[index[1], index[0]] = chance / chance.sum()
    # Four standard deviations of a share near 0.25 are 0.032.
    torch.testing.assert_close(counts / num, expected, atol=0.035, rtol=0)


def test_the_weights_of_the_operator_do_not_matter():
    weighted = CSRPair.from_edge_index(EDGE_INDEX, torch.arange(1.0, 7.0), size=(5, 7))
    torch.manual_seed(0)
    first = as_dense(EdgeSampler(weighted).sample(0.5))
    torch.manual_seed(0)
    torch.testing.assert_close(as_dense(EdgeSampler(make_adj()).sample(0.5)), first)


def test_no_edges_stay_none():
    empty = CSRPair.from_edge_index(EDGE_INDEX[:, :0], size=(5, 7))
    assert (as_dense(EdgeSampler(empty).sample(0.5)) == 0).all()
