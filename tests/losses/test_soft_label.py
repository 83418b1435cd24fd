import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import pairwise_kd_loss, soft_label_kd_loss


def make_lists(num_lists=6, num_candidates=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(
        2, num_lists, num_candidates, generator=g, dtype=torch.double
    )
    return logits[0], logits[1]


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


def test_a_shift_matters():
    # Unlike a softmax list, scores are taught as they are.
    _, teacher = make_lists()
    assert (soft_label_kd_loss(teacher + 1, teacher, reduction='none') > 1e-3).all()
