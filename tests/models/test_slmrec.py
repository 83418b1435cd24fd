import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models.slmrec import SLMRec
from tests.models.setting import (
    BATCH,
    dense_smooth,
    make,
    make_features,
    naive_contrast,
    naive_l2,
    operators,
)


def affine(lin, x):
    return x @ lin.weight.t() + lin.bias


def reference(model, modalities, num_layers=3):
    """Per side: all views, ids first, and what is fused of them."""
    ids, x_dict = model.embeddings(), make_features(*modalities)
    features = [
        affine(model.features.lins[f'lin_{m}'], F.normalize(x_dict[m]['item']))
        for m in modalities
    ]
    views = [
        dense_smooth(ids['user'], item, num_layers) for item in (ids['item'], *features)
    ]
    sides = []
    for side, lin in enumerate(model.fusions):
        of_side = [view[side] for view in views]
        sides.append((of_side, affine(lin, torch.cat(of_side, dim=1))))
    return sides


@pytest.mark.parametrize('num_layers', [1, 3])
def test_forward_equals_dense_matrices(num_layers):
    model = make(SLMRec, 'image', 'text', num_layers=num_layers)
    output = model(operators())
    expected = reference(model, ['image', 'text'], num_layers)
    for side, (views, fused) in zip(('user', 'item'), expected, strict=True):
        ours = output.x_dict[side]
        torch.testing.assert_close(ours, fused, atol=1e-5, rtol=1e-5)
        for ours, view in zip(output.modality_x_dict.values(), views[1:], strict=True):
            torch.testing.assert_close(ours[side], view, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('modalities', 'levels', 'widths'),
    [
        (['audio', 'image', 'text'], ['image', 'audio', 'text'], [4, 4, 2]),
        (['text', 'type'], ['image', 'audio', 'text', 'type'], [4, 4, 2, 2]),
        (['image'], ['image'], [4]),
    ],
)
def test_losses_equal_loops_over_the_batch(modalities, levels, widths):
    model = make(SLMRec, *modalities, temperature=0.5)
    losses = model.losses(model(operators()), BATCH)
    (_, users), (views, items) = reference(model, modalities)
    expected = naive_contrast(users[BATCH.user], items[BATCH.positive], 0.5)
    torch.testing.assert_close(losses['infonce'], expected)
    torch.testing.assert_close(losses['l2'], naive_l2(model.embeddings()))

    own, aligned = views[0][BATCH.positive], 0.0
    for level, width in zip(levels, widths, strict=True):
        own = affine(model.chain[f'to_{level}'], own)
        assert own.size(1) == width
        if level in modalities:
            view = views[1 + modalities.index(level)][BATCH.positive]
            head = model.heads[f'to_{level}'].weight
            logits = own @ (view @ head.t()).t() / 0.5
            rows = [row.exp() / row.exp().sum() for row in logits]
            aligned -= sum(row[i].log() for i, row in enumerate(rows)) / len(rows)
    torch.testing.assert_close(losses['alignment'], aligned, atol=1e-5, rtol=1e-5)


def test_losses_follow_the_graph_of_the_last_call():
    model = make(SLMRec, 'image', 'text')
    output = model(operators())
    aligned = model.losses(output, BATCH)['alignment']
    model({('user', 'interacts', 'item'): torch.tensor([[4], [3]])})
    assert not torch.allclose(model.losses(output, BATCH)['alignment'], aligned)


def test_losses_must_follow_a_call():
    model = make(SLMRec)
    output = make(SLMRec)(operators())
    with pytest.raises(RuntimeError, match="'losses' must follow a call"):
        model.losses(output, BATCH)
