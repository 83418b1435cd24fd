import pytest
import torch
from scipy.stats import wasserstein_distance

from promptmm_pyg.losses import WassersteinKDLoss, wasserstein_kd_loss
from tests.losses.test_listwise import make_lists, make_mask

BOTH = pytest.mark.parametrize('distribution', ['logits', 'probabilities'])


def test_hand_computed():
    student = torch.tensor([[5.0, 1.0, 0.0]])
    teacher = torch.tensor([[0.0, 2.0, 2.0]])
    # Sorted: 0, 1, 5 and 0, 2, 2.
    torch.testing.assert_close(
        wasserstein_kd_loss(student, teacher), torch.tensor(4 / 3)
    )
    # From the teacher's (1/4, 3/8, 3/8) to one half each on the first two items: a
    # quarter moves from the score ln 3 to ln 2.
    student = torch.tensor([[0.0, 0.0, -torch.inf]]).clamp_min(-100)
    teacher = torch.tensor([[2.0, 3.0, 3.0]]).log()
    loss = wasserstein_kd_loss(student, teacher, distribution='probabilities')
    torch.testing.assert_close(loss, 0.25 * torch.tensor(1.5).log())


@BOTH
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('temperature', [0.5, 3.0])
def test_equals_scipy(distribution, masked, temperature):
    student, teacher = make_lists(num_candidates=7)
    mask = make_mask(num_candidates=7) if masked else None
    loss = wasserstein_kd_loss(
        student, teacher, temperature, distribution, mask, reduction='none'
    )
    for row, value in enumerate(loss):
        used = slice(None) if mask is None else mask[row]
        s, t = (x[row, used] / temperature for x in (student, teacher))
        if distribution == 'logits':
            expected = wasserstein_distance(s, t)
        else:
            expected = wasserstein_distance(t, t, s.softmax(-1), t.softmax(-1))
        assert float(value) == pytest.approx(temperature**2 * expected)


@BOTH
def test_the_loss_of_equal_lists_is_zero_without_a_gradient(distribution):
    _, teacher = make_lists()
    student = teacher.clone().requires_grad_()
    loss = WassersteinKDLoss(distribution=distribution)(student, teacher)
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()


def test_logits_are_compared_without_the_order_of_the_items():
    student, teacher = make_lists()
    loss = wasserstein_kd_loss(student, teacher)
    torch.testing.assert_close(wasserstein_kd_loss(student.flip(1), teacher), loss)
    options = {'distribution': 'probabilities'}
    loss = wasserstein_kd_loss(student, teacher, **options)
    assert wasserstein_kd_loss(student.flip(1), teacher, **options) != loss


def test_probabilities_have_no_scale_of_the_student_and_no_order_of_equal_items():
    student, teacher = make_lists()
    options = {'distribution': 'probabilities'}
    loss = wasserstein_kd_loss(student, teacher, **options)
    torch.testing.assert_close(
        wasserstein_kd_loss(student + 7, teacher, **options), loss
    )
    assert wasserstein_kd_loss(student, torch.ones_like(teacher), **options) == 0


def test_the_gradient_does_not_vanish_far_from_the_teacher():
    # Where the divergence of two softmax distributions has none.
    student = torch.tensor([[0.0, 100.0]], requires_grad=True)
    wasserstein_kd_loss(student, torch.tensor([[1.0, 0.0]])).backward()
    torch.testing.assert_close(student.grad, torch.tensor([[0.0, 0.5]]))


@BOTH
def test_a_list_of_one_candidate(distribution):
    student, teacher = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    loss = wasserstein_kd_loss(student, teacher, 2.0, distribution)
    assert loss == (4.0 if distribution == 'logits' else 0.0)
