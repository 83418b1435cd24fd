import torch
import torch.nn.functional as F

from promptmm_pyg.models.clcrec import CLCRec
from tests.models.setting import (
    BATCH,
    detached,
    make,
    make_features,
    operators,
    squared_norm,
)

WARM = [0, 1, 3, 5]


def content(model):
    p, x = detached(model), make_features()
    # One layer on all modalities side by side.
    weight = torch.cat([p[f'features.lins.lin_{m}.weight'] for m in x], dim=1)
    bias = sum(p[f'features.lins.lin_{m}.bias'] for m in x)
    hidden = F.leaky_relu(
        torch.cat([x[m]['item'] for m in x], dim=1) @ weight.t() + bias
    )
    return F.normalize(hidden @ p['lin.weight'].t() + p['lin.bias'])


def unit(model, side):
    return F.normalize(detached(model)[f'embeddings.tables.{side}'])


def naive_contrast(anchor, positive, negative, rows, temperature):
    losses = []
    for b in range(len(rows.user)):
        own = torch.exp(anchor[b] @ positive[b] / temperature)
        others = [
            torch.exp(anchor[b] @ negative[j] / temperature)
            for j in range(len(rows.user))
            if rows.negative[j] != rows.positive[b]
        ]
        losses.append(-torch.log(own / (own + sum(others))))
    return torch.stack(losses).mean()


def test_items_are_ids_where_warm_and_content_where_cold():
    model = make(CLCRec).eval()
    with torch.no_grad():  # Without biases, unit length hides the scale inside.
        model.lin.bias.fill_(0.5)
        model.features.lins['lin_text'].bias.fill_(-0.3)
    out = model(operators())
    expected = content(model)
    torch.testing.assert_close(out.modality_x_dict['content']['item'], expected)
    expected[WARM] = unit(model, 'item')[WARM]
    torch.testing.assert_close(out.x_dict['item'], expected)
    torch.testing.assert_close(out.x_dict['user'], unit(model, 'user'))


def test_terms_equal_loops_over_the_batch():
    model = make(CLCRec, temperature=0.5).eval()
    rows = BATCH
    terms = model.losses(model(operators()), rows)
    f, z, u = content(model), unit(model, 'item'), unit(model, 'user')
    ids = z[rows.positive], z[rows.negative]
    torch.testing.assert_close(
        terms['user_item'], naive_contrast(u[rows.user], *ids, rows, 0.5)
    )
    torch.testing.assert_close(
        terms['content_id'], naive_contrast(f[rows.positive], *ids, rows, 0.5)
    )
    p = detached(model)
    item = p['embeddings.tables.item']
    expected = squared_norm(
        p['embeddings.tables.user'][rows.user], item[rows.positive], item[rows.negative]
    )
    torch.testing.assert_close(terms['l2'], expected)


def test_in_training_content_replaces_ids():
    model = make(CLCRec, temperature=0.5, hybrid_rate=1.0).train()
    rows = BATCH
    terms = model.losses(model(operators()), rows)
    f, u = content(model), unit(model, 'user')
    expected = naive_contrast(
        u[rows.user], f[rows.positive], f[rows.negative], rows, 0.5
    )
    torch.testing.assert_close(terms['user_item'], expected)


def test_content_replaces_ids_at_the_hybrid_rate():
    model = make(CLCRec, hybrid_rate=0.3).train()
    torch.manual_seed(0)
    mixed = model._hybrid(torch.zeros(4000, 2), torch.ones(4000, 2))
    assert abs(float(mixed.mean()) - 0.3) < 0.03
    assert torch.equal(mixed[:, 0], mixed[:, 1])


def test_another_graph_makes_other_items_cold():
    model = make(CLCRec).eval()
    edge_type = ('user', 'interacts', 'item')
    only_two = {edge_type: torch.tensor([[0], [2]])}
    out = model(only_two).x_dict['item']
    expected = content(model)
    expected[2] = unit(model, 'item')[2]
    torch.testing.assert_close(out, expected)
