import torch

from promptmm_pyg.functional import score_all
from promptmm_pyg.models.vbpr import VBPR
from tests.models.setting import (
    BATCH,
    detached,
    make,
    make_features,
    naive_bpr,
    operators,
    squared_norm,
)


def biased():
    model = make(VBPR)
    with torch.no_grad():
        model.item_bias.copy_(torch.linspace(-1, 1, 7).unsqueeze(1))
    return model


def test_one_inner_product_is_the_papers_sum():
    model = biased()
    p, x = detached(model), make_features()
    tastes = [p[f'tastes.tables.user_{modality}'] for modality in x]
    expected = p['item_bias'].t() + p['embeddings.tables.user'] @ (
        p['embeddings.tables.item'].t()
    )
    for n, modality in enumerate(x):
        weight = p[f'features.lins.lin_{modality}.weight']
        features = x[modality]['item']
        expected = expected + tastes[n] @ weight[:4] @ features.t()
        expected = expected + weight[4] @ features.t()
    out = model(operators()).x_dict
    torch.testing.assert_close(score_all(out['user'], out['item']), expected)


def test_a_modality_holds_tastes_and_projections():
    model = biased()
    p, x = detached(model), make_features()
    views = model().modality_x_dict
    assert list(views) == ['audio', 'image', 'text']
    text = views['text']
    torch.testing.assert_close(text['user'], p['tastes.tables.user_text'])
    weight = p['features.lins.lin_text.weight'][:4]
    torch.testing.assert_close(text['item'], x['text']['item'] @ weight.t())


def test_terms_equal_loops_over_the_batch():
    model = biased()
    output = model()
    terms = model.losses(output, BATCH)
    p = detached(model)
    user, positive, negative = BATCH
    ids, bias = p['embeddings.tables.item'], p['item_bias']
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict, BATCH))
    expected = squared_norm(
        p['embeddings.tables.user'][user],
        *(p[f'tastes.tables.user_{m}'][user] for m in make_features()),
        *(table[index] for table in (ids, bias) for index in (positive, negative)),
    )
    torch.testing.assert_close(terms['l2'], expected)
    rows = [p[f'features.lins.lin_{m}.weight'] for m in make_features()]
    halves = [weight.square().sum(1).mean() / 2 for weight in rows]
    torch.testing.assert_close(terms['projection_l2'], sum(halves) / 3)
