import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import (
    DecoupledKDLoss,
    ListwiseKDLoss,
    decoupled_kd_terms,
    listwise_kd_loss,
)


def make_lists(num_lists=6, num_candidates=5, num_targets=1, seed=0):
    # Raw scores of both signs: inner products are not probabilities.
    g = torch.Generator().manual_seed(seed)
    size = (num_lists, num_candidates)
    student = 3 * torch.randn(size, generator=g, dtype=torch.double)
    teacher = 3 * torch.randn(size, generator=g, dtype=torch.double)
    target_mask = torch.zeros(size, dtype=torch.bool)
    target_mask[:, :num_targets] = True
    return student, teacher, target_mask


def make_mask():
    # Every list keeps a positive (up to the first two) and one of the rest.
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[1, 4] = mask[2, 2:4] = mask[3, 3] = False
    return mask


@pytest.mark.parametrize('num_targets', [1, 2, 4])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_terms_recompose_to_the_divergence_of_the_lists(num_targets, temperature):
    # KL = target + rest_mass * non_target + positive_mass * KL among the positives.
    student, teacher, target_mask = make_lists(num_targets=num_targets)
    terms = decoupled_kd_terms(student, teacher, target_mask, temperature)

    def kl(s, t):
        log_s, log_t = (F.log_softmax(x / temperature, dim=-1) for x in (s, t))
        return F.kl_div(log_s, log_t, reduction='none', log_target=True).sum(-1)

    mass = (teacher / temperature).softmax(-1)[:, :num_targets].sum(-1)
    among = kl(student[:, :num_targets], teacher[:, :num_targets])
    torch.testing.assert_close(terms.non_target_mass, 1 - mass)
    torch.testing.assert_close(
        terms.target + (1 - mass) * terms.non_target + mass * among,
        kl(student, teacher),
    )


def test_hand_computed():
    # Teacher (1/2, 1/4, 1/4), student uniform, positive first:
    # target: 1/2 ln(3/2) + 1/2 ln(3/4);  non-target: 0.
    teacher = torch.tensor([[0.50, 0.25, 0.25]]).log()
    target_mask = torch.tensor([[True, False, False]])
    terms = decoupled_kd_terms(torch.zeros(1, 3), teacher, target_mask)
    torch.testing.assert_close(terms.target, torch.tensor([0.0588915]))
    torch.testing.assert_close(terms.non_target, torch.tensor([0.0]))
    torch.testing.assert_close(terms.non_target_mass, torch.tensor([0.5]))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('mask', [None, make_mask()])
def test_kl_is_the_plain_divergence_for_one_positive(temperature, mask):
    student, teacher, target_mask = make_lists()
    coupled = DecoupledKDLoss(temperature=temperature, listwise='kl')
    torch.testing.assert_close(
        coupled(student, teacher, target_mask, mask),
        listwise_kd_loss(student, teacher, temperature, mask),
    )


def test_kl_and_plain_have_one_gradient_on_both_sides():
    student, teacher, target_mask = make_lists()
    lists = [student.requires_grad_(), teacher.requires_grad_()]
    coupled = DecoupledKDLoss(listwise='kl')(student, teacher, target_mask)
    plain = ListwiseKDLoss()(student, teacher)
    torch.testing.assert_close(
        torch.autograd.grad(coupled, lists), torch.autograd.grad(plain, lists)
    )


def test_dkd_with_the_teachers_mass_as_weight_is_kl():
    student, teacher, target_mask = (x[:1] for x in make_lists())
    mass = decoupled_kd_terms(student, teacher, target_mask).non_target_mass
    loss = DecoupledKDLoss(alpha=1.0, beta=float(mass))
    torch.testing.assert_close(
        loss(student, teacher, target_mask),
        DecoupledKDLoss(listwise='kl')(student, teacher, target_mask),
    )


def test_weights_and_temperature():
    student, teacher, target_mask = make_lists()
    terms = decoupled_kd_terms(student, teacher, target_mask, 2.0)
    loss = DecoupledKDLoss(alpha=3, beta=5, temperature=2)
    # Times the squared temperature, so gradients keep their scale.
    torch.testing.assert_close(
        loss(student, teacher, target_mask),
        4 * (3 * terms.target + 5 * terms.non_target).mean(),
    )


def test_kl_ignores_the_weights():
    student, teacher, target_mask = make_lists()
    loss = DecoupledKDLoss(alpha=3.0, beta=5.0, listwise='kl')
    torch.testing.assert_close(
        loss(student, teacher, target_mask),
        DecoupledKDLoss(listwise='kl')(student, teacher, target_mask),
    )


def test_a_masked_positive_is_not_a_positive():
    student, teacher, target_mask = make_lists(num_targets=2)
    mask = torch.ones_like(target_mask)
    mask[:, 1] = False
    without = [x[:, [0, 2, 3, 4]] for x in (student, teacher, target_mask)]
    torch.testing.assert_close(
        DecoupledKDLoss()(student, teacher, target_mask, mask),
        DecoupledKDLoss()(*without),
    )


def test_the_position_of_the_positive_does_not_matter():
    student, teacher, target_mask = make_lists()
    lists = student, teacher, target_mask
    torch.testing.assert_close(
        DecoupledKDLoss()(*(x.flip(1) for x in lists)), DecoupledKDLoss()(*lists)
    )


@pytest.mark.parametrize('listwise', ['kl', 'dkd'])
def test_zero_for_equal_lists_up_to_a_shift(listwise):
    _, teacher, target_mask = make_lists()
    loss_fn = DecoupledKDLoss(temperature=2.0, listwise=listwise)
    loss = loss_fn(teacher + 7, teacher, target_mask)
    torch.testing.assert_close(loss, torch.zeros_like(loss))


@pytest.mark.parametrize('value', [False, True])
def test_every_list_must_have_a_positive_and_another(value):
    student, teacher, target_mask = make_lists()
    target_mask[:2] = value
    with pytest.raises(ValueError, match=r'one other candidate \(got 2 rows'):
        DecoupledKDLoss()(student, teacher, target_mask)


def test_a_masked_candidate_does_not_count_as_another():
    student, teacher, target_mask = make_lists()
    mask = target_mask.clone()
    with pytest.raises(ValueError, match=r'one other candidate \(got 6 rows'):
        DecoupledKDLoss()(student, teacher, target_mask, mask)


def test_the_terms_must_have_a_positive_temperature():
    with pytest.raises(ValueError, match=r"'temperature' must .* \(got -1.0\)"):
        decoupled_kd_terms(*make_lists(), temperature=-1.0)


@pytest.mark.parametrize('listwise', ['dkd', 'kl'])
@pytest.mark.parametrize('masked', [False, True])
def test_several_views_equal_the_views_one_by_one(listwise, masked):
    student, first, target_mask = make_lists(num_targets=2)
    second, mask = first.flip(0), make_mask() if masked else None
    loss = DecoupledKDLoss(0.7, 1.3, 2.0, listwise)
    student.requires_grad_()
    together = torch.stack(loss.of_views(student, [first, second], target_mask, mask))
    alone = [loss(student, x, target_mask, mask) for x in (first, second)]
    torch.testing.assert_close(together, torch.stack(alone))
    weights = torch.tensor([1.0, 3.0]).double()  # Views are not confused.
    gradients = [
        torch.autograd.grad((weights * x).sum(), student)[0]
        for x in (together, torch.stack(alone))
    ]
    torch.testing.assert_close(*gradients)
