"""What all losses share. A new loss is covered once it is exported: its inputs are
made from the names of its arguments.
"""

import copy
import inspect
import pickle
import re

import pytest
import torch

import promptmm_pyg.losses
from promptmm_pyg.losses import (
    BidirectionalKDLoss,
    DecoupledKDLoss,
    InfoNCELoss,
    RankingDistillationLoss,
    ScaledCosineLoss,
    WassersteinKDLoss,
)
from promptmm_pyg.losses._base import Loss, NotFiniteError

EXPORTED = [getattr(promptmm_pyg.losses, name) for name in promptmm_pyg.losses.__all__]
LOSSES = [x for x in EXPORTED if isinstance(x, type) and issubclass(x, Loss)]
# Options whose other values take another path through the code.
VARIANTS = {
    DecoupledKDLoss: [{'listwise': 'kl'}, {'alpha': 1.5, 'beta': 0.5}],
    InfoNCELoss: [{'symmetric': True}],
    ScaledCosineLoss: [{'gamma': 1.0}],
    WassersteinKDLoss: [{'distribution': 'probabilities'}],
}
MASKS = ('mask', 'uninteresting_mask')
BAD = [float('nan'), float('inf'), -float('inf')]

all_losses = pytest.mark.parametrize('cls', LOSSES)
all_cases = pytest.mark.parametrize(
    ('cls', 'options'),
    [
        pytest.param(cls, options, id='-'.join([cls.__name__, *options]))
        for cls in LOSSES
        for options in [{}, *VARIANTS.get(cls, [])]
    ],
)
all_inputs = pytest.mark.parametrize('inputs', ['required', 'masks', 'all'])


def signature(function):
    return inspect.signature(function).parameters


def arguments(cls):
    return {k: p for k, p in signature(cls.forward).items() if k != 'self'}


def function_of(cls):
    """The function beside the module: ``bpr_loss`` of ``BPRLoss``."""
    words = re.sub('(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', cls.__name__)
    return getattr(promptmm_pyg.losses, words.lower(), None)


def make(cls, dtype=torch.double, **options):
    if 'student_channels' in signature(cls):
        options = {'student_channels': 3, 'teacher_channels': 3, **options}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(**options).to(dtype).eval()


def make_inputs(cls, inputs='all', num=6, dtype=torch.double):
    """Inputs by the names of the arguments of ``forward``; scores have both signs."""
    g = torch.Generator().manual_seed(0)
    k, others = 5, 4

    def randn(*size):
        return (3 * torch.randn(size, generator=g, dtype=torch.double)).to(dtype)

    def rand(*size):
        return torch.rand(size, generator=g, dtype=torch.double)

    def marks(width, first):
        mask = rand(num, width) < 0.6
        mask[:, :first] = True
        return mask

    target_mask = torch.zeros(num, k, dtype=torch.bool)
    target_mask[:, 1] = True
    made = {
        'positive_logits': randn(num),
        'negative_logits': randn(num, k) if 'mask' in arguments(cls) else randn(num),
        'negative_log_q': rand(num, k).log(),
        'student_margin': randn(num),
        'teacher_margin': randn(num),
        'student_logits': randn(num, k),
        'teacher_logits': randn(num, k),
        'interesting_logits': randn(num, k),
        'uninteresting_logits': randn(num, others),
        'mask': marks(k, 2),
        'uninteresting_mask': marks(others, 1),
        'target_mask': target_mask,
        'teacher_top': marks(k, 1),
        'student_top': marks(k, 0),
        'student_rank': 4 + 3 * rand(num, k),
        'student_weights': rand(num, k),
        'teacher_weights': rand(num, k),
        'student_x': randn(num, 3),
        'teacher_x': randn(num, 3),
        'anchor': randn(num, 3),
        'positive': randn(num, 3),
        'group': torch.arange(num) % 4,
    }
    missing = set(arguments(cls)) - set(made)
    assert not missing, f'make_inputs must have values for {missing}'
    return {
        name: made[name]
        for name, parameter in arguments(cls).items()
        if inputs == 'all'
        or parameter.default is parameter.empty
        or (inputs == 'masks' and name in MASKS)
    }


def scores(inputs):
    """The names of the inputs that have a gradient."""
    constants = ('rank', 'weights', 'log_q')
    return [
        name
        for name, x in inputs.items()
        if x.is_floating_point() and not name.endswith(constants)
    ]


def cases(wanted):
    """Every loss with each of its tensors that is ``wanted(name, tensor)``."""
    return pytest.mark.parametrize(
        ('cls', 'name'),
        [
            pytest.param(cls, name, id=f'{cls.__name__}-{name}')
            for cls in LOSSES
            for name, x in make_inputs(cls).items()
            if wanted(name, x)
        ],
    )


all_masks = cases(lambda name, x: name in MASKS)


def masked_by(name, inputs):
    """The names of the inputs with the candidates of a mask, the mask among them."""
    others = [k for k in inputs if k.startswith('uninteresting')]
    if name in others:
        return others
    return [k for k, x in inputs.items() if x.dim() == 2 and k not in others]


# Arguments


@all_losses
def test_inputs_come_student_first_and_options_end_with_the_reduction(cls):
    names = list(arguments(cls))
    assert names[0].startswith('student') or 'student' not in ' '.join(names)
    optional = [p.default is not p.empty for p in arguments(cls).values()]
    assert optional == sorted(optional)
    assert list(signature(cls))[-1] == 'reduction'
    assert signature(cls)['reduction'].default == 'mean'


@all_losses
def test_the_function_has_the_arguments_and_defaults_of_the_module(cls):
    if (function := function_of(cls)) is None:
        return
    parameters = signature(function)
    assert set(parameters) == set(signature(cls)) | set(arguments(cls))
    assert [k for k in parameters if k in arguments(cls)] == list(arguments(cls))
    assert list(parameters)[-1] == 'reduction'
    for name, option in signature(cls).items():
        assert parameters[name].default == option.default


def test_only_losses_of_terms_and_with_parameters_have_no_function():
    without = {cls.__name__ for cls in LOSSES if function_of(cls) is None}
    assert without == {'BidirectionalKDLoss', 'DecoupledKDLoss', 'DistillationExperts'}


@all_cases
@all_inputs
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_the_module_equals_the_function(cls, options, inputs, reduction):
    if (function := function_of(cls)) is None:
        return
    options = {**options, 'reduction': reduction}
    given = make_inputs(cls, inputs)
    assert torch.equal(make(cls, **options)(**given), function(**given, **options))


@all_losses
def test_repr_shows_the_present_value_of_every_option(cls):
    module = make(cls, reduction='sum')
    if 'temperature' in signature(cls):
        module.temperature = 3.5
        assert 'temperature=3.5' in str(module)
    values = [f'{name}={getattr(module, name)!r}' for name in signature(cls)]
    pattern = rf'{cls.__name__}\(\s*{re.escape(", ".join(values))}'
    assert re.match(pattern, str(module))
    assert "reduction='sum'" in str(module)


@all_losses
def test_an_option_set_later_is_used(cls):
    given = make_inputs(cls)
    for name, option in signature(cls).items():
        if isinstance(option.default, float):
            module = make(cls)
            before = module(**given)
            setattr(module, name, 1.75)
            expected = make(cls, **{name: 1.75})(**given)
            assert torch.equal(module(**given), expected)
            assert not torch.equal(before, expected)


@all_losses
@pytest.mark.parametrize(
    'as_copy', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_is_equal(cls, as_copy):
    module = make(cls)
    assert str(as_copy(module)) == str(module)
    assert torch.equal(as_copy(module)(**make_inputs(cls)), module(**make_inputs(cls)))


def invalid(name, option):
    if isinstance(option.default, bool):
        return []
    if isinstance(option.default, str):
        return ['unknown']
    if isinstance(option.default, float):
        values = [float('nan'), -1.0]
        return values if name in ('alpha', 'beta') else [*values, 0.0]
    return [0]


@all_losses
def test_options_must_be_in_range(cls):
    for name, option in signature(cls).items():
        for value in invalid(name, option):
            match = f"'{name}' must .*got {value!r}"
            with pytest.raises(ValueError, match=match):
                make(cls, **{name: value})
            if function := function_of(cls):
                with pytest.raises(ValueError, match=match):
                    function(**make_inputs(cls), **{name: value})


# Values


@all_cases
@all_inputs
def test_reduction(cls, options, inputs):
    given = make_inputs(cls, inputs)
    none, mean, total = (
        make(cls, **options, reduction=reduction)(**given)
        for reduction in ('none', 'mean', 'sum')
    )
    assert none.dim() >= 1
    torch.testing.assert_close(mean, none.mean())
    torch.testing.assert_close(total, none.sum())
    assert torch.equal(make(cls, **options)(**given), mean)


@all_cases
@all_inputs
def test_lists_and_pairs_are_independent(cls, options, inputs):
    given = make_inputs(cls, inputs)
    if not any(name.endswith(('logits', 'margin')) for name in given):
        return
    module = make(cls, **options, reduction='none')
    each = [module(**{k: x[b : b + 1] for k, x in given.items()}) for b in range(6)]
    assert module(**given).size() == (6,)
    torch.testing.assert_close(module(**given), torch.cat(each))


@all_cases
def test_the_order_of_the_batch_does_not_matter(cls, options):
    given = make_inputs(cls)
    module = make(cls, **options)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {name: x[order] for name, x in given.items()}
    torch.testing.assert_close(module(**moved), module(**given))


@all_cases
@all_inputs
def test_inputs_are_not_changed(cls, options, inputs):
    given = make_inputs(cls, inputs, dtype=torch.float)
    before = {name: x.clone() for name, x in given.items()}
    for name in scores(given):
        given[name].requires_grad_()
    make(cls, torch.float, **options)(**given).backward()
    for name, x in given.items():
        assert torch.equal(x.detach(), before[name])


@all_losses
@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_an_empty_batch_costs_nothing_or_raises(cls, reduction):
    given = make_inputs(cls, num=0)
    for name in scores(given):
        given[name].requires_grad_()
    message = ''
    try:
        loss = make(cls, reduction=reduction)(**given)
    except ValueError as error:  # Of losses that compare rows with each other.
        message = str(error)
    if message:
        assert re.search('at least (one|two|[123]) rows', message)
        return
    assert loss.numel() == (reduction == 'sum')
    assert loss.sum() == 0
    loss.sum().backward()


# Gradients


@all_cases
@all_inputs
def test_gradcheck(cls, options, inputs):
    if cls is BidirectionalKDLoss:  # Each term has a gradient to one side only.
        return
    given = make_inputs(cls, inputs)
    names = scores(given)
    module = make(cls, **options)
    assert torch.autograd.gradcheck(
        lambda *x: module(**given | dict(zip(names, x, strict=True))),
        [given[name].requires_grad_() for name in names],
    )


@all_cases
@all_inputs
def test_every_score_has_a_gradient(cls, options, inputs):
    given = make_inputs(cls, inputs)
    x = [given[name].requires_grad_() for name in scores(given)]
    for grad in torch.autograd.grad(make(cls, **options)(**given), x):
        assert grad.isfinite().all()
        assert grad.abs().sum() > 0


# Precision


@all_cases
@all_inputs
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(cls, options, inputs, dtype):
    given = make_inputs(cls, inputs, dtype=dtype)
    single = {k: x.float() if x.dtype == dtype else x for k, x in given.items()}
    module = make(cls, torch.float, **options)
    torch.testing.assert_close(module(**given), module(**single), rtol=1e-6, atol=1e-6)


@all_cases
def test_double_precision_is_kept(cls, options):
    assert make(cls, **options)(**make_inputs(cls)).dtype == torch.double


@all_cases
@all_inputs
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_extreme_scores(cls, options, dtype, inputs):
    # Divided by the temperature, or squared, they exceed the largest half.
    given = make_inputs(cls, inputs, dtype=dtype)
    for name in scores(given):
        given[name] = (1e4 * given[name].sign()).requires_grad_()
    if 'temperature' in signature(cls):
        options = {'temperature': 0.05, **options}
    loss = make(cls, torch.float, **options)(**given)
    (1e-4 * loss).backward()  # As a loss scaler would: gradients must fit a half.
    assert loss.isfinite()
    for name in scores(given):
        assert given[name].grad.isfinite().all()


@all_cases
def test_autocast_changes_nothing(cls, options):
    given = make_inputs(cls, dtype=torch.float)
    module = make(cls, torch.float, **options)
    expected = module(**given)
    with torch.autocast('cpu', torch.bfloat16):
        loss = module(**given)
    torch.testing.assert_close(loss, expected)


# Masks


@all_masks
@pytest.mark.parametrize('inputs', ['masks', 'all'])
def test_a_mask_equals_leaving_candidates_out(cls, name, inputs):
    if cls is RankingDistillationLoss:  # The positions of the others still count.
        return
    for options in [{}, *VARIANTS.get(cls, [])]:
        given = make_inputs(cls, inputs)
        assert not given[name].all()
        module = make(cls, **options, reduction='none')
        expected = []
        for b, row in enumerate(given[name]):
            one = {k: x[b : b + 1] for k, x in given.items()}
            one |= {k: one[k][:, row] for k in masked_by(name, given)}
            del one[name]
            expected.append(module(**one))
        torch.testing.assert_close(module(**given), torch.cat(expected))


@all_masks
@pytest.mark.parametrize('value', BAD)
def test_masked_values_are_not_used_and_have_no_gradient(cls, name, value):
    given = make_inputs(cls)
    module = make(cls)
    expected = module(**given)
    outside = ~given[name]
    floats = [k for k in masked_by(name, given) if given[k].is_floating_point()]
    given |= {k: given[k].masked_fill(outside, value) for k in floats}
    names = [k for k in floats if k in scores(given)]
    loss = module(**given | {k: given[k].requires_grad_() for k in names})
    torch.testing.assert_close(loss, expected)
    for grad in torch.autograd.grad(loss, [given[k] for k in names]):
        assert grad.isfinite().all()
        assert (grad[outside] == 0).all()


@all_masks
def test_a_mask_of_all_changes_nothing(cls, name):
    given = make_inputs(cls)
    given[name] = torch.ones_like(given[name])
    without = {k: x for k, x in given.items() if k != name}
    torch.testing.assert_close(make(cls)(**given), make(cls)(**without))


@cases(lambda name, x: x.dtype == torch.bool)
def test_masks_must_be_boolean(cls, name):
    given = make_inputs(cls)
    given[name] = given[name].long()
    with pytest.raises(TypeError, match=f"'{name}' must be boolean.*int64"):
        make(cls)(**given)


@cases(lambda name, x: x.dtype == torch.bool and name != 'student_top')
def test_every_list_must_have_a_candidate(cls, name):
    given = make_inputs(cls)
    given[name][2:4] = False
    with pytest.raises(ValueError, match=f"'{name}' must .*at least one.*got 2 rows"):
        make(cls)(**given)


# Checks


@cases(lambda name, x: x.is_floating_point())
@all_inputs
@pytest.mark.parametrize('value', BAD)
def test_values_must_be_finite(cls, name, value, inputs):
    given = make_inputs(cls, inputs)
    if name not in given:
        return
    given[name].view(6, -1)[1, 0] = value
    with pytest.raises(NotFiniteError, match=f"'{name}' must be finite"):
        make(cls)(**given)


@cases(lambda name, x: True)
@pytest.mark.parametrize('num', [1, 5])
def test_batch_sizes_must_agree(cls, name, num):
    given = make_inputs(cls)
    given[name] = given[name][:num]
    with pytest.raises(ValueError, match=f"'{name}'"):
        make(cls)(**given)


@cases(lambda name, x: x.dim() == 2 and x.size(1) > 3)
@pytest.mark.parametrize('cut', [slice(0, 1), slice(1, None)])
def test_list_lengths_must_agree(cls, name, cut):
    # A list of one candidate would broadcast.
    given = make_inputs(cls)
    given[name] = given[name][:, cut]
    with pytest.raises(ValueError, match=f"'{name}'"):
        make(cls)(**given)


@cases(lambda name, x: x.dim() == 1 and x.is_floating_point())
def test_vectors_must_not_broadcast(cls, name):
    given = make_inputs(cls)
    given[name] = given[name].unsqueeze(-1)
    with pytest.raises(ValueError, match=f"'{name}'"):
        make(cls)(**given)


@cases(lambda name, x: x.dim() == 2 and name.endswith('_logits'))
@pytest.mark.parametrize('change', [lambda x: x[:, 0], lambda x: x[:, :0]])
def test_lists_must_have_two_axes_and_a_candidate(cls, name, change):
    given = make_inputs(cls)
    masks = {k for k in given if k in MASKS}
    for k in masked_by('uninteresting_mask' if name[:2] == 'un' else 'mask', given):
        given[k] = change(given[k])
    name = name.replace('teacher_logits', 'student_logits')
    with pytest.raises(ValueError, match=rf"'{name}' must be lists \[B, K\]"):
        make(cls)(**{k: x for k, x in given.items() if k not in masks})
