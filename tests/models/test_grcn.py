import pytest
import torch

from promptmm_pyg.models.grcn import GRCN
from tests.models.setting import (
    BATCH,
    make,
    naive_bpr,
    operators,
)
from tests.nn.graphs import EDGE_INDEX, USER_ITEM, edges, features

ADJ = torch.zeros(5, 7, dtype=torch.bool)
ADJ[EDGE_INDEX[0], EDGE_INDEX[1]] = True


def norm(x):
    return torch.nn.functional.normalize(x, dim=1)


def masked_softmax(affinity, dim):
    """Zero where no edge is, also for nodes without any."""
    return affinity.masked_fill(~ADJ, -torch.inf).softmax(dim).nan_to_num(0.0)


def reference(model, num_routings=0, num_layers=2):
    """Both tables, on dense matrices ``[users, items]``."""
    ids = model.embeddings()
    to_user, to_item, users, items = [], [], [], []
    for m, x in enumerate(model.features().values()):
        z = norm(torch.where(x > 0, x, 0.01 * x))
        p = norm(list(model.prototypes().values())[m])
        for _ in range(num_routings):
            p = norm(p + masked_softmax(p @ z.t(), 1) @ z)
        for_user, for_item = (masked_softmax(p @ z.t(), dim) for dim in (1, 0))
        users.append(p + for_user @ z)
        items.append(z + for_item.t() @ p)
        to_user.append(for_user * model.item_confidence[:, m])
        to_item.append(for_item * model.user_confidence[:, m, None])
    for_user, for_item = (torch.stack(w).amax(0).relu() for w in (to_user, to_item))
    layers = [(norm(ids['user']), norm(ids['item']))]
    for _ in range(num_layers):
        user, item = layers[-1]
        layers.append((for_user @ item, for_item.t() @ user))
    user, item = (sum(parts) for parts in zip(*layers, strict=True))
    return torch.cat([user, *users], dim=1), torch.cat([item, *items], dim=1)


def build(**kwargs):
    model = make(GRCN, 'image', 'text', **kwargs)
    with torch.no_grad():  # Of both signs: some edges are pruned, some are not.
        model.item_confidence.copy_(features(2, seed=5))
        model.user_confidence.copy_(features(2, seed=6, num=5))
    return model


@pytest.mark.parametrize(('num_routings', 'num_layers'), [(0, 1), (1, 2), (3, 2)])
def test_forward_equals_dense_matrices(num_routings, num_layers):
    model = build(num_routings=num_routings, num_layers=num_layers)
    output = model(operators())
    user, item = reference(model, num_routings, num_layers)
    torch.testing.assert_close(output.x_dict['user'], user, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.x_dict['item'], item, atol=1e-5, rtol=1e-5)
    ours = output.modality_x_dict['text']['item']
    torch.testing.assert_close(ours, item[:, 8:], atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_dense_matrices():
    model = build()
    weight = features(12, seed=7, num=12)

    def grads(user, item):
        total = (torch.cat([user, item]) * weight).sum()
        return torch.autograd.grad(total, list(model.parameters()))

    ours = grads(*model(operators()).x_dict.values())
    for a, b in zip(ours, grads(*reference(model)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_edges_without_confidence_are_pruned():
    model = make(GRCN, 'image', 'text')
    with torch.no_grad():
        model.item_confidence.fill_(-1.0)
        model.user_confidence.fill_(-1.0)
    output = model(operators())
    for side, table in model.embeddings().items():
        torch.testing.assert_close(output.x_dict[side][:, :4], norm(table))


def test_given_weights_do_not_matter():
    model = make(GRCN, 'image', 'text')
    plain = model({USER_ITEM: edges()[USER_ITEM]})
    torch.testing.assert_close(plain.x_dict, model(operators()).x_dict)


def test_another_graph_is_another_result():
    model = make(GRCN, 'image', 'text')
    first = model(operators()).x_dict['user']
    other = model({USER_ITEM: torch.tensor([[4], [6]])}).x_dict['user']
    assert not torch.allclose(first, other)


def test_terms_equal_loops_over_the_batch():
    model = make(GRCN, 'image', 'text')
    output = model(operators())
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict))
    ids, (image, text) = model.embeddings(), model.prototypes().values()
    squares = [ids['user'][BATCH.user], image[BATCH.user], text[BATCH.user], image]
    expected = sum((x**2).sum() / x.numel() for x in squares)
    for index in (BATCH.positive, BATCH.negative):
        expected = expected + (ids['item'][index] ** 2).sum() / 40
    torch.testing.assert_close(terms['l2'], expected)
