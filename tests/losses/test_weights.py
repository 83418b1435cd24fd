import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import (
    FixedViewWeights,
    LearnedViewWeights,
    agreement_weights,
    weighted_sum,
)

# Weighted sums


def test_weighted_sum_hand_computed():
    losses = {'bpr': torch.tensor(2.0), 'l2': torch.tensor(-3.0)}
    total = weighted_sum(losses, {'l2': 0.5, 'bpr': 4.0})
    torch.testing.assert_close(total, torch.tensor(6.5))


def test_a_weight_scales_the_gradient_of_its_loss():
    a, b = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    weighted_sum({'a': a, 'b': b}, {'a': 0.25, 'b': 3.0}).backward()
    torch.testing.assert_close(a.grad, torch.tensor(0.25))
    torch.testing.assert_close(b.grad, torch.tensor(3.0))


def test_a_zero_weight_leaves_its_loss_out_of_the_graph():
    a, b = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    weighted_sum({'a': a, 'b': b}, {'a': 1.0, 'b': 0.0}).backward()
    assert b.grad is None


def test_a_loss_of_weight_zero_may_be_nan():
    losses = {'a': torch.tensor(1.0), 'b': torch.tensor(float('nan'))}
    torch.testing.assert_close(
        weighted_sum(losses, {'a': 1.0, 'b': 0}), torch.tensor(1.0)
    )


def test_losses_are_not_changed():
    losses = {'a': torch.tensor(1.0), 'b': torch.tensor(2.0)}
    weighted_sum(losses, {'a': 1.0, 'b': 1.0})
    assert losses == {'a': torch.tensor(1.0), 'b': torch.tensor(2.0)}


@pytest.mark.parametrize('weights', [{'a': 1.0}, {'a': 1.0, 'b': 1.0, 'c': 1.0}])
def test_names_must_agree(weights):
    losses = {'b': torch.tensor(1.0), 'a': torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"'loss_weights' .*same names \(got \['a', "):
        weighted_sum(losses, weights)


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf')])
def test_weights_must_be_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=rf"zero or more \(got {weight} for 'a'\)"):
        weighted_sum({'a': torch.tensor(1.0)}, {'a': weight})


def test_one_weight_must_be_above_zero():
    with pytest.raises(ValueError, match=r"'loss_weights' must have .* above zero"):
        weighted_sum({'a': torch.tensor(1.0)}, {'a': 0.0})


def test_an_empty_sum_raises():
    with pytest.raises(ValueError, match=r'weight above zero \(got \{\}\)'):
        weighted_sum({}, {})


def test_summed_losses_must_be_scalars():
    # A forgotten reduction would otherwise broadcast over the other losses.
    with pytest.raises(ValueError, match=r"scalars \(got shape \[3\] for 'a'\)"):
        weighted_sum({'a': torch.ones(3)}, {'a': 1.0})


LOSSES = {'image': 0.25, 'text': 1.5, 'sound': 0.75}


def make_lists(num_views=3, num_lists=6, num_candidates=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (num_views + 1, num_lists, num_candidates)
    logits = 2 * torch.randn(shape, generator=g, dtype=torch.double)
    return logits[1:], logits[0]


def make_mask(num_lists=6, num_candidates=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_lists, num_candidates, generator=g) < 0.6
    mask[:, 0] = True
    return mask


def make_losses(requires_grad=False):
    return {
        name: torch.tensor(value, dtype=torch.double, requires_grad=requires_grad)
        for name, value in LOSSES.items()
    }


def make_modules():
    return [
        FixedViewWeights(dict.fromkeys(LOSSES, 1.0)),
        LearnedViewWeights(LOSSES, entropy_weight=0.5),
    ]


def test_agreement_hand_computed():
    # Fused (1/2, 1/2), views (1/2, 1/2) and (1/4, 3/4): divergences 0 and
    # ln(2 / sqrt 3), so weights in the ratio 1 to sqrt(3) / 2.
    view = torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).log()
    weights = agreement_weights(view, torch.tensor([[4.0, 4.0]]))
    expected = torch.tensor([[1.0], [math.sqrt(3) / 2]])
    torch.testing.assert_close(weights, expected / expected.sum())


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_agreement_equals_the_kl_div_of_torch(temperature):
    views, fused = make_lists()
    each = torch.stack(
        [
            F.kl_div(
                (view / temperature).log_softmax(-1),
                (fused / temperature).softmax(-1),
                reduction='none',
            ).sum(-1)
            for view in views
        ]
    )
    torch.testing.assert_close(
        agreement_weights(views, fused, temperature), F.softmin(each, dim=0)
    )


def test_agreement_under_a_mask_equals_leaving_candidates_out():
    views, fused = make_lists()
    mask = make_mask()
    expected = [
        agreement_weights(views[:, b : b + 1, m], fused[b : b + 1, m])
        for b, m in enumerate(mask)
    ]
    torch.testing.assert_close(
        agreement_weights(views, fused, mask=mask), torch.cat(expected, dim=1)
    )


def test_agreement_ignores_masked_values():
    views, fused = make_lists()
    mask = make_mask()
    expected = agreement_weights(views, fused, mask=mask)
    views = views.masked_fill(~mask, float('nan')).requires_grad_()
    fused = fused.masked_fill(~mask, -float('inf')).requires_grad_()
    weights = agreement_weights(views, fused, mask=mask)
    weights[0].sum().backward()
    torch.testing.assert_close(weights, expected)
    assert views.grad.isfinite().all()
    assert (views.grad[:, ~mask] == 0).all()
    assert (fused.grad[~mask] == 0).all()


def test_agreement_sums_to_one_over_views():
    weights = agreement_weights(*make_lists())
    assert weights.size() == (3, 6)
    torch.testing.assert_close(weights.sum(0), torch.ones(6, dtype=torch.double))


def test_the_view_equal_to_the_teacher_has_the_largest_weight():
    views, fused = make_lists()
    views[1] = fused + 7
    assert (agreement_weights(views, fused).argmax(0) == 1).all()


def test_one_view_has_weight_one():
    views, fused = make_lists(num_views=1, num_lists=1)
    weights = agreement_weights(views, fused)
    torch.testing.assert_close(weights, torch.ones(1, 1, dtype=torch.double))


def test_agreement_is_constant_for_constant_scores():
    views, fused = make_lists()
    assert not agreement_weights(views, fused).requires_grad
    inputs = (views.requires_grad_(), fused.requires_grad_())
    assert torch.autograd.gradcheck(agreement_weights, inputs)


def test_gradients_of_agreement_under_a_mask():
    inputs = [x.requires_grad_() for x in make_lists()]
    mask = make_mask()
    assert torch.autograd.gradcheck(
        lambda v, f: agreement_weights(v, f, 2.0, mask), inputs
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('masked', [False, True])
def test_agreement_is_finite_for_extreme_scores(dtype, masked):
    fused = torch.tensor([[-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    views = torch.stack([fused.detach()[:, [1, 0, 2]], fused.detach()]).requires_grad_()
    mask = torch.tensor([[True, True, False]]) if masked else None
    weights = agreement_weights(views, fused, temperature=0.5, mask=mask)
    weights[0].sum().backward()
    torch.testing.assert_close(weights.detach(), torch.tensor([[0.0], [1.0]]))
    assert views.grad.isfinite().all()
    assert fused.grad.isfinite().all()


@pytest.mark.parametrize('shape', [(6, 5), (0, 6, 5)])
def test_agreement_must_have_views(shape):
    with pytest.raises(ValueError, match=r"'view_logits' must .* at least one view"):
        agreement_weights(torch.zeros(shape), torch.zeros(6, 5))


def test_shapes_of_agreement_must_agree():
    views, fused = make_lists()
    with pytest.raises(ValueError, match=r"'fused_logits'.*\[6, 4\] and \[6, 5\]"):
        agreement_weights(views, fused[:, :4])
    with pytest.raises(ValueError, match=r"'mask'.*\[6, 5\] and \[6, 4\]"):
        agreement_weights(views, fused, mask=make_mask()[:, :4])


@pytest.mark.parametrize('mask', [None, make_mask()])
def test_scores_of_agreement_must_be_finite(mask):
    views, fused = make_lists()
    broken = fused.clone()
    broken[2, 0] = float('nan')
    with pytest.raises(ValueError, match=r"'fused_logits'.*finite"):
        agreement_weights(views, broken, mask=mask)
    views[1, 2, 0] = float('inf')
    with pytest.raises(ValueError, match=r"'view_logits'.*finite"):
        agreement_weights(views, fused, mask=mask)


def test_every_list_of_agreement_must_have_a_candidate():
    mask = make_mask()
    mask[2:4] = False
    with pytest.raises(ValueError, match=r"'mask' must .* \(got 2 rows without\)"):
        agreement_weights(*make_lists(), mask=mask)


def test_the_mask_of_agreement_must_be_boolean():
    with pytest.raises(TypeError, match=r"'mask' must be boolean"):
        agreement_weights(*make_lists(), mask=make_mask().long())


@pytest.mark.parametrize('temperature', [0.0, float('nan')])
def test_the_temperature_of_agreement_must_be_positive(temperature):
    with pytest.raises(ValueError, match="'temperature' must be positive"):
        agreement_weights(*make_lists(), temperature)


def test_fixed_weights_hand_computed():
    module = FixedViewWeights({'a': 3, 'b': 1})
    loss = module({'b': torch.tensor(-4.0), 'a': torch.tensor(2.0)})
    torch.testing.assert_close(loss, torch.tensor(0.5))


def test_fixed_weights_are_normalised():
    assert FixedViewWeights({'a': 6.0, 'b': 2.0}).weights() == {'a': 0.75, 'b': 0.25}


def test_fixed_weights_scale_gradients():
    losses = make_losses(requires_grad=True)
    module = FixedViewWeights({'image': 1.0, 'text': 0.0, 'sound': 4.0})
    module(losses).backward()
    torch.testing.assert_close(
        losses['sound'].grad, torch.tensor(0.8, dtype=torch.double)
    )
    assert losses['text'].grad is None


def test_fixed_weights_are_not_changed_from_outside():
    given = {'a': 1.0}
    module = FixedViewWeights(given)
    given['a'] = 5.0
    module.weights()['a'] = 7.0
    assert module.weights() == {'a': 1.0}


def test_fixed_weights_train_nothing():
    assert list(FixedViewWeights({'a': 1.0}).parameters()) == []


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf')])
def test_fixed_weights_must_be_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=rf"zero or more \(got {weight} for 'b'\)"):
        FixedViewWeights({'a': 2.0, 'b': weight})


@pytest.mark.parametrize('weights', [{}, {'a': 0.0, 'b': 0.0}])
def test_one_fixed_weight_must_be_above_zero(weights):
    with pytest.raises(ValueError, match=r"'weights' must have .* above zero"):
        FixedViewWeights(weights)


def test_learned_weights_hand_computed():
    # Equal weights: the mean of the losses minus ln 2, half of it.
    module = LearnedViewWeights(['a', 'b'], entropy_weight=0.5)
    loss = module({'b': torch.tensor(5.0), 'a': torch.tensor(-2.0)})
    torch.testing.assert_close(loss.detach(), torch.tensor(1.5 - 0.5 * math.log(2)))


def test_learned_weights_subtract_the_entropy_of_torch():
    module = LearnedViewWeights(LOSSES, entropy_weight=0.7).double()
    torch.nn.init.normal_(module.logits, generator=torch.Generator().manual_seed(0))
    choice = torch.distributions.Categorical(logits=module.logits)
    losses = make_losses()
    expected = (choice.probs * torch.stack([*losses.values()])).sum()
    torch.testing.assert_close(module(losses), expected - 0.7 * choice.entropy())


@pytest.mark.parametrize('entropy_weight', [0.25, 1.0, 3.0])
def test_training_ends_at_the_closed_form(entropy_weight):
    module = LearnedViewWeights(LOSSES, entropy_weight).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=2.0 / entropy_weight)
    losses = make_losses()
    for _ in range(2000):
        optimizer.zero_grad()
        module(losses).backward()
        optimizer.step()
    scores = -torch.stack([*losses.values()]) / entropy_weight
    weights = torch.tensor([*module.weights().values()], dtype=torch.double)
    torch.testing.assert_close(weights, scores.softmax(0))
    # There, the objective is the free energy of the losses.
    free_energy = -entropy_weight * scores.logsumexp(0)
    torch.testing.assert_close(module(losses).detach(), free_energy)


def test_no_view_is_dropped_however_large_its_loss():
    module = LearnedViewWeights(['easy', 'hard'], entropy_weight=1.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        module({'easy': torch.tensor(0.0), 'hard': torch.tensor(1.0)}).backward()
        optimizer.step()
    assert module.weights()['hard'] > 0.25  # 1 / (1 + e) = 0.269


def test_learned_weights_scale_gradients():
    module = LearnedViewWeights(['a', 'b'])
    with torch.no_grad():
        module.logits[1] = math.log(3.0)
    losses = {name: torch.tensor(1.0, requires_grad=True) for name in 'ab'}
    module(losses).backward()
    torch.testing.assert_close(losses['a'].grad, torch.tensor(0.25))
    torch.testing.assert_close(losses['b'].grad, torch.tensor(0.75))


def test_losses_find_their_weight_by_name():
    module = LearnedViewWeights(LOSSES)
    with torch.no_grad():
        module.logits.copy_(torch.tensor([1.0, -2.0, 0.0]))
    losses = make_losses()
    reversed_losses = dict(reversed(losses.items()))
    torch.testing.assert_close(module(reversed_losses), module(losses))


def test_gradients_of_learned_weights():
    module = LearnedViewWeights(LOSSES).double()

    def loss_fn(logits, *losses):
        named = dict(zip(LOSSES, losses, strict=True))
        return torch.func.functional_call(module, {'logits': logits}, (named,))

    logits = torch.tensor([0.3, -1.0, 0.5], dtype=torch.double, requires_grad=True)
    losses = make_losses(requires_grad=True).values()
    assert torch.autograd.gradcheck(loss_fn, (logits, *losses))


def test_learned_weights_are_finite_for_extreme_logits():
    module = LearnedViewWeights(['a', 'b'])
    with torch.no_grad():
        module.logits.copy_(torch.tensor([1e4, -1e4]))
    loss = module({'a': torch.tensor(1.0), 'b': torch.tensor(2.0)})
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(1.0))
    assert module.logits.grad.isfinite().all()


def test_reset_makes_weights_equal():
    module = LearnedViewWeights(['a', 'b'])
    torch.nn.init.ones_(module.logits[:1].detach())
    assert module.weights()['a'] > 0.7
    module.reset_parameters()
    assert module.weights() == {'a': 0.5, 'b': 0.5}


def test_learned_weights_round_trip():
    module, other = (LearnedViewWeights(['a', 'b']) for _ in range(2))
    with torch.no_grad():
        module.logits[0] = 2.0
    other.load_state_dict(module.state_dict())
    assert other.weights() == module.weights()


def test_names_must_be_several():
    with pytest.raises(TypeError, match=r"'names' must .* string 'image'"):
        LearnedViewWeights('image')


@pytest.mark.parametrize('names', [[], ['a', 'b', 'a']])
def test_names_must_be_distinct(names):
    with pytest.raises(ValueError, match=r"'names' must contain every view once"):
        LearnedViewWeights(names)


@pytest.mark.parametrize('entropy_weight', [0.0, -1.0, float('nan')])
def test_the_entropy_weight_must_be_positive(entropy_weight):
    with pytest.raises(ValueError, match="'entropy_weight' must be positive"):
        LearnedViewWeights(['a'], entropy_weight)


@pytest.mark.parametrize('module', make_modules())
def test_names_of_losses_must_agree(module):
    losses = make_losses()
    match = r"one loss for every view \(got \['image', 'text'\] for views \['image', 's"
    with pytest.raises(ValueError, match=match):
        module({name: losses[name] for name in ('text', 'image')})
    with pytest.raises(ValueError, match=r"\(got \['image', .*, 'video'\] for"):
        module({**losses, 'video': torch.tensor(0.0)})


@pytest.mark.parametrize('module', make_modules())
def test_losses_must_be_scalars(module):
    with pytest.raises(ValueError, match=r"scalars \(got shape \[1\] for 'text'\)"):
        module({**make_losses(), 'text': torch.ones(1)})


@pytest.mark.parametrize('module', make_modules())
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_losses_must_be_finite(module, value):
    with pytest.raises(ValueError, match=r'losses\[text\].*finite'):
        module({**make_losses(), 'text': torch.tensor(value)})


@pytest.mark.parametrize('module', make_modules())
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_losses_do_not_overflow(module, dtype):
    losses = {name: torch.tensor(5e4, dtype=dtype) for name in LOSSES}
    loss = module({**losses, 'image': torch.tensor(-5e4, dtype=dtype)})
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_repr():
    assert str(FixedViewWeights({'a': 2, 'b': 1})) == (
        'FixedViewWeights(a=0.667, b=0.333)'
    )
    assert str(LearnedViewWeights(['a', 'b'], 0.5)) == (
        'LearnedViewWeights(a=0.5, b=0.5, entropy_weight=0.5)'
    )
