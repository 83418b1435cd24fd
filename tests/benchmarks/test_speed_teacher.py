import pytest
import torch

from benchmarks import speed_teacher as module
from benchmarks.speed_graphs import random_graph

GRAPH = random_graph(20, 15, 60)


def encoded(how):
    return module.encode(module.make_teacher(GRAPH, (6, 5), how).eval()).detach()


def test_naive_and_fast_layers_compute_the_same():
    torch.testing.assert_close(encoded('naive'), encoded('fast (ours)'))


def test_row_blocks_compute_the_same():
    torch.testing.assert_close(encoded('float32 in row blocks'), encoded('fast (ours)'))


def test_bfloat16_features_are_near_and_not_equal():
    fast, half = encoded('fast (ours)'), encoded('bfloat16 features')
    assert not torch.equal(half, fast)
    # Features keep eight bits.
    torch.testing.assert_close(half, fast, rtol=0, atol=2**-8 * float(fast.abs().max()))


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_step_moves_its_own_teacher():
    runs = module.teacher_runs(GRAPH, (6, 5))
    assert list(runs) == [
        f'{what}, {how}'
        for what in ('reduction layers', 'whole step')
        for how in module.HELD
    ]
    for run in runs.values():
        run()
