"""The lazy optimizer, sparse gradients of tables, and the memory allocator."""

from dataclasses import replace

import pytest
import torch

from promptmm_pyg.distillation import distill, promptmm_losses
from promptmm_pyg.distillation.objective import Objective
from promptmm_pyg.functional import rows, sparse_gradients
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training import LazyAdamW, TrainingConfig, bpr_losses, train
from promptmm_pyg.training.loop import step_output, train_step
from promptmm_pyg.training.optim import make_optimizer
from tests.training.setting import LightGCN, Watch, make_split, make_student

SETTINGS = {'lr': 0.1, 'betas': (0.8, 0.9), 'eps': 1e-3, 'weight_decay': 0.2}


def make_table(num=6, width=3, dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(num, width, generator=g, dtype=dtype))


def looked_up(table, index):
    """Rows whose gradient is sparse."""
    with sparse_gradients([table]):
        return rows(table, torch.tensor([*index]))


def run(cls, index_of_step, seed=1, **settings):
    """The table after every step; the gradient of a touched row is random."""
    table, states = make_table(), []
    optimizer = cls([table], **{**SETTINGS, **settings})
    g = torch.Generator().manual_seed(seed)
    for index in index_of_step:
        every = torch.randn(6, 3, generator=g, dtype=torch.double)
        rows = torch.tensor(index, dtype=torch.long)
        table.grad = torch.sparse_coo_tensor(
            rows[None], every[rows], (6, 3), check_invariants=True
        )
        if cls is torch.optim.AdamW:
            table.grad = table.grad.to_dense()
        optimizer.step()
        states.append(table.detach().clone())
    return states


@pytest.mark.parametrize('weight_decay', [0.0, 0.2])
def test_rows_of_every_step_equal_adamw(weight_decay):
    steps = [[0, 2, 5], [2, 0], [0, 1, 2], [2, 0, 4]]
    ours = run(LazyAdamW, steps, weight_decay=weight_decay)
    theirs = run(torch.optim.AdamW, steps, weight_decay=weight_decay)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a[[0, 2]], b[[0, 2]])


def test_a_first_touch_is_that_of_adamw_however_late():
    # Without decay: there, AdamW has pulled at the row before.
    steps = [[0], [1], [0, 1], [4, 0]]
    before, ours = run(LazyAdamW, steps, weight_decay=0.0)[-2:]
    theirs = run(torch.optim.AdamW, steps, weight_decay=0.0)[-1]
    torch.testing.assert_close(ours[4], theirs[4])
    assert (ours[4] != before[4]).all()


def test_rows_that_are_not_touched_do_not_move():
    start = make_table().detach()
    states = [start, *run(LazyAdamW, [[0, 2], [1], [2, 1], []])]
    for before, after, touched in zip(
        states, states[1:], [[0, 2], [1], [2, 1], []], strict=False
    ):
        moved = (before != after).any(dim=1).nonzero().view(-1).tolist()
        assert moved == sorted(touched)


def test_adamw_goes_on_with_a_row_that_it_left():
    # What lazy means, and what it costs: row 0 after its only touch.
    steps = [[0], [1], [1]]
    lazy, dense = (
        run(c, steps, weight_decay=0.0) for c in (LazyAdamW, torch.optim.AdamW)
    )
    torch.testing.assert_close(lazy[0], dense[0])
    assert (lazy[2][0] == lazy[0][0]).all()
    assert (dense[2][0] != dense[0][0]).all()


def test_a_second_touch_after_a_pause_has_the_moments_of_the_first():
    # By hand: one value, gradients 2 and -1, one step between them.
    table = torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.double))
    optimizer = LazyAdamW([table], lr=0.1, betas=(0.5, 0.75), eps=0.0)
    for row, value in ((0, 2.0), (1, 1.0), (0, -1.0)):
        table.grad = torch.sparse_coo_tensor(
            [[row]], [[value]], (2, 1), dtype=torch.double, check_invariants=True
        )
        optimizer.step()
    first, second = 0.5 * 1.0 + 0.5 * -1.0, 0.75 * 1.0 + 0.25 * 1.0
    step = 0.1 * (first / (1 - 0.5**3)) / (second / (1 - 0.75**3)) ** 0.5
    assert float(table[0].detach()) == pytest.approx(-0.1 - step)


def test_gradients_of_a_row_that_occurs_often_are_summed():
    table = make_table()
    optimizer = LazyAdamW([table], **SETTINGS)
    looked_up(table, [1, 4, 1]).sum().backward()
    optimizer.step()
    expected = make_table()
    expected.grad = torch.zeros(6, 3, dtype=torch.double)
    expected.grad[1], expected.grad[4] = 2.0, 1.0
    torch.optim.AdamW([expected], **SETTINGS).step()
    torch.testing.assert_close(table[[1, 4]], expected[[1, 4]])


def test_parameters_with_dense_gradients_are_stepped_as_by_adamw():
    lazy, dense = [make_table(), make_table()], [make_table(), make_table()]
    ours, theirs = LazyAdamW(lazy, **SETTINGS), torch.optim.AdamW(dense, **SETTINGS)
    for step in range(3):
        for (table, other), optimizer in ((lazy, ours), (dense, theirs)):
            optimizer.zero_grad()
            # With us, the first table has sparse gradients but for the last step.
            sparse = optimizer is ours and step < 2
            x = looked_up(table, range(6)) if sparse else table[:]
            (x * other).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(lazy, dense)


def test_the_gradient_is_still_there_after_the_step():
    table = make_table()
    optimizer = LazyAdamW([table])
    looked_up(table, [2]).sum().backward()
    optimizer.step()
    assert table.grad.is_sparse
    optimizer.zero_grad()
    assert table.grad is None


@pytest.mark.parametrize('cls', [LazyAdamW, torch.optim.AdamW])
def test_a_state_goes_on_in_either_optimizer(cls):
    def steps(optimizer, table, num):
        for _ in range(num):
            optimizer.zero_grad()
            dense = type(optimizer) is torch.optim.AdamW
            x = table[:] if dense else looked_up(table, range(6))
            x.square().sum().backward()
            optimizer.step()

    straight, table = make_table(), make_table()
    steps(LazyAdamW([straight], **SETTINGS), straight, 4)
    first = LazyAdamW([table], **SETTINGS)
    steps(first, table, 2)
    second = cls([table], **SETTINGS)
    second.load_state_dict(first.state_dict())
    steps(second, table, 2)
    torch.testing.assert_close(table, straight)


def test_a_closure_is_called_once_and_its_loss_returned():
    table, calls = make_table(), []
    optimizer = LazyAdamW([table])

    def closure():
        calls.append(1)
        loss = looked_up(table, [0]).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert calls == [1]
    assert int((table != make_table()).any(dim=1).sum()) == 1


def test_a_scaled_loss_is_scaled_back_by_its_scaler():
    tables = [make_table(dtype=torch.float) for _ in range(2)]
    for table, scaler in zip(tables, (None, torch.amp.GradScaler('cpu')), strict=True):
        optimizer = LazyAdamW([table], eps=1.0)  # Where the size of a gradient counts.
        loss = looked_up(table, [3, 3]).square().sum()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
    torch.testing.assert_close(tables[1], tables[0])
    assert (tables[0][3] != make_table(dtype=torch.float)[3]).all()


def test_a_gradient_that_is_sparse_in_two_dimensions_is_an_error():
    table = make_table()
    table.grad = torch.eye(6, 3, dtype=torch.double).to_sparse()
    with pytest.raises(ValueError, match=r"'params' must .* \(got 2"):
        LazyAdamW([table]).step()


def test_the_optimizer_follows_the_config():
    config = TrainingConfig(learning_rate=0.1, weight_decay=0.2)
    frozen = make_table().requires_grad_(False)
    for kind, cls in (('dense', torch.optim.AdamW), ('lazy', LazyAdamW)):
        optimizer = make_optimizer(
            [make_table(), frozen], replace(config, optimizer=kind)
        )
        assert type(optimizer) is cls
        (group,) = optimizer.param_groups
        assert (group['lr'], group['weight_decay']) == (0.1, 0.2)
        assert len(group['params']) == 1


@pytest.mark.parametrize('index', [[[3, 0], [3, 5]], [2], []])
def test_sparse_gradients_of_rows_equal_the_dense_ones(index):
    index = torch.tensor(index, dtype=torch.long)
    table, other = make_table(), make_table()
    with sparse_gradients([table]):
        x = rows(table, index)
    expected = rows(other, index)
    assert torch.equal(x, expected)
    weight = torch.arange(1.0, x.numel() + 1).view_as(x)
    (x * weight).sum().backward()
    (expected * weight).sum().backward()
    assert table.grad.is_sparse
    torch.testing.assert_close(table.grad.to_dense(), other.grad)
    assert not hasattr(table, 'sparse_grad')  # Outside of the block.
    with pytest.raises(IndexError), sparse_gradients([table]):
        rows(table, torch.tensor([-1]))


def test_sparse_and_dense_gradients_of_one_table_add_up():
    table, other = make_table(), make_table()
    for x in (table, other):
        with sparse_gradients([table]):
            both = rows(x, torch.tensor([3, 5])).square().sum() + x.mean()
        both.backward()
    torch.testing.assert_close(table.grad, other.grad)


def test_a_model_that_computes_its_embeddings_is_an_error():
    data = make_split()
    config = TrainingConfig(optimizer='lazy')
    with pytest.raises(ValueError, match="'optimizer' must be 'dense' for 'LightGCN'"):
        train(make_student(data.train, cls=LightGCN), data, config=config)


@pytest.mark.parametrize('kind', ['lazy', 'dense'])
def test_a_lazy_step_of_the_papers_losses_allocates_nothing_of_a_tables_size(kind):
    g = torch.Generator().manual_seed(0)
    table = {
        key: torch.nn.Parameter(torch.randn(500, 4, generator=g))
        for key in ('user', 'item')
    }
    targets = SoftTargets({k: v.detach() for k, v in table.items()}, {})
    objective = Objective(promptmm_losses())
    objective.setup(targets, 4, None)
    batch = Triplets(*torch.randint(500, (3, 8), generator=g))
    lists = CandidateLists(
        item_index=torch.randint(500, (8, 5), generator=g),
        target_mask=(torch.arange(5) == 0).expand(8, 5),
    )
    config = TrainingConfig(learning_rate=0.1, weight_decay=0.01, optimizer=kind)
    optimizer = make_optimizer(table.values(), config)

    def step(batch, lists):
        values, weights = bpr_losses(table, batch), {'bpr': 1.0, 'l2': 1.0}
        objective.extend(values, weights, table, targets, batch, lists)
        return step_output(values, weights)

    known = list(table.values())
    for number in range(2):  # The first creates the moments.
        watch = Watch(*known)
        with watch, sparse_gradients(table.values() if kind == 'lazy' else []):
            train_step(optimizer, step, batch, lists)
        if number == 0:
            moments = optimizer.state.values()
            known += [s[k] for s in moments for k in ('exp_avg', 'exp_avg_sq')]
    # The dense step shows that the watch works.
    assert (watch.largest < 500 * 4) == (kind == 'lazy')


class Tables(torch.nn.Module):
    """A teacher that returns its tables unchanged."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self):
        return TeacherOutput(self.student(), {})


@pytest.mark.parametrize('run', ['train', 'teacher', 'distill'])
def test_the_first_lazy_step_is_that_of_dense_adam(run):
    data, models = make_split(), []
    start = make_student(data.train)
    teacher = SoftTargets({k: x.detach() + 1 for k, x in start().items()}, {})
    for kind in ('lazy', 'dense'):
        config = TrainingConfig(
            epochs=1, optimizer=kind, batch_size=10_000, progress=False
        )
        student, seen = make_student(data.train), []
        if run == 'distill':
            out = distill(student, teacher, data, config=config)
            models.append([student, out.baseline])
            continue
        student.embeddings.tables['user'].register_hook(
            lambda grad, seen=seen: seen.append(grad.is_sparse)
        )
        model = student if run == 'train' else Tables(student)
        train(model, data, config=config, inputs=())
        models.append([student])
        assert seen == [kind == 'lazy']
    for lazy, dense in zip(*models, strict=True):
        torch.testing.assert_close(dict(lazy.state_dict()), dict(dense.state_dict()))
        assert not torch.equal(lazy()['user'], start()['user'])


def test_a_resumed_lazy_run_equals_the_uninterrupted_one(tmp_path):
    data, models = make_split(), []
    for folder, lengths in (('a', [3]), ('b', [1, 3])):
        for epochs in lengths:
            models.append(make_student(data.train))
            config = TrainingConfig(
                epochs=epochs,
                run_dir=tmp_path / folder,
                resume=epochs > lengths[0],
                optimizer='lazy',
                learning_rate=0.01,
                batch_size=50,
                progress=False,
            )
            train(models[-1], data, config=config)
    straight, _, resumed = models
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])
