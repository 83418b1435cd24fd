import math

import pytest
import torch

from promptmm_pyg.losses.relaxed_ranking import RelaxedRankingLoss, relaxed_ranking_loss
from promptmm_pyg.losses.sampled_softmax import sampled_softmax_loss


def make_scores(num_lists=6, num_interesting=4, num_others=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        3 * torch.randn(num_lists, num, generator=g, dtype=torch.double)
        for num in (num_interesting, num_others)
    ]


def make_mask(num_lists=6, num_candidates=4, seed=1):
    # Rows that start and rows that end with masked places.
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


def test_only_differences_count():
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


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_masked_may_be_anything_and_gets_no_gradient(value):
    scores, masks = make_scores(), (make_mask(), make_mask(6, 5))
    expected = relaxed_ranking_loss(*scores, *masks)
    scores = [
        x.masked_fill(~m, value).requires_grad_()
        for x, m in zip(scores, masks, strict=True)
    ]
    loss = relaxed_ranking_loss(*scores, *masks)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for logits, mask in zip(scores, masks, strict=True):
        assert logits.grad.isfinite().all()
        assert (logits.grad[~mask] == 0).all()


@pytest.mark.parametrize(('mask', 'others_mask'), MASKS)
def test_gradient(mask, others_mask):
    scores = [x.requires_grad_() for x in make_scores()]
    loss_fn = RelaxedRankingLoss()
    assert torch.autograd.gradcheck(
        lambda s, u: loss_fn(s, u, mask, others_mask), scores
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('value', [1e4, -1e4])
def test_finite_for_extreme_logits(dtype, masked, value):
    interesting = torch.tensor([[value, -value, 0.0, value]], dtype=dtype)
    others = torch.tensor([[-value, value]], dtype=dtype)
    scores = [interesting.requires_grad_(), others.requires_grad_()]
    mask = torch.tensor([[True, True, False, False]]) if masked else None
    loss = relaxed_ranking_loss(*scores, mask)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in scores)


def test_half_precision_is_computed_in_single():
    scores = [x.half() for x in make_scores()]
    torch.testing.assert_close(
        relaxed_ranking_loss(*scores),
        relaxed_ranking_loss(*(x.float() for x in scores)),
    )


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    scores = make_scores()
    each = naive(*scores)
    expected = each if reduction == 'none' else getattr(each, reduction)()
    torch.testing.assert_close(RelaxedRankingLoss(reduction)(*scores), expected)


def test_shapes_need_to_agree():
    interesting, others = make_scores()
    match = r"'uninteresting_logits' must have the rows of .* \(got 1 and 6\)"
    with pytest.raises(ValueError, match=match):
        relaxed_ranking_loss(interesting, others[:1])
    with pytest.raises(ValueError, match=r"'mask'.*\[6, 4\] and \[6, 5\]"):
        relaxed_ranking_loss(interesting, others, make_mask(6, 5))
    with pytest.raises(
        ValueError, match=r"'uninteresting_mask'.*\[6, 5\] and \[6, 4\]"
    ):
        relaxed_ranking_loss(interesting, others, None, make_mask())


@pytest.mark.parametrize('size', [(6,), (6, 0)])
def test_both_need_to_be_lists(size):
    interesting, others = make_scores()
    with pytest.raises(ValueError, match="'interesting_logits' must be lists"):
        relaxed_ranking_loss(torch.zeros(size), others)
    with pytest.raises(ValueError, match="'uninteresting_logits' must be lists"):
        relaxed_ranking_loss(interesting, torch.zeros(size))


def test_every_row_needs_an_item_of_both_kinds():
    scores = make_scores()
    mask, others_mask = make_mask(), make_mask(6, 5)
    mask[2:4] = others_mask[5] = False
    with pytest.raises(ValueError, match=r"row of 'mask' requires .* \(got 2 rows"):
        relaxed_ranking_loss(*scores, mask)
    with pytest.raises(
        ValueError, match=r"'uninteresting_mask' requires .* \(got 1 rows"
    ):
        relaxed_ranking_loss(*scores, None, others_mask)


def test_masks_need_to_be_boolean():
    with pytest.raises(TypeError, match="'mask' must be boolean"):
        relaxed_ranking_loss(*make_scores(), make_mask().long())
    with pytest.raises(TypeError, match="'uninteresting_mask' must be boolean"):
        relaxed_ranking_loss(*make_scores(), None, make_mask(6, 5).long())


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_scores_need_to_be_finite(value):
    good, bad = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, value]])
    with pytest.raises(ValueError, match="'interesting_logits' must be finite"):
        relaxed_ranking_loss(bad, good)
    with pytest.raises(ValueError, match="'uninteresting_logits' must be finite"):
        relaxed_ranking_loss(good, bad)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        RelaxedRankingLoss(reduction='batchmean')


def test_repr():
    assert str(RelaxedRankingLoss()) == "RelaxedRankingLoss(reduction='mean')"
