import pytest
import torch

from promptmm_pyg.models.lattice import LATTICE
from tests.models.contract import (
    BATCH,
    ModelContract,
    bpr_by_hand,
    build,
    dense_knn,
    dense_smooth,
    half_norm_by_hand,
    item_x_dict,
    operators,
)
from tests.nn.graphs import dense, features


class TestLATTICE(ModelContract):
    cls = LATTICE
    options = {'num_neighbors': 2}  # noqa: RUF012
    in_no_term = {'modality_logits'}  # noqa: RUF012


def make(**kwargs):
    kwargs.setdefault('num_neighbors', 2)
    model = build(LATTICE, **kwargs)
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([0.3, -0.5]))
    return model


def unit(x):
    return torch.nn.functional.normalize(x, dim=1)


@pytest.mark.parametrize('num_item_layers', [1, 2])
@pytest.mark.parametrize('frozen_weight', [0.0, 0.7])
@pytest.mark.parametrize('mode', [True, False])
def test_forward_equals_dense_matrices(num_item_layers, frozen_weight, mode):
    model = make(num_item_layers=num_item_layers, frozen_weight=frozen_weight)
    output = model.train(mode)(operators())
    ids = model.embeddings()
    user, item = dense_smooth(dense(), ids['user'], ids['item'], 2)
    graphs = [
        frozen_weight * dense_knn(item_x_dict()[name]['item'], 2)
        + (1 - frozen_weight) * dense_knn(x.detach(), 2)
        for name, x in model.features().items()
    ]
    shares = torch.tensor([0.3, -0.5]).softmax(0)
    before = ids['item']
    for _ in range(num_item_layers - 1):
        before = (shares[0] * graphs[0] + shares[1] * graphs[1]) @ before
    h = (shares[0] * graphs[0] + shares[1] * graphs[1]) @ before
    torch.testing.assert_close(output.x_dict['user'], user, atol=1e-5, rtol=1e-5)
    expected = item + unit(h)
    torch.testing.assert_close(output.x_dict['item'], expected, atol=1e-5, rtol=1e-5)
    text = output.modality_x_dict['text']
    expected = item + unit(graphs[1] @ before)
    torch.testing.assert_close(text['item'], expected, atol=1e-5, rtol=1e-5)
    assert text['user'] is output.x_dict['user']


def test_projections_get_the_gradient_of_their_graph():
    # Against a graph of dense cosines on the same neighbors.
    model = make(num_modalities=2, frozen_weight=0.0).eval()
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([60.0, 0.0]))  # The image alone.
    weight = features(4, seed=7)
    lin = model.features.lins['lin_image']
    x = item_x_dict()['image']['item']

    def reference():
        z = unit(lin(x))
        cosine = (z @ z.t()).clamp_min(0.0) * (dense_knn(z.detach(), 2, False) > 0)
        degree = cosine.sum(1)
        return cosine / (degree[:, None] * degree).sqrt()

    h = reference() @ model.embeddings()['item']
    expected = torch.autograd.grad((unit(h) * weight).sum(), [lin.weight, lin.bias])
    total = (model(operators()).x_dict['item'] * weight).sum()
    ours = torch.autograd.grad(total, [lin.weight, lin.bias])
    assert (ours[0].abs() > 1e-4).any()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def neighbors(model):
    return {m: p.source.clone() for m, p in model._patterns.items()}


def turn_projection(model, seed):
    with torch.no_grad():
        for weight in model.features.weights:
            weight.copy_(features(weight.size(1), seed=seed, num=4))


def same(a, b):
    return all(torch.equal(a[m], b[m]) for m in a)


def test_neighbors_stay_within_an_epoch_and_are_found_anew_in_the_next():
    model = make().train()
    model(operators())
    first = neighbors(model)
    turn_projection(model, 3)
    model(operators())
    assert same(neighbors(model), first)
    model.train()
    model(operators())
    assert not same(neighbors(model), first)


def test_neighbors_are_found_anew_when_asked_to():
    model = make().train()
    model(operators())
    first = neighbors(model)
    turn_projection(model, 3)
    model.refresh()
    model(operators())
    assert not same(neighbors(model), first)


def test_neighbors_are_found_anew_at_the_interval():
    model = make(refresh_interval=2).train()
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
    model = make(frozen_weight=0.0).train()
    model(operators())
    model.training = False  # As `soft_targets` puts it in eval mode.
    before = model(operators()).x_dict['item']
    turn_projection(model, 3)
    out = model(operators()).x_dict['item']
    assert not torch.allclose(out, before)
    other = make(frozen_weight=0.0).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(operators()).x_dict['item'], out)


def test_items_without_content_keep_what_light_gcn_says():
    x_dict = item_x_dict()
    for features_dict in x_dict.values():
        features_dict['item'][3] = 0.0
    model = make(modality_x_dict=x_dict)
    for name in ('lin_image', 'lin_text'):
        torch.nn.init.normal_(model.features.lins[name].bias)
    ids = model.embeddings()
    _, item = dense_smooth(dense(), ids['user'], ids['item'], 2)
    out = model(operators()).x_dict['item']
    torch.testing.assert_close(out[3], item[3])
    assert not torch.allclose(out[0], item[0])


def test_terms_equal_loops_over_the_batch():
    model = make()
    output = model(operators())
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], bpr_by_hand(*output.x_dict.values()))
    expected = half_norm_by_hand(*model.embeddings().values())
    torch.testing.assert_close(terms['l2'], expected)


def test_errors_and_repr():
    assert str(make()) == (
        'LATTICE(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "ProjectedFeatures({'image': 3, 'text': 4}), num_layers=2, num_neighbors=2)"
    )
    for name in ('num_item_layers', 'num_neighbors', 'refresh_interval'):
        with pytest.raises(ValueError, match=f"'{name}' must be positive"):
            build(LATTICE, **{name: 0})
    with pytest.raises(ValueError, match=r"'frozen_weight' must be in \[0, 1\)"):
        build(LATTICE, frozen_weight=1.0)
