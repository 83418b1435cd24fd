import pytest
import torch

from promptmm_pyg.nn import MissingRows
from tests.nn.graphs import features

MASK = torch.tensor([True, False, True, True, False, True, True])


def test_absent_rows_become_zero_and_the_others_pass():
    x = features(4)
    out = MissingRows(4, MASK)(x)
    assert (out[~MASK] == 0).all()
    assert torch.equal(out[MASK], x[MASK])


def test_absent_rows_become_the_token_which_alone_gets_their_gradient():
    rows, x = MissingRows(4, MASK, 'token'), features(4).requires_grad_()
    with torch.no_grad():
        rows.token.copy_(torch.tensor([1.0, -2.0, 3.0, 0.0]))
    out = rows(x)
    assert torch.equal(out[~MASK], rows.token.expand(2, 4))
    assert torch.equal(out[MASK], x[MASK])
    out.sum().backward()
    assert torch.equal(rows.token.grad, torch.full((4,), 2.0))
    assert (x.grad[~MASK] == 0).all()
    assert (x.grad[MASK] == 1).all()


def test_a_new_token_is_zero():
    x = features(4)
    torch.testing.assert_close(
        MissingRows(4, MASK, 'token')(x), MissingRows(4, MASK)(x)
    )


def test_what_an_absent_row_holds_never_matters():
    x = features(4)
    x[1] = float('nan')
    out = MissingRows(4, MASK)(x.requires_grad_())
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


def test_dropout_drops_rows_at_its_rate_without_scaling():
    torch.manual_seed(0)
    x = torch.ones(20_000, 3)
    out = MissingRows(3, dropout=0.3)(x)
    selected = out[:, 0] == 1
    assert torch.equal(out, selected[:, None].float().expand(-1, 3))
    # Five standard deviations of the mean of 20,000 draws.
    assert abs(selected.float().mean() - 0.7) < 5 * (0.21 / 20_000) ** 0.5


def test_dropout_puts_the_token_and_never_revives_an_absent_row():
    torch.manual_seed(0)
    rows = MissingRows(4, MASK, 'token', dropout=0.5)
    torch.nn.init.constant_(rows.token, 7.0)
    for _ in range(20):
        out = rows(torch.ones(7, 4))
        assert (out[~MASK] == 7).all()
        assert ((out == 7) | (out == 1)).all()
    assert len({tuple(rows(torch.ones(7, 4))[:, 0].tolist()) for _ in range(20)}) > 1


def test_dropout_acts_in_training_only():
    x = features(4)
    rows = MissingRows(4, MASK, dropout=0.9).eval()
    assert torch.equal(rows(x), MissingRows(4, MASK)(x))
    assert torch.equal(MissingRows(4, dropout=0.9).eval()(x), x)


def test_without_dropout_no_random_number_is_drawn():
    before = torch.get_rng_state()
    MissingRows(4, MASK, 'token')(features(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_mask_moves_with_the_module_but_is_not_saved():
    rows = MissingRows(4, MASK, 'token')
    assert list(rows.state_dict()) == ['token']
    assert 'mask' in dict(rows.named_buffers())


def test_errors_and_repr():
    assert str(MissingRows(4, MASK)) == "MissingRows(missing='zero', dropout=0.0)"
    with pytest.raises(ValueError, match="'missing' must be one of 'zero', 'tok"):
        MissingRows(4, missing='mean')
    with pytest.raises(ValueError, match=r"'dropout' must be in \[0, 1\)"):
        MissingRows(4, dropout=1.0)
    with pytest.raises(ValueError, match="'channels' must be positive"):
        MissingRows(0)
