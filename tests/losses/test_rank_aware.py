import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import listwise_kd_loss
from promptmm_pyg.losses.rank_aware import RankAwareKDLoss, rank_aware_kd_loss


def make_lists(num_lists=6, num_candidates=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(
        2, num_lists, num_candidates, generator=g, dtype=torch.double
    )
    return logits[0], logits[1]


def top(logits, k):
    return torch.zeros_like(logits, dtype=torch.bool).scatter(
        1, logits.topk(k).indices, True
    )


def make_tops(k=3):
    # Rows 0 and 1: the same tops and tops apart.
    student, teacher = make_lists()
    student_top, teacher_top = top(student, k), top(teacher, k)
    student_top[0] = teacher_top[0]
    student_top[1] = ~teacher_top[1]
    shared = (student_top & teacher_top).sum(dim=-1)
    assert shared.min() == 0
    assert shared.max() == k
    assert len(set(shared.tolist())) > 2
    return teacher_top, student_top


def naive(student, teacher, teacher_top, student_top, temperature=1.0):
    def divergence(b, items):
        s, t = (x[b, items] / temperature for x in (student, teacher))
        return F.kl_div(s.log_softmax(0), t.softmax(0), reduction='sum')

    losses = []
    for b in range(len(student)):
        ours = set(student_top[b].nonzero().flatten().tolist())
        theirs = set(teacher_top[b].nonzero().flatten().tolist())
        share = len(ours & theirs) / len(theirs)
        loss = torch.zeros((), dtype=torch.double)
        if ours & theirs:
            loss = loss + share * divergence(b, sorted(ours & theirs))
        if theirs - ours:
            loss = loss + (1 - share) * divergence(b, sorted((theirs - ours) | ours))
        losses.append(temperature**2 * loss)
    return torch.stack(losses)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('k', [3, 5])
def test_equals_a_loop_over_sets(temperature, k):
    inputs = (*make_lists(), *make_tops(k))
    torch.testing.assert_close(
        rank_aware_kd_loss(*inputs, temperature, 'none'), naive(*inputs, temperature)
    )


def test_hand_computed():
    # Tops {0, 1} and {1, 2}: one of two is shared, and alone it teaches nothing.
    # The union is all three; teacher (1/2, 1/4, 1/4), student uniform.
    teacher = torch.tensor([[0.50, 0.25, 0.25]]).log()
    teacher_top = torch.tensor([[True, True, False]])
    loss = rank_aware_kd_loss(
        torch.zeros(1, 3), teacher, teacher_top, teacher_top.flip(1)
    )
    expected = (math.log(3) - 1.5 * math.log(2)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_one_top_makes_it_the_list_of_the_top():
    lists = make_lists()
    teacher_top = top(lists[1], 3)
    torch.testing.assert_close(
        rank_aware_kd_loss(*lists, teacher_top, teacher_top, 2.0),
        listwise_kd_loss(*lists, 2.0, teacher_top),
    )


def test_tops_apart_make_it_the_list_of_both():
    lists = make_lists()
    teacher_top = top(lists[1], 3)
    student_top = top(lists[0].masked_fill(teacher_top, -torch.inf), 3)
    torch.testing.assert_close(
        rank_aware_kd_loss(*lists, teacher_top, student_top),
        listwise_kd_loss(*lists, mask=teacher_top | student_top),
    )


def test_without_a_top_of_the_student_it_is_the_list_of_the_teachers():
    lists = make_lists()
    teacher_top = top(lists[1], 3)
    nothing = torch.zeros_like(teacher_top)
    torch.testing.assert_close(
        rank_aware_kd_loss(*lists, teacher_top, nothing),
        listwise_kd_loss(*lists, mask=teacher_top),
    )


def test_what_the_student_overrates_is_pushed_down():
    # The closure: without the student's own top in the list nothing would.
    student = torch.tensor([[0.0, 0.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, -2.0]])
    teacher_top = torch.tensor([[True, True, False]])
    loss = rank_aware_kd_loss(student, teacher, teacher_top, ~teacher_top)
    loss.backward()
    assert student.grad[0, 2] > 0
    assert (student.grad[0, :2] < 0).all()


def test_zero_for_equal_lists_up_to_a_shift():
    _, teacher = make_lists()
    loss = rank_aware_kd_loss(teacher + 7, teacher, *make_tops(), 2.0, 'none')
    torch.testing.assert_close(loss, torch.zeros_like(loss))


def test_positive_where_they_differ():
    assert (rank_aware_kd_loss(*make_lists(), *make_tops(), 1.0, 'none') > 0).all()


def test_candidates_have_no_order():
    inputs = (*make_lists(), *make_tops())
    torch.testing.assert_close(
        rank_aware_kd_loss(*(x.flip(1) for x in inputs)), rank_aware_kd_loss(*inputs)
    )


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_neither_marks_may_be_anything_and_gets_no_gradient(value):
    student, teacher = make_lists()
    tops = make_tops()
    outside = ~(tops[0] | tops[1])
    expected = rank_aware_kd_loss(student, teacher, *tops)
    student = student.masked_fill(outside, value).requires_grad_()
    teacher = teacher.masked_fill(outside, -value).requires_grad_()
    loss = rank_aware_kd_loss(student, teacher, *tops)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for logits in (student, teacher):
        assert logits.grad.isfinite().all()
        assert (logits.grad[outside] == 0).all()


def test_gradients_flow_to_both():
    lists = [x.requires_grad_() for x in make_lists()]
    tops = make_tops()
    loss_fn = RankAwareKDLoss(temperature=2.0)
    assert torch.autograd.gradcheck(lambda s, t: loss_fn(s, t, *tops), lists)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('shared', [0, 1, 2])
def test_finite_for_extreme_logits(dtype, shared):
    values = torch.tensor([[1e4, -1e4, 0.0, 1e4]], dtype=dtype)
    lists = [values.clone().requires_grad_(), values.roll(1).requires_grad_()]
    teacher_top = torch.tensor([[True, True, False, False]])
    student_top = teacher_top.roll(2 - shared, dims=1)
    loss = rank_aware_kd_loss(*lists, teacher_top, student_top, temperature=0.05)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in lists)


def test_half_precision_is_computed_in_single():
    lists = [x.half() for x in make_lists()]
    torch.testing.assert_close(
        rank_aware_kd_loss(*lists, *make_tops()),
        rank_aware_kd_loss(*(x.float() for x in lists), *make_tops()),
    )


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    inputs = (*make_lists(), *make_tops())
    each = naive(*inputs)
    expected = each if reduction == 'none' else getattr(each, reduction)()
    loss = RankAwareKDLoss(reduction=reduction)(*inputs)
    torch.testing.assert_close(loss, expected)


def test_shapes_need_to_agree():
    (student, teacher), (teacher_top, student_top) = make_lists(), make_tops()
    with pytest.raises(ValueError, match=r"'teacher_logits'.*\[6, 8\] and \[6, 1\]"):
        rank_aware_kd_loss(student, teacher[:, :1], teacher_top, student_top)
    with pytest.raises(ValueError, match=r"'teacher_top'.*\[6, 8\] and \[6, 1\]"):
        rank_aware_kd_loss(student, teacher, teacher_top[:, :1], student_top)
    with pytest.raises(ValueError, match=r"'student_top'.*\[6, 8\] and \[6, 1\]"):
        rank_aware_kd_loss(student, teacher, teacher_top, student_top[:, :1])
    with pytest.raises(ValueError, match=r"'student_logits' must be lists .*\[6\]"):
        rank_aware_kd_loss(*(x[:, 0] for x in (student, teacher, *make_tops())))


def test_marks_need_to_be_boolean():
    teacher_top, student_top = make_tops()
    with pytest.raises(TypeError, match="'teacher_top' must be boolean"):
        rank_aware_kd_loss(*make_lists(), teacher_top.long(), student_top)
    with pytest.raises(TypeError, match="'student_top' must be boolean"):
        rank_aware_kd_loss(*make_lists(), teacher_top, student_top.long())


def test_every_list_needs_a_top_of_the_teacher():
    teacher_top, student_top = make_tops()
    teacher_top[2:4] = False
    match = r"'teacher_top' requires at least one candidate \(got 2 rows without\)"
    with pytest.raises(ValueError, match=match):
        rank_aware_kd_loss(*make_lists(), teacher_top, student_top)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('place', [0, 2])
def test_scores_of_both_tops_need_to_be_finite(value, place):
    good, bad = torch.zeros(1, 3), torch.zeros(1, 3)
    bad[0, place] = value
    tops = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        rank_aware_kd_loss(bad, good, *tops)
    with pytest.raises(ValueError, match="'teacher_logits' must be finite"):
        rank_aware_kd_loss(good, bad, *tops)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_the_temperature_needs_to_be_positive(temperature):
    match = rf"'temperature' must be positive \(got {temperature}\)"
    with pytest.raises(ValueError, match=match):
        RankAwareKDLoss(temperature)
    with pytest.raises(ValueError, match=match):
        rank_aware_kd_loss(*make_lists(), *make_tops(), temperature)


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        RankAwareKDLoss(reduction='batchmean')


def test_repr():
    assert str(RankAwareKDLoss(2.0)) == (
        "RankAwareKDLoss(temperature=2.0, reduction='mean')"
    )
