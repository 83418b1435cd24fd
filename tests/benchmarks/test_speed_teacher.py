import pytest
import torch

from benchmarks import speed_teacher as module
from benchmarks.speed_graphs import random_graph
from promptmm_pyg.nn import CSRPair

GRAPH = random_graph(20, 15, 60)


def encoded(how):
    return module.encode(module.make_teacher(GRAPH, (6, 5), how).eval()).detach()


def test_naive_and_fast_layers_compute_the_same():
    torch.testing.assert_close(encoded('naive'), encoded('fast (ours)'))


def test_row_blocks_compute_the_same():
    torch.testing.assert_close(encoded('float32 in row blocks'), encoded('fast (ours)'))


@pytest.mark.parametrize('how', ['bfloat16 features', 'bfloat16 features and products'])
def test_bfloat16_features_are_near_and_not_equal(how):
    fast, half = encoded('fast (ours)'), encoded(how)
    assert not torch.equal(half, fast)
    # Features keep eight bits, and so may weights and what is summed.
    size = 2**-8 * float(fast.abs().max())
    torch.testing.assert_close(half, fast, rtol=0, atol=size * how.count('a'))


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_step_moves_its_own_teacher():
    runs = module.teacher_runs(GRAPH, (6, 5))
    steps = list(module.HELD)
    steps.insert(2, 'naive, torch COO')
    assert list(runs) == [
        *(f'reduction layers, {how}' for how in module.HELD),
        *(f'whole step, {how}' for how in steps),
    ]
    for run in runs.values():
        run()


def test_products_of_research_code_are_ours_and_so_is_their_gradient():
    adj = CSRPair.from_edge_index(GRAPH.edge_index, size=(20, 15))
    coo = module.COOPair(*adj.matrices(torch.float))
    outs = []
    for operator in (adj, coo):
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        out = operator @ x.requires_grad_()
        out.square().sum().backward()
        outs.append((out, x.grad))
    torch.testing.assert_close(*outs)
    assert outs[1][0].grad_fn.name() != outs[0][0].grad_fn.name()
