import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models.mmgcn import MMGCN
from tests.models.setting import (
    BATCH,
    make,
    make_features,
    naive_bpr,
    operators,
)
from tests.nn.graphs import dense


def phi(x, slope=0.01):
    return torch.where(x > 0, x, slope * x)


@pytest.mark.parametrize('num_layers', [1, 2])
def test_forward_equals_dense_matrices(num_layers):
    model = make(MMGCN, 'image', 'text', num_layers=num_layers, image_channels=3)
    ids = model.embeddings()
    lin, x_dict = model.features.lins['lin_image'], make_features('image', 'text')
    starts = {
        'image': x_dict['image']['item'] @ lin.weight.t() + lin.bias,
        'text': x_dict['text']['item'],  # As it is.
    }
    A, views = (dense() > 0).float(), []
    to_user, to_item = (x / x.sum(1, keepdim=True).clamp_min(1) for x in (A, A.t()))
    for modality, features in starts.items():
        user, item = (
            F.normalize(model.preferences[f'user_{modality}']()['user']),
            F.normalize(features),
        )
        for conv in model.convs[f'conv_{modality}']:
            new = []
            sides = ((to_user @ item, user, 'user'), (to_item @ user, item, 'item'))
            for neighbors, own, side in sides:
                h = phi(neighbors @ conv.neighbor_lin.weight.t())
                own = phi(own @ conv.self_lin.weight.t() + conv.self_lin.bias)
                both = torch.cat([h, own + ids[side]], dim=1)
                new.append(phi(both @ conv.out_lin.weight.t() + conv.out_lin.bias))
            user, item = new
        views.append((user, item))
    output = model(operators())
    for side in (0, 1):
        ours = output.x_dict[('user', 'item')[side]]
        expected = (views[0][side] + views[1][side]) / 2
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    ours = output.modality_x_dict['text']['item']
    torch.testing.assert_close(ours, views[1][1], atol=1e-5, rtol=1e-5)


def test_terms_equal_loops_over_the_batch():
    model = make(MMGCN, 'image', 'text')
    output = model(operators())
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict))
    ids = model.embeddings()
    image = model.preferences['user_image']()['user']
    expected = (ids['user'][BATCH.user] ** 2).sum() / 20 + (image**2).sum() / (5 * 256)
    for index in (BATCH.positive, BATCH.negative):
        expected = expected + (ids['item'][index] ** 2).sum() / 40
    torch.testing.assert_close(terms['l2'], expected)
