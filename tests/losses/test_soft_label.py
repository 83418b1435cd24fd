import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import pairwise_kd_loss
from promptmm_pyg.losses.soft_label import SoftLabelKDLoss, soft_label_kd_loss


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


def test_hand_computed():
    # Teacher 3/4 and 1/2, student 1/2 both: (3/4 ln(3/2) + 1/4 ln(1/2) + 0) / 2.
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    loss = soft_label_kd_loss(torch.zeros(1, 2), teacher)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_equals_the_divergence_of_bernoullis(temperature):
    student, teacher = make_lists()
    s, t = (
        torch.distributions.Bernoulli(logits=x / temperature)
        for x in (student, teacher)
    )
    # Times the squared temperature, so gradients keep their scale.
    torch.testing.assert_close(
        soft_label_kd_loss(student, teacher, temperature, reduction='none'),
        temperature**2 * torch.distributions.kl_divergence(t, s).mean(dim=-1),
    )


def test_equals_the_binary_cross_entropy_of_torch_above_its_minimum():
    student, teacher = make_lists()
    target = teacher.sigmoid()
    expected = F.binary_cross_entropy_with_logits(
        student, target
    ) - F.binary_cross_entropy_with_logits(teacher, target)
    torch.testing.assert_close(soft_label_kd_loss(student, teacher), expected)


def test_one_candidate_makes_it_the_pairwise_divergence():
    student, teacher = make_lists(num_candidates=1)
    torch.testing.assert_close(
        soft_label_kd_loss(student, teacher, 2.0),
        pairwise_kd_loss(student[:, 0], teacher[:, 0], 2.0),
    )


@pytest.mark.parametrize('temperature', [0.5, 4.0])
def test_gradient_is_the_difference_of_beliefs(temperature):
    student, teacher = make_lists()
    student.requires_grad_()
    soft_label_kd_loss(student, teacher, temperature, reduction='sum').backward()
    gap = (student / temperature).sigmoid() - (teacher / temperature).sigmoid()
    torch.testing.assert_close(student.grad, temperature * gap.detach() / 5)


def test_zero_loss_and_zero_gradient_where_both_agree():
    _, teacher = make_lists()
    student = teacher.clone().requires_grad_()
    loss = soft_label_kd_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher))


def test_a_shift_counts():
    # Unlike a softmax list, scores are taught as they are.
    _, teacher = make_lists()
    assert (soft_label_kd_loss(teacher + 1, teacher, reduction='none') > 1e-3).all()


def test_a_mask_equals_leaving_candidates_out():
    student, teacher = make_lists()
    mask = make_mask()
    assert not mask.all()
    expected = [
        soft_label_kd_loss(s[m][None], t[m][None])
        for s, t, m in zip(student, teacher, mask, strict=True)
    ]
    torch.testing.assert_close(
        SoftLabelKDLoss(reduction='none')(student, teacher, mask),
        torch.stack(expected),
    )


def test_what_is_masked_may_be_anything_and_gets_no_gradient():
    student, teacher = make_lists()
    mask = make_mask()
    expected = soft_label_kd_loss(student, teacher, mask=mask)
    student = student.masked_fill(~mask, float('nan')).requires_grad_()
    teacher = teacher.masked_fill(~mask, float('inf')).requires_grad_()
    loss = soft_label_kd_loss(student, teacher, mask=mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for logits in (student, teacher):
        assert logits.grad.isfinite().all()
        assert (logits.grad[~mask] == 0).all()


@pytest.mark.parametrize('mask', [None, make_mask()])
def test_gradients_flow_to_both(mask):
    lists = [x.requires_grad_() for x in make_lists()]
    loss_fn = SoftLabelKDLoss(temperature=2.0)
    assert torch.autograd.gradcheck(lambda s, t: loss_fn(s, t, mask), lists)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_extreme_logits(dtype):
    values = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype)
    student = values.clone().requires_grad_()
    teacher = values.roll(1).requires_grad_()
    loss = soft_label_kd_loss(student, teacher, temperature=0.05)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    lists = make_lists()
    each = torch.stack(
        [soft_label_kd_loss(s[None], t[None]) for s, t in zip(*lists, strict=True)]
    )
    expected = each if reduction == 'none' else getattr(each, reduction)()
    torch.testing.assert_close(SoftLabelKDLoss(reduction=reduction)(*lists), expected)


def test_shapes_need_to_agree():
    student, teacher = make_lists()
    with pytest.raises(ValueError, match=r"'teacher_logits'.*\[6, 5\] and \[6, 1\]"):
        soft_label_kd_loss(student, teacher[:, :1])
    with pytest.raises(ValueError, match=r"'mask'.*\[6, 5\] and \[6, 4\]"):
        soft_label_kd_loss(student, teacher, mask=make_mask()[:, :4])
    with pytest.raises(ValueError, match=r"'student_logits' must be lists .*\[6\]"):
        soft_label_kd_loss(student[:, 0], teacher[:, 0])


def test_every_list_needs_a_candidate():
    mask = make_mask()
    mask[2:4] = False
    with pytest.raises(ValueError, match=r'one candidate \(got 2 rows without\)'):
        soft_label_kd_loss(*make_lists(), mask=mask)


def test_the_mask_needs_to_be_boolean():
    with pytest.raises(TypeError, match="'mask' must be boolean"):
        soft_label_kd_loss(*make_lists(), mask=make_mask().long())


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('mask', [None, torch.tensor([[True, False, True]])])
def test_scores_that_take_part_need_to_be_finite(value, mask):
    good, bad = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, value]])
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        soft_label_kd_loss(bad, good, mask=mask)
    with pytest.raises(ValueError, match="'teacher_logits' must be finite"):
        soft_label_kd_loss(good, bad, mask=mask)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_the_temperature_needs_to_be_positive(temperature):
    match = rf"'temperature' must be positive \(got {temperature}\)"
    with pytest.raises(ValueError, match=match):
        SoftLabelKDLoss(temperature)
    with pytest.raises(ValueError, match=match):
        soft_label_kd_loss(*make_lists(), temperature)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        SoftLabelKDLoss(reduction='batchmean')


def test_repr():
    assert str(SoftLabelKDLoss(2.0)) == (
        "SoftLabelKDLoss(temperature=2.0, reduction='mean')"
    )
