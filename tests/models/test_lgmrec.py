from itertools import pairwise

import numpy as np
import pytest
import torch

from promptmm_pyg.models import LGMRec, lgmrec
from tests.models.setting import (
    BATCH,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    operators,
)
from tests.nn.graphs import dense


def build(*modalities, **kwargs):
    return make(LGMRec, *(modalities or ('image', 'text')), **kwargs)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def oracle(model, num_hyper_layers=1):
    """Embeddings, and the global parts of users and items per modality."""
    adj, binary = dense().numpy(), (dense() > 0).double().numpy()
    ids = model.embeddings()
    user, item = (x.detach().numpy() for x in dense_smooth(ids['user'], ids['item'], 2))
    mean = binary / binary.sum(axis=1, keepdims=True).clip(1)
    locals_, globals_ = [], []
    for name, x_dict in make_features(*model.modalities).items():
        x = x_dict['item'].numpy()
        weight, hyper = (
            lins.lins[f'lin_{name}'].weight.detach().numpy()
            for lins in (model.features, model.hyperedges)
        )
        local = mean @ x @ weight.T, x @ weight.T
        for _ in range(2):
            local = adj @ local[1], adj.T @ local[0]
        locals_.append(local)
        logits = x @ hyper.T
        of_user, of_item = softmax(binary @ logits / 0.2), softmax(logits / 0.2)
        passed = item
        for _ in range(num_hyper_layers):
            latent = of_item.T @ passed
            passed = of_item @ latent
        globals_.append((of_user @ latent, passed))
    out = []
    for side, x in enumerate((user, item)):
        hyper = sum(parts[side] for parts in globals_)
        local = sum(unit(parts[side]) for parts in locals_)
        out.append(x + local + 0.3 * unit(hyper))
    return out, globals_


@pytest.mark.parametrize('num_hyper_layers', [1, 2])
def test_forward_and_losses_equal_dense_matrices(num_hyper_layers):
    model = build(num_hyper_layers=num_hyper_layers).eval()
    output = model(operators())
    (user, item), parts = oracle(model, num_hyper_layers)
    np.testing.assert_allclose(output.x_dict['user'].detach(), user, atol=1e-5)
    np.testing.assert_allclose(output.x_dict['item'].detach(), item, atol=1e-5)
    losses = model.losses(output, BATCH)
    contrast = norms = 0.0
    for side, nodes in ((0, BATCH.user), (1, BATCH.positive)):
        image, text = (unit(part[side]) for part in parts)
        for node in nodes.tolist():
            logits = text @ image[node] / 0.2
            contrast += np.log(np.exp(logits).sum()) - logits[node]
    for x, nodes in (
        (user, BATCH.user),
        (item, BATCH.positive),
        (item, BATCH.negative),
    ):
        norms += np.linalg.norm(x[nodes.numpy()])
    torch.testing.assert_close(losses['bpr'], naive_bpr(output.x_dict))
    assert losses['contrast'].item() == pytest.approx(contrast, rel=1e-5)
    assert losses['l2'].item() == pytest.approx(norms / 5, rel=1e-5)


def test_the_sum_over_a_large_batch_is_scaled_to_the_published_size(monkeypatch):
    model = build().eval()
    output = model(operators())
    whole = model.losses(output, BATCH)['contrast']
    monkeypatch.setattr(lgmrec, 'ROWS', 2)
    scaled = model.losses(output, BATCH)['contrast']
    torch.testing.assert_close(scaled, whole * 2 / len(BATCH.user))


def test_one_modality_has_no_contrast_and_three_have_two():
    for modalities in (('image',), ('audio', 'image', 'text')):
        model = build(*modalities).eval()
        output = model(operators())
        expected = sum(
            build_pair(output, pair).sum().item() for pair in pairwise(modalities)
        )
        contrast = model.losses(output, BATCH)['contrast']
        assert contrast.item() == pytest.approx(expected, rel=1e-5)


def build_pair(output, pair):
    losses = []
    for key, nodes in (('user', BATCH.user), ('item', BATCH.positive)):
        first, second = (output.modality_x_dict[m][key][:, 4:] for m in pair)
        cosine = torch.cosine_similarity(first[nodes, None], second[None], dim=2) / 0.2
        losses.append(torch.nn.functional.cross_entropy(cosine, nodes, reduction='sum'))
    return torch.stack(losses)


def test_training_has_gumbel_noise_and_dropout_by_the_seed():
    model, adj_dict = build().train(), operators()

    def drawn(seed):
        torch.manual_seed(seed)
        return model(adj_dict).x_dict['item'].detach()

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.allclose(drawn(0), drawn(1))
    # With Gumbel noise, the largest logit has the probability of a softmax.
    torch.manual_seed(0)
    model = build(keep_rate=1.0).train()
    logits = torch.tensor([[0.0, 1.0, -0.5, 0.3]]).expand(20_000, 4)
    first = model._members(logits).argmax(dim=1)
    rates = torch.bincount(first, minlength=4) / 20_000
    torch.testing.assert_close(rates, logits[0].softmax(0), atol=0.015, rtol=0)
    model = build(keep_rate=0.25).train()
    assert abs(float((model._members(logits) > 0).float().mean()) - 0.25) < 0.01


def test_errors_and_repr():
    assert str(build('image')) == (
        'LGMRec(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "ProjectedFeatures({'image': 6}), num_layers=2, num_hyperedges=4)"
    )
    for rate in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"'keep_rate' must be in \(0, 1\]"):
            build(keep_rate=rate)
