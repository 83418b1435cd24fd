import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from promptmm_pyg.distillation import DistillationObjective, distill
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training import (
    LazyAdamW,
    Schedule,
    bpr_terms,
    row_tables,
    train_teacher,
)
from promptmm_pyg.training.optimizer import make_optimizer
from promptmm_pyg.training.row_tables import RowTable
from tests.training.setting import LightGCN, make_split, make_student

SETTINGS = {'lr': 0.1, 'betas': (0.8, 0.9), 'eps': 1e-3, 'weight_decay': 0.2}


def make_table(num=6, width=3, dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(num, width, generator=g, dtype=dtype))


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
def test_rows_of_every_step_go_where_adamw_takes_them(weight_decay):
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
    x = row_tables({'item': table})['item']
    (x.index_select(0, torch.tensor([1, 4, 1])) * torch.ones(3, 3)).sum().backward()
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
            x = table.as_subclass(RowTable) if sparse else table
            (x.index_select(0, torch.arange(6)) * other).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(lazy, dense)


def test_the_gradient_is_still_there_after_the_step():
    table = make_table()
    optimizer = LazyAdamW([table])
    row_tables({'x': table})['x'][torch.tensor([2])].sum().backward()
    optimizer.step()
    assert table.grad.is_sparse
    optimizer.zero_grad()
    assert table.grad is None


@pytest.mark.parametrize('cls', [LazyAdamW, torch.optim.AdamW])
def test_a_state_goes_on_in_either_optimizer(cls):
    def steps(optimizer, table, num):
        for _ in range(num):
            optimizer.zero_grad()
            x = table if type(optimizer) is torch.optim.AdamW else None
            x = row_tables({'x': table})['x'] if x is None else x
            x.index_select(0, torch.arange(6)).square().sum().backward()
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
        loss = row_tables({'x': table})['x'][torch.tensor([0])].sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert calls == [1]
    assert int((table != make_table()).any(dim=1).sum()) == 1


def test_a_scaled_loss_is_scaled_back_by_its_scaler():
    tables = [make_table(dtype=torch.float) for _ in range(2)]
    for table, scaler in zip(tables, (None, torch.amp.GradScaler('cpu')), strict=True):
        optimizer = LazyAdamW([table], eps=1.0)  # Where the size of a gradient counts.
        loss = row_tables({'x': table})['x'][torch.tensor([3, 3])].square().sum()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
    torch.testing.assert_close(tables[1], tables[0])
    assert (tables[0][3] != make_table(dtype=torch.float)[3]).all()


def test_a_gradient_that_is_sparse_in_single_entries_is_refused():
    table = make_table()
    table.grad = torch.eye(6, 3, dtype=torch.double).to_sparse()
    with pytest.raises(
        ValueError, match=r"'params' requires .* \(got one with 2 sparse"
    ):
        LazyAdamW([table]).step()


def test_the_names_of_optimizers_are_checked():
    with pytest.raises(ValueError, match="'optimizer' must be one of 'dense'"):
        make_optimizer([make_table()], 0.1, 0.0, 'sgd')
    with pytest.raises(ValueError, match="'learning_rate' must be positive"):
        make_optimizer([make_table()], 0.0, 0.0, 'lazy')
    assert type(make_optimizer([make_table()], 0.1, 0.0)) is torch.optim.AdamW


INDEX = torch.tensor([[3, 0], [3, 5]])


@pytest.mark.parametrize(
    'look_up',
    [
        lambda x: x.index_select(0, INDEX.view(-1)),
        lambda x: torch.index_select(x, 0, INDEX.view(-1).int()),
        lambda x: x[INDEX],
        lambda x: x[INDEX - 6],
        lambda x: x[torch.tensor(2)],
    ],
)
def test_rows_are_those_of_the_table_and_their_gradient_is_sparse(look_up):
    table, other = make_table(), make_table()
    rows, expected = look_up(row_tables({'x': table})['x']), look_up(other)
    assert type(rows) is torch.Tensor
    assert torch.equal(rows, expected)
    weight = torch.arange(1.0, rows.numel() + 1).view_as(rows)
    (rows * weight).sum().backward()
    (expected * weight).sum().backward()
    assert table.grad.is_sparse
    torch.testing.assert_close(table.grad.to_dense(), other.grad)


@pytest.mark.parametrize(
    'use',
    [
        lambda x: x @ x.t(),
        lambda x: x.sum(dim=0),
        lambda x: x[:2],
        lambda x: x[x[:, 0] > 0],
        lambda x: x.index_select(1, torch.tensor([0, 2])),
        lambda x: x.index_select(dim=0, index=INDEX[0]),
    ],
)
def test_every_other_use_is_that_of_a_plain_table(use):
    table, other = make_table(), make_table()
    out, expected = use(row_tables({'x': table})['x']), use(other)
    assert type(out) is torch.Tensor
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(table.grad, other.grad)


def test_sparse_and_dense_gradients_of_one_table_add_up():
    table, other = make_table(), make_table()
    for x in (row_tables({'x': table})['x'], other):
        rows = x.index_select(0, INDEX[1])
        (rows.square().sum() + x.mean() + rows.sum()).backward()
    torch.testing.assert_close(table.grad, other.grad)


def test_a_model_that_computes_its_embeddings_is_refused():
    computed = {'user': make_table() * 2, 'item': torch.ones(3, 2)}
    with pytest.raises(ValueError, match=r"got none among \['item', 'user'\]"):
        row_tables(computed)
    train, val, _ = make_split()
    with pytest.raises(ValueError, match="train it with optimizer='dense'"):
        train_teacher(
            make_student(train, cls=LightGCN),
            train,
            val,
            terms=bpr_terms,
            weights={'bpr': 1.0, 'l2': 0.1},
            optimizer='lazy',
        )


class Watch(TorchDispatchMode):
    """Notes the largest dense tensor that is not a view of what was there."""

    def __init__(self, *known):
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        dense = isinstance(out, torch.Tensor) and out.layout == torch.strided
        if dense and out.untyped_storage().data_ptr() not in self.known:
            self.largest = max(self.largest, out.numel())
        return out


@pytest.mark.parametrize('kind', ['lazy', 'dense'])
def test_a_lazy_step_of_the_default_objective_makes_nothing_of_a_tables_size(kind):
    g = torch.Generator().manual_seed(0)
    table = {
        key: torch.nn.Parameter(torch.randn(500, 4, generator=g))
        for key in ('user', 'item')
    }
    targets = SoftTargets({k: v.detach() for k, v in table.items()}, {})
    objective = DistillationObjective(targets, 4)
    batch = Triplets(*torch.randint(500, (3, 8), generator=g))
    lists = CandidateLists(
        item_index=torch.randint(500, (8, 5), generator=g),
        target_mask=(torch.arange(5) == 0).expand(8, 5),
    )
    optimizer = make_optimizer(table.values(), 0.1, 0.01, kind)
    known = list(table.values())
    for step in range(2):  # The first makes the moments.
        watch = Watch(*known)
        with watch:
            x_dict = row_tables(table) if kind == 'lazy' else table
            terms = bpr_terms(x_dict, batch)
            terms.update(objective(x_dict, targets, batch, lists))
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
        if step == 0:
            moments = optimizer.state.values()
            known += [s[k] for s in moments for k in ('exp_avg', 'exp_avg_sq')]
    if kind == 'lazy':
        assert watch.largest < 500 * 4
    else:  # The watch does see.
        assert watch.largest == 500 * 4


def one_step(run, optimizer):
    """After one step in all, where lazy and dense are the same."""
    train, val, _ = make_split()
    student = make_student(train)
    run(student, train, val, optimizer)
    return student


ONE = Schedule(epochs=1, progress=False)


def test_one_step_of_distill_is_that_of_dense_adam_and_so_is_its_controls():
    train, _, _ = make_split()
    g = torch.Generator().manual_seed(0)
    x_dict = {'user': torch.randn(60, 8, generator=g)}
    x_dict['item'] = torch.randn(40, 8, generator=g)

    def run(student, train, val, optimizer):
        controls.append(
            distill(
                student,
                SoftTargets(x_dict, {}),
                train,
                val,
                optimizer=optimizer,
                weight_decay=0.0,
                batch_size=10_000,
                schedule=ONE,
            ).control
        )

    controls = []
    lazy, dense = one_step(run, 'lazy'), one_step(run, 'dense')
    start = make_student(train)
    for a, b in ((lazy, dense), controls):
        torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()))
        assert not torch.equal(a.embeddings()['user'], start.embeddings()['user'])


def test_one_step_of_train_teacher_is_that_of_dense_adam_for_tables_of_a_teacher():
    class Tables(torch.nn.Module):
        def __init__(self, student):
            super().__init__()
            self.student = student

        def forward(self):
            return TeacherOutput(self.student(), {})

    seen = []

    def terms(output, batch):
        seen.append(output)
        return bpr_terms(output.x_dict, batch)

    def run(student, train, val, optimizer):
        train_teacher(
            Tables(student),
            train,
            val,
            inputs=(),
            terms=terms,
            weights={'bpr': 1.0, 'l2': 0.1},
            optimizer=optimizer,
            batch_size=10_000,
            schedule=ONE,
        )

    lazy, dense = one_step(run, 'lazy'), one_step(run, 'dense')
    torch.testing.assert_close(dict(lazy.state_dict()), dict(dense.state_dict()))
    kinds = [type(output.x_dict['user']) for output in seen]
    assert kinds == [RowTable, torch.nn.Parameter]


@pytest.mark.parametrize('cut', [1])
def test_a_resumed_lazy_run_equals_the_uninterrupted_one(tmp_path, cut):
    train, val, _ = make_split()

    def run(run_dir, epochs, resume=False):
        student = make_student(train)
        train_teacher(
            student,
            train,
            val,
            terms=bpr_terms,
            weights={'bpr': 1.0, 'l2': 0.1},
            optimizer='lazy',
            learning_rate=0.01,
            batch_size=50,
            schedule=Schedule(
                epochs=epochs, run_dir=run_dir, resume=resume, progress=False
            ),
        )
        return student.state_dict()

    straight = run(tmp_path / 'a', 3)
    run(tmp_path / 'b', cut)
    resumed = run(tmp_path / 'b', 3, resume=True)
    for key, value in straight.items():
        assert torch.equal(value, resumed[key])
