import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models.pgl import PGL
from promptmm_pyg.nn import csr_pair_dict
from promptmm_pyg.nn.dropout import dropout
from tests.models.setting import (
    BATCH,
    dense_knn,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    naive_contrast,
    naive_l2,
)
from tests.nn.graphs import (
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    dense,
    edges,
    weights,
)

K = 3
OPTIONS = {'num_neighbors': K, 'num_item_layers': 2, 'num_layers': 2}


def expected_x(model, A):
    x = {m: v['item'] for m, v in make_features().items()}
    reduced = [model.features.lins[f'lin_{m}'](v) for m, v in x.items()]
    start = torch.cat([F.normalize(v) for v in reduced], dim=-1)
    graphs = {m: dense_knn(v, K, weighted=False) for m, v in x.items()}
    S = 0.9 * graphs['text'] + 0.05 * (graphs['audio'] + graphs['image'])
    users = torch.cat(list(model.preferences().values()), dim=-1)
    user, item = dense_smooth(users, start, 2, A)
    return {'user': user, 'item': item + S @ S @ start}


def graph():
    return csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)


@pytest.mark.parametrize('subgraph', ['local', 'global'])
def test_eval_is_the_whole_graph_with_dense_matrices(subgraph):
    model = make(PGL, subgraph=subgraph, rank=1, **OPTIONS).eval()
    out = model(edges(), weights())
    torch.testing.assert_close(out.x_dict, expected_x(model, dense()))
    for place, modality in enumerate(make_features()):
        part = slice(4 * place, 4 * place + 4)
        for key in ('user', 'item'):
            torch.testing.assert_close(
                out.modality_x_dict[modality][key], out.x_dict[key][:, part]
            )


@pytest.mark.parametrize('rank', [1, 3, 64])
def test_training_on_the_global_part_is_the_truncated_decomposition(rank):
    model = make(PGL, subgraph='global', rank=rank, **OPTIONS).train()
    # Normalized, every component has a singular value of one, and none comes first.
    weight = torch.tensor([0.9, 0.3, 0.5, 0.4, 0.7, 0.2])
    pairs = csr_pair_dict(
        edges(), {USER_ITEM: weight, ITEM_USER: weight}, num_nodes_dict=NUM_NODES
    )
    u, s, vh = torch.linalg.svd(pairs[ITEM_USER] @ torch.eye(7), full_matrices=False)
    A = (u[:, :rank] * s[:rank]) @ vh[:rank]
    torch.testing.assert_close(
        model(pairs).x_dict, expected_x(model, A), atol=1e-4, rtol=1e-4
    )


def test_training_on_the_local_part_is_a_normalized_draw_of_edges():
    model = make(PGL, keep_ratio=0.5, **OPTIONS).train()
    pairs = graph()
    torch.manual_seed(3)
    out = model(pairs)
    torch.manual_seed(3)
    part = model._sampler(pairs['user', 'interacts', 'item']).sample(0.5)
    A = (part @ torch.eye(5)).t()
    assert (A > 0).sum() == 3
    torch.testing.assert_close(out.x_dict, expected_x(model, A))
    assert not torch.allclose(model(pairs).x_dict['user'], out.x_dict['user'])


def test_what_is_computed_per_graph_is_cached_for_the_last_one():
    model = make(PGL, subgraph='global', rank=2, **OPTIONS).train()
    first, fewer = graph(), {key: x[:, :4] for key, x in edges().items()}
    before = model(first)
    result = model._low_rank._last
    model(first)
    assert model._low_rank._last is result
    other = model(csr_pair_dict(fewer, num_nodes_dict=NUM_NODES))
    assert not torch.allclose(other.x_dict['user'], before.x_dict['user'])


def test_terms_equal_loops_over_the_batch():
    model = make(PGL, mask_rate=0.4, temperature=0.5, **OPTIONS).eval()
    out, batch = model(edges(), weights()), BATCH
    torch.manual_seed(5)
    terms = model.losses(out, batch)
    torch.testing.assert_close(terms['bpr'], naive_bpr(out.x_dict, batch))
    torch.testing.assert_close(terms['l2'], naive_l2(out.x_dict, batch))
    torch.manual_seed(5)
    losses = []
    for key, rows in (('user', batch.user), ('item', batch.positive)):
        x = out.x_dict[key][rows]
        views = [dropout(x, 0.4) for _ in range(2)]
        assert not torch.equal(*views)
        losses.append(naive_contrast(*views, 0.5))
    torch.testing.assert_close(terms['contrast'], torch.stack(losses).mean())
    assert not torch.equal(model.losses(out, batch)['contrast'], terms['contrast'])
