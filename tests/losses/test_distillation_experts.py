import copy

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import DistillationExperts


def make_rows(num_rows=6, student_channels=3, teacher_channels=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(num_rows, student_channels, generator=g)
    teacher = torch.randn(num_rows, teacher_channels, generator=g)
    return student, 2 * teacher


def make_experts(seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DistillationExperts(3, 5, **kwargs)


def test_hand_computed():
    # Two experts that return (1, 1) and (3, 3) for any input; the router prefers the
    # second by ln 3: 1/4 and 3/4, (2.5, 2.5), against (2, 0).
    module = DistillationExperts(1, 2, num_experts=2).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.router.bias[1] = torch.tensor(3.0).log()
        module.experts[0][2].bias.fill_(1.0)
        module.experts[1][2].bias.fill_(3.0)
    loss = module(torch.tensor([[-7.0]]), torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(loss.detach(), torch.tensor(6.5))


def test_equals_a_naive_loop_in_evaluation():
    module = make_experts(num_experts=4, temperature=0.7, reduction='none').eval()
    student, teacher = make_rows()
    expected = []
    for s, t in zip(student, teacher, strict=True):
        logits = module.router.weight @ t + module.router.bias
        weights = (logits / 0.7).exp() / (logits / 0.7).exp().sum()
        rebuilt = torch.zeros(5)
        for w, (first, _, second) in zip(weights, module.experts, strict=True):
            hidden = (first.weight @ s + first.bias).clamp_min(0)
            rebuilt = rebuilt + w * (second.weight @ hidden + second.bias)
        expected.append((t - rebuilt).square().sum())
    torch.testing.assert_close(module(student, teacher), torch.stack(expected))


def test_training_samples_the_experts_by_gumbel_noise():
    module = make_experts(temperature=0.5, reduction='none')
    student, teacher = make_rows()
    torch.manual_seed(3)
    loss = module(student, teacher)
    torch.manual_seed(3)
    noise = -torch.empty(6, 5).exponential_().log()
    weights = ((module.router(teacher) + noise) / 0.5).softmax(-1)
    outputs = torch.stack([expert(student) for expert in module.experts], dim=1)
    rebuilt = (weights.unsqueeze(-1) * outputs).sum(1)
    torch.testing.assert_close(loss, (teacher - rebuilt).square().sum(-1))


def test_one_seed_one_result():
    module = make_experts()
    rows = make_rows()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(module(*rows).detach())
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_evaluation_leaves_the_generator_alone():
    module = make_experts().eval()
    state = torch.get_rng_state()
    first = module(*make_rows())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(module(*make_rows()), first)


def test_a_low_temperature_uses_one_expert_per_row():
    module = make_experts(temperature=1e-4, reduction='none').eval()
    student, teacher = make_rows()
    nearest = module.router(teacher).argmax(-1)
    rebuilt = torch.stack(
        [module.experts[e](s) for e, s in zip(nearest.tolist(), student, strict=True)]
    )
    torch.testing.assert_close(
        module(student, teacher), (teacher - rebuilt).square().sum(-1)
    )


def test_a_high_temperature_makes_experts_equal():
    module = make_experts(temperature=1e6).eval()
    student, teacher = make_rows()
    rebuilt = torch.stack([expert(student) for expert in module.experts]).mean(0)
    expected = (teacher - rebuilt).square().sum(-1).mean()
    torch.testing.assert_close(module(student, teacher), expected)


def test_one_expert_is_a_projector():
    module = make_experts(num_experts=1)
    student, teacher = make_rows()
    expected = 5 * F.mse_loss(module.experts[0](student), teacher)
    torch.testing.assert_close(module(student, teacher), expected)


@pytest.mark.parametrize('num_rows', [1, 6])
def test_every_parameter_and_both_inputs_get_a_gradient(num_rows):
    torch.manual_seed(0)
    # Wide, so that no expert is silent on a single row.
    module = make_experts(hidden_channels=32)
    student, teacher = (x.requires_grad_() for x in make_rows(num_rows))
    module(student, teacher).backward()
    for x in (student, teacher, *module.parameters()):
        assert x.grad is not None
        assert x.grad.abs().sum() > 0


def test_experts_learn_two_mappings_that_one_cannot():
    # Rows of either kind map to the opposite of the same student.
    g = torch.Generator().manual_seed(0)
    student = torch.randn(64, 2, generator=g)
    kind = torch.where(torch.arange(64) % 2 == 0, 3.0, -3.0).unsqueeze(-1)
    teacher = torch.cat([kind * student, kind], dim=-1)
    final = {}
    for num_experts in (1, 2):
        torch.manual_seed(0)
        module = DistillationExperts(2, 3, num_experts, hidden_channels=16)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            module(student, teacher).backward()
            optimizer.step()
        final[num_experts] = float(module.eval()(student, teacher).detach())
    assert final[2] < 0.1 * final[1]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('temperature', [1e-3, 1.0])
def test_finite_for_large_halves(dtype, temperature):
    module = make_experts(temperature=temperature)
    student, teacher = (1e4 * x.sign().to(dtype) for x in make_rows())
    student.requires_grad_()
    teacher.requires_grad_()
    loss = module(student, teacher)
    (loss / 1e4).backward()  # As a loss scaler would: the gradient has to fit a half.
    assert loss.dtype == torch.float32
    for x in (loss, student.grad, *(p.grad for p in module.parameters())):
        assert x.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_any_precision_goes_with_any_other(dtype):
    student, teacher = make_rows()
    expected = make_experts().eval()(student, teacher)
    loss = make_experts().eval().to(dtype)(student.double(), teacher)
    assert loss.dtype == torch.float64
    exact = {} if dtype != torch.bfloat16 else {'rtol': 0.1, 'atol': 0.0}
    torch.testing.assert_close(loss.float(), expected, **exact)


def test_hidden_channels_are_the_mean():
    assert make_experts().experts[0][0].out_features == 4
    assert make_experts(hidden_channels=9).experts[0][0].out_features == 9


def test_reset_parameters_redraws_everything():
    module = make_experts()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(1)
    module.reset_parameters()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) == name.endswith('bias')
    torch.manual_seed(1)
    module.reset_parameters()
    again = make_experts(seed=5)
    torch.manual_seed(1)
    again.reset_parameters()
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_reset_parameters_zeroes_the_biases():
    module = make_experts()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9.0)
    module.reset_parameters()
    for name, value in module.named_parameters():
        assert (value != 9.0).all()
        if name.endswith('bias'):
            torch.testing.assert_close(value.detach(), torch.zeros_like(value))


def test_inputs_must_have_the_given_widths():
    module = make_experts()
    student, teacher = make_rows()
    with pytest.raises(ValueError, match=r"'student_x' .*\[N, 3\] \(got \[6, 5\]\)"):
        module(teacher, teacher)
    with pytest.raises(ValueError, match=r"'teacher_x' .*\[N, 5\] \(got \[6, 3\]\)"):
        module(student, student)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_the_temperature_must_be_positive(temperature):
    match = rf"'temperature' must be positive \(got {temperature}\)"
    with pytest.raises(ValueError, match=match):
        make_experts(temperature=temperature)
    module = make_experts()
    with pytest.raises(ValueError, match=match):
        module.temperature = temperature
    assert module.temperature == 1.0
