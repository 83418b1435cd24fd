import pytest
import torch

from promptmm_pyg.models.mmgcn import MMGCN
from tests.models.setting import (
    BATCH,
    make,
    naive_bpr,
    naive_l2,
    operators,
)
from tests.nn.graphs import dense


def phi(x, slope=0.01):
    return torch.where(x > 0, x, slope * x)


@pytest.mark.parametrize('num_layers', [1, 2])
def test_forward_equals_dense_matrices(num_layers):
    model = make(MMGCN, 'image', 'text', num_layers=num_layers, negative_slope=0.2)
    ids = model.embeddings()
    views = []
    for m, features in enumerate(model.features().values()):
        user = model.tastes()['user'][:, 4 * m : 4 * m + 4]
        item = features
        for convs in model.convs:
            conv, new = convs[m], []
            sides = ((dense() @ item, user, 'user'), (dense().t() @ user, item, 'item'))
            for neighbors, own, side in sides:
                h = phi(neighbors @ conv.neighbor_lin.weight.t(), 0.2)
                own = phi(own @ conv.self_lin.weight.t() + conv.self_lin.bias, 0.2)
                out = h @ conv.out_lin.weight.t() + conv.out_lin.bias
                new.append(phi(out + own + ids[side], 0.2))
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
    users = torch.cat([ids['user'], model.tastes()['user']], dim=1)
    expected = naive_l2({'user': users, 'item': ids['item']})
    torch.testing.assert_close(terms['l2'], expected)
