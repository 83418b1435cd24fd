import pytest
import torch

from promptmm_pyg.models.freedom import FREEDOM
from promptmm_pyg.nn import csr_pair_dict
from tests.models.setting import (
    BATCH,
    dense_knn,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    naive_l2,
    operators,
)
from tests.nn.graphs import USER_ITEM, dense


def build(**kwargs):
    kwargs.setdefault('num_neighbors', 2)
    return make(FREEDOM, 'image', 'text', **kwargs)


def item_graph(image=0.1, text=0.9):
    x_dict = make_features('image', 'text')
    return image * dense_knn(x_dict['image']['item'], 2, False) + text * dense_knn(
        x_dict['text']['item'], 2, False
    )


@pytest.mark.parametrize('num_item_layers', [1, 2])
def test_forward_in_eval_equals_dense_matrices(num_item_layers):
    model = build(
        num_item_layers=num_item_layers, modality_weights={'text': 6.0, 'image': 2.0}
    ).eval()
    output = model(operators())
    ids = model.embeddings()
    user, item = dense_smooth(ids['user'], ids['item'], 2)
    power = torch.linalg.matrix_power(item_graph(0.25, 0.75), num_item_layers)
    item = item + power @ ids['item']
    torch.testing.assert_close(output.x_dict['user'], user, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.x_dict['item'], item, atol=1e-5, rtol=1e-5)
    projected = model.features()
    for modality, x_dict in output.modality_x_dict.items():
        assert x_dict['user'] is output.x_dict['user']
        torch.testing.assert_close(x_dict['item'], projected[modality])


def test_text_has_nine_tenths_of_the_weight_by_default():
    model = build().eval()
    ids = model.embeddings()
    _, item = dense_smooth(ids['user'], ids['item'], 2)
    expected = item + item_graph() @ ids['item']
    out = model(operators()).x_dict['item']
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def pruned(model, adj_dict):
    """The users' operator of the last step, dense."""
    model(adj_dict)
    forward, back = model.pruning._last[1].matrices(torch.float)
    torch.testing.assert_close(forward.to_dense(), back.to_dense().t())
    return forward.to_dense().t()


def test_forward_in_training_equals_dense_matrices_on_what_is_left():
    model, adj_dict = build(prune_ratio=0.5).train(), operators()
    adj = pruned(model, adj_dict)
    assert int((adj > 0).sum()) == 3
    assert (dense()[adj > 0] > 0).all()
    degrees = (adj > 0).sum(1)[:, None] * (adj > 0).sum(0)
    expected = (adj > 0) / degrees.clamp_min(1).sqrt()
    torch.testing.assert_close(adj, expected)
    output, ids = model(adj_dict), model.embeddings()
    user, item = dense_smooth(ids['user'], ids['item'], 2, adj)
    item = item + item_graph() @ ids['item']
    torch.testing.assert_close(output.x_dict['user'], user, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.x_dict['item'], item, atol=1e-5, rtol=1e-5)


def test_edges_are_sampled_once_per_epoch_and_by_resample():
    model, adj_dict = build(prune_ratio=0.5).train(), operators()
    for renew in (model.train, model.pruning.resample):
        drawn = []
        for _ in range(8):
            first = pruned(model, adj_dict)
            assert torch.equal(first, pruned(model, adj_dict))
            drawn.append(first)
            renew()
        assert any(not torch.equal(drawn[0], other) for other in drawn)


def test_another_graph_is_sampled_again():
    model = build(prune_ratio=0.5).train()
    model(operators())
    other = csr_pair_dict(
        {USER_ITEM: torch.tensor([[4, 4], [2, 6]])},
        num_nodes_dict={'user': 5, 'item': 7},
    )
    adj = pruned(model, other)
    assert adj[4, 2] + adj[4, 6] == 1
    assert adj.sum() == 1


def test_edges_of_busy_nodes_are_left_out_more_often():
    torch.manual_seed(0)
    model, adj_dict, kept = build(prune_ratio=0.8).train(), operators(), []
    for _ in range(2000):
        model.pruning.resample()
        kept.append(pruned(model, adj_dict) > 0)
    rates = torch.stack(kept).float().mean(0)
    # One of six stays, in proportion to 1 / sqrt(d_u d_i).
    user, item = (dense() > 0).sum(1), (dense() > 0).sum(0)
    chances = torch.where(
        dense() > 0, (user[:, None] * item).clamp_min(1).float().rsqrt(), 0.0
    )
    # Four standard deviations of a rate of 2,000 draws.
    assert (rates - chances / chances.sum()).abs().max() < 4 * (0.25 / 2000) ** 0.5


@pytest.mark.parametrize(('ratio', 'mode'), [(0.0, True), (0.8, False)])
def test_without_pruning_the_graph_is_whole(ratio, mode):
    model = build(prune_ratio=ratio).train(mode)
    expected = build(prune_ratio=0.5).eval()(operators())
    torch.testing.assert_close(model(operators()).x_dict, expected.x_dict)


def test_terms_equal_loops_over_the_batch():
    model = build()
    output = model(operators())
    terms = model.losses(output, BATCH)
    user, item = output.x_dict.values()
    torch.testing.assert_close(terms['bpr'], naive_bpr({'user': user, 'item': item}))
    torch.testing.assert_close(terms['l2'], naive_l2({'user': user, 'item': item}))
    views = [naive_bpr({'user': user, 'item': x}) for x in model.features().values()]
    torch.testing.assert_close(terms['modality_bpr'], views[0] + views[1])


def test_errors_and_repr():
    assert str(build()) == (
        'FREEDOM(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "ProjectedFeatures({'image': 6, 'text': 9}), num_layers=2, prune_ratio=0.8)"
    )
    with pytest.raises(ValueError, match="'modality_weights' must have the modalities"):
        build(modality_weights={'image': 1.0})
    with pytest.raises(ValueError, match=r"modality_weights\['text'\]' must be"):
        build(modality_weights={'image': 1.0, 'text': -1.0})
    with pytest.raises(ValueError, match=r"sum\(modality_weights\)' must be posit"):
        build(modality_weights={'image': 0.0, 'text': 0.0})
