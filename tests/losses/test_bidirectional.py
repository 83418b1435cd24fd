import math

import pytest
import torch

from promptmm_pyg.losses import (
    BidirectionalKDLoss,
    bidirectional_kd_terms,
    rank_discrepancy_weights,
    soft_label_kd_loss,
)


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


def make_weights(num_lists=6, num_candidates=5, seed=2):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, num_lists, num_candidates, generator=g, dtype=torch.double)
    weights[0, 3] = 0  # Nothing to learn there.
    return weights[0], weights[1]


def make_ranks(seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(1, 40, (2, 6, 5), generator=g)


def bernoulli_kl(p, q):
    p, q = (torch.distributions.Bernoulli(logits=x) for x in (p, q))
    return torch.distributions.kl_divergence(p, q)


def test_terms_hand_computed():
    # Beliefs 1/2 and 3/4.
    terms = bidirectional_kd_terms(torch.zeros(1, 1), torch.tensor([[math.log(3.0)]]))
    student = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    teacher = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    torch.testing.assert_close(terms.student, torch.tensor([student]))
    torch.testing.assert_close(terms.teacher, torch.tensor([teacher]))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_terms_equal_the_divergence_of_bernoullis(temperature):
    student, teacher = make_lists()
    weights = make_weights()
    terms = bidirectional_kd_terms(student, teacher, temperature, *weights)
    s, t = student / temperature, teacher / temperature
    torch.testing.assert_close(terms.student, (weights[0] * bernoulli_kl(t, s)).sum(-1))
    torch.testing.assert_close(terms.teacher, (weights[1] * bernoulli_kl(s, t)).sum(-1))


def test_without_weights_each_term_is_the_soft_label_loss():
    student, teacher = make_lists()
    mask = make_mask()
    loss = BidirectionalKDLoss(alpha=1.0, beta=0.0, temperature=2.0, reduction='none')
    torch.testing.assert_close(
        loss(student, teacher, mask=mask),
        soft_label_kd_loss(student, teacher, 2.0, mask, 'none'),
    )
    loss = BidirectionalKDLoss(alpha=0.0, beta=1.0, temperature=2.0, reduction='none')
    torch.testing.assert_close(
        loss(student, teacher, mask=mask),
        soft_label_kd_loss(teacher, student, 2.0, mask, 'none'),
    )


def test_each_term_has_a_gradient_to_its_own_side_only():
    lists = [x.requires_grad_() for x in make_lists()]
    terms = bidirectional_kd_terms(*lists)
    of_student = torch.autograd.grad(terms.student.sum(), lists, allow_unused=True)
    of_teacher = torch.autograd.grad(terms.teacher.sum(), lists, allow_unused=True)
    gap = (lists[0].sigmoid() - lists[1].sigmoid()).detach() / 5
    assert of_student[1] is None
    assert of_teacher[0] is None
    torch.testing.assert_close(of_student[0], gap)
    torch.testing.assert_close(of_teacher[1], -gap)


@pytest.mark.parametrize('mask', [None, make_mask()])
def test_gradients(mask):
    student, teacher = make_lists()
    weights = make_weights()

    def term(side, s, t):
        return bidirectional_kd_terms(s, t, 2.0, *weights, mask)[side]

    assert torch.autograd.gradcheck(
        lambda s: term(0, s, teacher), student.clone().requires_grad_()
    )
    assert torch.autograd.gradcheck(
        lambda t: term(1, student, t), teacher.clone().requires_grad_()
    )


def test_zero_loss_and_zero_gradient_where_both_agree():
    _, teacher = make_lists()
    lists = [teacher.clone().requires_grad_(), teacher.clone().requires_grad_()]
    loss = BidirectionalKDLoss()(*lists)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    for logits in lists:
        torch.testing.assert_close(logits.grad, torch.zeros_like(teacher))


def test_the_loss_of_a_row_of_zero_weights_is_zero():
    weights = make_weights()
    terms = bidirectional_kd_terms(*make_lists(), 1.0, *weights)
    assert terms.student[3] == 0
    assert (terms.student[:3] > 0).all()
    assert (terms.teacher > 0).all()


def test_the_module_weights_the_terms():
    lists, weights = make_lists(), make_weights()
    terms = bidirectional_kd_terms(*lists, 2.0, *weights)
    # Times the squared temperature, so gradients keep their scale.
    torch.testing.assert_close(
        BidirectionalKDLoss(3.0, 0.5, temperature=2.0)(*lists, *weights),
        4 * (3 * terms.student + 0.5 * terms.teacher).mean(),
    )


@pytest.mark.parametrize('mask', [None, make_mask()])
def test_rank_weights_equal_a_loop(mask):
    own, other = make_ranks()
    expected = torch.zeros(6, 5)
    for b in range(6):
        for k in range(5):
            if mask is None or mask[b, k]:
                gap = float(own[b, k] - other[b, k])
                expected[b, k] = math.tanh(max(0.2 * gap, 0.0))
        expected[b] /= expected[b].sum() or 1.0
    weights = rank_discrepancy_weights(own, other, 0.2, mask)
    torch.testing.assert_close(weights, expected)


def test_rank_weights_sum_to_one_or_nothing():
    own, other = make_ranks()
    own[2] = 1  # Best everywhere: the other side ranks nothing higher.
    total = rank_discrepancy_weights(own, other).sum(dim=-1)
    torch.testing.assert_close(total, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]))


def test_rank_weights_are_above_zero_for_one_side_only():
    weights = [rank_discrepancy_weights(*make_ranks().flip(d)) for d in ((), (0,))]
    assert (weights[0] * weights[1] == 0).all()
    assert (weights[0] + weights[1] > 0).any(dim=-1).all()


@pytest.mark.parametrize('dtype', [torch.int64, torch.float16, torch.float64])
def test_rank_weights_have_no_gradient_in_any_dtype(dtype):
    own, other = (x.to(dtype) for x in make_ranks())
    if dtype.is_floating_point:
        own.requires_grad_()
    weights = rank_discrepancy_weights(own, other)
    expected = rank_discrepancy_weights(*make_ranks()).to(weights.dtype)
    torch.testing.assert_close(weights, expected)
    assert not weights.requires_grad
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_masked_rank_may_be_anything():
    own, other = make_ranks().double()
    mask = make_mask()
    expected = rank_discrepancy_weights(own, other, mask=mask)
    own = own.masked_fill(~mask, float('nan'))
    other = other.masked_fill(~mask, float('inf'))
    torch.testing.assert_close(
        rank_discrepancy_weights(own, other, mask=mask), expected
    )


def test_rank_weight_errors():
    own, other = make_ranks()
    with pytest.raises(ValueError, match=r"'own_rank' and 'other_rank'.*\[6, 4\]"):
        rank_discrepancy_weights(own, other[:, :4])
    with pytest.raises(ValueError, match=r"'own_rank' must be lists .*\[6\]"):
        rank_discrepancy_weights(own[:, 0], other[:, 0])
    with pytest.raises(ValueError, match=r"'sharpness' must be positive \(got 0"):
        rank_discrepancy_weights(own, other, 0.0)
    with pytest.raises(ValueError, match="'mask' must have at least one"):
        rank_discrepancy_weights(own, other, mask=torch.zeros(6, 5, dtype=torch.bool))
    bad = own.float()
    bad[0, 0] = float('inf')
    with pytest.raises(ValueError, match="'own_rank' must be finite"):
        rank_discrepancy_weights(bad, other)
    with pytest.raises(ValueError, match="'other_rank' must be finite"):
        rank_discrepancy_weights(own, bad)


@pytest.mark.parametrize('name', ['student_weights', 'teacher_weights'])
def test_weights_must_be_finite_and_not_negative(name):
    weights = make_weights()[1].clone()
    weights[0, 0] = -1.0
    match = rf"'{name}' must be zero or more \(got 1 negative weights\)"
    with pytest.raises(ValueError, match=match):
        bidirectional_kd_terms(*make_lists(), **{name: weights})
    weights[0, 0] = float('nan')
    with pytest.raises(ValueError, match=f"'{name}' must be finite"):
        bidirectional_kd_terms(*make_lists(), **{name: weights})


def test_the_terms_must_have_a_positive_temperature():
    with pytest.raises(ValueError, match=r"'temperature' must .* \(got -1.0\)"):
        bidirectional_kd_terms(*make_lists(), temperature=-1.0)
