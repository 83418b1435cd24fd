import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import ListwiseKDLoss, listwise_kd_loss


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
    # Teacher (1/2, 1/4, 1/4), student uniform: ln 3 minus the entropy 3/2 ln 2.
    teacher = torch.tensor([[0.50, 0.25, 0.25]]).log()
    loss = listwise_kd_loss(torch.zeros(1, 3), teacher)
    torch.testing.assert_close(loss, torch.tensor(math.log(3) - 1.5 * math.log(2)))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_equals_the_kl_div_of_torch(temperature):
    student, teacher = make_lists()
    expected = F.kl_div(
        (student / temperature).log_softmax(-1),
        (teacher / temperature).softmax(-1),
        reduction='batchmean',
    )
    # Times the squared temperature, so gradients keep their scale.
    torch.testing.assert_close(
        listwise_kd_loss(student, teacher, temperature), temperature**2 * expected
    )


def test_a_mask_equals_leaving_candidates_out():
    student, teacher = make_lists()
    mask = make_mask()
    assert not mask.all()
    expected = [
        listwise_kd_loss(s[m][None], t[m][None])
        for s, t, m in zip(student, teacher, mask, strict=True)
    ]
    torch.testing.assert_close(
        ListwiseKDLoss(reduction='none')(student, teacher, mask), torch.stack(expected)
    )


def test_a_mask_of_all_changes_nothing():
    student, teacher = make_lists()
    everything = torch.ones(student.shape, dtype=torch.bool)
    torch.testing.assert_close(
        listwise_kd_loss(student, teacher, mask=everything),
        listwise_kd_loss(student, teacher),
    )


def test_what_is_masked_may_be_anything_and_gets_no_gradient():
    student, teacher = make_lists()
    mask = make_mask()
    expected = listwise_kd_loss(student, teacher, mask=mask)
    student = student.masked_fill(~mask, float('nan')).requires_grad_()
    teacher = teacher.masked_fill(~mask, float('inf')).requires_grad_()
    loss = listwise_kd_loss(student, teacher, mask=mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for logits in (student, teacher):
        assert logits.grad.isfinite().all()
        assert (logits.grad[~mask] == 0).all()


def test_one_candidate_teaches_nothing():
    student, teacher = (x[:, :1].requires_grad_() for x in make_lists())
    loss = listwise_kd_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_zero_for_equal_lists_up_to_a_shift():
    _, teacher = make_lists()
    loss = ListwiseKDLoss(temperature=2.0)(teacher + 7, teacher)
    torch.testing.assert_close(loss, torch.zeros_like(loss))


def test_the_teacher_weighs():
    # KL of the teacher from the student is not KL of the student from the teacher.
    student, teacher = make_lists()
    loss = listwise_kd_loss(student, teacher)
    assert (loss - listwise_kd_loss(teacher, student)).abs() > 0.1


def test_candidates_have_no_order():
    student, teacher = make_lists()
    mask = make_mask()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        listwise_kd_loss(student[:, order], teacher[:, order], mask=mask[:, order]),
        listwise_kd_loss(student, teacher, mask=mask),
    )


@pytest.mark.parametrize('mask', [None, make_mask()])
def test_gradients_flow_to_both(mask):
    lists = [x.requires_grad_() for x in make_lists()]
    loss_fn = ListwiseKDLoss(temperature=2.0)
    assert torch.autograd.gradcheck(lambda s, t: loss_fn(s, t, mask), lists)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('masked', [False, True])
def test_finite_for_extreme_logits(dtype, masked):
    values = torch.tensor([[-6e4, 6e4, 0.0]], dtype=dtype)
    student = values.clone().requires_grad_()
    teacher = values.flip(1).requires_grad_()
    mask = torch.tensor([[True, True, False]]) if masked else None
    loss = listwise_kd_loss(student, teacher, temperature=0.5, mask=mask)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    lists = make_lists()
    each = torch.stack(
        [listwise_kd_loss(s[None], t[None]) for s, t in zip(*lists, strict=True)]
    )
    expected = each if reduction == 'none' else getattr(each, reduction)()
    torch.testing.assert_close(ListwiseKDLoss(reduction=reduction)(*lists), expected)


def test_shapes_need_to_agree():
    student, teacher = make_lists()
    with pytest.raises(ValueError, match=r"'teacher_logits'.*\[6, 5\] and \[6, 4\]"):
        listwise_kd_loss(student, teacher[:, :4])
    with pytest.raises(ValueError, match=r"'mask'.*\[6, 5\] and \[6, 4\]"):
        listwise_kd_loss(student, teacher, mask=make_mask()[:, :4])


def test_every_list_needs_a_candidate():
    mask = make_mask()
    mask[2:4] = False
    with pytest.raises(ValueError, match=r'one candidate \(got 2 rows without\)'):
        listwise_kd_loss(*make_lists(), mask=mask)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('mask', [None, torch.tensor([[True, False, True]])])
def test_scores_that_take_part_need_to_be_finite(value, mask):
    good, bad = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, value]])
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        listwise_kd_loss(bad, good, mask=mask)
    with pytest.raises(ValueError, match="'teacher_logits' must be finite"):
        listwise_kd_loss(good, bad, mask=mask)


def test_the_mask_needs_to_be_boolean():
    with pytest.raises(TypeError, match=r"'mask' must be boolean \(got torch.int"):
        listwise_kd_loss(*make_lists(), mask=make_mask().long())


def test_the_temperature_needs_to_be_positive():
    with pytest.raises(ValueError, match=r"'temperature' must .* \(got 0.0\)"):
        ListwiseKDLoss(temperature=0.0)
    with pytest.raises(ValueError, match=r"'temperature' must .* \(got 0.0\)"):
        listwise_kd_loss(*make_lists(), temperature=0.0)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        ListwiseKDLoss(reduction='batchmean')


def test_repr():
    assert str(ListwiseKDLoss(reduction='sum')) == (
        "ListwiseKDLoss(temperature=1.0, reduction='sum')"
    )
