import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.losses.sampled_softmax import SampledSoftmaxLoss, sampled_softmax_loss


def make_scores(num_rows=6, num_negatives=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    positive = 3 * torch.randn(num_rows, generator=g, dtype=torch.double)
    negative = 3 * torch.randn(num_rows, num_negatives, generator=g, dtype=torch.double)
    return positive, negative


def make_mask(num_rows=6, num_negatives=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_rows, num_negatives, generator=g) < 0.6
    mask[:, 0] = True
    return mask


def make_log_q(size=(6, 5), seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(size, generator=g, dtype=torch.double).log()


def test_hand_computed():
    # 4 / (4 + 1 + 3): minus its logarithm is ln 2.
    positive = torch.tensor([4.0]).log()
    loss = sampled_softmax_loss(positive, torch.tensor([[1.0, 3.0]]).log())
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_hand_computed_with_probabilities():
    # Expected counts 2 * 1/4 and 2 * 3/4: 4 / (4 + 1 / 0.5 + 3 / 1.5) is one half.
    positive = torch.tensor([4.0]).log()
    loss = sampled_softmax_loss(
        positive,
        torch.tensor([[1.0, 3.0]]).log(),
        negative_log_q=torch.tensor([0.25, 0.75]).log(),
    )
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_equals_the_cross_entropy_of_torch(temperature):
    positive, negative = make_scores()
    logits = torch.cat([positive[:, None], negative], dim=1) / temperature
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(
        sampled_softmax_loss(positive, negative, temperature), expected
    )


def test_one_negative_makes_it_bpr():
    positive, negative = make_scores(num_negatives=1)
    torch.testing.assert_close(
        sampled_softmax_loss(positive, negative), bpr_loss(positive, negative[:, 0])
    )


def test_all_items_drawn_once_make_it_the_full_softmax():
    # The sum over the sample is then the one over all items, whatever the scores.
    positive, negative = make_scores(num_negatives=50)
    log_q = torch.full((50,), -math.log(50), dtype=torch.double)
    torch.testing.assert_close(
        sampled_softmax_loss(positive, negative, negative_log_q=log_q),
        sampled_softmax_loss(positive, negative),
    )


def test_the_correction_removes_the_bias_of_a_popular_sample():
    # Over many draws the corrected sum is the one over all items.
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(8, generator=g, dtype=torch.double)
    q = torch.arange(1.0, 9.0, dtype=torch.double).softmax(0)
    draw = torch.multinomial(q, 200_000, replacement=True, generator=g)
    positive = torch.zeros(1, dtype=torch.double)
    full = sampled_softmax_loss(positive, logits[None])
    corrected = sampled_softmax_loss(
        positive, logits[draw][None], negative_log_q=q.log()[draw]
    )
    # An estimate: its standard error is below half a percent.
    torch.testing.assert_close(corrected, full, rtol=0.02, atol=0)


def test_the_correction_comes_after_the_temperature():
    positive, negative = make_scores()
    log_q = make_log_q()
    shifted = negative / 2 - log_q - math.log(5)
    torch.testing.assert_close(
        sampled_softmax_loss(positive, negative, 2.0, log_q),
        sampled_softmax_loss(positive / 2, shifted),
    )


def test_one_row_of_probabilities_serves_all():
    positive, negative = make_scores()
    log_q = make_log_q((5,))
    torch.testing.assert_close(
        sampled_softmax_loss(positive, negative, negative_log_q=log_q),
        sampled_softmax_loss(positive, negative, negative_log_q=log_q.expand(6, 5)),
    )


@pytest.mark.parametrize('log_q', [None, make_log_q()])
def test_a_mask_equals_leaving_negatives_out(log_q):
    positive, negative = make_scores()
    mask = make_mask()
    assert not mask.all()
    expected = [
        sampled_softmax_loss(
            positive[i : i + 1],
            negative[i][mask[i]][None],
            negative_log_q=None if log_q is None else log_q[i][mask[i]],
        )
        for i in range(6)
    ]
    loss = SampledSoftmaxLoss(reduction='none')(positive, negative, log_q, mask)
    torch.testing.assert_close(loss, torch.stack(expected))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_masked_may_be_anything_and_gets_no_gradient(value):
    positive, negative = make_scores()
    mask, log_q = make_mask(), make_log_q()
    expected = sampled_softmax_loss(positive, negative, 1.0, log_q, mask)
    negative = negative.masked_fill(~mask, value).requires_grad_()
    log_q = log_q.masked_fill(~mask, value)
    loss = sampled_softmax_loss(positive, negative, 1.0, log_q, mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert negative.grad.isfinite().all()
    assert (negative.grad[~mask] == 0).all()


def test_only_differences_count():
    positive, negative = make_scores()
    torch.testing.assert_close(
        sampled_softmax_loss(positive + 7, negative + 7),
        sampled_softmax_loss(positive, negative),
    )


def test_small_losses_keep_their_digits():
    # exp(-30) per negative; as a difference of two logsumexps it would be zero.
    positive = torch.tensor([1000.0])
    loss = sampled_softmax_loss(positive, torch.full((1, 2), 970.0))
    torch.testing.assert_close(loss, torch.tensor(2 * math.exp(-30)), atol=0, rtol=1e-5)


@pytest.mark.parametrize('log_q', [None, make_log_q()])
@pytest.mark.parametrize('mask', [None, make_mask()])
def test_gradient(log_q, mask):
    scores = [x.requires_grad_() for x in make_scores()]
    loss_fn = SampledSoftmaxLoss(temperature=2.0)
    assert torch.autograd.gradcheck(lambda p, n: loss_fn(p, n, log_q, mask), scores)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('value', [1e4, -1e4])
def test_finite_for_extreme_logits(dtype, value):
    positive = torch.tensor([value], dtype=dtype, requires_grad=True)
    negative = torch.tensor([[-value, value, 0.0]], dtype=dtype, requires_grad=True)
    loss = sampled_softmax_loss(positive, negative, temperature=0.05)
    loss.backward()
    assert loss.isfinite()
    assert positive.grad.isfinite().all()
    assert negative.grad.isfinite().all()


def test_half_precision_is_computed_in_single():
    scores = [x.half() for x in make_scores()]
    torch.testing.assert_close(
        sampled_softmax_loss(*scores),
        sampled_softmax_loss(*(x.float() for x in scores)),
    )


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    scores = make_scores()
    each = torch.stack(
        [sampled_softmax_loss(p[None], n[None]) for p, n in zip(*scores, strict=True)]
    )
    expected = each if reduction == 'none' else getattr(each, reduction)()
    loss = SampledSoftmaxLoss(reduction=reduction)(*scores)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    'positive', [torch.zeros(6, 1), torch.zeros(5), torch.zeros(1)]
)
def test_every_row_needs_one_positive(positive):
    # Without the check, some of these would broadcast.
    with pytest.raises(
        ValueError, match="'positive_logits' requires one score per row"
    ):
        sampled_softmax_loss(positive, make_scores()[1])


def test_every_row_needs_a_negative():
    positive, negative = make_scores()
    mask = make_mask()
    mask[2:4] = False
    with pytest.raises(
        ValueError, match=r"'mask' requires at least one .* \(got 2 rows"
    ):
        sampled_softmax_loss(positive, negative, mask=mask)
    with pytest.raises(ValueError, match=r"'negative_logits' must .*\[6, 0\]"):
        sampled_softmax_loss(positive, negative[:, :0])


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize(
    'name', ['positive_logits', 'negative_logits', 'negative_log_q']
)
def test_values_need_to_be_finite(name, value):
    positive, negative = make_scores()
    inputs = {
        'positive_logits': positive,
        'negative_logits': negative,
        'negative_log_q': make_log_q(),
    }
    inputs[name].view(-1)[3] = value
    with pytest.raises(ValueError, match=f"'{name}' must be finite"):
        sampled_softmax_loss(**inputs)


def test_probabilities_in_place_of_their_logarithms_are_found():
    match = r"'negative_log_q' must be zero or less \(got up to 0.5\)"
    with pytest.raises(ValueError, match=match):
        sampled_softmax_loss(*make_scores(), negative_log_q=torch.full((5,), 0.5))


@pytest.mark.parametrize('size', [(6,), (6, 1), (1, 5)])
def test_probabilities_need_the_shape_of_the_negatives(size):
    with pytest.raises(ValueError, match="'negative_log_q' requires the shape"):
        sampled_softmax_loss(*make_scores(), negative_log_q=make_log_q(size))


def test_the_mask_needs_to_be_boolean():
    with pytest.raises(TypeError, match="'mask' must be boolean"):
        sampled_softmax_loss(*make_scores(), mask=make_mask().long())


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_the_temperature_needs_to_be_positive(temperature):
    match = rf"'temperature' must be positive \(got {temperature}\)"
    with pytest.raises(ValueError, match=match):
        SampledSoftmaxLoss(temperature)
    with pytest.raises(ValueError, match=match):
        sampled_softmax_loss(*make_scores(), temperature)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        SampledSoftmaxLoss(reduction='batchmean')


def test_repr():
    assert str(SampledSoftmaxLoss(0.5)) == (
        "SampledSoftmaxLoss(temperature=0.5, reduction='mean')"
    )
