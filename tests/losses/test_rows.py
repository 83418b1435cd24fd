import pytest
import torch

from promptmm_pyg.losses._rows import as_row_pair, inner_products


def test_inputs_of_two_widths_pass():
    x, y = as_row_pair(torch.ones(3, 2), torch.zeros(3, 5))
    torch.testing.assert_close(x, torch.ones(3, 2))
    torch.testing.assert_close(y, torch.zeros(3, 5))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_become_float32(dtype):
    x, y = as_row_pair(torch.ones(3, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype))
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_the_wider_dtype_is_that_of_both(dtype):
    narrow, double = torch.ones(3, 2, dtype=dtype), torch.ones(3, 2).double()
    for pair in (as_row_pair(narrow, double), as_row_pair(double, narrow)):
        assert [x.dtype for x in pair] == [torch.float64, torch.float64]


@pytest.mark.parametrize('shape', [(3,), (3, 2, 1)])
def test_inputs_need_to_be_matrices(shape):
    with pytest.raises(ValueError, match=r"'student_x' must have shape \[N, D\]"):
        as_row_pair(torch.ones(shape), torch.ones(3, 2))
    with pytest.raises(
        ValueError, match=rf"'teacher_x' .*\[{', '.join(map(str, shape))}\]\)"
    ):
        as_row_pair(torch.ones(3, 2), torch.ones(shape))


def test_numbers_of_rows_need_to_agree():
    with pytest.raises(ValueError, match=r'same number of rows \(got 3 and 1\)'):
        as_row_pair(torch.ones(3, 2), torch.ones(1, 2))


def test_enough_rows_are_needed():
    as_row_pair(torch.ones(2, 1), torch.ones(2, 1), at_least=2)
    with pytest.raises(ValueError, match=r'at least 2 rows \(got 1\)'):
        as_row_pair(torch.ones(1, 1), torch.ones(1, 1), at_least=2)
    with pytest.raises(ValueError, match=r'at least 1 rows \(got 0\)'):
        as_row_pair(torch.ones(0, 1), torch.ones(0, 1))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_values_need_to_be_finite(value):
    broken = torch.tensor([[0.0, value]])
    with pytest.raises(ValueError, match=r"'student_x'.*finite"):
        as_row_pair(broken, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"'teacher_x'.*finite"):
        as_row_pair(torch.zeros(1, 2), broken)


def test_products_stay_in_float32_under_autocast():
    x = torch.tensor([[1.0, 2.0**-12]])
    with torch.autocast('cpu', torch.bfloat16):
        out = inner_products(x, x)
        assert (x @ x.mT).dtype == torch.bfloat16
    torch.testing.assert_close(out, torch.tensor([[1 + 2.0**-24]]))
    assert out.dtype == torch.float32
