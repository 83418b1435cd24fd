import copy

import pytest
import torch

from benchmarks.speed import models as module
from benchmarks.speed.common import random_graph

GRAPH = random_graph(12, 9, 40)


def same_start(adjacency='edge_index', num_layers=3):
    """Ours and PyG's in double precision, with the same tables."""
    if adjacency == 'sparse':
        pytest.importorskip('torch_sparse')
    torch.manual_seed(0)
    ours = module.Ours(GRAPH, 4, num_layers)
    theirs = module.PyG(GRAPH, 4, num_layers, adjacency)
    ours.model.double()
    theirs.model.double()
    if adjacency == 'weights':
        theirs.weight = module.symmetric_weights(GRAPH).repeat(2)
    with torch.no_grad():
        theirs.model.embedding.weight.copy_(torch.cat(tables(ours)))
    return ours, theirs


def tables(ours):
    return [ours.model.embeddings.tables[key] for key in ('user', 'item')]


def batches(size=16):
    return module.draw_batches(GRAPH, size)


@pytest.mark.parametrize('num_layers', [1, 2, 3])
@pytest.mark.parametrize('adjacency', ['edge_index', 'weights'])
def test_ours_and_pyg_compute_the_same_loss(adjacency, num_layers):
    ours, theirs = same_start(adjacency, num_layers)
    for batch in batches():
        torch.testing.assert_close(ours.loss(batch), theirs.loss(batch))


def test_the_penalty_counts_in_the_loss(monkeypatch):
    ours, theirs = same_start()
    batch = batches()[0]
    monkeypatch.setattr(module, 'REG', 0.5)
    ours.weights = {'bpr': 1.0, 'l2': 1.0}
    with_penalty = theirs.loss(batch)
    torch.testing.assert_close(ours.loss(batch), with_penalty)
    monkeypatch.setattr(module, 'REG', 0.0)
    assert not torch.isclose(theirs.loss(batch), with_penalty)


def test_sparse_alternatives_compute_the_same_loss():
    ours, theirs = same_start('sparse')
    theirs.edges = theirs.edges.double()
    batch = batches()[0]
    torch.testing.assert_close(ours.loss(batch), theirs.loss(batch), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings('ignore')
def test_recbole_computes_the_same_loss_and_gradients():
    # Beside RecBole itself, what its modules import.
    pytest.importorskip('recbole.model.general_recommender.lightgcn')
    ours, _ = same_start()
    weight = module.symmetric_weights(GRAPH)
    theirs = module.RecBole(GRAPH, weight, 4, 3, module.REG)
    ours.model.float()
    own, other = tables(ours), list(theirs.model.parameters())
    with torch.no_grad():
        for mine, table in zip(own, other, strict=True):
            table.copy_(mine)
    for batch in batches():
        loss, expected = ours.loss(batch), theirs.loss(batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        grads = [
            torch.autograd.grad(value, params)
            for value, params in ((loss, own), (expected, other))
        ]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-7)


def test_after_an_epoch_the_tables_are_the_same():
    ours, theirs = same_start()
    start = copy.deepcopy(tables(ours))
    ours_loss = module.epoch_run(ours.model, ours.loss, batches())()
    theirs_loss = module.epoch_run(theirs.model, theirs.loss, batches())()
    assert ours_loss == pytest.approx(theirs_loss, rel=1e-9)
    after = torch.cat(tables(ours))
    torch.testing.assert_close(after, theirs.model.embedding.weight)
    assert not torch.equal(after, torch.cat(start))


def test_a_shared_propagation_is_one_large_batch():
    ours, theirs = same_start()
    large = batches(32)[0]
    shared = ours.shared_loss(8)(large)
    shared.backward()
    loss = theirs.loss(large)
    loss.backward()
    torch.testing.assert_close(shared, loss)
    grads = torch.cat([table.grad for table in tables(ours)])
    torch.testing.assert_close(grads, theirs.model.embedding.weight.grad)


def test_large_batches_hold_the_same_triplets():
    small, large = batches(5), batches(20)
    for a, b in zip(zip(*small, strict=True), zip(*large, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(a), torch.cat(b), rtol=0, atol=0)


def test_every_epoch_lowers_the_loss():
    runs = module.lightgcn_runs(GRAPH, 4, 2, batch_size=16, propagate_every=2)
    assert list(runs)[:2] == ['CSR pair (ours)', 'ours with propagate_every=2']
    for name, run in runs.items():
        first = run()
        for _ in range(20):
            last = run()
        assert last < first, name
