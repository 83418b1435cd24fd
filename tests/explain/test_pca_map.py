import pytest
import torch
from sklearn.decomposition import PCA

from promptmm_pyg.explain import pca_map
from tests.nn.graphs import features


def test_agrees_with_scikit_learn_up_to_signs():
    x = features(9, num=40) * torch.linspace(3, 1, 9)
    reference = PCA(2)
    points = torch.from_numpy(reference.fit_transform(x.double().numpy())).float()
    found = pca_map(x)
    signs = torch.sign((found.points * points).sum(dim=0))
    torch.testing.assert_close(found.points, points * signs, atol=1e-4, rtol=1e-4)
    expected = reference.explained_variance_ratio_.tolist()
    assert found.share == pytest.approx(expected, abs=1e-4)


def test_rows_in_another_order_are_in_the_same_places():
    x = features(5, num=20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    there = pca_map(x[order]).points
    torch.testing.assert_close(there, pca_map(x).points[order], atol=1e-5, rtol=1e-5)


def test_the_sign_of_an_axis_is_fixed():
    x = torch.tensor([[0.0, 0.0], [1.0, -2.0], [3.0, -6.0]])
    points = pca_map(x).points[:, 0]
    # The second column is the longer one, and points up.
    assert points[0] > points[1] > points[2]


def test_the_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = pca_map(features(8, num=12))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(pca_map(features(8, num=12)).points, first.points)


@pytest.mark.parametrize('shape', [(1, 4), (4, 1), (1, 1)])
def test_where_there_is_no_second_axis_it_is_zero(shape):
    found = pca_map(torch.arange(1.0, 1 + shape[0] * shape[1]).view(shape))
    assert found.points.shape == (shape[0], 2)
    assert found.points[:, 1].abs().max() == 0
    assert found.share[1] == 0.0


def test_equal_rows_are_in_one_place():
    found = pca_map(torch.ones(5, 3))
    assert found.points.abs().max() == 0
    assert found.share == (0.0, 0.0)


def test_half_precision_and_strides_are_fine():
    x = features(12, num=6)
    found = pca_map(x.t().half())
    torch.testing.assert_close(
        found.points, pca_map(x.t().contiguous()).points, atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize('x', [torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0)])
def test_what_is_no_matrix_is_refused(x):
    with pytest.raises(ValueError, match=r"'x' must have shape \[N, D\]"):
        pca_map(x)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="'x' must be finite"):
        pca_map(torch.tensor([[1.0, float('inf')]]))
