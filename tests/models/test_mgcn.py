import pytest
import torch

from promptmm_pyg.models.mgcn import MGCN
from tests.models.setting import (
    BATCH,
    dense_knn,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    naive_contrast,
    naive_l2,
    operators,
)
from tests.nn.graphs import dense


def affine(lin, x):
    return x @ lin.weight.t() + (0 if lin.bias is None else lin.bias)


def reference(model, num_item_layers=1):
    """Per side: behavior [N, D] and what every modality adds."""
    ids = model.embeddings()
    behavior = dense_smooth(ids['user'], ids['item'], 2)
    items = []
    for m, (name, x) in enumerate(model.features().items()):
        purified = ids['item'] * torch.sigmoid(affine(model.purifiers[m], x))
        graph = dense_knn(make_features('image', 'text', 'audio')[name]['item'], 2)
        items.append(torch.linalg.matrix_power(graph, num_item_layers) @ purified)
    sides = []
    for views, own in (
        ([dense() @ x for x in items], behavior[0]),
        (items, behavior[1]),
    ):
        logits = [
            affine(model.query[2], torch.tanh(affine(model.query[0], v))) for v in views
        ]
        share = torch.cat(logits, dim=1).softmax(1)
        shared = sum(share[:, m, None] * v for m, v in enumerate(views))
        parts = [
            (v - shared) * torch.sigmoid(affine(model.preferences[m], own))
            for m, v in enumerate(views)
        ]
        sides.append((own, [part + shared / len(views) for part in parts]))
    return sides


@pytest.mark.parametrize('num_modalities', [1, 3])
@pytest.mark.parametrize('num_item_layers', [1, 2])
def test_forward_equals_dense_matrices(num_modalities, num_item_layers):
    model = make(
        MGCN,
        *('image', 'text', 'audio')[:num_modalities],
        num_neighbors=2,
        num_item_layers=num_item_layers,
        init_std=1.0,
    )
    output = model(operators())
    for side, (own, parts) in zip(
        ('user', 'item'), reference(model, num_item_layers), strict=True
    ):
        expected = own + sum(parts) / (num_modalities + 1)
        ours = output.x_dict[side]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        for view, part in zip(output.modality_x_dict.values(), parts, strict=True):
            torch.testing.assert_close(view[side], part, atol=1e-5, rtol=1e-5)


def test_terms_equal_loops_over_the_batch():
    model = make(MGCN, 'image', 'text', num_neighbors=2, temperature=0.5, init_std=1.0)
    output = model(operators())
    terms = model.losses(output, BATCH)
    user, item = output.x_dict.values()
    torch.testing.assert_close(terms['bpr'], naive_bpr({'user': user, 'item': item}))
    torch.testing.assert_close(terms['l2'], naive_l2({'user': user, 'item': item}))
    expected = 0
    nodes = BATCH.user, BATCH.positive
    for index, (own, parts) in zip(nodes, reference(model), strict=True):
        content = (parts[0] + parts[1]) / 3
        expected = expected + naive_contrast(content[index], own[index], 0.5)
    torch.testing.assert_close(terms['contrast'], expected, atol=1e-5, rtol=1e-5)
