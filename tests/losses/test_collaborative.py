import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses.collaborative import (
    CollaborativeKDLoss,
    collaborative_kd_loss,
    sample_by_rank,
)
from promptmm_pyg.losses.soft_label import soft_label_kd_loss


def make_lists(num_lists=6, num_candidates=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(
        2, num_lists, num_candidates, generator=g, dtype=torch.double
    )
    return logits[0], logits[1]


def make_mask(num_lists=6, num_candidates=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_lists, num_candidates, generator=g) < 0.6
    mask[:, 0] = True
    return mask


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


def test_the_minimum_lies_at_the_softened_teacher():
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


def test_a_mask_equals_leaving_candidates_out():
    student, teacher = make_lists()
    mask = make_mask()
    assert not mask.all()
    expected = [
        collaborative_kd_loss(s[m][None], t[m][None])
        for s, t, m in zip(student, teacher, mask, strict=True)
    ]
    torch.testing.assert_close(
        CollaborativeKDLoss(reduction='none')(student, teacher, mask),
        torch.stack(expected),
    )


def test_what_is_masked_may_be_anything_and_gets_no_gradient():
    student, teacher = make_lists()
    mask = make_mask()
    expected = collaborative_kd_loss(student, teacher, mask=mask)
    student = student.masked_fill(~mask, float('nan')).requires_grad_()
    teacher = teacher.masked_fill(~mask, float('inf')).requires_grad_()
    loss = collaborative_kd_loss(student, teacher, mask=mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for logits in (student, teacher):
        assert logits.grad.isfinite().all()
        assert (logits.grad[~mask] == 0).all()


@pytest.mark.parametrize('mask', [None, make_mask()])
def test_gradients_flow_to_both(mask):
    lists = [x.requires_grad_() for x in make_lists()]
    loss_fn = CollaborativeKDLoss(temperature=2.0)
    assert torch.autograd.gradcheck(lambda s, t: loss_fn(s, t, mask), lists)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_extreme_logits(dtype):
    values = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype)
    student = values.clone().requires_grad_()
    teacher = values.roll(1).requires_grad_()
    loss = collaborative_kd_loss(student, teacher, temperature=0.05)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    lists = make_lists()
    each = torch.stack(
        [collaborative_kd_loss(s[None], t[None]) for s, t in zip(*lists, strict=True)]
    )
    expected = each if reduction == 'none' else getattr(each, reduction)()
    loss = CollaborativeKDLoss(reduction=reduction)(*lists)
    torch.testing.assert_close(loss, expected)


def test_places_of_a_row_are_distinct_and_in_range():
    places = draw()
    assert places.dtype == torch.int64
    assert places.size() == (50, 8)
    assert places.min() >= 0
    assert places.max() < 20
    assert all(len(set(row.tolist())) == 8 for row in places)


def test_all_places_are_a_permutation():
    places = draw(num_samples=20)
    expected = torch.arange(20).expand(50, 20)
    torch.testing.assert_close(places.sort(dim=-1).values, expected)


def test_one_place_is_drawn_with_its_probability():
    num = 100_000
    places = draw(num_ranks=6, num_samples=1, size=num, decay=2.0)
    share = places.flatten().bincount(minlength=6).double() / num
    expected = (-torch.arange(6, dtype=torch.double) / 2).softmax(0)
    # An estimate: its standard error is 0.0016 at most.
    torch.testing.assert_close(share, expected, atol=0.007, rtol=0)


def test_two_places_are_drawn_one_after_the_other():
    # P(first i, then j) = p_i p_j / (1 - p_i): without replacement.
    num = 100_000
    places = draw(num_ranks=4, num_samples=2, size=num, decay=2.0, seed=1)
    share = (4 * places[:, 0] + places[:, 1]).bincount(minlength=16).double() / num
    p = (-torch.arange(4, dtype=torch.double) / 2).softmax(0)
    expected = p[:, None] * p[None] / (1 - p[:, None])
    expected.fill_diagonal_(0)
    torch.testing.assert_close(share.view(4, 4), expected, atol=0.007, rtol=0)


def test_a_short_decay_takes_the_top_in_order():
    # Their probabilities, down to exp(-7000), have no float.
    places = draw(decay=0.001, num_samples=8)
    torch.testing.assert_close(places, torch.arange(8).expand(50, 8))


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
def test_the_draw_needs_positive_numbers(name):
    numbers = {'num_ranks': 5, 'num_samples': 2, 'size': 3, 'decay': 1.0, name: 0}
    with pytest.raises(ValueError, match=rf"'{name}' must be positive \(got 0\)"):
        sample_by_rank(**numbers)


def test_no_more_places_are_drawn_than_there_are():
    match = r"'num_samples' must be at most 'num_ranks' \(got 6 and 5\)"
    with pytest.raises(ValueError, match=match):
        sample_by_rank(5, 6, 1, 1.0)


def test_shapes_need_to_agree():
    student, teacher = make_lists()
    with pytest.raises(ValueError, match=r"'teacher_logits'.*\[6, 5\] and \[6, 1\]"):
        collaborative_kd_loss(student, teacher[:, :1])
    with pytest.raises(ValueError, match=r"'mask'.*\[6, 5\] and \[6, 4\]"):
        collaborative_kd_loss(student, teacher, mask=make_mask()[:, :4])
    with pytest.raises(ValueError, match=r"'student_logits' must be lists .*\[6\]"):
        collaborative_kd_loss(student[:, 0], teacher[:, 0])


def test_every_list_needs_a_candidate():
    mask = make_mask()
    mask[2:4] = False
    with pytest.raises(ValueError, match=r'one candidate \(got 2 rows without\)'):
        collaborative_kd_loss(*make_lists(), mask=mask)


def test_the_mask_needs_to_be_boolean():
    with pytest.raises(TypeError, match="'mask' must be boolean"):
        collaborative_kd_loss(*make_lists(), mask=make_mask().long())


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('mask', [None, torch.tensor([[True, False, True]])])
def test_scores_that_take_part_need_to_be_finite(value, mask):
    good, bad = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, value]])
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        collaborative_kd_loss(bad, good, mask=mask)
    with pytest.raises(ValueError, match="'teacher_logits' must be finite"):
        collaborative_kd_loss(good, bad, mask=mask)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_the_temperature_needs_to_be_positive(temperature):
    match = rf"'temperature' must be positive \(got {temperature}\)"
    with pytest.raises(ValueError, match=match):
        CollaborativeKDLoss(temperature)
    with pytest.raises(ValueError, match=match):
        collaborative_kd_loss(*make_lists(), temperature)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        CollaborativeKDLoss(reduction='batchmean')


def test_repr():
    assert str(CollaborativeKDLoss(2.0)) == (
        "CollaborativeKDLoss(temperature=2.0, reduction='mean')"
    )
