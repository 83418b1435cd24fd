"""``distill``: its steps, its baseline, joint prompts, resume and errors."""

import copy
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.distillation import (
    CandidateSampling,
    OnEmbeddings,
    OnPairs,
    distill,
    promptmm_losses,
    truncate_embeddings,
)
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.distillation.distill import _start
from promptmm_pyg.distillation.objective import JointTeacher, Objective
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletLoader, uniform_candidates
from promptmm_pyg.losses import PairwiseKDLoss, ScaledCosineLoss, weighted_sum
from promptmm_pyg.models import EASE
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, soft_targets
from promptmm_pyg.training import TrainingConfig, bpr_losses, loop, train
from promptmm_pyg.training.history import History
from tests.training.setting import (
    QUICK,
    Interrupted,
    LightGCN,
    make_split,
    make_student,
    make_teacher,
)

ONE = TrainingConfig(epochs=1, progress=False)
UNIFORM = CandidateSampling(10, num_teacher_topk=0, num_student_topk=0)


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal(a, b):
    torch.testing.assert_close(state(a), state(b), rtol=0, atol=0)


def fast(student, teacher, data, **options):
    """A distillation from a random start, without its baseline."""
    return distill(
        student,
        teacher,
        data,
        **{'baseline': False, 'config': QUICK, 'start': 'random', **options},
    )


@pytest.mark.parametrize('prompt', ['frozen', 'joint'])
def test_one_step_equals_the_same_step_written_by_hand(prompt):
    data = make_split()
    teacher, student = make_teacher(data.train, dropout=0.5), make_student(data.train)
    hand_teacher, hand = copy.deepcopy(teacher), copy.deepcopy(student)
    adj_dict = normalized_adj_dict(data.train)
    losses = promptmm_losses(listwise_weight=3.0)
    fast(
        student,
        teacher,
        data,
        losses=losses,
        prompt=prompt,
        anchor_weight=0.5,
        candidates=UNIFORM,
        config=TrainingConfig(
            epochs=1,
            learning_rate=0.01,
            batch_size=10_000,
            seed=4,
            validate_every=0,  # A worse teacher would be restored.
            progress=False,
        ),
    )

    edge_index = data.train[INTERACTS].edge_index
    batch = next(iter(TripletLoader(edge_index, 60, 40, 10_000, seed=4)))
    hand_teacher.eval()  # No dropout in the teacher's output.
    targets = soft_targets(hand_teacher, adj_dict)
    sampler = CandidateSampler(UNIFORM, data.train, targets, 4).sampler
    lists = uniform_candidates(
        sampler, batch.user, batch.positive, 10, torch.Generator().manual_seed(4)
    )
    torch.manual_seed(4)  # Projectors are drawn first.
    hand_losses = promptmm_losses()
    for loss in hand_losses:
        loss.setup(targets, 4)
    output = hand_teacher(adj_dict) if prompt == 'joint' else targets
    x_dict = hand(adj_dict)
    values = bpr_losses(x_dict, batch)
    for loss in hand_losses:
        values.update(loss(x_dict, output, batch, lists))
    weights = {'bpr': 1, 'l2': 1e-3, 'pairwise': 1, 'listwise': 3, 'embedding': 1}
    trained = [*hand.parameters(), *hand_losses[2].parameters()]
    if prompt == 'joint':
        # The anchor and its gradient are zero at the start.
        trained += list(hand_teacher.prompt.parameters())
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)
    weighted_sum(values, weights).backward()
    optimizer.step()
    torch.testing.assert_close(state(student), state(hand))
    torch.testing.assert_close(state(losses[2]), state(hand_losses[2]))
    torch.testing.assert_close(state(teacher), state(hand_teacher))


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


@pytest.mark.usefixtures('double_precision')
@pytest.mark.parametrize('view', ['fused', 'image', 'text'])
@pytest.mark.parametrize('name', ['pairwise', 'listwise', 'embedding'])
def test_the_gradient_of_every_loss_reaches_the_prompt(name, view, monkeypatch):
    data = make_split()
    teacher = make_teacher(data.train)
    losses = promptmm_losses(list_views=view, embedding_views=view)
    losses[0].view = view

    train_step, calls = loop.train_step, []

    def captured(optimizer, *args):
        calls.append(args[:3])
        return train_step(optimizer, *args)

    monkeypatch.setattr(loop, 'train_step', captured)
    # After training, gradients flow as within it.
    monkeypatch.setattr(JointTeacher, '__exit__', lambda *_: None)
    losses = [loss for loss in losses if loss.name == name]
    student = make_student(data.train)
    fast(student, teacher, data, losses=losses, prompt='joint', config=ONE)
    step, batch, lists = calls[0]
    weights = [p for p in teacher.prompt.parameters() if p.requires_grad]
    grads = torch.autograd.grad(step(batch, lists).backward, weights)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = [torch.randn(p.size(), generator=generator) for p in weights]
        values = []
        for length in (1e-6, -2e-6, 1e-6):  # Ends at the start.
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p += length * d
            out = step(batch, lists)
            values.append(torch.stack([out.loss, out.losses[name]]))
        total, own = (values[0] - values[1]) / 2e-6
        expected = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-8)
        assert own.abs() > 1e-3 * total.abs()


@pytest.mark.parametrize('prompt', ['frozen', 'joint'])
def test_the_teacher_stays_bitwise_and_its_prompt_changes_only_when_joint(prompt):
    data = make_split()
    teacher, student = make_teacher(data.train), make_student(data.train)
    before = state(teacher)
    targets = soft_targets(teacher, normalized_adj_dict(data.train))
    config = replace(QUICK, validate_every=0)
    out = fast(student, teacher, data, prompt=prompt, config=config)
    after = state(teacher)
    for name, value in before.items():
        tuned = prompt == 'joint' and name.startswith('prompt.lins')
        assert torch.equal(value, after[name]) != tuned, name
    current = soft_targets(teacher, normalized_adj_dict(data.train))
    torch.testing.assert_close(out.targets, current)
    same = torch.equal(out.targets.x_dict['item'], targets.x_dict['item'])
    assert same == (prompt == 'frozen')
    assert ('anchor' in out.history.records[0]['losses']) == (prompt == 'joint')


def test_the_anchor_is_the_relative_squared_distance_from_the_start():
    data = make_split()
    teacher, adj = make_teacher(data.train), normalized_adj_dict(data.train)
    targets = soft_targets(teacher, adj)
    with JointTeacher(teacher, (adj,), targets, anchor_weight=3.0) as joint:
        with torch.no_grad():
            for p in joint.prompt.parameters():
                p += 0.1
        output = joint()
        values, weights = {}, {}
        joint.extend(values, weights, output)
    expected = []
    for key, start in targets.x_dict.items():
        x, start = output.x_dict[key].detach().numpy(), start.numpy()
        expected.append(((x - start) ** 2).sum() / (start**2).sum())
    assert weights == {'anchor': 3.0}
    anchor = float(values['anchor'].detach())
    assert anchor == pytest.approx(np.mean(expected), rel=1e-4)
    assert anchor > 1e-4


def test_the_prompt_returns_to_its_last_state_in_which_the_teacher_was_not_worse():
    data = make_split()
    teacher, adj = make_teacher(data.train), normalized_adj_dict(data.train)
    with JointTeacher(teacher, (adj,), soft_targets(teacher, adj), 1.0) as joint:
        states = []
        # The last at least as good as 0.5, the start.
        for value, last in ((0.5, 0), (0.6, 1), (0.4, 1), (0.5, 3), (0.1, 3)):
            with torch.no_grad():
                for p in joint.prompt.parameters():
                    p += 1.0
            states.append(state(joint.prompt))
            joint.hold(lambda *_, value=value: {'m': value}, 'm')
            torch.testing.assert_close(state(joint.prompt), states[last])


@pytest.mark.parametrize('held', [True, False])
def test_joint_tuning_does_not_make_the_teacher_worse_on_validation(held, monkeypatch):
    data = make_split()
    teacher = make_teacher(data.train)
    config = replace(QUICK, learning_rate=0.1)
    train(teacher, data, config=replace(config, epochs=20))
    before = evaluate(get_embeddings(teacher, data.train), data.val, ks=(20,))
    if not held:
        monkeypatch.setattr(JointTeacher, 'hold', lambda *_: None)
    options = {'prompt': 'joint', 'anchor_weight': 1e-6, 'config': config}
    out = fast(make_student(data.train), teacher, data, **options)
    after = evaluate(out.targets.x_dict, data.val, ks=(20,))
    worse = after.metrics['Recall@20'] < before.metrics['Recall@20']
    assert worse != held


@pytest.mark.parametrize('cut', [None, 1])
def test_the_teachers_flags_are_restored_after_joint_tuning(cut):
    data = make_split()
    teacher = make_teacher(data.train).train()
    teacher.embeddings.requires_grad_(False)
    teacher.encoders.eval()
    flags = [p.requires_grad for p in teacher.parameters()]
    modes = [part.training for part in teacher.modules()]
    student = make_student(data.train)
    if cut is None:
        fast(student, teacher, data, prompt='joint')
    else:
        with pytest.raises(KeyboardInterrupt), Interrupted(cut):
            fast(student, teacher, data, prompt='joint')
    assert [p.requires_grad for p in teacher.parameters()] == flags
    assert [part.training for part in teacher.modules()] == modes


def test_a_frozen_teacher_runs_once_and_soft_targets_give_the_same_student():
    data = make_split()
    teacher, calls = make_teacher(data.train), []
    students = [make_student(data.train) for _ in range(2)]
    targets = soft_targets(teacher, normalized_adj_dict(data.train))
    teacher.register_forward_hook(lambda *_: calls.append(1))
    fast(students[0], teacher, data)
    fast(students[1], targets, data)
    assert len(calls) == 1
    assert_equal(*students)


def test_a_student_shares_no_memory_with_its_teacher_and_has_no_features():
    data = make_split()
    teacher, student = make_teacher(data.train), make_student(data.train, width=8)
    fast(student, teacher, data)
    theirs = {p.data_ptr() for p in [*teacher.parameters(), *teacher.buffers()]}
    assert not theirs & {p.data_ptr() for p in student.parameters()}
    assert sorted(v.shape for v in student.state_dict().values()) == [(40, 8), (60, 8)]


@pytest.mark.parametrize('own', [None, {'bpr': 1.0, 'l2': 0.3}, {'l2': 0.3}])
def test_the_baseline_is_the_student_trained_without_its_teacher(own):
    data = make_split()
    student, alone = make_student(data.train), make_student(data.train)
    config = replace(QUICK, seed=7)
    out = distill(
        student,
        make_teacher(data.train),
        data,
        loss_weights={'l2': 0.1},
        baseline_loss_weights=own,
        config=config,
    )
    train(alone, data, loss_weights=own or {'l2': 0.1}, config=config)
    assert_equal(out.baseline, alone)
    assert not torch.equal(out.baseline()['item'], student()['item'])


def test_the_baseline_does_not_change_the_student():
    data = make_split()
    teacher = make_teacher(data.train)
    students = [make_student(data.train) for _ in range(2)]
    fast(students[0], teacher, data, baseline=True)
    out = fast(students[1], teacher, data)
    assert_equal(*students)
    assert out.baseline is None
    assert out.baseline_history is None


@pytest.mark.parametrize('width', [4, 8])
def test_the_truncated_teacher_has_the_width_of_the_student(width):
    data = make_split()
    student = make_student(data.train, width, cls=LightGCN)
    out = fast(student, make_teacher(data.train), data)
    expected = truncate_embeddings(out.targets.x_dict, width)
    torch.testing.assert_close(out.truncated_teacher, expected)


@pytest.mark.parametrize(('width', 'expected'), [(4, 40), (48, 40)])
def test_a_closed_form_teaches_by_its_truncated_scores(width, expected):
    data = make_split()
    model = EASE({'user': 60, 'item': 40}, l2=10.0)
    train(model, data)
    by_hand = SoftTargets.from_output(model.as_output(expected))
    students = [make_student(data.train, width) for _ in range(2)]
    out = fast(students[0], model, data)
    fast(students[1], by_hand, data)
    assert out.targets.x_dict['item'].size(1) == expected
    assert_equal(*students)


def test_the_width_of_a_closed_form_is_64_or_that_of_a_wider_student():
    data = make_split(90, 80)
    model = EASE({'user': 90, 'item': 80}, l2=10.0)
    train(model, data)
    for width, expected in ((4, 64), (70, 70), (99, 80)):
        out = fast(make_student(data.train, width), model, data, config=ONE)
        assert out.targets.x_dict['user'].size(1) == expected


class Constant(torch.nn.Module):
    """A user's own loss, with a parameter and no adapter."""

    weight = 2.0

    def __init__(self):
        super().__init__()
        self.target = torch.nn.Parameter(torch.zeros(1))

    def setup(self, targets, width, train):
        self.arguments = targets, width, train

    def forward(self, student, teacher, batch, lists):
        assert lists.item_index.size(0) == batch.user.numel()
        assert teacher is self.arguments[0]
        gap = student['item'][batch.positive] - self.target - 1
        return {'gap': gap.square().mean(), 'size': self.target.square().sum()}


def test_a_users_own_loss_is_trained_with_the_student():
    data = make_split()
    loss, student = Constant(), make_student(data.train)
    targets = soft_targets(make_teacher(data.train), normalized_adj_dict(data.train))
    config = replace(QUICK, learning_rate=0.1)
    records = fast(student, targets, data, losses=[loss], config=config).history.records
    assert loss.arguments == (targets, 4, data.train)
    assert list(records[0]['losses']) == ['bpr', 'l2', 'gap', 'size']
    assert records[-1]['losses']['gap'] < records[0]['losses']['gap']
    weights = {'bpr': 1.0, 'l2': 1e-3, 'gap': 2.0, 'size': 2.0}
    total = sum(weights[k] * x for k, x in records[1]['losses'].items())
    assert records[1]['loss'] == pytest.approx(total, rel=1e-5)
    assert loss.target != 0


def test_no_losses_give_the_baseline():
    data = make_split()
    student, teacher = make_student(data.train), make_teacher(data.train)
    out = fast(student, teacher, data, losses=[], baseline=True)
    assert_equal(out.student, out.baseline)


def test_projectors_are_new_in_every_run():
    data = make_split()
    losses = [OnEmbeddings(ScaledCosineLoss()), OnPairs(PairwiseKDLoss())]
    students = [make_student(data.train) for _ in range(2)]
    for student in students:
        fast(student, make_teacher(data.train), data, losses=losses)
    assert_equal(*students)


def run(data, run_dir, resume=False):
    teacher, student = make_teacher(data.train), make_student(data.train)
    out = distill(
        student,
        teacher,
        data,
        prompt='joint',
        candidates=CandidateSampling(
            num_uniform=2, num_teacher_topk=2, num_student_topk=2, refresh_every=2
        ),
        config=TrainingConfig(
            epochs=3, batch_size=64, run_dir=run_dir, resume=resume, progress=False
        ),
    )
    return out.student, out.baseline, teacher


@pytest.mark.parametrize('cut', [7, 15])  # In the baseline's run, in the student's.
def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path, cut):
    data = make_split()
    straight = run(data, tmp_path / 'a')
    with pytest.raises(KeyboardInterrupt), Interrupted(cut):
        run(data, tmp_path / 'b')
    for a, b in zip(straight, run(data, tmp_path / 'b', resume=True), strict=True):
        assert_equal(a, b)
    assert (tmp_path / 'b' / 'baseline' / 'log.jsonl').is_file()


@pytest.mark.parametrize('candidates', [None, CandidateSampling(2, 2, 2)])
def test_items_without_interactions_and_draws_do_not_change(candidates):
    data = make_split()
    # The first five items have no interactions.
    edges = data.train[INTERACTS].edge_index
    assert (edges[1] < 5).any()
    edges = edges[:, edges[1] >= 5]
    data.train[INTERACTS].edge_index = edges
    data.train[REV_INTERACTS].edge_index = edges.flip(0)
    student, teacher = make_student(data.train), make_teacher(data.train)
    start = copy.deepcopy(student).embeddings.tables['item']
    out = distill(
        student,
        teacher,
        data,
        start='random',
        candidates=candidates,
        negative_items=torch.arange(5, 40),
        config=replace(QUICK, learning_rate=0.01),
    )
    for model in (student, out.baseline):
        moved = (model.embeddings.tables['item'] != start).any(dim=1)
        assert not moved[:5].any()
        assert moved[5:].all()


@pytest.mark.parametrize('dtype', [torch.double, torch.bfloat16])
def test_the_student_may_have_another_precision_than_its_teacher(dtype):
    data = make_split()
    targets = soft_targets(make_teacher(data.train), normalized_adj_dict(data.train))
    losses = []
    for kind in (torch.float, dtype):
        out = fast(make_student(data.train).to(kind), targets, data)
        assert out.student.embeddings()['user'].dtype == kind
        losses.append(out.history.records[0]['loss'])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_errors():
    data = make_split()
    teacher, student = make_teacher(data.train), make_student(data.train)
    targets = soft_targets(teacher, normalized_adj_dict(data.train))
    plain = make_teacher(data.train, prompt_start_dict=None)
    disabled = make_teacher(data.train)
    disabled.disable_prompt()
    with pytest.raises(TypeError, match="a module with prompt='joint'"):
        fast(student, targets, data, prompt='joint')
    unfitted = EASE({'user': 60, 'item': 40})
    with pytest.raises(RuntimeError, match='not fitted'):
        fast(student, unfitted, data)
    for given, options, message in (
        (teacher, {'prompt': 'thawed'}, "'prompt' must be one of"),
        (plain, {'prompt': 'joint'}, "a module 'prompt' with prompt='joint'"),
        (disabled, {'prompt': 'joint'}, "its prompt enabled with prompt='joint'"),
        (teacher, {'anchor_weight': 0}, "'anchor_weight' must be positive"),
        (teacher, {'loss_weights': {'x': 1.0}}, r"'loss_weights' must.*\['x'\]"),
        (teacher, {'baseline_loss_weights': {'x': 1.0}}, r"must name.*\['x'\]"),
        (teacher, {'config': replace(ONE, propagate_every=2)}, "'config' must have"),
        (teacher, {'config': replace(ONE, num_neighbors=[2])}, "'config' must have"),
    ):
        with pytest.raises(ValueError, match=message):
            fast(student, given, data, **options)


def test_mismatched_devices_raise_before_training():
    data = make_split()
    tables = {'user': torch.ones(60, 4), 'item': torch.ones(40, 4)}
    targets = SoftTargets(tables, {})
    student = make_student(data.train)
    with pytest.raises(ValueError, match=r"'teacher' must.*'student', cpu \(got meta"):
        fast(student, targets.to('meta'), data)
    with pytest.raises(ValueError, match=r"'data.train' must.*'student', meta \(got c"):
        fast(student.to('meta'), targets, data)


def test_the_objective_of_the_default_is_the_papers():
    data = make_split()
    teacher = make_teacher(data.train)
    students = [make_student(data.train) for _ in range(2)]
    fast(students[0], teacher, data)
    fast(students[1], teacher, data, losses=promptmm_losses())
    assert_equal(*students)
    assert len(Objective(promptmm_losses()).losses) == 3


def test_a_started_student_is_never_below_its_start(tmp_path):
    data, targets = make_split(), soft_targets_of(make_split())
    student = make_student(data.train)
    config = replace(QUICK, learning_rate=5.0, validate_every=2, run_dir=tmp_path)
    result = distill(student, targets, data, start='truncated', config=config)
    history, expected = result.history, truncate_embeddings(targets.x_dict, 4)
    torch.testing.assert_close(get_embeddings(student, data.train), expected)
    assert history.best_epoch == 0
    assert history.best_metrics == history.records[0]['start']
    assert history.best_value == history.best_metrics['Recall@20']
    # Neither does the baseline start there.
    plain = distill(
        make_student(data.train), targets, data, config=replace(config, run_dir=None)
    )
    assert_equal(result.baseline, plain.baseline)
    assert plain.baseline_history.best_metrics['Recall@20'] > 0
    resumed = distill(
        make_student(data.train),
        targets,
        data,
        start='truncated',
        config=replace(config, resume=True, epochs=4),
    )
    assert_equal(resumed.student, student)
    assert resumed.history.best_metrics == history.best_metrics


@pytest.mark.parametrize('is_weak', [True, False])
def test_the_best_start_is_random_where_the_truncation_is_below_the_baseline(is_weak):
    data = make_split()
    # A teacher of the positives themselves, or of their opposite.
    right = torch.zeros(60, 40)
    right[tuple(data.val[INTERACTS].edge_label_index)] = -1.0 if is_weak else 1.0
    x_dict = {'user': right, 'item': torch.eye(40)}
    config = replace(QUICK, validate_every=1)
    students = [make_student(data.train, 32) for _ in range(2)]
    targets = SoftTargets(x_dict, {})
    best = distill(students[0], targets, data, config=config)
    expected = 'random' if is_weak else 'truncated'
    assert best.start == expected
    distill(students[1], targets, data, start=expected, config=config)
    assert_equal(*students)
    config = TrainingConfig(epochs=2, progress=False)
    student = make_student(data.train, 32)
    auto = distill(student, targets, data, start=expected, config=config)
    numbers = (auto.history, 1 if is_weak else 2), (auto.baseline_history, 1)
    for history, number in numbers:
        assert sum('validation' in x for x in history.records) == number
    without = distill(
        make_student(data.train, 32), targets, data, baseline=False, config=config
    )
    assert without.start == 'truncated'


@pytest.mark.parametrize(('share', 'start'), [(0.96, 'truncated'), (0.94, 'random')])
def test_a_truncation_of_95_percent_of_the_baseline_is_good_enough(share, start):
    val, x_dict = make_split().val, make_teacher(make_split().train).embeddings()
    value = evaluate(dict(x_dict), val, ks=(20,)).metrics['Recall@20']
    record = {'epoch': 1, 'validation': {'Recall@20': value / share}}
    baseline = History([record], 1, value / share, 'Recall@20')
    assert value > 0
    targets = SoftTargets(dict(x_dict), {})
    assert _start('best', targets, 8, baseline, val, 'Recall@20') == start


def test_a_student_that_ends_below_the_baseline_is_trained_from_a_random_start(
    tmp_path, monkeypatch
):
    data = make_split()
    wrong = torch.zeros(60, 40)
    wrong[tuple(data.val[INTERACTS].edge_label_index)] = -1.0
    targets = SoftTargets({'user': wrong, 'item': torch.eye(40)}, {})
    config = replace(QUICK, validate_every=1, run_dir=tmp_path)
    # As of a teacher that is nearly as good as the baseline.
    module = sys.modules[distill.__module__]
    starts = {'best': 'truncated', 'random': 'random'}
    monkeypatch.setattr(module, '_start', lambda start, *_: starts[start])
    students = [make_student(data.train, 32) for _ in range(3)]
    # Of little weight, such a teacher does no harm from a random start.
    losses = [OnEmbeddings(ScaledCosineLoss(), weight=1e-3)]
    run = partial(distill, teacher=targets, data=data, losses=losses)
    best = run(students[0], config=config)
    expected = run(students[1], start='random', config=replace(config, run_dir=None))
    assert best.start == 'random'
    assert best.student is students[0]
    assert best.history.best_value == expected.history.best_value
    assert_equal(*students[:2])
    log = (tmp_path / 'log.jsonl').read_text()
    assert log == (tmp_path / 'random' / 'log.jsonl').read_text()
    again = run(students[2], config=replace(config, resume=True))
    assert_equal(students[0], students[2])
    assert (again.start, (tmp_path / 'log.jsonl').read_text()) == ('random', log)


def test_nothing_to_resume_is_an_error_before_the_baseline_is_trained(tmp_path):
    data = make_split()
    config = replace(QUICK, run_dir=tmp_path, resume=True)
    with pytest.raises(FileNotFoundError, match='resume=False'):
        distill(make_student(data.train), soft_targets_of(data), data, config=config)
    assert not list(tmp_path.iterdir())


def soft_targets_of(data):
    return soft_targets(make_teacher(data.train), normalized_adj_dict(data.train))
