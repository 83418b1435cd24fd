import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import (
    ScaledCosineLoss,
    scaled_cosine_loss,
    unit_mse_loss,
)

LOSSES = [scaled_cosine_loss, unit_mse_loss]


def make_rows(num_rows=6, channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, num_rows, channels, generator=g, dtype=torch.double)
    return x[0], x[1]


@pytest.mark.parametrize(('gamma', 'expected'), [(1.0, 0.4), (2.0, 0.16), (3.0, 0.064)])
def test_scaled_cosine_hand_computed(gamma, expected):
    # (3, 4) and (2, 0): cosine 3/5.
    loss = scaled_cosine_loss(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]), gamma
    )
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_unit_mse_hand_computed():
    # (3/5, 4/5) and (1, 0): 4/25 + 16/25.
    loss = unit_mse_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(loss, torch.tensor(0.8))


def test_scaled_cosine_equals_the_cosine_similarity_of_torch():
    student, teacher = make_rows()
    expected = (1 - F.cosine_similarity(student, teacher)) ** 2
    torch.testing.assert_close(
        scaled_cosine_loss(student, teacher, reduction='none'), expected
    )


def test_unit_mse_is_twice_the_scaled_cosine_of_exponent_one():
    rows = make_rows()
    torch.testing.assert_close(unit_mse_loss(*rows), 2 * scaled_cosine_loss(*rows, 1.0))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_length_does_not_matter(loss_fn):
    student, teacher = make_rows()
    torch.testing.assert_close(
        loss_fn(5 * student, 0.1 * teacher), loss_fn(student, teacher)
    )


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_opposite_rows_cost_four(loss_fn):
    student, _ = make_rows()
    loss = loss_fn(student, -2 * student)
    torch.testing.assert_close(loss, torch.full_like(loss, 4.0))


@pytest.mark.parametrize('gamma', [1.0, 1.5, 2.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_scaled_cosine_vanishes_at_equality_with_a_finite_gradient(gamma, dtype):
    # Many rows, so that rounding leaves some cosines above one.
    student, _ = make_rows(num_rows=200, channels=7)
    student = student.to(dtype).requires_grad_()
    loss = scaled_cosine_loss(student, 3 * student.detach(), gamma)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss), atol=1e-6, rtol=0)
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e-3


def test_unit_mse_vanishes_at_equality_with_its_gradient():
    student, _ = make_rows()
    student.requires_grad_()
    loss = unit_mse_loss(student, 3 * student.detach())
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize('loss_fn', LOSSES)
@pytest.mark.parametrize('zero', ['student', 'teacher', 'both'])
def test_zero_rows_have_a_finite_loss_and_a_small_gradient(loss_fn, zero):
    # Isolated nodes have zero rows; a gradient of 1 / eps would drown all others.
    student, teacher = (x.float() for x in make_rows())
    student = student * (zero == 'teacher')
    teacher = teacher * (zero == 'student')
    student.requires_grad_()
    teacher.requires_grad_()
    loss = loss_fn(student, teacher)
    loss.backward()
    both = loss_fn is unit_mse_loss and zero == 'both'
    torch.testing.assert_close(loss.detach(), torch.tensor(0.0 if both else 1.0))
    assert student.grad.abs().max() <= 2
    assert teacher.grad.abs().max() <= 2


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_a_zero_student_moves_to_the_teacher(loss_fn):
    _, teacher = make_rows()
    student = torch.zeros_like(teacher, requires_grad=True)
    loss_fn(student, teacher, reduction='sum').backward()
    # The same direction, downhill.
    torch.testing.assert_close(
        F.cosine_similarity(-student.grad, teacher),
        torch.ones(len(teacher), dtype=torch.double),
    )


@pytest.mark.parametrize('loss_fn', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(loss_fn, dtype):
    # The square of 300 is beyond the largest half.
    student = torch.full((1, 2), 300.0, dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[300.0, -300.0]], dtype=dtype)
    loss = loss_fn(student, teacher)
    loss.backward()
    torch.testing.assert_close(
        loss.detach(), torch.tensor(1.0 if loss_fn is scaled_cosine_loss else 2.0)
    )
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_widths_must_agree(loss_fn):
    with pytest.raises(ValueError, match=r"'teacher_x'.*\[6, 4\] and \[6, 3\]"):
        loss_fn(torch.ones(6, 4), torch.ones(6, 3))


@pytest.mark.parametrize('gamma', [0.5, float('nan')])
def test_gamma_must_be_at_least_one(gamma):
    match = rf"'gamma' must be at least 1 \(got {gamma}\)"
    with pytest.raises(ValueError, match=match):
        ScaledCosineLoss(gamma)
    with pytest.raises(ValueError, match=match):
        scaled_cosine_loss(*make_rows(), gamma)
