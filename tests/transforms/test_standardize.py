import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import HeteroData

from promptmm_pyg.transforms import (
    AddModalityPCA,
    StandardizeModalities,
    principal_axes,
    standardize,
)


def make_x(num=20, width=5):
    g = torch.Generator().manual_seed(0)
    return torch.randn(num, width, generator=g) * torch.arange(1, width + 1) + 7


def test_agrees_with_scikit_learn_up_to_the_root_of_the_width():
    x = make_x()
    expected = torch.from_numpy(StandardScaler().fit_transform(x.numpy()))
    torch.testing.assert_close(standardize(x) * 5**0.5, expected.to(x.dtype))


def test_absent_rows_are_zero_and_do_not_count():
    x = make_x()
    mask = torch.ones(20, dtype=torch.bool)
    mask[[3, 8]] = False
    out = standardize(x, mask)
    assert (out[[3, 8]] == 0).all()
    torch.testing.assert_close(out[mask], standardize(x[mask]))


def test_a_constant_column_becomes_zero():
    x = make_x()
    x[:, 2] = 0.1  # Not exact in binary: its computed deviation is not zero.
    assert (standardize(x)[:, 2] == 0).all()
    assert standardize(x).isfinite().all()


def test_without_any_present_row_all_is_zero():
    out = standardize(make_x(), torch.zeros(20, dtype=torch.bool))
    assert (out == 0).all()


def test_transform_reaches_every_modality_and_honors_its_mask():
    data = HeteroData()
    data['user'].num_nodes = 20
    data['user'].x_text = make_x(width=3)
    data['item'].num_nodes = 20
    data['item'].x_image = make_x()
    data['item'].mask_image = torch.arange(20) > 0
    out = StandardizeModalities()(data)
    torch.testing.assert_close(out['user'].x_text, standardize(make_x(width=3)))
    torch.testing.assert_close(
        out['item'].x_image, standardize(make_x(), torch.arange(20) > 0)
    )
    torch.testing.assert_close(data['item'].x_image, make_x())


def test_whole_numbers_are_those_numbers():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-9, 10, (12, 4), generator=g)
    for dtype in (torch.long, torch.int8):
        torch.testing.assert_close(standardize(x.to(dtype)), standardize(x.float()))
    found = standardize(x > 0)
    torch.testing.assert_close(found, standardize((x > 0).float()))


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_present_rows_need_to_be_finite(bad):
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 2, 5
    data['item'].x_text = torch.randn(5, 3)
    data['item'].x_text[1, 2] = bad
    edges = torch.tensor([[0, 1], [0, 4]])
    data['user', 'interacts', 'item'].edge_index = edges
    data['item', 'rev_interacts', 'user'].edge_index = edges.flip([0])
    message = r"'data\['item'\].x_text' requires finite features \(got 1 of 15 values"
    for transform in (StandardizeModalities(), AddModalityPCA(2)):
        with pytest.raises(ValueError, match=message):
            transform(data)
    data['item'].mask_text = torch.arange(5) != 1
    out = AddModalityPCA(2)(StandardizeModalities()(data))
    assert out['item'].prompt_start.isfinite().all()
    with pytest.raises(ValueError, match="'x' requires finite features"):
        principal_axes(torch.tensor([[bad, 0.0], [1.0, 2.0]]), 1)
