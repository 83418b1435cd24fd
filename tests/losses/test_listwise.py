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


def test_the_loss_of_one_candidate_is_zero():
    student, teacher = (x[:, :1].requires_grad_() for x in make_lists())
    loss = listwise_kd_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_zero_for_equal_lists_up_to_a_shift():
    _, teacher = make_lists()
    loss = ListwiseKDLoss(temperature=2.0)(teacher + 7, teacher)
    torch.testing.assert_close(loss, torch.zeros_like(loss))


def test_the_divergence_is_that_of_the_teacher():
    # KL of the teacher from the student is not KL of the student from the teacher.
    student, teacher = make_lists()
    loss = listwise_kd_loss(student, teacher)
    assert (loss - listwise_kd_loss(teacher, student)).abs() > 0.1


def test_the_order_of_candidates_does_not_matter():
    student, teacher = make_lists()
    mask = make_mask()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        listwise_kd_loss(student[:, order], teacher[:, order], mask=mask[:, order]),
        listwise_kd_loss(student, teacher, mask=mask),
    )
