import pytest
import torch

from promptmm_pyg.losses._base import (
    as_row_pair,
    check_finite,
    check_lists,
    check_mask,
    check_selection,
)
from promptmm_pyg.losses.relational import inner_products

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BAD = [float('nan'), float('inf'), -float('inf')]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('value', BAD)
@pytest.mark.parametrize('position', [0, 1, 17, 999])
def test_one_bad_value_is_found_at_any_position(dtype, value, position):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[position] = value
    with pytest.raises(ValueError, match="'x' must be finite"):
        check_finite('x', x)


def test_the_message_counts():
    x = torch.tensor([[1.0, float('nan')], [float('inf'), -float('inf')]])
    match = r"'x' must be finite \(got 1 NaN and 2 infinite of 4 values\)"
    with pytest.raises(ValueError, match=match):
        check_finite('x', x)


def test_it_is_an_arithmetic_error_too():
    # Training raises this kind of error where it diverges.
    with pytest.raises(FloatingPointError, match='learning rate'):
        check_finite('x', torch.tensor(float('nan')))


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_largest_values_are_finite(dtype):
    # Their difference is not.
    limits = torch.finfo(dtype)
    check_finite('x', torch.tensor([limits.max, limits.min], dtype=dtype))


@pytest.mark.parametrize('x', [torch.zeros(0, 3), torch.tensor([1, 2])])
def test_empty_tensors_and_integers_are_finite(x):
    check_finite('x', x)


@pytest.mark.parametrize('value', BAD)
def test_masked_values_are_not_checked(value):
    x = torch.tensor([[1.0, value]])
    check_finite('x', x, torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="'x' must be finite"):
        check_finite('x', x, torch.tensor([[False, True]]))


def test_the_values_are_not_changed():
    x = torch.tensor([[1.0, float('nan')]], requires_grad=True)
    check_finite('x', x, torch.tensor([[True, False]]))
    assert x.detach()[0, 1].isnan()


def test_lists_have_two_axes():
    with pytest.raises(ValueError, match=r"'x' must be lists .*\[2, 3, 4\]"):
        check_lists('x', torch.zeros(2, 3, 4))


def test_a_list_of_one_candidate_is_valid():
    check_lists('x', torch.zeros(1, 1))
    check_mask('x', torch.zeros(1, 1), 'mask', torch.ones(1, 1, dtype=torch.bool))


def test_a_selection_may_be_empty():
    mask = torch.tensor([[True, False], [False, False]])
    check_selection('x', torch.zeros(2, 2), 'm', mask)
    with pytest.raises(ValueError, match=r"'m' must .* \(got 1 rows without\)"):
        check_mask('x', torch.zeros(2, 2), 'm', mask)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_masks_must_be_boolean(dtype):
    # `~` of an integer is not the boolean opposite.
    with pytest.raises(TypeError, match=rf"'m' must be boolean \(got {dtype}\)"):
        check_mask('x', torch.zeros(3, 2), 'm', torch.ones(3, 2, dtype=dtype))


def test_row_pairs_may_have_two_widths():
    x, y = as_row_pair(torch.ones(3, 2), torch.zeros(3, 5))
    torch.testing.assert_close(x, torch.ones(3, 2))
    torch.testing.assert_close(y, torch.zeros(3, 5))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_row_pairs_have_the_wider_dtype(dtype):
    narrow, double = torch.ones(3, 2, dtype=dtype), torch.ones(3, 2).double()
    for pair in (as_row_pair(narrow, double), as_row_pair(double, narrow)):
        assert [x.dtype for x in pair] == [torch.float64, torch.float64]
    assert [x.dtype for x in as_row_pair(narrow, narrow)] == [torch.float32] * 2


@pytest.mark.parametrize('shape', [(3,), (3, 2, 1)])
def test_row_pairs_must_be_matrices(shape):
    with pytest.raises(ValueError, match=r"'student_x' must have shape \[N, D\]"):
        as_row_pair(torch.ones(shape), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"'teacher_x' must have shape \[N, D\]"):
        as_row_pair(torch.ones(3, 2), torch.ones(shape))


@pytest.mark.parametrize(('num', 'least'), [(1, 2), (0, 1), (2, 3)])
def test_row_pairs_must_have_enough_rows(num, least):
    as_row_pair(torch.ones(least, 1), torch.ones(least, 1), least)
    with pytest.raises(ValueError, match=rf'at least {least} rows \(got {num}\)'):
        as_row_pair(torch.ones(num, 1), torch.ones(num, 1), least)


def test_products_are_computed_in_float32_under_autocast():
    x = torch.tensor([[1.0, 2.0**-12]])
    with torch.autocast('cpu', torch.bfloat16):
        out = inner_products(x, x)
        assert (x @ x.mT).dtype == torch.bfloat16
    torch.testing.assert_close(out, torch.tensor([[1 + 2.0**-24]]))
    assert out.dtype == torch.float32
