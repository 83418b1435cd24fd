import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models import promptmm_plus as _content_trust
from promptmm_pyg.models.promptmm_plus import content_reliability
from promptmm_pyg.nn import CSRPair
from tests.nn.graphs import EDGE_INDEX, features

SIZE = (300, 200)  # Users and items.


def operator(index, weight=None, size=SIZE):
    return CSRPair.from_edge_index(index, weight, size=size)


def naive_posterior(z):
    """The share of foreign content and the shift of the rest, from two moments."""
    m, v = z.mean(), z.var(correction=0) - 1
    if m <= 0 or v <= 0:
        return torch.ones(len(z))
    pi = v / (v + m**2)
    mu = m / (1 - pi)
    own, foreign = ((-((z - x) ** 2) / 2).exp() for x in (mu, 0.0))
    return (1 - pi) * own / ((1 - pi) * own + pi * foreign)


def naive_trust(x, A, num_rounds=2):
    """Item by item; A is the dense user-item matrix."""
    unit = F.normalize(x, dim=1)
    content = unit[(x != 0).any(dim=1)]
    trust = torch.ones(len(x))
    for _ in range(num_rounds):
        result = {}
        for i in range(len(x)):
            others = torch.zeros(x.size(1))
            for j in range(len(x)):
                if j != i:
                    others += (A[:, i] * A[:, j]).sum() * trust[j] * unit[j]
            if others.abs().sum() > 0 and x[i].abs().sum() > 0:
                any_item = content @ others
                result[i] = (unit[i] @ others - any_item.mean()) / any_item.std(
                    correction=0
                )
        if result:
            posterior = naive_posterior(torch.stack(list(result.values())))
            known = dict(zip(result, posterior, strict=True))
            rest = posterior.mean()
            trust = torch.stack([known.get(i, rest) for i in range(len(x))])
    return trust


def make_world(share=0.4, seed=0, num_users=SIZE[0], num_items=SIZE[1], num_tastes=20):
    """Users take items of their taste, which content shows except where foreign."""
    g = torch.Generator().manual_seed(seed)
    taste = torch.arange(num_items) % num_tastes
    likes = torch.arange(num_users)[:, None] % num_tastes == taste
    index = (likes & (torch.rand(likes.shape, generator=g) < 0.5)).nonzero().t()
    foreign = torch.rand(num_items, generator=g) < share
    other = torch.randint(num_tastes, taste.shape, generator=g)
    shown = torch.where(foreign, other, taste)
    center = torch.randn(num_tastes, 64, generator=g)
    x = center[shown] + 0.7 * torch.randn(num_items, 64, generator=g)
    return x, index, foreign


@pytest.mark.parametrize('num_rounds', [1, 2, 3])
@pytest.mark.parametrize('seed', [0, 1])
def test_trust_agrees_with_a_loop(num_rounds, seed):
    x, index, _ = make_world(0.4, seed, num_users=90, num_items=60, num_tastes=12)
    index = index[:, index[1] != 3]  # Without users.
    x += 1.0  # Not centered.
    x[5] = 0.0
    weight = 0.2 + torch.rand(
        index.size(1), generator=torch.Generator().manual_seed(seed)
    )
    A = torch.zeros(90, 60)
    A[index[0], index[1]] = weight
    trust = content_reliability(x, operator(index, weight, A.shape), num_rounds)
    torch.testing.assert_close(
        trust, naive_trust(x, A, num_rounds), atol=1e-4, rtol=1e-4
    )
    assert trust.unique().numel() > 20


def test_the_posterior_by_hand():
    # Mean 2 and variance 2: odds of foreign content 1/4, the rest 2.5 further on.
    z = 2 + torch.tensor([1.0, -1.0]) * math.sqrt(2)
    expected = [1 / (1 + math.exp(2.5**2 / 2 - 2.5 * float(x)) / 4) for x in z]
    out = _content_trust._posterior(z)
    torch.testing.assert_close(out, torch.tensor(expected))


def test_the_parameters_of_the_mixture_follow_from_its_moments():
    g = torch.Generator().manual_seed(0)
    own = torch.rand(200_000, generator=g) < 0.7
    z = torch.randn(own.numel(), generator=g) + 1.5 * own
    out = _content_trust._posterior(z)
    assert float(out.mean()) == pytest.approx(0.7, abs=0.02)
    exact = torch.sigmoid(1.5 * z - 1.5**2 / 2 + math.log(0.7 / 0.3))
    torch.testing.assert_close(out, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize('z', [[1.0, 1.0], [0.5, 1.5], [-3.0, 1.0], [0.0, 0.0]])
def test_all_is_trusted_where_chance_explains_what_differs(z):
    assert torch.equal(_content_trust._posterior(torch.tensor(z)), torch.ones(2))


def test_wrong_content_has_low_and_other_content_high_reliability():
    x, index, foreign = make_world()
    trust = content_reliability(x, operator(index))
    assert trust[foreign].mean() < 0.25
    assert trust[~foreign].mean() > 0.85


def test_nearly_all_is_trusted_where_all_content_is_its_own():
    x, index, _ = make_world(share=0.0)
    assert content_reliability(x, operator(index)).mean() > 0.97


def test_uninformative_content_has_nearly_equal_reliability():
    x, index, _ = make_world(share=0.0)
    g = torch.Generator().manual_seed(1)
    trust = content_reliability(torch.randn(x.shape, generator=g), operator(index), 1)
    assert trust.std() < 0.2


def test_length_of_content_scale_of_edges_and_order_of_items_do_not_matter():
    x, index, _ = make_world()
    expected = content_reliability(x, operator(index))
    g = torch.Generator().manual_seed(0)
    length = 10 ** torch.randn(x.size(0), 1, generator=g)
    torch.testing.assert_close(
        content_reliability(length * x, operator(index)), expected
    )
    weight = torch.full((index.size(1),), 0.3)
    scaled = operator(index, weight)
    torch.testing.assert_close(content_reliability(x, scaled), expected)
    order = torch.randperm(200, generator=g)
    moved = operator(torch.stack([index[0], order[index[1]]]))
    turned = torch.empty_like(x).index_copy(0, order, x)
    torch.testing.assert_close(
        content_reliability(turned, moved)[order], expected, atol=1e-4, rtol=1e-4
    )


def test_items_without_anything_to_compare_get_the_mean_of_the_others():
    x, index, _ = make_world()
    index = index[:, index[1] != 7]  # Without users.
    x[9] = 0.0
    trust = content_reliability(x, operator(index))
    known = torch.ones(200, dtype=torch.bool)
    known[[7, 9]] = False
    torch.testing.assert_close(trust[[7, 9]], trust[known].mean().expand(2))


def test_an_item_that_is_alone_is_no_evidence_also_after_rounding():
    x, index, _ = make_world()
    alone = torch.stack([torch.arange(300, 303), torch.full((3,), 200)])
    index = torch.cat([index, alone], dim=1)
    weight = torch.rand(index.size(1), generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, features(64, seed=4, num=1)])
    trust = content_reliability(x, operator(index, weight, (303, 201)))
    torch.testing.assert_close(trust[200], trust[:200].mean())


def test_without_any_evidence_all_is_trusted():
    nothing = torch.empty(2, 0, dtype=torch.long)
    for index in (nothing, torch.tensor([[0], [3]])):
        assert torch.equal(
            content_reliability(features(9), operator(index, size=(5, 7))),
            torch.ones(7),
        )
    assert torch.equal(
        content_reliability(torch.zeros(7, 9), operator(EDGE_INDEX, size=(5, 7))),
        torch.ones(7),
    )
    alike = torch.ones(7, 9)
    assert torch.equal(
        content_reliability(alike, operator(EDGE_INDEX, size=(5, 7))), torch.ones(7)
    )


def test_blocks_make_no_difference(monkeypatch):
    x, index, _ = make_world()
    expected = content_reliability(x, operator(index))
    monkeypatch.setattr(_content_trust, '_CHANNELS', 5)
    monkeypatch.setattr(_content_trust, '_ROWS', 30)
    torch.testing.assert_close(
        content_reliability(x, operator(index)), expected, atol=1e-5, rtol=1e-5
    )
