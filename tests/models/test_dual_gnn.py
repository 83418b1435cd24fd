import numpy as np
import pytest
import torch

from promptmm_pyg.models import DRAGON, DualGNN
from tests.models.setting import (
    BATCH,
    dense_knn,
    make,
    make_features,
    naive_bpr,
    operators,
)
from tests.nn.graphs import EDGE_INDEX, dense

BOTH = pytest.mark.parametrize('cls', [DualGNN, DRAGON])


def build(cls, **kwargs):
    if cls is DRAGON:
        kwargs = {
            'num_neighbors': 3,
            'modality_weights': {'text': 3.0, 'image': 1.0},
            **kwargs,
        }
    return make(cls, 'image', 'text', **kwargs)


# Users 0 and 1 have two items in common, 0 and 2 one, 2 and 3 one, and 4 none.
COMMON = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 3], [0, 1, 2, 0, 1, 2, 3, 3]])


def user_graph(num_neighbors=40, repeats=None, edge_index=EDGE_INDEX):
    """The softmax of common items over the nearest other users."""
    items = [set(edge_index[1][edge_index[0] == user].tolist()) for user in range(5)]
    graph = np.zeros((5, 5))
    for user in range(5):
        common = {v: len(items[user] & items[v]) for v in range(5) if v != user}
        common = {v: c for v, c in common.items() if c}
        nearest = sorted(common, key=lambda v: (-common[v], v))[:num_neighbors]
        weights = {
            v: np.exp(common[v]) * (1 if repeats is None else 1 + repeats[user, v])
            for v in nearest
        }
        for v, weight in weights.items():
            graph[user, v] = weight / sum(weights.values())
    return graph


def oracle(model, cls):
    adj, parts = np.zeros((12, 12)), []
    adj[:5, 5:] = dense()
    adj += adj.T
    params = {k: p.detach().double().numpy() for k, p in model.named_parameters()}
    for number, (name, x_dict) in enumerate(make_features('image', 'text').items()):
        first = f'features.lins.lin_{name}'
        hidden = x_dict['item'].numpy() @ params[f'{first}.weight'].T
        hidden = hidden + params[f'{first}.bias']
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        item = hidden @ params[f'lins.{number}.weight'].T
        item = item + params[f'lins.{number}.bias']
        x = np.concatenate([params[f'preferences.tables.user_{name}'], item])
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        parts.append(x + adj @ x + adj @ adj @ x)
    (image_user, image), (text_user, text) = ((x[:5], x[5:]) for x in parts)
    w_image, w_text = params['user_mix'][:, :1], params['user_mix'][:, 1:]
    if cls is DualGNN:
        user = w_image * (image_user + text_user) + w_text * text_user
        item = image + text
    else:
        user = np.concatenate([w_image * image_user, w_text * text_user], axis=1)
        item = np.concatenate([image, text], axis=1)
        graphs = [
            dense_knn(x_dict['item'], 3, False).double().numpy()
            for x_dict in make_features('image', 'text').values()
        ]
        item = item + (0.25 * graphs[0] + 0.75 * graphs[1]) @ item
    return user + user_graph() @ user, item


@BOTH
def test_forward_in_eval_equals_dense_matrices(cls):
    model = build(cls).eval()
    output = model(operators())
    user, item = oracle(model, cls)
    np.testing.assert_allclose(output.x_dict['user'].detach(), user, atol=1e-5)
    np.testing.assert_allclose(output.x_dict['item'].detach(), item, atol=1e-5)
    assert output.modality_x_dict['text']['user'].shape == (5, 4)


@BOTH
def test_losses_equal_the_formula(cls):
    model = build(cls).eval()
    output = model(operators())
    losses = model.losses(output, BATCH)
    expected = naive_bpr(output.x_dict) / np.log(2)
    torch.testing.assert_close(losses['bpr'], expected)
    squares = [
        (x.detach().numpy()[BATCH.user] ** 2).mean()
        for name, x in model.named_parameters()
        if name.startswith('preferences')
    ]
    squares.append((model.user_mix.detach().numpy() ** 2).mean())
    if cls is DualGNN:
        squares.append((model.item_mix.detach().numpy() ** 2).mean())
    assert losses['l2'].item() == pytest.approx(sum(squares), rel=1e-5)


def dense_of(graph):
    return graph.matrices(torch.float)[0].to_dense()


@pytest.mark.parametrize('num_neighbors', [1, 2])
def test_the_nearest_users_are_those_with_most_common_items(num_neighbors):
    model = build(DualGNN, num_user_neighbors=num_neighbors).eval()
    graph = dense_of(model.user_graph(model.bipartite(COMMON).to_user))
    expected = user_graph(num_neighbors, edge_index=COMMON)
    np.testing.assert_allclose(graph, expected, atol=1e-6)
    assert expected[0, 1] == (1 if num_neighbors == 1 else np.e / (1 + np.e))


def test_repeats_fill_the_list_once_per_epoch_and_are_off_in_eval():
    torch.manual_seed(0)
    model = build(DualGNN, num_user_neighbors=10)
    graph, to_user = model.user_graph, model.bipartite(COMMON).to_user
    neighbors = graph._search(to_user)
    repeats = graph._repeats(neighbors)
    target, source = neighbors.pattern.target, neighbors.pattern.source
    filled = torch.bincount(target, 1.0 + repeats, minlength=5)
    assert filled.tolist() == [10, 10, 10, 10, 0]
    table = np.zeros((5, 5))
    table[target, source] = repeats
    expected = user_graph(10, table, COMMON)
    drawn = dense_of(graph.operator(neighbors, repeats))
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    first = model.train().user_graph(to_user)
    assert graph(to_user) is first
    model.train()
    assert graph(to_user) is not first
    whole = user_graph(edge_index=COMMON)
    assert not np.allclose(dense_of(first), whole)
    np.testing.assert_allclose(dense_of(model.eval().user_graph(to_user)), whole)


def test_repeats_are_drawn_uniformly():
    torch.manual_seed(0)
    graph = build(DualGNN, num_user_neighbors=4002).user_graph
    items = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1]])  # Items, users.
    interactions = torch.stack([items[0], torch.arange(3).repeat(2)])
    edge_index = torch.stack([interactions[1], torch.zeros(6, dtype=torch.long)])
    to_user = make(DualGNN).bipartite({('user', 'interacts', 'item'): edge_index})
    repeats = graph._repeats(graph._search(to_user.to_user))
    assert repeats.view(3, 2).sum(dim=1).tolist() == [4000] * 3
    assert (repeats / 4000 - 0.5).abs().max() < 0.04  # Five standard deviations.


@BOTH
def test_weights_of_modalities_start_near_their_mean(cls):
    mix = build(cls).user_mix
    torch.testing.assert_close(mix.sum(dim=1), torch.ones(5))
    assert mix.min() > 0


def test_repr():
    assert str(build(DRAGON)) == (
        "DRAGON(ProjectedFeatures({'image': 6, 'text': 9}), num_layers=2, "
        'num_user_neighbors=40)'
    )
