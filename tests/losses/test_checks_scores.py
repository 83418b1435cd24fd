import pytest
import torch

from promptmm_pyg.losses._checks_scores import (
    check_finite,
    check_lists,
    check_mask,
    check_selection,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BAD = [float('nan'), float('inf'), -float('inf')]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('value', BAD)
@pytest.mark.parametrize('place', [0, 1, 17, 999])
def test_one_bad_value_is_found_wherever_it_stands(dtype, value, place):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[place] = value
    with pytest.raises(ValueError, match="'x' must be finite"):
        check_finite('x', x)


def test_the_message_counts():
    x = torch.tensor([[1.0, float('nan')], [float('inf'), -float('inf')]])
    match = r"'x' must be finite \(got 1 NaN and 2 infinite of 4 values\)"
    with pytest.raises(ValueError, match=match):
        check_finite('x', x)


def test_it_is_an_arithmetic_error_too():
    # What training promises where it diverges.
    with pytest.raises(FloatingPointError, match='learning rate'):
        check_finite('x', torch.tensor(float('nan')))


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_largest_values_are_finite(dtype):
    # Their difference is not.
    limits = torch.finfo(dtype)
    check_finite('x', torch.tensor([limits.max, limits.min], dtype=dtype))


@pytest.mark.parametrize('x', [torch.zeros(0, 3), torch.tensor([1, 2])])
def test_nothing_and_integers_are_finite(x):
    check_finite('x', x)


@pytest.mark.parametrize('value', BAD)
def test_what_is_masked_may_be_anything(value):
    x = torch.tensor([[1.0, value]])
    check_finite('x', x, torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="'x' must be finite"):
        check_finite('x', x, torch.tensor([[False, True]]))


def test_the_values_are_left_as_they_are():
    x = torch.tensor([[1.0, float('nan')]], requires_grad=True)
    check_finite('x', x, torch.tensor([[True, False]]))
    assert x.detach()[0, 1].isnan()


@pytest.mark.parametrize('size', [(3,), (2, 0), (2, 3, 4)])
def test_lists_have_two_axes_and_a_candidate(size):
    match = rf"'x' must be lists .* \(got shape \[{str(list(size))[1:-1]}\]\)"
    with pytest.raises(ValueError, match=match):
        check_lists('x', torch.zeros(size))


def test_a_list_of_one_will_do():
    check_lists('x', torch.zeros(1, 1))
    check_mask('x', torch.zeros(1, 1), 'mask', torch.ones(1, 1, dtype=torch.bool))


def test_every_row_of_a_mask_needs_a_candidate():
    mask = torch.tensor([[True, False], [False, False], [False, False]])
    match = r"Every row of 'm' requires at least one candidate \(got 2 rows without\)"
    with pytest.raises(ValueError, match=match):
        check_mask('x', torch.zeros(3, 2), 'm', mask)
    check_selection('x', torch.zeros(3, 2), 'm', mask)


def test_masks_need_the_shape_of_the_lists():
    with pytest.raises(ValueError, match=r"'x' and 'm' .*\[3, 2\] and \[3\]"):
        check_mask('x', torch.zeros(3, 2), 'm', torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.float32])
def test_masks_need_to_be_boolean(dtype):
    # `~` of an integer is no boolean opposite.
    match = rf"'m' must be boolean \(got {dtype}\)"
    with pytest.raises(TypeError, match=match):
        check_mask('x', torch.zeros(3, 2), 'm', torch.ones(3, 2, dtype=dtype))
