import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models.bm3 import BM3
from promptmm_pyg.targets import TeacherOutput
from tests.models.setting import (
    BATCH,
    detached,
    make,
    make_features,
    operators,
)
from tests.nn.graphs import dense


def latent(model, num_layers=2):
    p = detached(model)
    laplacian = torch.zeros(12, 12)
    laplacian[:5, 5:], laplacian[5:, :5] = dense(), dense().t()
    layers = [torch.cat([p['embeddings.tables.user'], p['embeddings.tables.item']])]
    for _ in range(num_layers):
        layers.append(laplacian @ layers[-1])
    h = torch.stack(layers).mean(0)
    return h[:5], h[5:] + p['embeddings.tables.item']


def feature_latent(model, modality):
    p, x = detached(model), make_features()
    weight = p[f'features.lins.lin_{modality}.weight']
    return x[modality]['item'] @ weight.t() + p[f'features.lins.lin_{modality}.bias']


def online(model, h):
    p = detached(model)
    return h @ p['predictor.weight'].t() + p['predictor.bias']


def gap(a, b):
    return (1 - F.cosine_similarity(a, b)).mean()


def test_forward_is_the_predictor_on_dense_propagation_and_projection():
    model = make(BM3).eval()
    out = model(operators())
    user, item = latent(model)
    torch.testing.assert_close(out.x_dict['user'], online(model, user))
    torch.testing.assert_close(out.x_dict['item'], online(model, item))
    text = out.modality_x_dict['text']
    torch.testing.assert_close(
        text['item'], online(model, feature_latent(model, 'text'))
    )
    assert text['user'] is out.x_dict['user']


def test_terms_equal_the_formulas_without_dropout():
    model = make(BM3).eval()
    rows = BATCH
    terms = model.losses(model(operators()), rows)
    user_h, item_h = latent(model)
    u, i = user_h[rows.user], item_h[rows.positive]
    torch.testing.assert_close(
        terms['reconstruction'], gap(online(model, u), i) + gap(online(model, i), u)
    )
    features = [feature_latent(model, m)[rows.positive] for m in make_features()]
    alignment = [gap(online(model, f), i) for f in features]
    masked = [gap(online(model, f), f) for f in features]
    torch.testing.assert_close(terms['alignment'], sum(alignment))
    torch.testing.assert_close(terms['masked'], sum(masked))
    norms = [h.square().sum().sqrt() for h in (user_h, item_h)]
    torch.testing.assert_close(terms['l2'], sum(norms) / 7)


def test_negatives_take_no_part():
    model = make(BM3).eval()
    output, rows = model(operators()), BATCH
    other = rows._replace(negative=torch.full_like(rows.negative, 2))
    for a, b in zip(
        model.losses(output, rows).values(),
        model.losses(output, other).values(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_targets_are_dropped_out_in_training_only():
    model = make(BM3, dropout=0.6)
    model(operators())
    rows = BATCH
    nodes = model._latents(), rows.user, rows.positive
    user, item, features = model.train()._targets(*nodes)
    for target in (user, item, features['text']):
        assert bool((target == 0).any())
    user, item, features = model.eval()._targets(*nodes)
    for target in (user, item, features['text']):
        assert bool((target != 0).all())


def test_no_gradient_flows_through_targets():
    # With a constant online side, nothing but the penalty is left.
    model = make(BM3).train()
    output = model(operators())
    constant = TeacherOutput(
        {key: x.detach() for key, x in output.x_dict.items()},
        {
            m: {key: x.detach() for key, x in x_dict.items()}
            for m, x_dict in output.modality_x_dict.items()
        },
    )
    terms = model.losses(constant, BATCH)
    assert [name for name, term in terms.items() if term.requires_grad] == ['l2']


def test_losses_must_follow_a_call():
    with pytest.raises(RuntimeError, match='must follow a call'):
        make(BM3).losses(TeacherOutput({}, {}), BATCH)
