import math

import pytest
import torch

from promptmm_pyg.losses import BPRLoss, bpr_loss


def make_scores(num_pairs=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(2, num_pairs, generator=g, dtype=torch.double)
    return scores[0], scores[1]


def test_hand_computed():
    # Margins ln 3 and -ln 3: sigmoid gives 3/4 and 1/4.
    positive = torch.tensor([math.log(3.0), 0.0])
    loss = bpr_loss(positive, positive.flip(0), reduction='none')
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(4)]))


def test_a_tie_costs_log_two():
    loss = bpr_loss(torch.tensor([-5.0]), torch.tensor([-5.0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_only_the_difference_counts():
    positive, negative = make_scores()
    torch.testing.assert_close(
        bpr_loss(positive + 7, negative + 7), bpr_loss(positive, negative)
    )


def test_gradient():
    scores = [x.requires_grad_() for x in make_scores()]
    assert torch.autograd.gradcheck(bpr_loss, scores)


def test_a_step_down_raises_the_positive_and_lowers_the_negative():
    positive, negative = (x.requires_grad_() for x in make_scores())
    bpr_loss(positive, negative, reduction='sum').backward()
    assert (positive.grad < 0).all()
    torch.testing.assert_close(negative.grad, -positive.grad)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('value', [6e4, -6e4])
def test_finite_for_extreme_logits(dtype, value):
    positive = torch.tensor([value], dtype=dtype, requires_grad=True)
    loss = bpr_loss(positive, -positive.detach())
    loss.backward()
    assert loss.isfinite()
    assert positive.grad.isfinite().all()


def test_half_precision_is_computed_in_single():
    positive, negative = (x.half() for x in make_scores())
    loss = bpr_loss(positive, negative)
    torch.testing.assert_close(loss, bpr_loss(positive.float(), negative.float()))


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    scores = make_scores()
    each = torch.stack([bpr_loss(p, n) for p, n in zip(*scores, strict=True)])
    expected = each if reduction == 'none' else getattr(each, reduction)()
    torch.testing.assert_close(BPRLoss(reduction)(*scores), expected)


def test_shapes_need_to_agree():
    # Without the check, [B] and [B, 1] would silently make [B, B].
    with pytest.raises(ValueError, match=r"'negative_logits'.*\[7\] and \[7, 1\]"):
        BPRLoss()(torch.zeros(7), torch.zeros(7, 1))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_scores_need_to_be_finite(value):
    good, bad = torch.zeros(2), torch.tensor([0.0, value])
    with pytest.raises(ValueError, match="'positive_logits' must be finite"):
        bpr_loss(bad, good)
    with pytest.raises(ValueError, match="'negative_logits' must be finite"):
        bpr_loss(good, bad)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match=r"'reduction' must .* \(got 'batchmean'\)"):
        BPRLoss('batchmean')
    with pytest.raises(ValueError, match="'reduction' must"):
        bpr_loss(torch.zeros(1), torch.zeros(1), reduction='batchmean')


def test_repr():
    assert str(BPRLoss('sum')) == "BPRLoss(reduction='sum')"
