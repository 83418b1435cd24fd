import torch
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import HeteroData

from promptmm_pyg.transforms import StandardizeModalities, standardize


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
