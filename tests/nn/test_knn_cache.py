import pytest
import torch

from promptmm_pyg.nn import cached_knn_graph, knn_graph
from promptmm_pyg.nn import knn as knn_cache

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


def never(*_, **__):
    raise AssertionError('computed again')


@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.bfloat16])
def test_it_returns_what_is_computed_first_and_later(tmp_path, monkeypatch, dtype):
    x, mask = X.to(dtype), torch.arange(20) != 4
    expected = knn_graph(x, 3, mask=mask, normalize='row', weighted=True)
    for turn in range(2):
        if turn:
            monkeypatch.setattr(knn_cache, 'knn_graph', never)
        actual = cached_knn_graph(
            tmp_path, x, 3, mask=mask, normalize='row', weighted=True
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_all_that_changes_the_graph_changes_the_file(tmp_path):
    changed = X.clone()
    changed[7, 2] += 1e-6
    mask = torch.ones(20, dtype=torch.bool)
    absent = mask.clone()
    absent[3] = False
    for x, k, kwargs in (
        (X, 3, {}),
        (changed, 3, {}),
        (X.double(), 3, {}),
        (X.reshape(40, 3), 3, {}),
        (X, 4, {}),
        (X, 3, {'normalize': 'row'}),
        (X, 3, {'weighted': True}),
        (X, 3, {'mask': mask}),
        (X, 3, {'mask': absent}),
    ):
        before = len(list(tmp_path.iterdir()))
        cached_knn_graph(tmp_path, x, k, **kwargs)
        assert len(list(tmp_path.iterdir())) == before + 1


def test_the_layout_of_the_features_does_not_matter(tmp_path):
    cached_knn_graph(tmp_path, X, 3)
    cached_knn_graph(tmp_path, X.t().contiguous().t(), 3)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('damage', [b'', b'not a tensor', None])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    expected = cached_knn_graph(tmp_path, X, 3)
    (path,) = tmp_path.iterdir()
    full = path.read_bytes()
    path.write_bytes(full[:-8] if damage is None else damage)
    torch.testing.assert_close(cached_knn_graph(tmp_path, X, 3), expected)
    assert path.read_bytes() == full


def test_the_folder_is_made_and_bad_features_leave_no_file(tmp_path):
    folder = tmp_path / 'a' / 'b'
    with pytest.raises(ValueError, match="'k' must be positive"):
        cached_knn_graph(folder, X, 0)
    with pytest.raises(ValueError, match="'x' must be finite"):
        cached_knn_graph(folder, X / 0, 3)
    assert not folder.exists()
    cached_knn_graph(folder, X, 3)
    assert len(list(folder.iterdir())) == 1
