import copy

import pytest
import torch

from benchmarks.speed import Graph, random_graph
from benchmarks.speed import models as module

GRAPH = random_graph(12, 9, 40)
USERS, ITEMS = 30, 20


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
def test_ours_and_pyg_compute_the_same_loss(adjacency, num_layers, monkeypatch):
    monkeypatch.setattr(module, 'REG', 0.5)  # A penalty that counts.
    ours, theirs = same_start(adjacency, num_layers)
    for batch in batches():
        torch.testing.assert_close(ours.loss(batch), theirs.loss(batch))


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
        for source, table in zip(own, other, strict=True):
            table.copy_(source)
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


def checkerboard():
    """Even users like even items; no user has seen all of them."""
    generator = torch.Generator().manual_seed(0)
    alike = torch.arange(USERS)[:, None] % 2 == torch.arange(ITEMS) % 2
    visible = torch.rand(USERS, ITEMS, generator=generator) < 0.8
    return Graph(USERS, ITEMS, (alike & visible).nonzero().t().contiguous())


def agreement(tables):
    """How far scores of the own half of the board exceed those of the other."""
    user_x, item_x = tables
    scores = user_x @ item_x.t()
    alike = torch.arange(USERS)[:, None] % 2 == torch.arange(ITEMS) % 2
    return float((scores[alike].mean() - scores[~alike].mean()) / scores.std())


@pytest.mark.parametrize(
    ('name', 'package'),
    [
        ('MatrixFactorization (ours)', 'torch'),
        ('implicit BPR', 'implicit'),
        ('cornac BPR', 'cornac'),
    ],
)
def test_every_factorization_learns_the_board(name, package):
    pytest.importorskip(package)
    torch.manual_seed(0)
    tables = module.peer_runs(checkerboard(), width=8, epochs=200)[name]()
    assert [x.size(0) for x in tables] == [USERS, ITEMS]
    assert agreement(tables) > 1.0
    torch.manual_seed(0)
    assert abs(agreement(module.fit_ours(checkerboard(), 8, 0))) < 0.5


def test_a_turn_starts_from_a_new_model(monkeypatch):
    # Threads that write without locks would make a difference.
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    for run in module.peer_runs(checkerboard(), width=8, epochs=3).values():
        torch.manual_seed(0)
        first = run()
        torch.manual_seed(0)
        torch.testing.assert_close(run(), first, rtol=0, atol=0)


def test_peers_that_are_not_installed_are_left_out(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(module, 'import_module', missing)
    assert list(module.peer_runs(checkerboard())) == ['MatrixFactorization (ours)']
