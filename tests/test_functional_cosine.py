import pytest
import torch

from promptmm_pyg.functional import cosine_logsumexp, l2_normalize


def make_rows(dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 4, generator=g, dtype=dtype) for n in (5, 6))
    mask = torch.rand(5, 6, generator=g) > 0.4
    mask[0], mask[:, 0] = True, True
    return l2_normalize(a).requires_grad_(), l2_normalize(b).requires_grad_(), mask


def as_written(a, b, temperature, mask=None):
    logits = a @ b.t() / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0)


@pytest.mark.parametrize('temperature', [0.01, 0.025, 0.2, 3.0])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('columns', [False, True])
def test_agrees_with_logsumexp_and_its_gradient(temperature, masked, columns):
    a, b, mask = make_rows()
    mask = mask if masked else None
    ours = cosine_logsumexp(a, b, temperature, mask, columns)
    theirs = as_written(a, b, temperature, mask)
    assert (ours[1] is None) == (not columns)
    losses = []
    for out in (ours, theirs):
        loss = (out[0] * torch.arange(5.0)).sum()
        if columns:
            loss = loss + (out[1] * torch.arange(6.0)).sum()
        losses.append(loss)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(*(torch.autograd.grad(loss, (a, b)) for loss in losses))


def test_gradient_of_columns_alone():
    a, b, mask = make_rows()
    outs = cosine_logsumexp(a, b, 0.3, mask, True), as_written(a, b, 0.3, mask)
    torch.testing.assert_close(
        *(torch.autograd.grad(out[1].sum(), (a, b)) for out in outs)
    )


def test_gradcheck():
    a, b, mask = make_rows()
    assert torch.autograd.gradcheck(
        lambda a, b: cosine_logsumexp(a, b, 0.5, mask, True), (a, b)
    )


@pytest.mark.parametrize('temperature', [0.025, 0.01])
def test_single_precision_holds_where_the_only_other_row_is_far(temperature):
    a, b, mask = make_rows(torch.float)
    with torch.no_grad():
        a[1], b[0], b[1:] = b[0], b[0], -b[0]
        a[2] = -b[0]
    mask = torch.ones_like(mask)
    mask[2, 1:] = False  # Its one other row is as far away as can be.
    row, _ = cosine_logsumexp(a, b, temperature, mask)
    expected, _ = as_written(a.double(), b.double(), temperature, mask)
    torch.testing.assert_close(row.double(), expected, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(row.sum(), a)
    assert grad.isfinite().all()
    assert not torch.equal(grad[2], torch.zeros(4))
