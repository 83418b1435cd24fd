import pytest
import torch

from benchmarks.speed import random_graph
from benchmarks.speed import teacher as module
from benchmarks.speed.models import draw_batches
from benchmarks.speed.teacher import ReferenceTeacher
from promptmm_pyg.losses import weighted_sum

GRAPH = random_graph(20, 15, 60)


def encoded(name):
    return module.encode(module.make_teacher(GRAPH, (6, 5), name).eval()).detach()


@pytest.mark.parametrize('name', ['naive', 'float32 in row blocks'])
def test_layers_in_float32_compute_the_same(name):
    torch.testing.assert_close(encoded(name), encoded('fast (ours)'))


@pytest.mark.parametrize(
    'name', ['bfloat16 features', 'bfloat16 features and products']
)
def test_bfloat16_features_are_near_and_not_equal(name):
    fast, half = encoded('fast (ours)'), encoded(name)
    assert not torch.equal(half, fast)
    # Features have eight bits; with products, so have weights and sums.
    size = 2**-8 * float(fast.abs().max())
    torch.testing.assert_close(half, fast, rtol=0, atol=size * name.count('a'))


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_step_moves_its_own_teacher():
    runs = module.teacher_runs(GRAPH, (6, 5))
    assert list(runs) == [
        *(f'reduction layers, {name}' for name in module.STORAGE),
        *(f'whole step, {name}' for name in [*module.STORAGE, module.PLAIN]),
    ]
    for run in runs.values():
        run()


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_plain_torch_computes_the_same_and_so_is_its_gradient():
    teacher = module.make_teacher(GRAPH, (6, 5), 'fast (ours)').eval()
    adj = module.operators(GRAPH)
    to_user = adj[('item', 'rev_interacts', 'user')]
    plain = ReferenceTeacher(teacher, *module.coo_matrices(to_user)).eval()
    x_dict = teacher(adj).x_dict
    outs = [(x_dict['user'], x_dict['item']), plain()]
    grads = []
    for user_x, item_x in outs:
        loss = user_x.square().sum() + item_x.pow(3).sum()
        grads.append(torch.autograd.grad(loss, list(teacher.parameters())))
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*grads)
    batch = draw_batches(GRAPH, 16)[0]
    losses = [
        weighted_sum(teacher.losses(teacher(adj), batch), teacher.loss_weights),
        plain.loss(batch),
    ]
    torch.testing.assert_close(*losses)
    parameters = list(teacher.parameters())
    torch.testing.assert_close(*[torch.autograd.grad(x, parameters) for x in losses])
