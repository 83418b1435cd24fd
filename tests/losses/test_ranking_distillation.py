import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import (
    estimate_rank,
    ranking_distillation_loss,
)


def make_scores(num_lists=6, num_candidates=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num_lists, num_candidates, generator=g, dtype=torch.double)


def make_rank(num_lists=6, num_candidates=5, seed=1):
    # Places are 1 to 5, so some items rank higher and some lower; at least one lower.
    g = torch.Generator().manual_seed(seed)
    rank = torch.randint(1, 9, (num_lists, num_candidates), generator=g)
    rank[:, 0] = 7
    return rank


def make_mask(num_lists=6, num_candidates=5, seed=2):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_lists, num_candidates, generator=g) < 0.6
    mask[:, 0] = True
    return mask


def naive(student, rank, decay, sharpness, mask):
    losses = []
    for b in range(len(student)):
        positions = [k for k in range(student.size(1)) if mask is None or mask[b, k]]
        weight = {k: math.exp(-(k + 1) / decay) for k in positions}
        if rank is not None:
            for k in positions:
                gap = float(rank[b, k]) - (k + 1)
                weight[k] *= math.tanh(max(sharpness * gap, 0))
        total = sum(weight.values()) or 1.0
        losses.append(
            -sum(weight[k] / total * F.logsigmoid(student[b, k]) for k in positions)
        )
    return torch.stack(losses)


@pytest.mark.parametrize('rank', [None, make_rank()])
@pytest.mark.parametrize('mask', [None, make_mask()])
@pytest.mark.parametrize(('decay', 'sharpness'), [(0.5, 2.0), (3.0, 0.1)])
def test_equals_a_loop(rank, mask, decay, sharpness):
    student = make_scores()
    loss = ranking_distillation_loss(student, rank, decay, sharpness, mask, 'none')
    torch.testing.assert_close(loss, naive(student, rank, decay, sharpness, mask))


def test_hand_computed():
    # Decay 1 / ln 2 makes weights 2/3 and 1/3; beliefs are 1/2 and 1/4.
    student = torch.tensor([[0.0, -math.log(3.0)]])
    loss = ranking_distillation_loss(student, decay=1 / math.log(2))
    torch.testing.assert_close(
        loss, torch.tensor(2 / 3 * math.log(2) + 1 / 3 * math.log(4))
    )


def test_hand_computed_with_ranks():
    # The first item ranks as high as with the teacher: only the second weighs.
    student = torch.tensor([[0.0, -math.log(3.0)]])
    loss = ranking_distillation_loss(student, torch.tensor([[1, 3]]))
    torch.testing.assert_close(loss, torch.tensor(math.log(4)))


def test_the_first_positions_have_the_largest_weights():
    student = torch.zeros(1, 4, requires_grad=True)
    ranking_distillation_loss(student, decay=2.0).backward()
    grad = student.grad[0]
    torch.testing.assert_close(grad[1:] / grad[:-1], torch.full((3,), math.exp(-0.5)))


def test_a_wider_gap_in_rank_has_a_larger_weight():
    # Gaps of 4 and 1 at positions 1 and 2.
    student = torch.zeros(1, 2, requires_grad=True)
    ranking_distillation_loss(student, torch.tensor([[5, 3]])).backward()
    expected = math.exp(0.1) * math.tanh(0.4) / math.tanh(0.1)
    ratio = student.grad[0, 0] / student.grad[0, 1]
    torch.testing.assert_close(ratio, torch.tensor(expected))


def test_ranks_far_down_are_weighted_by_position_alone():
    student = make_scores()
    rank = torch.full((6, 5), 100_000)
    torch.testing.assert_close(
        ranking_distillation_loss(student, rank), ranking_distillation_loss(student)
    )


@pytest.mark.parametrize('rank', [[[1, 2, 3]], [[1, 1, 1]]])
def test_the_loss_is_zero_where_the_student_ranks_items_as_high(rank):
    student = make_scores(1, 3).requires_grad_()
    loss = ranking_distillation_loss(student, torch.tensor(rank))
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()


def test_equal_beliefs_cost_the_same_whatever_the_weights():
    student = torch.full((3, 4), -1.5)
    for rank in (None, make_rank(3, 4)):
        torch.testing.assert_close(
            ranking_distillation_loss(student, rank), -F.logsigmoid(student[0, 0])
        )


def test_a_short_decay_does_not_underflow():
    # exp(-200) is zero in float32; the only weight is at position 2.
    student = torch.tensor([[5.0, 0.0, 5.0]])
    loss = ranking_distillation_loss(student, torch.tensor([[1, 9, 3]]), decay=0.01)
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_weights_are_constants():
    student = make_scores()
    rank = make_rank().double().requires_grad_()
    loss = ranking_distillation_loss(student.requires_grad_(), rank)
    (grad,) = torch.autograd.grad(loss, rank, allow_unused=True)
    assert grad is None


def test_a_masked_rank_may_be_zero():
    student, rank, mask = make_scores(), make_rank(), make_mask()
    expected = ranking_distillation_loss(student, rank, mask=mask)
    padded = rank.masked_fill(~mask, 0)
    torch.testing.assert_close(
        ranking_distillation_loss(student, padded, mask=mask), expected
    )


def test_masked_candidates_count_in_positions():
    student = make_scores(1, 3)
    mask = torch.tensor([[True, False, True]])
    loss = ranking_distillation_loss(student, decay=2.0, mask=mask)
    second = 1 / (1 + math.e)  # Two positions after the first, not one.
    cost = -F.logsigmoid(student[0])
    torch.testing.assert_close(loss, (1 - second) * cost[0] + second * cost[2])


def test_rank_hand_computed():
    # 2 of 4 samples above: half of the other 100 items, then the item itself.
    sampled = torch.tensor([[3.0, -1.0, 2.0, 0.0]])
    rank = estimate_rank(torch.tensor([[1.0, 9.0, -9.0]]), sampled, 101)
    torch.testing.assert_close(rank, torch.tensor([[51, 1, 101]]))


def test_rank_equals_a_loop_and_rounds_down():
    student, sampled = make_scores(), make_scores(6, 7, seed=5)
    above = (sampled[:, None, :] > student[:, :, None]).sum(dim=-1)
    expected = torch.floor(above.double() * 99 / 7).long() + 1
    torch.testing.assert_close(estimate_rank(student, sampled, 100), expected)


def test_a_tie_does_not_rank_above():
    rank = estimate_rank(torch.tensor([[2.0]]), torch.tensor([[2.0, 2.0, 3.0]]), 4)
    torch.testing.assert_close(rank, torch.tensor([[2]]))


def test_rank_of_all_items_is_exact():
    # With the other items as the sample there is nothing to estimate.
    logits = make_scores(1, 9)
    order = logits[0].argsort(descending=True)
    for place, item in enumerate(order, start=1):
        others = logits[:, torch.arange(9) != item]
        rank = estimate_rank(logits[:, item, None], others, 9)
        assert rank.item() == place


def test_rank_of_half_precision_and_without_gradient():
    student = make_scores().half().requires_grad_()
    rank = estimate_rank(student, make_scores(6, 7, seed=5).half(), 100)
    assert rank.dtype == torch.int64
    assert rank.min() >= 1
    assert rank.max() <= 100


def test_rank_errors():
    with pytest.raises(
        ValueError, match=r"'sampled_logits' must have one row .* 2 and 3\)"
    ):
        estimate_rank(torch.zeros(3, 1), torch.zeros(2, 1), 5)
    with pytest.raises(ValueError, match=r"'sampled_logits' must be lists"):
        estimate_rank(torch.zeros(3, 1), torch.zeros(3, 0), 5)
    with pytest.raises(ValueError, match=r"'num_items' must be positive \(got 0\)"):
        estimate_rank(torch.zeros(3, 1), torch.zeros(3, 1), 0)
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        estimate_rank(torch.full((3, 1), torch.nan), torch.zeros(3, 1), 5)
    with pytest.raises(ValueError, match="'sampled_logits' must be finite"):
        estimate_rank(torch.zeros(3, 1), torch.full((3, 1), torch.nan), 5)


def test_ranks_start_at_one():
    match = r"'student_rank' must be 1 or more \(got 0.0\)"
    with pytest.raises(ValueError, match=match):
        ranking_distillation_loss(torch.zeros(1, 2), torch.tensor([[0, 1]]))
