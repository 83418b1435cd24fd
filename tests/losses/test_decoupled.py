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
def test_coupled_is_the_plain_divergence_for_one_positive(temperature, mask):
    student, teacher, target_mask = make_lists()
    coupled = DecoupledKDLoss(temperature=temperature, reweight='coupled')
    torch.testing.assert_close(
        coupled(student, teacher, target_mask, mask),
        listwise_kd_loss(student, teacher, temperature, mask),
    )


def test_coupled_and_plain_have_one_gradient_on_both_sides():
    student, teacher, target_mask = make_lists()
    lists = [student.requires_grad_(), teacher.requires_grad_()]
    coupled = DecoupledKDLoss(reweight='coupled')(student, teacher, target_mask)
    plain = ListwiseKDLoss()(student, teacher)
    torch.testing.assert_close(
        torch.autograd.grad(coupled, lists), torch.autograd.grad(plain, lists)
    )


def test_decoupled_with_the_teachers_mass_as_weight_is_coupled():
    student, teacher, target_mask = (x[:1] for x in make_lists())
    mass = decoupled_kd_terms(student, teacher, target_mask).non_target_mass
    loss = DecoupledKDLoss(alpha=1.0, beta=float(mass))
    torch.testing.assert_close(
        loss(student, teacher, target_mask),
        DecoupledKDLoss(reweight='coupled')(student, teacher, target_mask),
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


def test_coupled_asks_for_no_weights():
    student, teacher, target_mask = make_lists()
    loss = DecoupledKDLoss(alpha=3.0, beta=5.0, reweight='coupled')
    torch.testing.assert_close(
        loss(student, teacher, target_mask),
        DecoupledKDLoss(reweight='coupled')(student, teacher, target_mask),
    )


@pytest.mark.parametrize('num_targets', [1, 2])
def test_a_mask_equals_leaving_candidates_out(num_targets):
    student, teacher, target_mask = make_lists(num_targets=num_targets)
    mask = make_mask()
    loss = DecoupledKDLoss(alpha=3.0, beta=5.0, reduction='none')
    expected = [
        loss(s[m][None], t[m][None], p[m][None])[0]
        for s, t, p, m in zip(student, teacher, target_mask, mask, strict=True)
    ]
    torch.testing.assert_close(
        loss(student, teacher, target_mask, mask), torch.stack(expected)
    )


def test_a_masked_positive_is_no_positive():
    student, teacher, target_mask = make_lists(num_targets=2)
    mask = torch.ones_like(target_mask)
    mask[:, 1] = False
    without = [x[:, [0, 2, 3, 4]] for x in (student, teacher, target_mask)]
    torch.testing.assert_close(
        DecoupledKDLoss()(student, teacher, target_mask, mask),
        DecoupledKDLoss()(*without),
    )


def test_what_is_masked_may_be_anything_and_gets_no_gradient():
    student, teacher, target_mask = make_lists()
    mask = make_mask()
    expected = DecoupledKDLoss()(student, teacher, target_mask, mask)
    student = student.masked_fill(~mask, float('nan')).requires_grad_()
    teacher = teacher.masked_fill(~mask, float('inf')).requires_grad_()
    loss = DecoupledKDLoss()(student, teacher, target_mask, mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for logits in (student, teacher):
        assert logits.grad.isfinite().all()
        assert (logits.grad[~mask] == 0).all()


def test_the_positive_may_stand_anywhere():
    student, teacher, target_mask = make_lists()
    lists = student, teacher, target_mask
    torch.testing.assert_close(
        DecoupledKDLoss()(*(x.flip(1) for x in lists)), DecoupledKDLoss()(*lists)
    )


@pytest.mark.parametrize('reweight', ['coupled', 'decoupled'])
def test_zero_for_equal_lists_up_to_a_shift(reweight):
    _, teacher, target_mask = make_lists()
    loss_fn = DecoupledKDLoss(temperature=2.0, reweight=reweight)
    loss = loss_fn(teacher + 7, teacher, target_mask)
    torch.testing.assert_close(loss, torch.zeros_like(loss))


@pytest.mark.parametrize('reweight', ['coupled', 'decoupled'])
@pytest.mark.parametrize('mask', [None, make_mask()])
def test_gradients_flow_to_both(reweight, mask):
    student, teacher, target_mask = make_lists()
    loss_fn = DecoupledKDLoss(1.5, 0.5, temperature=2.0, reweight=reweight)
    assert torch.autograd.gradcheck(
        lambda s, t: loss_fn(s, t, target_mask, mask),
        (student.requires_grad_(), teacher.requires_grad_()),
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('reweight', ['coupled', 'decoupled'])
def test_finite_for_extreme_logits(dtype, reweight):
    student = torch.tensor([[-6e4, 6e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype, requires_grad=True)
    target_mask = torch.tensor([[True, False, False]])
    loss_fn = DecoupledKDLoss(temperature=0.5, reweight=reweight)
    loss = loss_fn(student, teacher, target_mask)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reduction(reduction):
    lists = make_lists()
    each = torch.stack(
        [
            DecoupledKDLoss()(s[None], t[None], p[None])
            for s, t, p in zip(*lists, strict=True)
        ]
    )
    expected = each if reduction == 'none' else getattr(each, reduction)()
    torch.testing.assert_close(DecoupledKDLoss(reduction=reduction)(*lists), expected)


def test_shapes_need_to_agree():
    student, teacher, target_mask = make_lists()
    loss = DecoupledKDLoss()
    with pytest.raises(ValueError, match=r"'teacher_logits'.*\[6, 4\]"):
        loss(student, teacher[:, :4], target_mask)
    with pytest.raises(ValueError, match=r"'target_mask'.*\[6, 4\]"):
        loss(student, teacher, target_mask[:, :4])
    with pytest.raises(ValueError, match=r"'mask'.*\[6, 4\]"):
        loss(student, teacher, target_mask, make_mask()[:, :4])


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('mask', [None, torch.tensor([[True, False, True]])])
def test_scores_that_take_part_need_to_be_finite(value, mask):
    good, bad = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, value]])
    target_mask = torch.tensor([[True, False, False]])
    with pytest.raises(ValueError, match="'student_logits' must be finite"):
        decoupled_kd_terms(bad, good, target_mask, mask=mask)
    with pytest.raises(ValueError, match="'teacher_logits' must be finite"):
        decoupled_kd_terms(good, bad, target_mask, mask=mask)


def test_masks_need_to_be_boolean():
    student, teacher, target_mask = make_lists()
    with pytest.raises(TypeError, match="'target_mask' must be boolean"):
        decoupled_kd_terms(student, teacher, target_mask.long())
    with pytest.raises(TypeError, match="'mask' must be boolean"):
        decoupled_kd_terms(student, teacher, target_mask, mask=make_mask().long())


@pytest.mark.parametrize('value', [False, True])
def test_every_list_needs_a_positive_and_another(value):
    student, teacher, target_mask = make_lists()
    target_mask[:2] = value
    with pytest.raises(ValueError, match=r'one other candidate \(got 2 rows'):
        DecoupledKDLoss()(student, teacher, target_mask)


def test_a_masked_candidate_does_not_count_as_another():
    student, teacher, target_mask = make_lists()
    mask = target_mask.clone()
    with pytest.raises(ValueError, match=r'one other candidate \(got 6 rows'):
        DecoupledKDLoss()(student, teacher, target_mask, mask)


@pytest.mark.parametrize(
    ('kwargs', 'match'),
    [
        ({'alpha': -1.0}, r"'alpha' must be zero or more \(got -1.0\)"),
        ({'beta': -1.0}, r"'beta' must be zero or more \(got -1.0\)"),
        ({'temperature': 0.0}, r"'temperature' must be positive \(got 0.0\)"),
        ({'reweight': 'free'}, r"'reweight' must be one of .* \(got 'free'\)"),
        ({'reduction': 'all'}, r"'reduction' must be one of .* \(got 'all'\)"),
    ],
)
def test_options_need_to_be_in_range(kwargs, match):
    with pytest.raises(ValueError, match=match):
        DecoupledKDLoss(**kwargs)


def test_the_terms_need_a_positive_temperature():
    with pytest.raises(ValueError, match=r"'temperature' must .* \(got -1.0\)"):
        decoupled_kd_terms(*make_lists(), temperature=-1.0)


def test_repr_shows_the_weights_that_count():
    assert str(DecoupledKDLoss(beta=8.0)) == (
        "DecoupledKDLoss(alpha=1.0, beta=8.0, temperature=1.0, reweight='decoupled', "
        "reduction='mean')"
    )
    assert str(DecoupledKDLoss(reweight='coupled')) == (
        "DecoupledKDLoss(temperature=1.0, reweight='coupled', reduction='mean')"
    )
