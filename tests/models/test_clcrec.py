import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models.clcrec import CLCRec
from tests.models.setting import BATCH, detached, make, make_features, operators
from tests.nn.graphs import EDGE_INDEX

WARM = [0, 1, 3, 5]
INTERACTIONS = {tuple(edge) for edge in EDGE_INDEX.t().tolist()}


def content(model):
    p, x = detached(model), make_features()
    # One layer on all modalities side by side.
    weight = torch.cat([p[f'features.lins.lin_{m}.weight'] for m in x], dim=1)
    bias = sum(p[f'features.lins.lin_{m}.bias'] for m in x)
    unit = torch.cat([F.normalize(x[m]['item']) for m in x], dim=1)
    hidden = F.leaky_relu(unit @ weight.t() + bias)
    return hidden @ p['lin.weight'].t() + p['lin.bias']


def ids(model, side):
    return detached(model)[f'embeddings.tables.{side}']


def test_items_are_ids_where_warm_and_content_where_cold():
    model = make(CLCRec).eval()
    out = model(operators())
    expected = content(model)
    torch.testing.assert_close(out.modality_x_dict['content']['item'], expected)
    expected[WARM] = ids(model, 'item')[WARM]
    torch.testing.assert_close(out.x_dict['item'], expected)
    torch.testing.assert_close(out.x_dict['user'], ids(model, 'user'))


def drawn(num):
    """The negatives that follow the seed, among the items with edges."""
    torch.manual_seed(3)
    return torch.tensor(WARM)[torch.randint(len(WARM), (num,))]


def naive_contrast(anchor, positive, table, negatives, temperature):
    """Without negatives that the user of the example interacted with."""
    losses = []
    for b, (user, own) in enumerate(
        zip(BATCH.user.tolist(), BATCH.positive.tolist(), strict=True)
    ):
        scores = [anchor[b] @ positive[b]] + [
            anchor[b] @ table[j]
            for j in negatives.tolist()
            if (user, j) not in INTERACTIONS and j != own
        ]
        exponentials = [torch.exp(score / temperature) for score in scores]
        losses.append(-torch.log(exponentials[0] / sum(exponentials)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize('hybrid_rate', [0.0, 1.0])
def test_losses_equal_loops_over_the_batch(hybrid_rate):
    model = make(CLCRec, temperature=0.5, num_negatives=6, hybrid_rate=hybrid_rate)
    output = model.train()(operators())
    negatives = drawn(6)
    torch.manual_seed(3)
    losses = model.losses(output, BATCH)
    f, z, u = content(model), ids(model, 'item'), ids(model, 'user')[BATCH.user]
    table = f if hybrid_rate else z
    expected = naive_contrast(u, table[BATCH.positive], table, negatives, 0.5)
    torch.testing.assert_close(losses['user_item'], expected)
    anchor, unit = F.normalize(z)[BATCH.positive], F.normalize(f)
    expected = naive_contrast(anchor, unit[BATCH.positive], unit, negatives, 0.5)
    torch.testing.assert_close(losses['content_id'], expected)
    rows = [
        z[[item, *negatives.tolist()]].norm(dim=1) for item in BATCH.positive.tolist()
    ]
    expected = (u.norm(dim=1).mean() + torch.stack(rows).mean()) / 2
    torch.testing.assert_close(losses['l2'], expected)


def test_in_eval_mode_ids_are_not_replaced():
    model = make(CLCRec, hybrid_rate=1.0).eval()
    x, replacement = torch.zeros(4, 2), torch.ones(4, 2)
    assert torch.equal(model._hybrid(x, replacement), x)


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
    expected[2] = ids(model, 'item')[2]
    torch.testing.assert_close(out, expected)


def test_losses_must_follow_a_call():
    output = make(CLCRec)(operators())
    with pytest.raises(RuntimeError, match="'losses' must follow a call"):
        make(CLCRec).losses(output, BATCH)
