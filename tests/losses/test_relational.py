import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

from promptmm_pyg.losses import (
    angle_kd_loss,
    distance_kd_loss,
    hierarchical_topology_kd_loss,
    similarity_kd_loss,
    topology_kd_loss,
)

GROUP = torch.tensor([4, 0, 4, 9, 0, 4])


def by_group(student_x, teacher_x, reduction='mean'):
    group = GROUP[: len(student_x)]
    return hierarchical_topology_kd_loss(student_x, teacher_x, group, reduction)


COSINES = [similarity_kd_loss, topology_kd_loss, by_group]
RELATIVE = [distance_kd_loss, angle_kd_loss]
LOSSES = RELATIVE + COSINES


def make_rows(num_rows=5, student_channels=3, teacher_channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(num_rows, student_channels, generator=g, dtype=torch.double)
    teacher = torch.randn(num_rows, teacher_channels, generator=g, dtype=torch.double)
    return student, 3 * teacher


# All


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_the_loss_is_invariant_to_scale_rotation_width_and_some_to_translation(loss_fn):
    student, teacher = make_rows(student_channels=4)
    g = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.double))
    moved = 7 * F.pad(student, (0, 2)) @ rotation + 3 * (loss_fn in RELATIVE)
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
def test_rows_must_be_matched(loss_fn):
    student, teacher = make_rows()
    order = torch.tensor([3, 0, 4, 2, 1])
    assert (loss_fn(student[order], teacher) - loss_fn(student, teacher)).abs() > 1e-3


@pytest.mark.parametrize(
    ('loss_fn', 'least'), [(distance_kd_loss, 2), (angle_kd_loss, 3)]
)
def test_there_must_be_enough_rows(loss_fn, least):
    too_few = torch.ones(least - 1, 2)
    with pytest.raises(ValueError, match=rf'{least} rows \(got {least - 1}\)'):
        loss_fn(too_few, too_few)


@pytest.mark.parametrize('loss_fn', COSINES)
def test_the_loss_of_one_row_is_zero(loss_fn):
    loss = loss_fn(*make_rows(num_rows=1))
    torch.testing.assert_close(loss, torch.zeros_like(loss))


@pytest.mark.parametrize('loss_fn', COSINES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_large_values_do_not_overflow(loss_fn, dtype):
    # Products of 1e8 exceed the largest half.
    g = torch.Generator().manual_seed(0)
    signs = torch.randn(2, 6, 3, generator=g).sign()
    student, teacher = (1e4 * signs).to(dtype)
    # Signs are exact in a half: the cosines are those of the signs.
    torch.testing.assert_close(loss_fn(student, teacher), loss_fn(*signs))


# Distances and angles


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
    # Nine rows coincide and one is at distance one: 9 of 45 pairs, each 5 times the
    # mean. For the teacher all distances are equal.
    student = torch.zeros(10, 1)
    student[0] = 1.0
    loss = distance_kd_loss(student, torch.eye(10), reduction='none')
    torch.testing.assert_close(loss[:9], torch.full((9,), 4 - 0.5))
    torch.testing.assert_close(loss[9:], torch.full((36,), 0.5))


def test_distances_equal_those_of_scipy():
    student, teacher = make_rows(num_rows=7)
    s, t = (torch.from_numpy(pdist(x.numpy())) for x in (student, teacher))
    expected = F.smooth_l1_loss(s / s.mean(), t / t.mean(), reduction='none')
    torch.testing.assert_close(distance_kd_loss(student, teacher, 'none'), expected)


def test_two_rows_have_one_distance_that_is_the_mean():
    loss = distance_kd_loss(*make_rows(num_rows=2), reduction='none')
    torch.testing.assert_close(loss, torch.zeros(1, dtype=torch.double))


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


@pytest.mark.parametrize('loss_fn', RELATIVE)
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


@pytest.mark.parametrize('loss_fn', RELATIVE)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_one_side_may_collapse(loss_fn, side):
    # All rows coincide: distances and cosines are zero, and the loss is finite.
    student, teacher = make_rows()
    student = (student * (side == 'teacher')).requires_grad_()
    teacher = (teacher * (side == 'student')).requires_grad_()
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


# Similarities


def test_similarities_hand_computed():
    # Student rows of products (9, 12), (12, 16), both (3/5, 4/5) at unit length; the
    # teacher's are (1, 0) and (0, 1): (4 + 16) / 25 and (9 + 1) / 25, over two.
    student = torch.tensor([[3.0], [4.0]])
    teacher = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    loss = similarity_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss, torch.tensor([0.4, 0.2]))


def test_signs_of_similarities_matter():
    # (1, -1) against (1, 1), over sqrt 2: a squared gap of 2 in one place of two.
    student, teacher = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    torch.testing.assert_close(similarity_kd_loss(student, teacher), torch.tensor(1.0))


def test_similarities_equal_a_naive_loop():
    student, teacher = make_rows()
    expected = torch.zeros(5, dtype=torch.double)
    for i in range(5):
        rows = []
        for x in (student, teacher):
            products = torch.stack([x[i] @ x[j] for j in range(5)])
            rows.append(products / products.norm())
        expected[i] = (rows[0] - rows[1]).square().sum() / 5
    torch.testing.assert_close(similarity_kd_loss(student, teacher, 'none'), expected)


def test_similarities_equal_rows_normalised_by_sklearn():
    student, teacher = make_rows()
    s, t = (torch.from_numpy(normalize((x @ x.T).numpy())) for x in (student, teacher))
    expected = torch.linalg.matrix_norm(s - t) ** 2 / 25
    torch.testing.assert_close(similarity_kd_loss(student, teacher), expected)


def test_the_length_of_one_row_changes_similarities_but_not_cosines():
    student, teacher = make_rows()
    longer = student.clone()
    longer[0] *= 5
    gap = similarity_kd_loss(longer, teacher) - similarity_kd_loss(student, teacher)
    assert gap.abs() > 1e-3
    torch.testing.assert_close(
        topology_kd_loss(longer, teacher), topology_kd_loss(student, teacher)
    )


def test_a_row_of_zeros_is_similar_to_no_other():
    student, teacher = (x.float() for x in make_rows())
    student[2] = 0
    student.requires_grad_()
    loss = similarity_kd_loss(student, teacher, reduction='none')
    loss.sum().backward()
    torch.testing.assert_close(loss[2].detach(), torch.tensor(0.2))  # 1 / N
    assert student.grad.isfinite().all()


def test_similarities_of_zeros_cost_nothing():
    x = torch.zeros(3, 2, requires_grad=True)
    loss = similarity_kd_loss(x, torch.zeros(3, 4))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.0))
    torch.testing.assert_close(x.grad, torch.zeros(3, 2))


# Topology


def test_full_topology_hand_computed():
    # Cosines 0, -1 and 0 of the student against 0, 0 and 3/5 of the teacher.
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 3.0, 4.0]])
    loss = topology_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss, torch.tensor([1.0, 0.36, 1.36]) / 3)


def test_hierarchical_topology_hand_computed():
    # One group of two rows: student's centroid (1, 1) / 2, cosines sqrt(1/2) to it
    # and 0 to one another; all 1 for the teacher.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[2.0], [3.0]])
    loss = hierarchical_topology_kd_loss(student, teacher, torch.tensor([7, 7]))
    torch.testing.assert_close(loss, torch.tensor((1 - 0.5**0.5) ** 2 + 1 / 2))


def test_full_topology_equals_the_cosines_of_sklearn():
    student, teacher = make_rows()
    s, t = (torch.from_numpy(cosine_similarity(x)) for x in (student, teacher))
    torch.testing.assert_close(topology_kd_loss(student, teacher), F.mse_loss(s, t))


def test_hierarchical_topology_equals_a_naive_loop():
    student, teacher = make_rows(6)
    names = sorted(set(GROUP.tolist()))
    expected = torch.zeros(6, dtype=torch.double)
    for i in range(6):
        for g in names:
            gap = 0.0
            for x, sign in ((student, 1), (teacher, -1)):
                rows = [x[j] for j in range(6) if GROUP[j] == g]
                centroid = sum(rows) / len(rows)
                gap += sign * F.cosine_similarity(x[i], centroid, dim=0)
            expected[i] += gap**2 / len(names)
        others = [j for j in range(6) if GROUP[j] == GROUP[i]]
        for j in others:
            gap = F.cosine_similarity(student[i], student[j], dim=0)
            gap = gap - F.cosine_similarity(teacher[i], teacher[j], dim=0)
            expected[i] += gap**2 / len(others)
    torch.testing.assert_close(by_group(student, teacher, 'none'), expected)


def test_a_group_per_row_is_the_full_topology():
    rows = make_rows()
    loss = hierarchical_topology_kd_loss(*rows, torch.arange(5))
    torch.testing.assert_close(loss, topology_kd_loss(*rows))


def test_one_group_is_the_full_topology_and_the_cosines_to_the_mean():
    student, teacher = make_rows()
    to_mean = F.cosine_similarity(student, student.mean(0, keepdim=True))
    to_mean = to_mean - F.cosine_similarity(teacher, teacher.mean(0, keepdim=True))
    torch.testing.assert_close(
        hierarchical_topology_kd_loss(student, teacher, torch.zeros(5).long()),
        topology_kd_loss(student, teacher) + to_mean.square().mean(),
    )


def test_the_ids_of_groups_do_not_matter():
    rows = make_rows(6)
    renamed = torch.tensor([1, 10**12, 1, 0, 10**12, 1])
    torch.testing.assert_close(
        hierarchical_topology_kd_loss(*rows, renamed), by_group(*rows)
    )


@pytest.mark.parametrize('loss_fn', [topology_kd_loss, by_group])
def test_rows_of_zeros_have_cosine_zero_and_a_finite_gradient(loss_fn):
    teacher = make_rows(6)[1].float()
    student = torch.zeros(6, 3, requires_grad=True)
    loss = loss_fn(student, teacher, reduction='none')
    loss.sum().backward()
    cosine = F.normalize(teacher) @ F.normalize(teacher).T
    if loss_fn is topology_kd_loss:
        torch.testing.assert_close(loss.detach(), cosine.square().mean(dim=-1))
    assert (loss > 0).all()
    assert student.grad.isfinite().all()


def test_groups_must_be_int64_of_zero_or_more_one_per_row():
    rows = make_rows(6)
    with pytest.raises(TypeError, match=r"'group' must be int64 \(got torch.int32\)"):
        hierarchical_topology_kd_loss(*rows, GROUP.int())
    for shape in [(5,), (6, 1), ()]:
        group = torch.zeros(shape, dtype=torch.long)
        with pytest.raises(ValueError, match=r"'group' must have shape \[6\]"):
            hierarchical_topology_kd_loss(*rows, group)
    with pytest.raises(ValueError, match=r"'group' must be zero .*\(got -1\)"):
        hierarchical_topology_kd_loss(*rows, GROUP - 1)
