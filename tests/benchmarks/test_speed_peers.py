import pytest
import torch

from benchmarks.speed import models as module
from benchmarks.speed.common import Graph

USERS, ITEMS = 30, 20


def checkerboard():
    """Even users like even items; no user has seen all of them."""
    generator = torch.Generator().manual_seed(0)
    alike = torch.arange(USERS)[:, None] % 2 == torch.arange(ITEMS) % 2
    kept = torch.rand(USERS, ITEMS, generator=generator) < 0.8
    return Graph(USERS, ITEMS, (alike & kept).nonzero().t().contiguous())


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
