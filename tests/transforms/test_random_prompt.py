import pytest
import torch

from promptmm_pyg.transforms import AddModalityPCA, AddRandomPrompt
from tests.transforms.test_modality_pca import make_data


def test_it_has_shape_and_scale_of_the_one_from_content():
    data, rival = AddRandomPrompt(4)(make_data()), AddModalityPCA(4)(make_data())
    for node_type in ('user', 'item'):
        start = data[node_type].prompt_start
        assert start.shape == rival[node_type].prompt_start.shape
        assert start.dtype == rival[node_type].prompt_start.dtype
    rms = data['item'].prompt_start.square().mean().sqrt()
    torch.testing.assert_close(rms, torch.ones(()))


def test_users_get_the_mean_of_their_training_items():
    data = AddRandomPrompt(4)(make_data())
    start = data['item'].prompt_start
    torch.testing.assert_close(data['user'].prompt_start[0], (start[4] + start[7]) / 2)
    assert (data['user'].prompt_start[2] == 0).all()


def test_the_seed_alone_decides():
    before = torch.get_rng_state()
    one = AddRandomPrompt(4, seed=1)(make_data())['item'].prompt_start
    assert torch.equal(torch.get_rng_state(), before)
    other = make_data()
    del other['item'].x_image  # Content has no say.
    del other['item'].x_text
    assert torch.equal(AddRandomPrompt(4, seed=1)(other)['item'].prompt_start, one)
    two = AddRandomPrompt(4, seed=2)(make_data())['item'].prompt_start
    assert not torch.equal(one, two)


def test_errors_and_repr():
    assert str(AddRandomPrompt(8)) == 'AddRandomPrompt(8, seed=0)'
    with pytest.raises(ValueError, match="'out_channels' must be positive"):
        AddRandomPrompt(0)
