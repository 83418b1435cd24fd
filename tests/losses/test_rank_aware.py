import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import listwise_kd_loss, rank_aware_kd_loss


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


def test_without_a_top_of_the_student_it_is_the_list_of_the_teacher():
    lists = make_lists()
    teacher_top = top(lists[1], 3)
    nothing = torch.zeros_like(teacher_top)
    torch.testing.assert_close(
        rank_aware_kd_loss(*lists, teacher_top, nothing),
        listwise_kd_loss(*lists, mask=teacher_top),
    )


def test_items_the_student_overrates_get_a_lower_score():
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


def test_the_order_of_candidates_does_not_matter():
    inputs = (*make_lists(), *make_tops())
    torch.testing.assert_close(
        rank_aware_kd_loss(*(x.flip(1) for x in inputs)), rank_aware_kd_loss(*inputs)
    )


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_candidates_without_a_mark_are_not_used(value):
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


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('place', [0, 2])
def test_scores_of_both_tops_must_be_finite(value, place):
    good, bad = torch.zeros(1, 3), torch.zeros(1, 3)
    bad[0, place] = value
    tops = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        rank_aware_kd_loss(bad, good, *tops)
    with pytest.raises(ValueError, match="'teacher_logits' must be finite"):
        rank_aware_kd_loss(good, bad, *tops)
