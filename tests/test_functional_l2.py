import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.functional import add_l2_normalized, l2_normalize


def make_x(dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, generator=g, dtype=dtype).requires_grad_()


def test_agrees_with_torch_and_its_gradient():
    x = make_x()
    weight = torch.arange(15.0, dtype=torch.double).view(5, 3)
    torch.testing.assert_close(l2_normalize(x), F.normalize(x, dim=-1))
    (ours,) = torch.autograd.grad((l2_normalize(x) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((F.normalize(x, dim=-1) * weight).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_gradcheck():
    assert torch.autograd.gradcheck(l2_normalize, make_x())


def test_a_row_of_zeros_stays_zero_and_passes_the_gradient_as_it_is():
    x = torch.zeros(2, 3, requires_grad=True)
    out = l2_normalize(x)
    out.sum().backward()
    assert (out == 0).all()
    assert (x.grad == 1).all()


def test_very_small_and_very_large_rows_have_unit_length():
    x = torch.tensor([[1e-10, 0.0], [3e18, 4e18]])
    torch.testing.assert_close(l2_normalize(x).norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(dtype):
    x = make_x(torch.float).detach().to(dtype).requires_grad_()
    l2_normalize(x).sum().backward()
    assert l2_normalize(x).dtype == dtype
    assert x.grad.isfinite().all()


def test_input_is_left_alone():
    x = make_x().detach()
    before = x.clone()
    l2_normalize(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def make_pair():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(5, 2, 3, generator=g, dtype=torch.double)
    x[1, 0] = 0
    return make_x(), x.requires_grad_()


def test_unit_rows_are_added_with_their_gradient():
    base, x = make_pair()
    ours = add_l2_normalized(base, x, 0.7)
    theirs = base + 0.7 * l2_normalize(x).sum(dim=1)
    torch.testing.assert_close(ours, theirs)
    weight = torch.arange(15.0, dtype=torch.double).view(5, 3)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), (base, x)),
        torch.autograd.grad((theirs * weight).sum(), (base, x)),
    )


def test_gradcheck_of_added_unit_rows():
    base, x = make_pair()
    x = (x.detach() + 1).requires_grad_()  # At zero there is no derivative.
    assert torch.autograd.gradcheck(
        lambda *args: add_l2_normalized(*args, 0.7), (base, x)
    )


def test_adding_leaves_the_base_alone():
    base, x = make_pair()
    before = base.detach().clone()
    add_l2_normalized(base, x)
    assert torch.equal(base, before)
