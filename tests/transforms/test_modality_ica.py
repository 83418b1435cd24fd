import sys

import pytest
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from promptmm_pyg.transforms import (
    AddModalityICA,
    independent_components,
    principal_components,
    standardize,
)
from tests.transforms.test_modality_pca import make_data


def make_sources(num=2000):
    """Three independent sources, none of them normal, at variance 1."""
    g = torch.Generator().manual_seed(0)
    uniform = torch.rand(num, 2, generator=g, dtype=torch.double)
    sign = torch.randint(2, (num,), generator=g) * 2.0 - 1
    heavy = sign * torch.empty(num, dtype=torch.double).exponential_(generator=g)
    sources = torch.cat([uniform, heavy[:, None]], dim=1)
    return (sources - sources.mean(0)) / sources.std(0, correction=0)


def make_x(width=6):
    g = torch.Generator().manual_seed(1)
    mixing = torch.randn(3, width, generator=g, dtype=torch.double)
    return make_sources() @ mixing + 5


def make_graph():
    data = make_data()
    x = make_x(15)[:50].float()
    data['item'].x_image, data['item'].x_text = x[:, :6], x[:, 6:]
    return data


def test_finds_independent_sources_that_were_mixed():
    found, sources = independent_components(make_x(), 3), make_sources()
    correlation = (found.t() @ sources / len(sources)).abs()
    best = correlation.max(dim=0)
    assert best.indices.unique().numel() == 3
    assert (best.values > 0.99).all()
    # Principal components do not: they mix.
    mixed = principal_components(make_x(), 3)
    mixed = mixed / mixed.std(0, correction=0)
    assert (mixed.t() @ sources / len(sources)).abs().max(dim=0).values.min() < 0.95


def test_components_are_centered_uncorrelated_and_of_variance_one():
    found = independent_components(make_x(), 3)
    torch.testing.assert_close(found.mean(0), torch.zeros(3, dtype=torch.double))
    torch.testing.assert_close(
        found.t() @ found / len(found), torch.eye(3, dtype=torch.double)
    )


def test_they_are_a_rotation_of_the_whitened_principal_components():
    found, white = (
        independent_components(make_x(), 3),
        principal_components(make_x(), 3),
    )
    white = white / white.std(0, correction=0)
    rotation = white.t() @ found / len(white)
    torch.testing.assert_close(white @ rotation, found)
    torch.testing.assert_close(
        rotation.t() @ rotation, torch.eye(3, dtype=torch.double)
    )


def test_agrees_with_scikit_learn_on_the_features_themselves():
    # As many columns as sources, so that both search the same space.
    x = make_x(3)
    search = FastICA(whiten='unit-variance', random_state=0, max_iter=1000, tol=1e-10)
    expected = torch.from_numpy(search.fit_transform(x.numpy()))
    found = independent_components(x, 3)
    correlation = (found.t() @ expected / len(x)).abs()
    # The search stops when a step turns an axis by less than 1e-4.
    assert (correlation.max(dim=1).values > 1 - 1e-3).all()
    assert correlation.argmax(dim=1).unique().numel() == 3


def test_the_first_explains_most_and_rises_with_the_column_it_explains_best():
    x = make_x()
    centered = x - x.mean(0)
    loadings = centered.t() @ independent_components(x, 3) / len(x)
    explained = loadings.square().sum(0)
    assert (explained.diff() < 0).all()
    torch.testing.assert_close(explained.sum(), centered.var(0, correction=0).sum())
    assert (loadings.gather(0, loadings.abs().argmax(0, keepdim=True)) > 0).all()


def test_same_data_same_components_and_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    one = independent_components(make_x(), 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(independent_components(make_x(), 3), one)


def test_components_beyond_the_rank_are_zero():
    out = independent_components(make_x(), 5)
    assert out.shape == (2000, 5)
    assert (out[:, 3:] == 0).all()
    torch.testing.assert_close(out[:, :3], independent_components(make_x(), 3))
    assert (independent_components(torch.ones(9, 4), 2) == 0).all()
    one = independent_components(make_x()[:, :1], 2)
    assert torch.equal(one[:, 1], torch.zeros(2000, dtype=torch.double))
    torch.testing.assert_close(one[:, 0].square().mean(), one.new_ones(()))


def test_a_search_that_does_not_converge_says_so():
    with pytest.warns(ConvergenceWarning, match='did not converge'):
        independent_components(make_x(), 3, max_iter=1)


def test_transform_gives_items_their_components_and_users_the_mean():
    data = AddModalityICA(3)(make_graph())
    x = [standardize(make_graph()['item'][f'x_{name}']) for name in ('image', 'text')]
    expected = independent_components(torch.cat(x, dim=1), 3)
    start = data['item'].prompt_start
    torch.testing.assert_close(start, expected / expected.square().mean().sqrt())
    torch.testing.assert_close(data['user'].prompt_start[0], (start[4] + start[7]) / 2)
    assert start.dtype == torch.float


def test_mean_decomposes_each_modality_on_its_own():
    data = AddModalityICA(2, combine='mean', seed=3)(make_graph())
    parts = [
        independent_components(standardize(make_graph()['item'][f'x_{name}']), 2, 3)
        for name in ('image', 'text')
    ]
    expected = (parts[0] + parts[1]) / 2
    expected = expected / expected.square().mean().sqrt()
    torch.testing.assert_close(data['item'].prompt_start, expected)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.decomposition', None)
    with pytest.raises(ImportError, match=r"'scikit-learn'.*\[ica\]"):
        independent_components(make_x(), 3)


def test_errors_and_repr():
    assert str(AddModalityICA(8)) == "AddModalityICA(8, combine='concat')"
    with pytest.raises(ValueError, match="'combine' must be one of"):
        AddModalityICA(combine='pca')
    with pytest.raises(ValueError, match="'out_channels' must be positive"):
        AddModalityICA(0)
    with pytest.raises(ValueError, match="'out_channels' must be positive"):
        independent_components(make_x(), 0)
    with pytest.raises(ValueError, match="'max_iter' must be positive"):
        AddModalityICA(max_iter=0)
