import pytest
import torch

from promptmm_pyg.models.light_gcn_m import LightGCNM
from tests.models.setting import (
    BATCH,
    detached,
    make,
    make_features,
    naive_bpr,
    naive_l2,
    operators,
)
from tests.nn.graphs import dense


def start(model, modalities=('audio', 'image', 'text')):
    """The first layer, [12, D], users first."""
    p, x = detached(model), make_features()
    parts = [
        x[m]['item'] @ p[f'features.lins.lin_{m}.weight'].t()
        + p[f'features.lins.lin_{m}.bias']
        for m in modalities
    ]
    item = p['embeddings.tables.item'] + sum(parts) / len(parts)
    return torch.cat([p['embeddings.tables.user'], item])


def smooth(x, num_layers):
    laplacian = torch.zeros(12, 12)
    laplacian[:5, 5:], laplacian[5:, :5] = dense(), dense().t()
    layers = [x]
    for _ in range(num_layers):
        layers.append(laplacian @ layers[-1])
    return torch.stack(layers).mean(0)


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_forward_is_the_mean_over_layers_of_the_dense_propagation(num_layers):
    model = make(LightGCNM, num_layers=num_layers)
    with torch.no_grad():
        model.features.lins['lin_text'].bias.fill_(0.3)
    out = model(operators()).x_dict
    torch.testing.assert_close(
        torch.cat([out['user'], out['item']]), smooth(start(model), num_layers)
    )


def test_a_modality_is_its_own_part_of_the_sum():
    model = make(LightGCNM)
    views = model(operators()).modality_x_dict
    p, x = detached(model), make_features()
    text = x['text']['item'] @ p['features.lins.lin_text.weight'].t()
    text = text + p['features.lins.lin_text.bias']
    expected = smooth(torch.cat([torch.zeros(5, 4), text]), 2)
    torch.testing.assert_close(
        torch.cat([views['text']['user'], views['text']['item']]), expected
    )


def test_terms_equal_loops_over_the_batch():
    model = make(LightGCNM)
    output = model(operators())
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict, BATCH))
    torch.testing.assert_close(terms['l2'], naive_l2(output.x_dict))
