import pytest
import torch

from promptmm_pyg.models.lattice import LATTICE
from tests.models.setting import (
    BATCH,
    dense_knn,
    dense_sym,
    make,
    make_features,
    naive_bpr,
    naive_l2,
    operators,
)
from tests.nn.graphs import dense, features


def build(**kwargs):
    kwargs.setdefault('num_neighbors', 2)
    model = make(LATTICE, 'image', 'text', **kwargs)
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([0.3, -0.5]))
    return model


def unit(x):
    return torch.nn.functional.normalize(x, dim=1)


def with_self_loops(ids):
    """The mean over layers of the row-normalized graph with self-loops, dense."""
    A = torch.eye(12)
    A[:5, 5:], A[5:, :5] = dense() > 0, dense().t() > 0
    A = A / A.sum(dim=1, keepdim=True)
    x = torch.cat([ids['user'], ids['item']])
    return ((x + A @ x + A @ A @ x) / 3).split([5, 7])


@pytest.mark.parametrize('num_item_layers', [1, 2])
@pytest.mark.parametrize('frozen_weight', [0.0, 0.7])
@pytest.mark.parametrize('mode', [True, False])
def test_forward_equals_dense_matrices(num_item_layers, frozen_weight, mode):
    model = build(num_item_layers=num_item_layers, frozen_weight=frozen_weight)
    output = model.train(mode)(operators())
    ids = model.embeddings()
    user, item = with_self_loops(ids)
    shares = torch.tensor([0.3, -0.5]).softmax(0)
    x_dict = make_features('image', 'text')
    raw = [dense_knn(x_dict[name]['item'], 2) for name in model.features()]
    learned = [
        dense_knn(x.detach(), 2, normalize=False) for x in model.features().values()
    ]
    graph = frozen_weight * (shares[0] * raw[0] + shares[1] * raw[1])
    mixed = dense_sym(shares[0] * learned[0] + shares[1] * learned[1])
    graph = graph + (1 - frozen_weight) * mixed
    before = torch.linalg.matrix_power(graph, num_item_layers - 1) @ ids['item']
    h = graph @ before
    torch.testing.assert_close(output.x_dict['user'], user, atol=1e-5, rtol=1e-5)
    expected = item + unit(h)
    torch.testing.assert_close(output.x_dict['item'], expected, atol=1e-5, rtol=1e-5)
    text = output.modality_x_dict['text']
    expected = item + unit(raw[1] @ before)
    torch.testing.assert_close(text['item'], expected, atol=1e-5, rtol=1e-5)
    assert text['user'] is output.x_dict['user']


def test_projections_get_the_gradient_of_their_graph():
    # Against a graph of dense cosines on the same neighbors.
    model = build(frozen_weight=0.0, num_neighbors=3).eval()
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([60.0, 0.0]))  # The image alone.
    weight = features(4, seed=7)
    lin = model.features.lins['lin_image']
    x = make_features('image', 'text')['image']['item']

    def reference():
        z = unit(lin(x))
        cosine = (z @ z.t()).clamp_min(0.0) * (dense_knn(z.detach(), 3, False) > 0)
        return dense_sym(cosine)

    h = reference() @ model.embeddings()['item']
    expected = torch.autograd.grad((unit(h) * weight).sum(), [lin.weight, lin.bias])
    total = (model(operators()).x_dict['item'] * weight).sum()
    ours = torch.autograd.grad(total, [lin.weight, lin.bias])
    assert (ours[0].abs() > 1e-4).any()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def neighbors(model):
    return model._last.weight


def turn_projection(model, seed):
    with torch.no_grad():
        for weight in model.features.weights:
            weight.copy_(features(weight.size(1), seed=seed, num=4))


def same(a, b):
    return torch.equal(a, b)


def test_gradients_reach_projections_in_the_first_step_of_an_epoch_only():
    model = build().train()
    names = ('lin_image', 'lin_text')
    for step in range(3):
        model.zero_grad()
        model(operators()).x_dict['item'].square().sum().backward()
        grads = [model.features.lins[x].weight.grad for x in names]
        grads.append(model.modality_logits.grad)
        assert all((grad is None) == (step > 0) for grad in grads)


def test_neighbors_are_searched_once_per_epoch():
    model = build().train()
    model(operators())
    first = neighbors(model)
    turn_projection(model, 3)
    model(operators())
    assert same(neighbors(model), first)
    model.train()
    model(operators())
    assert not same(neighbors(model), first)


def test_refresh_searches_neighbors_again():
    model = build().train()
    model(operators())
    first = neighbors(model)
    turn_projection(model, 3)
    model.refresh()
    model(operators())
    assert not same(neighbors(model), first)


def test_neighbors_are_searched_again_at_the_interval():
    model = build(refresh_interval=2).train()
    model(operators())
    first = neighbors(model)
    turn_projection(model, 3)
    model(operators())
    assert same(neighbors(model), first)
    model(operators())
    second = neighbors(model)
    assert not same(second, first)
    turn_projection(model, 4)
    model(operators())
    assert same(neighbors(model), second)
    model(operators())
    assert not same(neighbors(model), second)


def test_eval_depends_on_the_parameters_alone():
    model = build(frozen_weight=0.0).train()
    model(operators())
    model.training = False  # As `soft_targets` puts it in eval mode.
    before = model(operators()).x_dict['item']
    turn_projection(model, 3)
    out = model(operators()).x_dict['item']
    assert not torch.allclose(out, before)
    other = build(frozen_weight=0.0).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(operators()).x_dict['item'], out)


def test_items_without_content_have_light_gcn_vectors():
    x_dict = make_features('image', 'text')
    for features_dict in x_dict.values():
        features_dict['item'][3] = 0.0
    model = build(modality_x_dict=x_dict)
    for name in ('lin_image', 'lin_text'):
        torch.nn.init.normal_(model.features.lins[name].bias)
    _, item = with_self_loops(model.embeddings())
    out = model(operators()).x_dict['item']
    torch.testing.assert_close(out[3], item[3])
    assert not torch.allclose(out[0], item[0])


def test_terms_equal_loops_over_the_batch():
    model = build()
    output = model(operators())
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict))
    torch.testing.assert_close(terms['l2'], naive_l2(output.x_dict))
