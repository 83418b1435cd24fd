import pytest
import torch

from promptmm_pyg.losses import weighted_sum


def test_hand_computed():
    terms = {'bpr': torch.tensor(2.0), 'l2': torch.tensor(-3.0)}
    total = weighted_sum(terms, {'l2': 0.5, 'bpr': 4.0})
    torch.testing.assert_close(total, torch.tensor(6.5))


def test_a_weight_scales_the_gradient_of_its_term():
    a, b = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    weighted_sum({'a': a, 'b': b}, {'a': 0.25, 'b': 3.0}).backward()
    torch.testing.assert_close(a.grad, torch.tensor(0.25))
    torch.testing.assert_close(b.grad, torch.tensor(3.0))


def test_a_zero_weight_leaves_its_term_out_of_the_graph():
    a, b = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    weighted_sum({'a': a, 'b': b}, {'a': 1.0, 'b': 0.0}).backward()
    assert b.grad is None


def test_a_term_of_weight_zero_may_be_nan():
    terms = {'a': torch.tensor(1.0), 'b': torch.tensor(float('nan'))}
    torch.testing.assert_close(
        weighted_sum(terms, {'a': 1.0, 'b': 0}), torch.tensor(1.0)
    )


def test_terms_are_left_as_they_are():
    terms = {'a': torch.tensor(1.0), 'b': torch.tensor(2.0)}
    weighted_sum(terms, {'a': 1.0, 'b': 1.0})
    assert terms == {'a': torch.tensor(1.0), 'b': torch.tensor(2.0)}


@pytest.mark.parametrize('weights', [{'a': 1.0}, {'a': 1.0, 'b': 1.0, 'c': 1.0}])
def test_names_need_to_agree(weights):
    terms = {'b': torch.tensor(1.0), 'a': torch.tensor(1.0)}
    match = rf"same names \(got terms \['a', 'b'\] and weights \{sorted(weights)}"[:-1]
    with pytest.raises(ValueError, match=match):
        weighted_sum(terms, weights)


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf')])
def test_weights_need_to_be_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=rf"zero or more \(got {weight} for 'a'\)"):
        weighted_sum({'a': torch.tensor(1.0)}, {'a': weight})


def test_one_weight_needs_to_be_above_zero():
    with pytest.raises(ValueError, match="'weights' requires at least one above zero"):
        weighted_sum({'a': torch.tensor(1.0)}, {'a': 0.0})


def test_nothing_cannot_be_summed():
    with pytest.raises(ValueError, match=r'at least one above zero \(got \{\}\)'):
        weighted_sum({}, {})


def test_terms_need_to_be_scalars():
    # A forgotten reduction would otherwise broadcast over the other terms.
    with pytest.raises(ValueError, match=r"scalars \(got shape \[3\] for 'a'\)"):
        weighted_sum({'a': torch.ones(3)}, {'a': 1.0})
