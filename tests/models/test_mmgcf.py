import numpy as np
import pytest
import torch

from promptmm_pyg.models import MMGCF
from tests.models.setting import BATCH, dense_smooth, make, naive_bpr, naive_l2
from tests.models.setting import operators as adj_dict


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def oracle(ids, features, fusion, weighting, alpha, lins):
    """The embeddings of items of the nine combinations."""

    def fuse(parts, lin=0):
        if fusion == 'concat':
            weight, bias = lins[lin]
            return np.concatenate(parts, axis=1) @ weight.T + bias
        return sum(parts) / (len(parts) if fusion == 'mean' else 1)

    if weighting == 'equal':
        return fuse([ids, fuse(features)], 1)
    if weighting == 'alpha':
        gate = 1 / (1 + np.exp(-alpha))
        return fuse([gate * ids, *((1 - gate) * x for x in features)])
    return fuse([len(features) * unit(ids), *map(unit, features)])


@pytest.mark.parametrize('weighting', ['equal', 'alpha', 'normalized'])
@pytest.mark.parametrize('fusion', ['mean', 'sum', 'concat'])
def test_forward_and_losses_equal_the_formula(fusion, weighting):
    model = make(MMGCF, fusion=fusion, weighting=weighting).eval()
    if weighting == 'alpha':
        assert model.gate.item() == 0.0
        torch.nn.init.constant_(model.gate, 0.7)
    output = model(adj_dict())
    tables = model.embeddings()
    user, ids = dense_smooth(tables['user'], tables['item'], 2)
    features = [x.detach().numpy() for x in model.features().values()]
    lins = [(x.weight.detach().numpy(), x.bias.detach().numpy()) for x in model.lins]
    item = oracle(ids.detach().numpy(), features, fusion, weighting, 0.7, lins)
    torch.testing.assert_close(output.x_dict['user'], user)
    np.testing.assert_allclose(output.x_dict['item'].detach(), item, atol=1e-6)
    for x_dict, x in zip(output.modality_x_dict.values(), features, strict=True):
        np.testing.assert_array_equal(x_dict['item'].detach(), x)
        assert x_dict['user'] is output.x_dict['user']
    losses = model.losses(output, BATCH)
    torch.testing.assert_close(losses['bpr'], naive_bpr(output.x_dict))
    torch.testing.assert_close(losses['l2'], naive_l2(tables))


def test_edges_are_pruned_once_per_epoch_in_training():
    model, operators = make(MMGCF, prune_ratio=0.5), adj_dict()
    whole = model.bipartite(operators)
    assert model.eval().pruning(whole) is whole
    first = model.train().pruning(whole).to_item
    assert first.num_edges == 3
    assert model.pruning(whole).to_item is first
    assert model.train().pruning(whole).to_item is not first


def test_errors_and_repr():
    assert str(make(MMGCF, 'image')) == (
        'MMGCF(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "ProjectedFeatures({'image': 6}), num_layers=2, fusion='mean', "
        "weighting='equal', prune_ratio=0.2)"
    )
    for option in ('fusion', 'weighting'):
        with pytest.raises(ValueError, match=f"'{option}' must be one of"):
            make(MMGCF, **{option: 'other'})
