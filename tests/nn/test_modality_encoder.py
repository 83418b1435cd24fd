import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.nn import PromptedModalityEncoder


def make_input(dtype=torch.float):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(6, 8, generator=g, dtype=dtype),
        torch.randn(6, 3, generator=g, dtype=dtype),
    )


def naive(encoder, x, prompt):
    recalled = (prompt @ prompt.t()) @ x  # The [N, N] matrix, on purpose.
    prompted = x + encoder.prompt_weight * F.normalize(recalled, dim=-1)
    return prompted @ encoder.lin.weight.t() + encoder.lin.bias


def test_fast_form_agrees_with_the_naive_form_and_its_gradients():
    x, prompt = make_input(torch.double)
    encoder = PromptedModalityEncoder(8, 4, prompt_weight=0.5).double()
    prompt.requires_grad_()
    parameters = [prompt, *encoder.parameters()]

    fast = encoder(x, prompt)
    slow = naive(encoder, x, prompt)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(
        torch.autograd.grad(fast.square().sum(), parameters),
        torch.autograd.grad(slow.square().sum(), parameters),
    )


def test_given_recall_is_used():
    x, prompt = make_input()
    encoder = PromptedModalityEncoder(8, 4)
    same = encoder(x, prompt, prompt.t() @ x)
    torch.testing.assert_close(same, encoder(x, prompt))
    assert not torch.allclose(encoder(x, prompt, prompt.t() @ x.flip(0)), same)


def test_a_prompt_that_recalls_nothing_adds_nothing():
    x, prompt = make_input()
    encoder = PromptedModalityEncoder(8, 4)
    prompt[2] = 0
    prompt.requires_grad_()
    out = encoder(x, prompt)
    torch.testing.assert_close(out[2], encoder(x)[2])
    out.sum().backward()
    assert prompt.grad.isfinite().all()


def test_without_prompt_is_a_linear_map():
    x, prompt = make_input()
    encoder = PromptedModalityEncoder(8, 4, prompt_weight=0.0)
    torch.testing.assert_close(encoder(x), encoder.lin(x))
    torch.testing.assert_close(encoder(x, prompt), encoder(x), rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    x, prompt = make_input()
    encoder = PromptedModalityEncoder(8, 4, dropout=0.9)
    assert (encoder(x, prompt) == 0).any()
    encoder.eval()
    torch.testing.assert_close(encoder(x, prompt), naive(encoder, x, prompt))


def test_gradient_reaches_the_prompt():
    x, prompt = make_input()
    prompt.requires_grad_()
    PromptedModalityEncoder(8, 4)(x, prompt).sum().backward()
    assert prompt.grad.abs().sum() > 0


def test_errors_and_repr():
    x, prompt = make_input()
    encoder = PromptedModalityEncoder(8, 4, prompt_weight=0.5)
    assert str(encoder) == 'PromptedModalityEncoder(8, 4, prompt_weight=0.5)'
    with pytest.raises(ValueError, match="one row per row of 'x'"):
        encoder(x, prompt[:5])
    with pytest.raises(ValueError, match=r"'x' must have shape \[N, 8\]"):
        encoder(x[:, :7])
    with pytest.raises(ValueError, match=r"'dropout' must be in \[0, 1\)"):
        PromptedModalityEncoder(8, 4, dropout=1.0)
    with pytest.raises(ValueError, match="'prompt_weight' must be zero or more"):
        PromptedModalityEncoder(8, 4, prompt_weight=-1.0)
