import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models.mmssl import MMSSL
from tests.models.setting import (
    BATCH,
    ONE,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    naive_l2,
)
from tests.nn.graphs import (
    dense,
    edges,
    weights,
)

HEADS = 2
OPTIONS = {'num_heads': HEADS, 'fused_weight': 0.3, 'modality_weight': 0.7}


def naive_attention(model, views):
    """One node, one head, one pair of modalities at a time."""
    query, key = model.attention.query.weight, model.attention.key.weight
    out = torch.zeros_like(views)
    size = views.size(-1) // HEADS
    for node in range(views.size(1)):
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            for m in range(views.size(0)):
                logits = torch.stack(
                    [
                        (query @ views[m, node])[part] @ (key @ other[node])[part]
                        for other in views
                    ]
                )
                share = (logits / size**0.5).softmax(dim=0)
                mixed = sum(
                    s * v[node, part] for s, v in zip(share, views, strict=True)
                )
                out[m, node, part] = mixed
    return out


def naive_views(model):
    A, users, items = dense(), [], []
    for modality, x in make_features().items():
        lin = model.features.lins[f'lin_{modality}']
        own = x['item'] @ lin.weight.t() + lin.bias
        users.append(A @ own)
        items.append(A.t() @ users[-1])
    return {'user': torch.stack(users), 'item': torch.stack(items)}


def test_agrees_with_its_formulas_written_with_dense_matrices():
    model = make(MMSSL, dropout=0.0, num_layers=3, **OPTIONS)
    views = naive_views(model)
    start = {
        key: table
        + 0.3 * F.normalize(naive_attention(model, views[key]).mean(dim=0), dim=-1)
        for key, table in model.embeddings().items()
    }
    user, item = dense_smooth(start['user'], start['item'], 3)
    expected = {
        'user': user + 0.7 * F.normalize(views['user'], dim=-1).sum(dim=0),
        'item': item + 0.7 * F.normalize(views['item'], dim=-1).sum(dim=0),
    }
    out = model(edges(), weights())
    torch.testing.assert_close(out.x_dict, expected)
    for place, modality in enumerate(make_features()):
        torch.testing.assert_close(
            out.modality_x_dict[modality], {key: x[place] for key, x in views.items()}
        )


def test_terms_equal_loops_over_the_batch():
    model = make(MMSSL, **OPTIONS).eval()
    out, batch = model(edges(), weights()), BATCH
    terms = model.losses(out, batch)
    torch.testing.assert_close(terms['bpr'], naive_bpr(out.x_dict, batch))
    torch.testing.assert_close(terms['l2'], naive_l2(out.x_dict, batch))
    views = naive_views(model)
    squares = sum(x.square().sum() for x in views.values())
    torch.testing.assert_close(terms['modality_l2'], squares / (2 * 7))
    users = [0, 1, 2, 3]  # User 0 comes twice and counts once.
    expected = 0.0
    final = F.normalize(out.x_dict['user'][users])
    for view in naive_attention(model, views['user']):
        view = F.normalize(view[users])
        for row in range(4):
            own, total = torch.exp(view[row] @ final[row] / 0.5), 0.0
            for other in range(4):
                total = total + torch.exp(view[row] @ final[other] / 0.5)
                if other != row:
                    total = total + torch.exp(view[row] @ view[other] / 0.5)
            expected = expected - torch.log(own / total) / 4
    torch.testing.assert_close(terms['contrast'], expected)
    assert model.losses(out, ONE)['contrast'] == 0


@pytest.mark.parametrize(
    ('bad', 'name'), [('fused_weight', 'start'), ('modality_weight', 'end')]
)
def test_each_weight_at_zero_leaves_its_part_out(bad, name):
    changed = make(MMSSL, **{**OPTIONS, bad: 0.0}).eval()(edges(), weights())
    usual = make(MMSSL, **OPTIONS).eval()(edges(), weights())
    assert not torch.allclose(changed.x_dict['user'], usual.x_dict['user']), name
    torch.testing.assert_close(changed.modality_x_dict, usual.modality_x_dict)


def test_dropout_acts_on_the_reduced_features_while_training():
    model = make(MMSSL, dropout=0.9, **OPTIONS).train()
    first, second = (model(edges(), weights()).modality_x_dict for _ in range(2))
    assert not torch.equal(first['text']['user'], second['text']['user'])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="'num_heads' must divide the width 4"):
        make(MMSSL, num_heads=3)
