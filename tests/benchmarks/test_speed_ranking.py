import pytest
import torch

from benchmarks.speed import ranking as module
from benchmarks.speed.graphs import random_graph

GRAPH = random_graph(30, 60, 300)


def runs():
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(n, 8, generator=generator) for n in (30, 60))
    return module.ranking_runs(GRAPH, *tables, 25)


def test_the_loop_ranks_as_the_blocks_do():
    ours, loop = runs()['blocked top-K (ours)'](), runs()['one user at a time']()
    assert ours.shape == (25, module.K)
    assert torch.equal(ours, loop)


def test_the_loop_finds_the_metrics_that_evaluation_does():
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(n, 8, generator=generator) for n in (30, 60))
    ours, loop = module.evaluation_runs(GRAPH, *tables, 25).values()
    recall, ndcg = ours()
    assert 0 < ndcg < recall < 1
    assert loop() == pytest.approx((recall, ndcg))


def test_implicit_ranks_as_the_blocks_do():
    pytest.importorskip('implicit')
    theirs = runs()['implicit recommend']().long()
    assert torch.equal(theirs, runs()['blocked top-K (ours)']())
