import pytest
import torch

from promptmm_pyg.evaluation import holm


def test_values_by_hand_come_in_the_order_given():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04.
    expected = torch.tensor([0.06, 0.04, 0.06, 0.06], dtype=torch.double)
    torch.testing.assert_close(holm([0.03, 0.01, 0.04, 0.02]), expected)


def test_none_exceeds_one():
    expected = torch.tensor([1.0, 1.0, 0.75], dtype=torch.double)
    torch.testing.assert_close(holm([0.9, 0.6, 0.25]), expected)


def test_ties_get_one_value():
    expected = torch.tensor([0.3, 0.3, 0.3], dtype=torch.double)
    torch.testing.assert_close(holm([0.1, 0.1, 0.1]), expected)


def test_one_test_and_no_test_need_no_correction():
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


def test_is_the_sequential_procedure():
    p = torch.rand(20, generator=torch.Generator().manual_seed(0)).double() * 0.05
    for alpha in (0.01, 0.03, 0.2):
        rejected = []
        for step, index in enumerate(p.argsort().tolist()):
            if p[index] > alpha / (20 - step):
                break
            rejected.append(index)
        assert (holm(p) <= alpha).nonzero().view(-1).tolist() == sorted(rejected)


def test_takes_tensors_of_any_precision_and_leaves_them():
    p = torch.tensor([0.5, 0.125])
    assert holm(p).tolist() == [0.5, 0.25]
    assert p.tolist() == [0.5, 0.125]


@pytest.mark.parametrize('wrong', [float('nan'), -0.1, 1.1, float('inf')])
def test_values_that_are_no_p_values_are_named(wrong):
    with pytest.raises(ValueError, match=r"'p_values' must be in \[0, 1\] \(got"):
        holm([0.5, wrong])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"'p_values' requires the shape \[m\]"):
        holm(torch.full((2, 2), 0.5))
