import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import cosine_similarity

from promptmm_pyg.losses.topology import (
    HierarchicalTopologyKDLoss,
    TopologyKDLoss,
    hierarchical_topology_kd_loss,
    topology_kd_loss,
)

GROUP = torch.tensor([4, 0, 4, 9, 0, 4])


def make_rows(num_rows=6, student_channels=3, teacher_channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(num_rows, student_channels, generator=g, dtype=torch.double)
    teacher = torch.randn(num_rows, teacher_channels, generator=g, dtype=torch.double)
    return student, 3 * teacher


def full(student_x, teacher_x, reduction='mean'):
    return topology_kd_loss(student_x, teacher_x, reduction)


def by_group(student_x, teacher_x, reduction='mean'):
    group = GROUP[: len(student_x)]
    return hierarchical_topology_kd_loss(student_x, teacher_x, group, reduction)


LOSSES = [full, by_group]


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
    group = torch.tensor([7, 7])
    loss = hierarchical_topology_kd_loss(student, teacher, group)
    expected = (1 - 0.5**0.5) ** 2 + 1 / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_full_topology_equals_the_cosines_of_sklearn():
    student, teacher = make_rows()
    s, t = (torch.from_numpy(cosine_similarity(x)) for x in (student, teacher))
    torch.testing.assert_close(topology_kd_loss(student, teacher), F.mse_loss(s, t))


def test_hierarchical_topology_equals_a_naive_loop():
    student, teacher = make_rows()
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


def test_a_group_for_each_row_is_the_full_topology():
    rows = make_rows()
    loss = hierarchical_topology_kd_loss(*rows, torch.arange(6))
    torch.testing.assert_close(loss, topology_kd_loss(*rows))


def test_one_group_is_the_full_topology_and_the_cosines_to_the_mean():
    student, teacher = make_rows()
    to_mean = F.cosine_similarity(student, student.mean(0, keepdim=True))
    to_mean = to_mean - F.cosine_similarity(teacher, teacher.mean(0, keepdim=True))
    torch.testing.assert_close(
        hierarchical_topology_kd_loss(student, teacher, torch.zeros(6).long()),
        topology_kd_loss(student, teacher) + to_mean.square().mean(),
    )


def test_the_names_of_groups_do_not_count():
    rows = make_rows()
    renamed = torch.tensor([1, 10**12, 1, 0, 10**12, 1])
    torch.testing.assert_close(
        hierarchical_topology_kd_loss(*rows, renamed), by_group(*rows)
    )


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_scale_rotation_and_width_do_not_count(loss_fn):
    student, teacher = make_rows(student_channels=4)
    g = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.double))
    moved = 7 * F.pad(student, (0, 2)) @ rotation
    torch.testing.assert_close(loss_fn(moved, teacher), loss_fn(student, teacher))


def test_the_length_of_one_row_does_not_count_in_the_full_topology():
    student, teacher = make_rows()
    longer = student.clone()
    longer[0] *= 5
    torch.testing.assert_close(full(longer, teacher), full(student, teacher))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_zero_with_zero_gradient_where_both_agree(loss_fn):
    _, teacher = make_rows()
    student = (2 * teacher).requires_grad_()
    loss = loss_fn(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_one_row_teaches_nothing(loss_fn):
    loss = loss_fn(*make_rows(num_rows=1))
    torch.testing.assert_close(loss, torch.zeros_like(loss))


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_rows_of_zeros_have_cosine_zero_and_a_finite_gradient(loss_fn):
    _, teacher = (x.float() for x in make_rows())
    student = torch.zeros(6, 3, requires_grad=True)
    loss = loss_fn(student, teacher, reduction='none')
    loss.sum().backward()
    cosine = F.normalize(teacher) @ F.normalize(teacher).T
    if loss_fn is full:
        torch.testing.assert_close(loss.detach(), cosine.square().mean(dim=-1))
    assert (loss > 0).all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    'loss_fn',
    [TopologyKDLoss(), lambda s, t: HierarchicalTopologyKDLoss()(s, t, GROUP)],
)
def test_gradients_flow_to_both(loss_fn):
    rows = [x.requires_grad_() for x in make_rows()]
    assert torch.autograd.gradcheck(loss_fn, rows)


@pytest.mark.parametrize('loss_fn', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_large_values(loss_fn, dtype):
    g = torch.Generator().manual_seed(0)
    signs = torch.randn(2, 6, 3, generator=g).sign()
    student, teacher = (1e4 * signs).to(dtype)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = loss_fn(student, teacher)
    loss.backward()
    # Signs are exact in a half: the cosines are those of the signs.
    torch.testing.assert_close(loss.detach(), loss_fn(*signs))
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('loss_fn', LOSSES)
def test_reduction(loss_fn, reduction):
    rows = make_rows()
    each = loss_fn(*rows, reduction='none')
    assert each.size() == (6,)
    torch.testing.assert_close(
        loss_fn(*rows, reduction=reduction), getattr(each, reduction)()
    )


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_modules_equal_functions(reduction):
    rows = make_rows()
    torch.testing.assert_close(
        TopologyKDLoss(reduction)(*rows), topology_kd_loss(*rows, reduction)
    )
    torch.testing.assert_close(
        HierarchicalTopologyKDLoss(reduction)(*rows, GROUP),
        hierarchical_topology_kd_loss(*rows, GROUP, reduction),
    )


@pytest.mark.parametrize('loss_fn', LOSSES)
def test_rows_need_to_be_finite_and_as_many(loss_fn):
    student, teacher = make_rows()
    with pytest.raises(ValueError, match=r'same number of rows \(got 6 and 5\)'):
        loss_fn(student, teacher[:5])
    with pytest.raises(ValueError, match=r"'student_x'.*finite"):
        loss_fn(student * float('nan'), teacher)
    with pytest.raises(ValueError, match='at least 1 rows'):
        loss_fn(student[:0], teacher[:0])


def test_groups_need_to_be_int64():
    match = r"'group' must be int64 \(got torch.int32\)"
    with pytest.raises(TypeError, match=match):
        hierarchical_topology_kd_loss(*make_rows(), GROUP.int())


@pytest.mark.parametrize('shape', [(5,), (6, 1), ()])
def test_every_row_needs_a_group(shape):
    group = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match=r"'group' must have shape \[6\]"):
        hierarchical_topology_kd_loss(*make_rows(), group)


def test_groups_need_to_be_zero_or_more():
    with pytest.raises(ValueError, match=r"'group' must be zero .*\(got -1\)"):
        hierarchical_topology_kd_loss(*make_rows(), GROUP - 1)


@pytest.mark.parametrize('loss_class', [TopologyKDLoss, HierarchicalTopologyKDLoss])
def test_the_reduction_needs_to_be_known(loss_class):
    with pytest.raises(ValueError, match="'reduction' must"):
        loss_class(reduction='batchmean')


def test_repr():
    assert str(TopologyKDLoss()) == "TopologyKDLoss(reduction='mean')"
    assert str(HierarchicalTopologyKDLoss('sum')) == (
        "HierarchicalTopologyKDLoss(reduction='sum')"
    )
