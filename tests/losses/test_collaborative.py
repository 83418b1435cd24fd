import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import (
    collaborative_kd_loss,
    sample_by_rank,
    soft_label_kd_loss,
)


def make_lists(num_lists=6, num_candidates=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(
        2, num_lists, num_candidates, generator=g, dtype=torch.double
    )
    return logits[0], logits[1]


def draw(num_ranks=20, num_samples=8, size=50, decay=5.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return sample_by_rank(num_ranks, num_samples, size, decay, g)


def test_hand_computed():
    # Targets 3/4 and 1/2, beliefs 1/4 and 1/2.
    student = torch.tensor([[-math.log(3.0), 0.0]])
    loss = collaborative_kd_loss(student, -student)
    first = -0.75 * math.log(0.25) - 0.25 * math.log(0.75)
    torch.testing.assert_close(loss, torch.tensor((first + math.log(2)) / 2))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_equals_the_binary_cross_entropy_of_torch(temperature):
    student, teacher = make_lists()
    expected = F.binary_cross_entropy_with_logits(
        student, (teacher / temperature).sigmoid()
    )
    torch.testing.assert_close(
        collaborative_kd_loss(student, teacher, temperature), expected
    )


def test_it_is_the_divergence_plus_the_teachers_entropy():
    student, teacher = make_lists()
    entropy = torch.distributions.Bernoulli(logits=teacher).entropy().mean()
    torch.testing.assert_close(
        collaborative_kd_loss(student, teacher),
        soft_label_kd_loss(student, teacher) + entropy,
    )


def test_the_minimum_is_at_the_softened_teacher():
    _, teacher = make_lists()
    student = (teacher / 2).requires_grad_()
    loss = collaborative_kd_loss(student, teacher, temperature=2.0)
    loss.backward()
    entropy = torch.distributions.Bernoulli(logits=teacher / 2).entropy().mean()
    torch.testing.assert_close(loss.detach(), entropy)
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher))


@pytest.mark.parametrize('temperature', [0.5, 4.0])
def test_gradient_is_the_difference_of_beliefs(temperature):
    student, teacher = make_lists()
    student.requires_grad_()
    loss = collaborative_kd_loss(student, teacher, temperature, reduction='sum')
    loss.backward()
    gap = student.sigmoid() - (teacher / temperature).sigmoid()
    torch.testing.assert_close(student.grad, gap.detach() / 5)


def test_positions_of_a_row_are_distinct_and_in_range():
    positions = draw()
    assert positions.dtype == torch.int64
    assert positions.size() == (50, 8)
    assert positions.min() >= 0
    assert positions.max() < 20
    assert all(len(set(row.tolist())) == 8 for row in positions)


def test_all_positions_are_a_permutation():
    positions = draw(num_samples=20)
    expected = torch.arange(20).expand(50, 20)
    torch.testing.assert_close(positions.sort(dim=-1).values, expected)


def test_one_position_is_drawn_with_its_probability():
    num = 100_000
    positions = draw(num_ranks=6, num_samples=1, size=num, decay=2.0)
    share = positions.flatten().bincount(minlength=6).double() / num
    expected = (-torch.arange(6, dtype=torch.double) / 2).softmax(0)
    # An estimate: its standard error is 0.0016 at most.
    torch.testing.assert_close(share, expected, atol=0.007, rtol=0)


def test_two_positions_are_drawn_one_after_the_other():
    # P(first i, then j) = p_i p_j / (1 - p_i): without replacement.
    num = 100_000
    positions = draw(num_ranks=4, num_samples=2, size=num, decay=2.0, seed=1)
    share = (4 * positions[:, 0] + positions[:, 1]).bincount(
        minlength=16
    ).double() / num
    p = (-torch.arange(4, dtype=torch.double) / 2).softmax(0)
    expected = p[:, None] * p[None] / (1 - p[:, None])
    expected.fill_diagonal_(0)
    torch.testing.assert_close(share.view(4, 4), expected, atol=0.007, rtol=0)


def test_a_short_decay_draws_the_top_in_order():
    # Their probabilities, down to exp(-7000), have no float.
    positions = draw(decay=0.001, num_samples=8)
    torch.testing.assert_close(positions, torch.arange(8).expand(50, 8))


def test_the_generator_repeats_a_draw_and_the_next_differs():
    g = torch.Generator().manual_seed(0)
    first, second = (sample_by_rank(20, 8, 50, 5.0, g) for _ in range(2))
    torch.testing.assert_close(draw(), first)
    assert (first != second).any()


def test_without_a_generator_torch_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = sample_by_rank(20, 8, 5, 5.0)
        torch.manual_seed(0)
        torch.testing.assert_close(sample_by_rank(20, 8, 5, 5.0), first)


@pytest.mark.parametrize('name', ['num_ranks', 'num_samples', 'size', 'decay'])
def test_the_draw_must_have_positive_numbers(name):
    numbers = {'num_ranks': 5, 'num_samples': 2, 'size': 3, 'decay': 1.0, name: 0}
    with pytest.raises(ValueError, match=rf"'{name}' must be positive \(got 0\)"):
        sample_by_rank(**numbers)


def test_no_more_positions_are_drawn_than_exist():
    match = r"'num_samples' must be at most 'num_ranks' \(got 6 and 5\)"
    with pytest.raises(ValueError, match=match):
        sample_by_rank(5, 6, 1, 1.0)
