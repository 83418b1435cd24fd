import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.nn.modality_encoder import add_low_rank


def parts(dtype=torch.double, num_rows=7):
    g = torch.Generator().manual_seed(0)
    sizes = ((num_rows, 4), (num_rows, 3), (3, 5), (4, 5))
    return [
        torch.randn(size, generator=g, dtype=dtype).requires_grad_() for size in sizes
    ]


def as_written(x, prompt, recall, lin_weight, weight):
    return x + weight * F.normalize(prompt @ recall, dim=-1) @ lin_weight.t()


def test_agrees_with_the_formula_and_its_gradients():
    inputs = parts()
    ours, theirs = add_low_rank(*inputs, 0.7), as_written(*inputs, 0.7)
    torch.testing.assert_close(ours, theirs)
    scale = torch.arange(28.0, dtype=torch.double).view(7, 4)
    torch.testing.assert_close(
        torch.autograd.grad((ours * scale).sum(), inputs),
        torch.autograd.grad((theirs * scale).sum(), inputs),
    )


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda *args: add_low_rank(*args, 0.7), parts())


def test_a_row_that_recalls_nothing_gets_nothing_and_sends_nothing():
    x, prompt, recall, lin_weight = parts()
    prompt = prompt.detach().clone()
    prompt[2] = 0
    prompt.requires_grad_()
    out = add_low_rank(x, prompt, recall, lin_weight)
    assert torch.equal(out[2], x[2])
    assert not torch.equal(out[3], x[3])
    out.sum().backward()
    assert (prompt.grad[2] == 0).all()
    for part in (prompt, recall, lin_weight):
        assert part.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float, torch.bfloat16])
def test_other_precisions_are_near(dtype):
    exact = add_low_rank(*parts())
    out = add_low_rank(*(part.detach().to(dtype) for part in parts()))
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=0.05, atol=0.1)


def test_no_rows():
    inputs = parts(num_rows=0)
    out = add_low_rank(*inputs)
    assert out.shape == (0, 4)
    out.sum().backward()
    assert (inputs[3].grad == 0).all()
