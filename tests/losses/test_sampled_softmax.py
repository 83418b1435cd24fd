import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import bpr_loss, sampled_softmax_loss


def make_scores(num_rows=6, num_negatives=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    positive = 3 * torch.randn(num_rows, generator=g, dtype=torch.double)
    negative = 3 * torch.randn(num_rows, num_negatives, generator=g, dtype=torch.double)
    return positive, negative


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


def test_only_differences_matter():
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


def test_probabilities_in_place_of_their_logarithms_are_an_error():
    match = r"'negative_log_q' must be zero or less \(got up to 0.5\)"
    with pytest.raises(ValueError, match=match):
        sampled_softmax_loss(*make_scores(), negative_log_q=torch.full((5,), 0.5))


@pytest.mark.parametrize('size', [(6,), (6, 1), (1, 5)])
def test_probabilities_must_have_the_shape_of_the_negatives(size):
    with pytest.raises(ValueError, match="'negative_log_q' must have the shape"):
        sampled_softmax_loss(*make_scores(), negative_log_q=make_log_q(size))
