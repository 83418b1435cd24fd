import pytest
import torch

from promptmm_pyg.models.slmrec import SLMRec
from promptmm_pyg.nn.dropout import dropout
from tests.models.setting import (
    BATCH,
    dense_smooth,
    make,
    naive_bpr,
    naive_contrast,
    naive_l2,
    operators,
)


def reference(model, features, num_layers=2):
    """Per side: all views, ids first, and what is fused of them."""
    ids = model.embeddings()
    views = [
        dense_smooth(ids['user'], item, num_layers) for item in (ids['item'], *features)
    ]
    sides = []
    for side, lin in enumerate(model.fusions):
        of_side = [view[side] for view in views]
        fused = torch.cat(of_side, dim=1) @ lin.weight.t() + lin.bias
        sides.append((of_side, fused))
    return sides


@pytest.mark.parametrize('num_layers', [1, 3])
def test_forward_equals_dense_matrices(num_layers):
    model = make(SLMRec, 'image', 'text', num_layers=num_layers)
    output = model(operators())
    expected = reference(model, model.features().values(), num_layers)
    for side, (views, fused) in zip(('user', 'item'), expected, strict=True):
        ours = output.x_dict[side]
        torch.testing.assert_close(ours, fused, atol=1e-5, rtol=1e-5)
        for ours, view in zip(output.modality_x_dict.values(), views[1:], strict=True):
            torch.testing.assert_close(ours[side], view, atol=1e-5, rtol=1e-5)


def changed_by_hand(x, augmentation, ratio):
    if augmentation == 'drop':
        selected = dropout(torch.ones_like(x), ratio)
        return x * selected
    return x * (torch.rand(len(x), 1) >= ratio)


@pytest.mark.parametrize('augmentation', ['drop', 'mask'])
def test_terms_equal_loops_over_the_batch(augmentation):
    model = make(
        SLMRec,
        'image',
        'text',
        augmentation=augmentation,
        augmentation_ratio=0.4,
        temperature=0.5,
    ).eval()  # Features are changed in either mode.
    output = model(operators())
    torch.manual_seed(4)
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict))
    expected = naive_l2(model.embeddings())
    torch.testing.assert_close(terms['l2'], expected)

    torch.manual_seed(4)
    clean = list(model.features().values())
    changed = [changed_by_hand(x, augmentation, 0.4) for x in clean]
    assert any(not torch.equal(a, b) for a, b in zip(clean, changed, strict=True))
    nodes = ([0, 1, 2, 3], [0, 3, 5])  # Users and positives, each once.
    augmented = aligned = 0
    for index, (views, fused), (_, other) in zip(
        nodes, reference(model, clean), reference(model, changed), strict=True
    ):
        augmented = augmented + naive_contrast(fused[index], other[index], 0.5)
        ids, *heads = [
            head(v)[index] for head, v in zip(model.heads, views, strict=True)
        ]
        losses = [naive_contrast(ids, x, 0.5) for x in heads]
        aligned = aligned + torch.stack(losses).mean()
    torch.testing.assert_close(terms['augmentation'], augmented, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms['alignment'], aligned, atol=1e-5, rtol=1e-5)


def test_masks_zero_rows_at_their_rate_without_scaling():
    model = make(SLMRec, 'image', 'text', augmentation='mask', augmentation_ratio=0.3)
    torch.manual_seed(0)
    out = model._augment(torch.ones(20_000, 3))
    assert torch.equal(out, out[:, :1].expand(-1, 3))
    assert set(out.unique().tolist()) == {0.0, 1.0}
    # Five standard deviations of the mean of 20,000 draws.
    assert abs(float(out[:, 0].mean()) - 0.7) < 5 * (0.21 / 20_000) ** 0.5


def test_terms_follow_the_graph_of_the_last_call():
    model = make(SLMRec, 'image', 'text', augmentation_ratio=0.0)
    output = model(operators())
    aligned = model.losses(output, BATCH)['alignment']
    model({('user', 'interacts', 'item'): torch.tensor([[4], [6]])})
    assert not torch.allclose(model.losses(output, BATCH)['alignment'], aligned)


def test_losses_must_follow_a_call():
    model = make(SLMRec)
    output = make(SLMRec)(operators())
    with pytest.raises(RuntimeError, match="'losses' must follow a call"):
        model.losses(output, BATCH)
