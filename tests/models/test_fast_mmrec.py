import pytest
import torch

from promptmm_pyg.models import FastMMRec
from tests.models.setting import (
    BATCH,
    dense_knn,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    naive_l2,
    operators,
)


def build(**kwargs):
    weights = {'text': 3.0, 'image': 1.0}
    kwargs = {'num_neighbors': 3, 'modality_weights': weights, **kwargs}
    return make(FastMMRec, 'image', 'text', **kwargs)


def start(model):
    ids, preferences = model.embeddings(), model.preferences()
    users = [preferences[f'user_{name}'] for name in ('image', 'text')]
    return (
        torch.cat([ids['user'], *users], dim=1),
        torch.cat([ids['item'], *model.features().values()], dim=1),
    )


def test_training_reads_no_graph():
    model = build().train()
    output = model(operators())
    user, item = start(model)
    assert torch.equal(output.x_dict['user'], user)
    assert torch.equal(output.x_dict['item'], item)
    losses = model.losses(output, BATCH)
    torch.testing.assert_close(losses['bpr'], naive_bpr(output.x_dict))
    torch.testing.assert_close(losses['l2'], naive_l2(output.x_dict))


@pytest.mark.parametrize('num_item_layers', [1, 2])
def test_eval_smooths_the_trained_embeddings(num_item_layers):
    model = build(num_item_layers=num_item_layers).eval()
    output = model(operators())
    first, second = start(model)
    user, item = dense_smooth(first, second, 2)
    x_dict = make_features('image', 'text')
    image, text = (dense_knn(x['item'], 3, False) for x in x_dict.values())
    graph = torch.linalg.matrix_power(0.25 * image + 0.75 * text, num_item_layers)
    item = item + graph @ second
    torch.testing.assert_close(output.x_dict['user'], user)
    torch.testing.assert_close(output.x_dict['item'], item)
    for number, x_dict in enumerate(output.modality_x_dict.values(), 1):
        block = slice(4 * number, 4 * number + 4)
        assert torch.equal(x_dict['user'], output.x_dict['user'][:, block])
        assert torch.equal(x_dict['item'], output.x_dict['item'][:, block])


def test_repr():
    assert str(build()) == (
        'FastMMRec(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "ProjectedFeatures({'image': 6, 'text': 9}), num_layers=2, num_item_layers=1)"
    )
