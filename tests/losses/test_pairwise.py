import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import pairwise_kd_loss


def make_margins(num_pairs=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    margins = 3 * torch.randn(2, num_pairs, generator=g, dtype=torch.double)
    return margins[0], margins[1]


def test_hand_computed():
    # Teacher believes 3/4, student 1/2: 3/4 ln(3/2) + 1/4 ln(1/2).
    loss = pairwise_kd_loss(torch.tensor([0.0]), torch.tensor([math.log(3.0)]))
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_equals_the_divergence_of_two_bernoullis(temperature):
    student, teacher = make_margins()
    s, t = (
        torch.distributions.Bernoulli(logits=x / temperature)
        for x in (student, teacher)
    )
    torch.testing.assert_close(
        pairwise_kd_loss(student, teacher, temperature, reduction='none'),
        temperature**2 * torch.distributions.kl_divergence(t, s),
    )


def test_equals_the_divergence_of_softmax_over_both_scores():
    student, teacher = make_margins()
    lists = [torch.stack([x, torch.zeros_like(x)], dim=-1) for x in (student, teacher)]
    expected = F.kl_div(
        lists[0].log_softmax(-1), lists[1].softmax(-1), reduction='batchmean'
    )
    torch.testing.assert_close(pairwise_kd_loss(student, teacher), expected)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_gradient_is_the_difference_of_beliefs(temperature):
    student, teacher = make_margins()
    student.requires_grad_()
    pairwise_kd_loss(student, teacher, temperature, reduction='sum').backward()
    expected = (student / temperature).sigmoid() - (teacher / temperature).sigmoid()
    torch.testing.assert_close(student.grad, temperature * expected.detach())


def test_zero_loss_and_zero_gradient_where_both_agree():
    _, teacher = make_margins()
    student = teacher.clone().requires_grad_()
    loss = pairwise_kd_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher))


def test_positive_where_they_differ():
    student, teacher = make_margins()
    assert (pairwise_kd_loss(student, teacher, reduction='none') > 0).all()


@pytest.mark.parametrize('start', [-4.0, 5.0])
def test_descent_leads_to_the_teacher_from_both_sides(start):
    teacher = torch.tensor([1.5], dtype=torch.double)
    student = torch.tensor([start], dtype=torch.double, requires_grad=True)
    for _ in range(500):
        (grad,) = torch.autograd.grad(pairwise_kd_loss(student, teacher), student)
        student = (student - grad).detach().requires_grad_()
    torch.testing.assert_close(student.detach(), teacher)
