import math

import pytest
import torch

from promptmm_pyg.losses import (
    relaxed_ranking_loss,
    sampled_softmax_loss,
)


def make_scores(num_lists=6, num_interesting=4, num_others=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        3 * torch.randn(num_lists, num, generator=g, dtype=torch.double)
        for num in (num_interesting, num_others)
    ]


def make_mask(num_lists=6, num_candidates=4, seed=1):
    # Rows that start and rows that end with masked positions.
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_lists, num_candidates, generator=g) < 0.6
    mask[:, 1] = True
    mask[0] = torch.arange(num_candidates) < 2
    mask[1] = torch.arange(num_candidates) > 0
    return mask


MASKS = [
    (None, None),
    (make_mask(), None),
    (None, make_mask(6, 5)),
    (make_mask(), make_mask(6, 5)),
]


def naive(interesting, others, mask=None, others_mask=None):
    losses = []
    for b in range(len(interesting)):
        s, u = interesting[b], others[b]
        s = s if mask is None else s[mask[b]]
        u = u if others_mask is None else u[others_mask[b]]
        terms = [torch.cat([s[k:], u]).logsumexp(0) - s[k] for k in range(len(s))]
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses)


@pytest.mark.parametrize(('mask', 'others_mask'), MASKS)
def test_equals_a_loop(mask, others_mask):
    scores = make_scores()
    loss = relaxed_ranking_loss(*scores, mask, others_mask, reduction='none')
    torch.testing.assert_close(loss, naive(*scores, mask, others_mask))


def test_hand_computed():
    # 4 / (4 + 2 + 2) and 2 / (2 + 2): one half twice.
    interesting = torch.tensor([[4.0, 2.0]]).log()
    loss = relaxed_ranking_loss(interesting, torch.tensor([[1.0, 1.0]]).log())
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_one_interesting_item_makes_it_the_sampled_softmax():
    interesting, others = make_scores(num_interesting=1)
    torch.testing.assert_close(
        relaxed_ranking_loss(interesting, others),
        sampled_softmax_loss(interesting[:, 0], others),
    )


def test_it_is_the_likelihood_of_the_order():
    # Over all orders of the interesting items and all positions of one other item,
    # the probabilities that the top is this very list sum to one.
    logits = make_scores(1, 3, 1)
    scores = torch.cat(logits, dim=1)[0]
    total = 0.0
    for order in torch.cartesian_prod(*[torch.arange(4)] * 3):
        if len(set(order.tolist())) < 3:
            continue
        rest = [i for i in range(4) if i not in order.tolist()]
        loss = relaxed_ranking_loss(scores[order][None], scores[rest][None])
        total = total + (-3 * loss).exp()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.double))


def test_the_order_of_interesting_items_counts_and_that_of_the_others_does_not():
    interesting, others = make_scores()
    loss = relaxed_ranking_loss(interesting, others)
    torch.testing.assert_close(relaxed_ranking_loss(interesting, others.flip(1)), loss)
    assert (relaxed_ranking_loss(interesting.flip(1), others) - loss).abs() > 0.1


def test_only_differences_matter():
    interesting, others = make_scores()
    torch.testing.assert_close(
        relaxed_ranking_loss(interesting + 7, others + 7),
        relaxed_ranking_loss(interesting, others),
    )


def test_descent_puts_the_items_into_the_teachers_order_above_the_others():
    interesting, others = make_scores()
    for _ in range(300):
        scores = [interesting.requires_grad_(), others.requires_grad_()]
        grads = torch.autograd.grad(
            relaxed_ranking_loss(*scores, reduction='sum'), scores
        )
        interesting, others = (
            (x - g).detach() for x, g in zip(scores, grads, strict=True)
        )
    assert (interesting[:, :-1] > interesting[:, 1:]).all()
    assert (interesting[:, -1:] > others).all()
