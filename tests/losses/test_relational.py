import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist

from promptmm_pyg.losses.relational import (
    AngleKDLoss,
    DistanceKDLoss,
    angle_kd_loss,
    distance_kd_loss,
)

LOSSES = [distance_kd_loss, angle_kd_loss]
MODULES = [DistanceKDLoss, AngleKDLoss]


def make_rows(num_rows=5, student_channels=3, teacher_channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(num_rows, student_channels, generator=g, dtype=torch.double)
    teacher = torch.randn(num_rows, teacher_channels, generator=g, dtype=torch.double)
    return student, 3 * teacher


def huber(gap):
    return gap**2 / 2 if abs(gap) <= 1 else abs(gap) - 0.5


def cosine_of_angle(x, i, j, k):
    a, b = x[i] - x[j], x[k] - x[j]
    return float(a @ b / (a.norm() * b.norm()))


def test_distances_hand_computed():
    # Distances 1, 2, 1 to a mean of 4/3 and 3, 4, 5 to one of 4: gaps 0, 1/2, -1/2.
    student = torch.tensor([[0.0], [1.0], [-1.0]])
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    loss = distance_kd_loss(student, teacher, reduction='none')
    # Pairs (0, 1), (0, 2), (1, 2): 3/4, 3/4, 3/2 against 3/4, 1, 5/4.
    torch.testing.assert_close(loss, torch.tensor([0.0, 1 / 32, 1 / 32]))


def test_distances_are_linear_beyond_a_gap_of_one():
    # Nine rows in one place and one at distance one: 9 of 45 pairs, each 5 times the
    # mean. For the teacher, one row of ten coincides with none: all distances equal.
    student = torch.zeros(10, 1)
    student[0] = 1.0
    teacher = torch.eye(10)
    loss = distance_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss[:9], torch.full((9,), 4 - 0.5))
    torch.testing.assert_close(loss[9:], torch.full((36,), 0.5))


def test_distances_equal_those_of_scipy():
    student, teacher = make_rows(num_rows=7)
    s, t = (torch.from_numpy(pdist(x.numpy())) for x in (student, teacher))
    expected = F.smooth_l1_loss(s / s.mean(), t / t.mean(), reduction='none')
    torch.testing.assert_close(distance_kd_loss(student, teacher, 'none'), expected)


def test_angles_hand_computed():
    # A right angle at row 0 for the teacher, a flat one for the student; 45 degrees at
    # the others, where the student has none.
    student = torch.tensor([[0.0], [1.0], [-1.0]])
    teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    loss = angle_kd_loss(student, teacher, reduction='none')
    other = (1 - math.sqrt(0.5)) ** 2 / 2
    torch.testing.assert_close(loss, torch.tensor([[0.5], [other], [other]]))


def test_angles_equal_a_naive_loop():
    student, teacher = make_rows(num_rows=6)
    expected = [
        [
            huber(cosine_of_angle(student, i, j, k) - cosine_of_angle(teacher, i, j, k))
            for i, k in itertools.combinations([n for n in range(6) if n != j], 2)
        ]
        for j in range(6)
    ]
    torch.testing.assert_close(
        angle_kd_loss(student, teacher, reduction='none'),
        torch.tensor(expected, dtype=torch.double),
    )


def test_angles_are_linear_beyond_a_gap_of_one():
    # Flat against sharp: cosines -1 and 1.
    student = torch.tensor([[0.0], [1.0], [-1.0]])
    teacher = torch.tensor([[0.0], [1.0], [2.0]])
    loss = angle_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss[0], torch.tensor([1.5]))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_place_scale_rotation_and_width_do_not_count(loss_fn):
    student, teacher = make_rows(student_channels=4)
    g = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.double))
    moved = 7 * F.pad(student, (0, 2)) @ rotation + 3
    torch.testing.assert_close(loss_fn(moved, teacher), loss_fn(student, teacher))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_zero_with_zero_gradient_where_both_agree(loss_fn):
    _, teacher = make_rows()
    student = (2 * teacher).requires_grad_()
    loss = loss_fn(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_positive_where_they_differ(loss_fn):
    assert loss_fn(*make_rows()) > 0.01


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_the_order_of_rows_does_not_count(loss_fn):
    student, teacher = make_rows()
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        loss_fn(student[order], teacher[order]), loss_fn(student, teacher)
    )
    assert (loss_fn(student[order], teacher) - loss_fn(student, teacher)).abs() > 1e-3


@pytest.mark.parametrize('loss_class', MODULES)
@pytest.mark.parametrize('num_rows', [3, 5])
def test_gradients_flow_to_both(loss_class, num_rows):
    rows = [x.requires_grad_() for x in make_rows(num_rows)]
    assert torch.autograd.gradcheck(loss_class(), rows)


def test_two_rows_are_always_as_far_apart_as_the_mean():
    student, teacher = make_rows(num_rows=2)
    loss = distance_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss, torch.zeros(1, dtype=torch.double))


@pytest.mark.parametrize('loss_fn', LOSSES)
@pytest.mark.parametrize('equal', [slice(0, 2), slice(None)])
def test_rows_that_coincide_have_a_finite_gradient(loss_fn, equal):
    student, teacher = (x.float() for x in make_rows())
    student[equal] = student[0].clone()
    teacher[equal] = teacher[0].clone()
    student.requires_grad_()
    loss = loss_fn(student, teacher.flip(0).requires_grad_())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('loss_fn', LOSSES)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_one_side_may_collapse(loss_fn, side):
    # Everything in one place: distances and cosines are zero, to a finite loss.
    student, teacher = make_rows()
    student = student * (side == 'teacher')
    teacher = teacher * (side == 'student')
    student.requires_grad_()
    teacher.requires_grad_()
    loss = loss_fn(student, teacher)
    loss.backward()
    assert loss > 0
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


def test_distances_of_a_collapsed_student_are_zero():
    _, teacher = make_rows()
    distance = F.pdist(teacher)
    expected = F.huber_loss(torch.zeros_like(distance), distance / distance.mean())
    torch.testing.assert_close(distance_kd_loss(torch.ones(5, 2), teacher), expected)


def test_a_row_that_coincides_with_the_vertex_has_cosine_zero():
    student = torch.tensor([[0.0], [0.0], [1.0]])
    teacher = torch.tensor([[0.0], [1.0], [2.0]])  # cosines 1, -1, 1
    loss = angle_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss, torch.tensor([[0.5], [0.5], [0.0]]))


@pytest.mark.parametrize('loss_fn', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_large_values(loss_fn, dtype):
    g = torch.Generator().manual_seed(0)
    signs = torch.randn(2, 8, 3, generator=g).sign()
    student, teacher = (1e4 * signs).to(dtype)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = loss_fn(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('loss_class', MODULES)
def test_reduction(loss_class, reduction):
    rows = make_rows()
    each = loss_class(reduction='none')(*rows)
    assert each.numel() == (10 if loss_class is DistanceKDLoss else 30)
    torch.testing.assert_close(
        loss_class(reduction=reduction)(*rows), getattr(each, reduction)()
    )


@pytest.mark.parametrize(
    ('loss_fn', 'least'), [(distance_kd_loss, 2), (angle_kd_loss, 3)]
)
def test_enough_rows_are_needed(loss_fn, least):
    too_few = torch.ones(least - 1, 2)
    with pytest.raises(ValueError, match=rf'{least} rows \(got {least - 1}\)'):
        loss_fn(too_few, too_few)


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_values_need_to_be_finite(loss_fn):
    broken = torch.full((3, 2), float('nan'))
    with pytest.raises(ValueError, match=r"'teacher_x'.*finite"):
        loss_fn(torch.zeros(3, 2), broken)


@pytest.mark.parametrize('loss_class', MODULES)
def test_the_reduction_needs_to_be_known(loss_class):
    with pytest.raises(ValueError, match="'reduction' must"):
        loss_class(reduction='batchmean')


def test_repr():
    assert str(DistanceKDLoss()) == "DistanceKDLoss(reduction='mean')"
    assert str(AngleKDLoss('sum')) == "AngleKDLoss(reduction='sum')"
