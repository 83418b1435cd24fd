import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.unit_rows import add_unit_rows, unit_rows


def make_x(dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, generator=g, dtype=dtype).requires_grad_()


def test_agrees_with_torch_and_its_gradient():
    x = make_x()
    weight = torch.arange(15.0, dtype=torch.double).view(5, 3)
    torch.testing.assert_close(unit_rows(x), F.normalize(x, dim=-1))
    (ours,) = torch.autograd.grad((unit_rows(x) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((F.normalize(x, dim=-1) * weight).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_gradcheck():
    assert torch.autograd.gradcheck(unit_rows, make_x())


def test_a_row_of_zeros_stays_zero_and_passes_the_gradient_as_it_is():
    x = torch.zeros(2, 3, requires_grad=True)
    out = unit_rows(x)
    out.sum().backward()
    assert (out == 0).all()
    assert (x.grad == 1).all()


def test_very_small_and_very_large_rows_have_unit_length():
    x = torch.tensor([[1e-10, 0.0], [3e18, 4e18]])
    torch.testing.assert_close(unit_rows(x).norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(dtype):
    x = make_x(torch.float).detach().to(dtype).requires_grad_()
    unit_rows(x).sum().backward()
    assert unit_rows(x).dtype == dtype
    assert x.grad.isfinite().all()


def test_input_is_left_alone():
    x = make_x().detach()
    before = x.clone()
    unit_rows(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def make_pair():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(5, 2, 3, generator=g, dtype=torch.double)
    x[1, 0] = 0
    return make_x(), x.requires_grad_()


def test_unit_rows_are_added_with_their_gradient():
    base, x = make_pair()
    ours = add_unit_rows(base, x, 0.7)
    theirs = base + 0.7 * unit_rows(x).sum(dim=1)
    torch.testing.assert_close(ours, theirs)
    weight = torch.arange(15.0, dtype=torch.double).view(5, 3)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), (base, x)),
        torch.autograd.grad((theirs * weight).sum(), (base, x)),
    )


def test_gradcheck_of_added_unit_rows():
    base, x = make_pair()
    x = (x.detach() + 1).requires_grad_()  # At zero there is no derivative.
    assert torch.autograd.gradcheck(lambda *args: add_unit_rows(*args, 0.7), (base, x))


def test_adding_leaves_the_base_alone():
    base, x = make_pair()
    before = base.detach().clone()
    add_unit_rows(base, x)
    assert torch.equal(base, before)
