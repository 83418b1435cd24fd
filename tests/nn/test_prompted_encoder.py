import copy

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import GCNConv

from promptmm_pyg.nn import PromptedEncoder, SoftPrompt, TokenPrompt
from tests.nn.graphs import features


def make_encoder():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )


def test_static_prompt_is_the_mean_of_its_tokens_for_every_input():
    tokens = features(6, num=4)
    encoder, x = make_encoder(), features(6, seed=1)
    model = PromptedEncoder(encoder, 6, 4, weight=0.5, init=tokens)
    expected = encoder(x + 0.5 * tokens.sum(0) / 4)
    torch.testing.assert_close(model(x), expected)


def test_conditioned_prompt_agrees_with_a_loop_over_inputs_and_tokens():
    x = features(6, seed=1).double()
    prompt = TokenPrompt(6, 3, conditioned=True).double()
    rows = []
    for row in x:
        scores = [
            (prompt.gate.weight[t] @ row + prompt.gate.bias[t]).exp() for t in range(3)
        ]
        rows.append(sum(scores[t] * prompt.tokens[t] for t in range(3)) / sum(scores))
    torch.testing.assert_close(prompt(x), torch.stack(rows))
    assert not torch.allclose(prompt(x)[0], prompt(x)[1])


def test_with_one_token_both_kinds_are_that_token():
    token, x = features(6, num=1), features(6, seed=1)
    for conditioned in (False, True):
        prompt = TokenPrompt(6, 1, conditioned, init=token)
        torch.testing.assert_close(prompt(x).expand(7, 6), token.expand(7, 6))


@pytest.mark.parametrize('conditioned', [False, True])
def test_disabled_it_is_the_encoder_bit_for_bit(conditioned):
    encoder, x = make_encoder(), features(6)
    model = PromptedEncoder(encoder, 6, conditioned=conditioned)
    assert not torch.equal(model(x), encoder(x))
    prompted = model(x)
    model.disable_prompt()
    assert torch.equal(model(x), encoder(x))
    model.enable_prompt()
    assert torch.equal(model(x), prompted)


def test_weight_zero_is_the_encoder():
    encoder, x = make_encoder(), features(6)
    assert torch.equal(PromptedEncoder(encoder, 6, weight=0.0)(x), encoder(x))


def test_prompts_are_known_by_name():
    model, x = PromptedEncoder(make_encoder(), 6), features(6)
    first = model(x)
    model.add_prompt('night')
    model.add_prompt('day', TokenPrompt(6, 2, conditioned=True))
    assert model.prompt_names == ['day', 'default', 'night']
    assert torch.equal(model(x), first)  # Added is not yet in use.
    model.disable_prompt()
    model.set_prompt('day')
    assert model.prompt_name == 'day'
    second = model(x)
    torch.testing.assert_close(
        second, model.encoder(x + model.get_prompt('day')(x)), rtol=0, atol=0
    )
    assert not torch.equal(second, first)
    model.set_prompt('default')
    assert torch.equal(model(x), first)
    assert model.prompt_names == ['day', 'default', 'night']


def test_a_new_prompt_is_like_the_one_in_use_with_other_parameters():
    model = PromptedEncoder(make_encoder(), 6, 3, conditioned=True).double().eval()
    model.add_prompt('other')
    prompt = model.get_prompt('other')
    assert prompt.describe() == model.get_prompt().describe()
    assert not torch.equal(prompt.tokens, model.prompt.tokens)
    assert prompt.tokens.dtype == torch.double
    assert not prompt.training


def test_parameters_and_kilobytes_are_those_of_the_prompt_in_use():
    model = PromptedEncoder(make_encoder(), 6, 4)
    assert model.num_prompt_parameters == 4 * 6
    assert model.prompt_kilobytes == 4 * 6 * 4 / 1000
    model.add_prompt('day', TokenPrompt(6, 2, conditioned=True))
    model.set_prompt('day')
    assert model.num_prompt_parameters == 2 * 6 + 2 * 6 + 2
    model.prompt.requires_grad_(False)
    assert model.num_prompt_parameters == 0
    assert model.prompt_kilobytes == 26 * 4 / 1000


def test_a_frozen_encoder_never_changes_while_its_prompt_learns_a_task():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5),
        torch.nn.ReLU(), torch.nn.Linear(8, 3),
    )  # fmt: skip
    x = features(6, num=40)
    label = (x[:, 0] > 0).long()
    model = PromptedEncoder(encoder, 6, conditioned=True, freeze_encoder=True)
    before = copy.deepcopy(encoder.state_dict())
    model.train()
    assert not encoder.training
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == model.num_prompt_parameters
    optimizer = torch.optim.Adam(trained, lr=0.05)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_an_encoder_that_is_not_frozen_trains_along():
    model = PromptedEncoder(make_encoder(), 6).train()
    assert model.encoder.training
    model(features(6)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not model.eval().encoder.training


def test_further_arguments_reach_the_encoder():
    torch.manual_seed(0)
    conv, x = GCNConv(6, 2), features(6)
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
    model = PromptedEncoder(conv, 6)
    prompted = x + model.prompt(x)
    torch.testing.assert_close(model(x, edge_index), conv(prompted, edge_index))
    weight = torch.tensor([0.5, 2.0, 1.0])
    torch.testing.assert_close(
        model(x, edge_index, edge_weight=weight), conv(prompted, edge_index, weight)
    )


def test_inputs_of_more_axes_and_one_row_pass():
    model = PromptedEncoder(torch.nn.Linear(6, 2), 6, conditioned=True)
    x = features(6, num=8)
    torch.testing.assert_close(model(x.view(2, 4, 6)).view(8, 2), model(x))
    torch.testing.assert_close(model(x[:1]), model(x)[:1])


def test_the_input_is_left_as_it_is():
    x = features(6)
    PromptedEncoder(make_encoder(), 6)(x)
    assert torch.equal(x, features(6))


def test_reset_restores_given_tokens_and_redraws_random_ones():
    tokens = features(6, num=4)
    prompt = TokenPrompt(6, 4, init=tokens)
    tokens.zero_()  # No memory is shared with the caller.
    torch.nn.init.zeros_(prompt.tokens)
    prompt.reset_parameters()
    assert torch.equal(prompt.tokens, features(6, num=4))
    assert list(prompt.state_dict()) == ['tokens']
    prompt = TokenPrompt(6, 4)
    before = prompt.tokens.clone()
    prompt.reset_parameters()
    assert not torch.equal(prompt.tokens, before)


def test_state_round_trip_of_all_prompts():
    source, target = (PromptedEncoder(make_encoder(), 6) for _ in range(2))
    for model in (source, target):
        model.add_prompt('day')
    target.load_state_dict(source.state_dict())
    x = features(6)
    for name in ('day', 'default'):
        source.set_prompt(name)
        target.set_prompt(name)
        assert torch.equal(source(x), target(x))


def test_a_copy_has_prompts_of_its_own():
    model = PromptedEncoder(make_encoder(), 6)
    twin = copy.deepcopy(model)
    torch.nn.init.zeros_(twin.prompt.tokens)
    assert model.prompt.tokens.abs().sum() > 0


def test_errors_and_repr():
    model = PromptedEncoder(make_encoder(), 6, weight=0.5)
    assert str(model) == (
        "PromptedEncoder(Sequential, prompts=['default'], in_use='default', weight=0.5)"
    )
    assert str(model.prompt) == 'TokenPrompt(6, num_tokens=4, conditioned=False)'
    with pytest.raises(ValueError, match=r"'x' must have shape \[\*, 6\].*\[7, 5"):
        model(features(5))
    with pytest.raises(ValueError, match=r"'name' must be one of.*'day'"):
        model.set_prompt('day')
    for name in ('default', '', 'a.b', 'keys'):
        with pytest.raises(ValueError, match=rf"'name' must be new.*'{name}'"):
            model.add_prompt(name)
    with pytest.raises(ValueError, match=r"'prompt' must .* in_channels=6 .*with 5"):
        model.add_prompt('day', TokenPrompt(5))
    with pytest.raises(ValueError, match=r"'prompt' must .*'TokenPrompt'.*SoftPrompt"):
        model.add_prompt('day', SoftPrompt({'a': features(6)}, 6))
    assert model.prompt_names == ['default']
    with pytest.raises(ValueError, match="'weight' must be zero or more"):
        PromptedEncoder(make_encoder(), 6, weight=-1.0)
    with pytest.raises(ValueError, match="'num_tokens' must be positive"):
        PromptedEncoder(make_encoder(), 6, 0)
    with pytest.raises(ValueError, match="'in_channels' must be positive"):
        PromptedEncoder(make_encoder(), 0)


@pytest.mark.parametrize(
    ('init', 'match'),
    [
        (torch.zeros(4, 5), r"'init' must .*\[4, 6\].*shape \[4, 5\]"),
        (torch.full((4, 6), float('nan')), r"'init' must .*finite: False"),
        ('pca', r"'init' must be 'random' or a tensor \[4, 6\] \(got 'pca'\)"),
    ],
)
def test_errors_of_a_start(init, match):
    with pytest.raises(ValueError, match=match):
        TokenPrompt(6, 4, init=init)
