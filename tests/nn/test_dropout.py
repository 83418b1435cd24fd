import pytest
import torch

from promptmm_pyg.nn.dropout import Dropout, dropout


def ones(*size, **kwargs):
    return torch.ones(*size, **kwargs)


@pytest.mark.parametrize('p', [0.2, 0.5, 0.9])
def test_entries_are_dropped_at_the_given_rate(p):
    torch.manual_seed(0)
    out = dropout(ones(500, 400), p)
    share = float((out == 0).float().mean())
    assert abs(share - p) < 4 * (p * (1 - p) / out.numel()) ** 0.5
    selected = out[out != 0]
    assert (selected == selected[0]).all()
    assert float(selected[0]) == pytest.approx(1 / (1 - p), rel=2**-13)


def test_the_mean_is_that_of_the_input_at_a_rate_that_is_rounded():
    p = 1.4 / 2**16  # One level of 2^16, not 1.4.
    torch.manual_seed(0)
    assert float(dropout(ones(1000), p).max()) == pytest.approx(1 / (1 - 2**-16))


def test_entries_of_one_word_do_not_know_of_each_other():
    torch.manual_seed(0)
    dropped = (dropout(ones(40_000, 4), 0.3) == 0).double()
    correlation = torch.corrcoef(dropped.t()) - torch.eye(4)
    assert float(correlation.abs().max()) < 4 / 40_000**0.5


def test_gradient_is_what_the_output_was_multiplied_with():
    torch.manual_seed(0)
    x = torch.randn(50, 3).requires_grad_()
    out = dropout(x, 0.4)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)
    assert 0 < int((x.grad == 0).sum()) < 150


def test_seed_decides_and_calls_differ():
    x = ones(100)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(second, first)


@pytest.mark.parametrize('size', [(0,), (1,), (5,), (3, 7), (2, 3, 5)])
@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.bfloat16])
def test_any_size_and_precision(size, dtype):
    x = ones(size, dtype=dtype)
    out = dropout(x, 0.5)
    assert out.shape == x.shape
    assert out.dtype == dtype
    assert ((out == 0) | (out == 2)).all()


@pytest.mark.parametrize(('p', 'training'), [(0.5, False), (0.0, True), (1e-9, True)])
def test_nothing_is_dropped(p, training):
    x = torch.randn(30)
    torch.testing.assert_close(dropout(x, p, training), x)


def test_everything_is_dropped():
    assert (dropout(ones(30), 1.0) == 0).all()


@pytest.mark.parametrize('p', [-0.1, 1.5])
def test_an_invalid_rate_is_an_error(p):
    with pytest.raises(ValueError, match='between 0 and 1'):
        dropout(ones(3), p)


def test_module_drops_while_training_only():
    torch.manual_seed(0)
    layer, x = Dropout(0.5), ones(100)
    assert 0 < int((layer(x) == 0).sum()) < 100
    assert torch.equal(layer.eval()(x), x)


def test_module_in_place_is_that_of_torch():
    torch.manual_seed(0)
    x = ones(100)
    out = Dropout(0.5, inplace=True)(x)
    assert out is x
    torch.manual_seed(0)
    assert torch.equal(torch.nn.Dropout(0.5)(ones(100)), out)
