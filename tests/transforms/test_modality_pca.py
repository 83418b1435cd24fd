import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.transforms import (
    AddModalityPCA,
    principal_axes,
    principal_components,
    standardize,
)


def make_x(num=50, width=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=g) * torch.arange(1, width + 1)


def make_data(masked=False):
    data = HeteroData()
    data['user'].num_nodes = 3
    data['item'].num_nodes = 50
    data['item'].x_image = make_x()
    data['item'].x_text = make_x(width=9, seed=1)
    if masked:
        data['item'].mask_image = torch.arange(50) != 4
    edge_index = torch.tensor([[0, 0, 1], [4, 7, 9]])
    data[INTERACTS].edge_index = edge_index
    data[REV_INTERACTS].edge_index = edge_index.flip([0])
    return data


def test_agrees_with_scikit_learn_up_to_the_sign_of_an_axis():
    x = make_x()
    expected = torch.from_numpy(PCA(3).fit_transform(x.double().numpy())).to(x.dtype)
    out = principal_components(x, 3)
    torch.testing.assert_close(out.abs(), expected.abs(), rtol=1e-4, atol=1e-4)


def test_randomized_form_agrees_with_the_exact_one():
    g = torch.Generator().manual_seed(0)
    low_rank = torch.randn(60, 4, generator=g) @ torch.randn(4, 1100, generator=g)
    expected = PCA(4).fit_transform(low_rank.double().numpy())
    torch.testing.assert_close(
        principal_components(low_rank, 4).abs(),
        torch.from_numpy(expected).float().abs(),
        rtol=1e-3,
        atol=1e-3,
    )


def test_largest_entry_of_an_axis_is_positive():
    # One column alone: the axis is that column, whatever sign it came with.
    x = torch.zeros(5, 3)
    x[:, 1] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    torch.testing.assert_close(principal_components(x, 1)[:, 0], x[:, 1])
    torch.testing.assert_close(principal_components(-x, 1)[:, 0], -x[:, 1])


@pytest.mark.parametrize('width', [6, 1200])
def test_axes_are_those_of_the_components(width):
    x = make_x(width=width).double()
    axes = principal_axes(x, 3)
    torch.testing.assert_close(
        (x - x.mean(0)) @ axes.t(), principal_components(x, 3), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(axes @ axes.t(), torch.eye(3, dtype=torch.double))
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()


def test_axes_beyond_the_rank_are_zero():
    axes = principal_axes(make_x(width=2), 4)
    assert axes.shape == (4, 2)
    assert (axes[2:] == 0).all()
    with pytest.raises(ValueError, match="'num_axes' must be positive"):
        principal_axes(make_x(), 0)


def test_row_order_of_the_items_does_not_matter():
    perm = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    x = make_x()
    torch.testing.assert_close(
        principal_components(x[perm], 4), principal_components(x, 4)[perm],
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_same_data_same_prompt_and_the_global_generator_is_untouched():
    x = make_x(width=1200)
    before = torch.get_rng_state()
    one = principal_components(x, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(principal_components(x, 4), one)


def test_components_are_found_where_the_eigensolver_gives_up(monkeypatch):
    # Few rows: most eigenvalues are zero.
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    expected = principal_components(x, 12), principal_axes(x, 12)

    def give_up(_):
        raise torch.linalg.LinAlgError('too many repeated eigenvalues')

    monkeypatch.setattr(torch.linalg, 'eigh', give_up)
    found = principal_components(x, 12), principal_axes(x, 12)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found[0][:, :8].abs().sum(0).min() > 0
    assert found[0][:, 8:].abs().max() == 0


def test_components_beyond_the_rank_are_zero():
    out = principal_components(make_x(width=2), 5)
    assert out.shape == (50, 5)
    assert (out[:, 2:] == 0).all()
    assert (out[:, :2].abs().sum(0) > 0).all()


def test_users_get_the_mean_of_their_training_items():
    data = AddModalityPCA(4)(make_data())
    start = data['item'].prompt_start
    torch.testing.assert_close(data['user'].prompt_start[0], (start[4] + start[7]) / 2)
    torch.testing.assert_close(data['user'].prompt_start[1], start[9])
    assert (data['user'].prompt_start[2] == 0).all()


def test_concat_decomposes_all_modalities_together():
    data = AddModalityPCA(4, combine='concat')(make_data())
    x = torch.cat([standardize(make_x()), standardize(make_x(width=9, seed=1))], dim=1)
    expected = principal_components(x, 4)
    expected = expected / expected.square().mean().sqrt()
    torch.testing.assert_close(data['item'].prompt_start, expected)


def test_the_present_modalities_of_an_item_are_scaled_up_for_the_missing_ones():
    data = make_data()
    present = torch.ones(50, 2, dtype=torch.bool)
    present[:15, 0] = present[10:25, 1] = False  # Items 10 to 14 have neither.
    data['item'].mask_image, data['item'].mask_text = present.unbind(1)
    blocks = []
    for name, mask in zip(('image', 'text'), present.numpy().T, strict=True):
        x = data['item'][f'x_{name}'].double().numpy()
        block = (x - x[mask].mean(0)) / x[mask].std(0) / np.sqrt(x.shape[1])
        blocks.append(np.where(mask[:, None], block, 0))
    by_hand = np.concatenate(blocks, axis=1)
    by_hand[:10] *= 2
    by_hand[15:25] *= 2
    by_hand -= by_hand.mean(0)
    u, s, _ = np.linalg.svd(by_hand)
    expected = (u[:, :4] * s[:4]) @ (u[:, :4] * s[:4]).T  # Axes have no sign.
    out = AddModalityPCA(4)(data)['item'].prompt_start.double().numpy()
    gram = out @ out.T
    np.testing.assert_allclose(gram, expected * 200 / np.trace(expected), atol=1e-5)


def test_mean_uses_the_modalities_that_are_there():
    data = AddModalityPCA(4, combine='mean')(make_data(masked=True))
    mask = data['item'].mask_image
    image = principal_components(standardize(make_x(), mask), 4)
    text = principal_components(standardize(make_x(width=9, seed=1)), 4)
    expected = torch.where(mask[:, None], (image + text) / 2, text)
    expected = expected / expected.square().mean().sqrt()
    torch.testing.assert_close(data['item'].prompt_start, expected)


def test_scale_of_a_modality_does_not_matter():
    data = make_data()
    scaled = make_data()
    scaled['item'].x_image = 1000 * scaled['item'].x_image + 5
    torch.testing.assert_close(
        AddModalityPCA(4)(scaled)['item'].prompt_start,
        AddModalityPCA(4)(data)['item'].prompt_start,
        rtol=1e-3,
        atol=1e-3,
    )


def test_errors_and_repr():
    assert str(AddModalityPCA(8)) == "AddModalityPCA(8, combine='concat')"
    with pytest.raises(ValueError, match="'combine' must be one of"):
        AddModalityPCA(combine='ica')
    data = make_data()
    del data['item'].x_image
    del data['item'].x_text
    with pytest.raises(ValueError, match='at least one item modality'):
        AddModalityPCA(4)(data)
