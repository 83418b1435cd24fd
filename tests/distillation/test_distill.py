import copy

import pytest
import torch

import promptmm_pyg.training.loop as loop
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.distillation import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    CandidateSampling,
    DistillationObjective,
    distill,
    truncate_embeddings,
)
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletLoader, uniform_candidates
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import Schedule, bpr_terms, train_teacher
from tests.training.setting import (
    QUICK,
    LightGCN,
    make_split,
    make_student,
    make_teacher,
)

ONE = Schedule(epochs=1, progress=False)


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize('prompt', ['frozen', 'joint'])
def test_one_step_equals_the_same_step_written_by_hand(prompt):
    train, val, _ = make_split()
    teacher, student = make_teacher(train, dropout=0.5), make_student(train)
    hand_teacher, hand = copy.deepcopy(teacher), copy.deepcopy(student)
    adj = normalized_adj_dict(train)
    objective = DistillationObjective(soft_targets(teacher, adj), 4)
    hand_objective = copy.deepcopy(objective)
    distill(
        student,
        teacher,
        train,
        val,
        objective=objective,
        prompt=prompt,
        teacher_bpr_weight=0.5,
        control=False,
        learning_rate=0.01,
        batch_size=10_000,
        seed=4,
        schedule=ONE,
    )

    batch = next(
        iter(TripletLoader(train[INTERACTS].edge_index, 60, 40, 10_000, seed=4))
    )
    source = CandidateSampler(
        CandidateSampling(), train, soft_targets(hand_teacher, adj), 4
    )
    lists = uniform_candidates(
        source.sampler,
        batch.user,
        batch.positive,
        10,
        torch.Generator().manual_seed(4),
    )
    hand_teacher.eval()  # No dropout in what the teacher says.
    output = hand_teacher(adj) if prompt == 'joint' else soft_targets(hand_teacher, adj)
    terms = bpr_terms(hand(adj), batch)
    terms.update(hand_objective(hand(adj), output, batch, lists))
    weights = dict(STUDENT_WEIGHTS)
    trained = [*hand.parameters(), *hand_objective.parameters()]
    if prompt == 'joint':
        terms['anchor'] = bpr_terms(output.x_dict, batch)['bpr']
        weights['anchor'] = 0.5
        trained += list(hand_teacher.prompt.parameters())
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)
    weighted_sum(terms, weights).backward()
    optimizer.step()
    torch.testing.assert_close(state(student), state(hand))
    torch.testing.assert_close(state(objective), state(hand_objective))
    torch.testing.assert_close(state(teacher), state(hand_teacher))


@pytest.mark.parametrize('prompt', ['frozen', 'joint'])
def test_teacher_stays_bitwise_and_its_prompt_changes_only_when_joint(prompt):
    train, val, _ = make_split()
    teacher, student = make_teacher(train), make_student(train)
    before = state(teacher)
    targets = soft_targets(teacher, normalized_adj_dict(train))
    out = distill(
        student, teacher, train, val, prompt=prompt, control=False, schedule=QUICK
    )
    after = state(teacher)
    for name, value in before.items():
        changed = not torch.equal(value, after[name])
        tuned = prompt == 'joint' and name.startswith('prompt.lins')
        assert changed == tuned, name
    now = soft_targets(teacher, normalized_adj_dict(train))
    torch.testing.assert_close(out.targets, now)
    same = torch.equal(out.targets.x_dict['item'], targets.x_dict['item'])
    assert same == (prompt == 'frozen')


def test_teacher_gets_its_flags_back_after_joint_tuning():
    train, val, _ = make_split()
    teacher = make_teacher(train).train()
    teacher.embeddings.requires_grad_(False)
    teacher.encoders.eval()
    flags = [p.requires_grad for p in teacher.parameters()]
    modes = [part.training for part in teacher.modules()]
    student = make_student(train)
    distill(student, teacher, train, val, prompt='joint', control=False, schedule=ONE)
    assert [p.requires_grad for p in teacher.parameters()] == flags
    assert [part.training for part in teacher.modules()] == modes


def test_teacher_gets_its_flags_back_after_an_error(monkeypatch):
    train, val, _ = make_split()
    teacher, student = make_teacher(train).train(), make_student(train)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, 'train_step', crash)
    with pytest.raises(KeyboardInterrupt):
        distill(student, teacher, train, val, prompt='joint', schedule=ONE)
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(part.training for part in teacher.modules())


def test_frozen_teacher_is_asked_once():
    train, val, _ = make_split()
    teacher, student = make_teacher(train), make_student(train)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    distill(student, teacher, train, val, schedule=QUICK)
    assert len(calls) == 1


def test_soft_targets_alone_give_the_same_student():
    train, val, _ = make_split()
    teacher = make_teacher(train)
    one, two = make_student(train), make_student(train)
    distill(one, teacher, train, val, control=False, schedule=QUICK)
    targets = soft_targets(teacher, normalized_adj_dict(train))
    distill(two, targets, train, val, control=False, schedule=QUICK)
    torch.testing.assert_close(state(one), state(two), rtol=0, atol=0)


def test_student_shares_no_memory_with_its_teacher_and_holds_no_features():
    train, val, _ = make_split()
    teacher, student = make_teacher(train), make_student(train, width=8)
    distill(student, teacher, train, val, control=False, schedule=ONE)
    theirs = {p.data_ptr() for p in [*teacher.parameters(), *teacher.buffers()]}
    assert not theirs & {p.data_ptr() for p in student.parameters()}
    assert sorted(v.shape for v in student.state_dict().values()) == [(40, 8), (60, 8)]
    teacher.register_forward_pre_hook(lambda *_: pytest.fail('the teacher was asked'))
    student(normalized_adj_dict(train))


def test_control_is_the_student_trained_without_its_teacher():
    train, val, _ = make_split()
    teacher = make_teacher(train)
    student, alone = make_student(train), make_student(train)
    out = distill(student, teacher, train, val, seed=7, schedule=QUICK)
    train_teacher(
        alone,
        train,
        val,
        terms=bpr_terms,
        weights=CONTROL_WEIGHTS,
        seed=7,
        schedule=QUICK,
    )
    torch.testing.assert_close(state(out.control), state(alone), rtol=0, atol=0)
    assert not torch.equal(state(out.control)['embeddings.tables.item'],
                           state(out.student)['embeddings.tables.item'])  # fmt: skip


def test_control_has_weights_of_its_own():
    train, val, _ = make_split()
    student, alone = make_student(train), make_student(train)
    own = {'bpr': 1.0, 'l2': 0.3}
    out = distill(
        student,
        make_teacher(train),
        train,
        val,
        control_weights=own,
        seed=7,
        schedule=QUICK,
    )
    train_teacher(
        alone, train, val, terms=bpr_terms, weights=own, seed=7, schedule=QUICK
    )
    torch.testing.assert_close(state(out.control), state(alone), rtol=0, atol=0)


def test_control_does_not_change_the_student():
    train, val, _ = make_split()
    teacher = make_teacher(train)
    one, two = make_student(train), make_student(train)
    distill(one, teacher, train, val, control=True, schedule=QUICK)
    out = distill(two, teacher, train, val, control=False, schedule=QUICK)
    torch.testing.assert_close(state(one), state(two), rtol=0, atol=0)
    assert out.control is None
    assert out.control_history is None


@pytest.mark.parametrize('width', [4, 8])
def test_copied_tables_are_reported_at_the_width_of_the_student(width):
    train, val, _ = make_split()
    teacher, student = make_teacher(train), make_student(train, width, cls=LightGCN)
    out = distill(student, teacher, train, val, control=False, schedule=ONE)
    tables = truncate_embeddings(out.targets.x_dict, width)
    assert out.copied == evaluate(tables, val, ks=(20,)).metrics


def test_joint_needs_its_anchor():
    # Without the teacher's own BPR, nothing keeps the prompt from making the
    # teacher agree with the student; the term is there and is weighted.
    train, val, _ = make_split()
    out = distill(
        make_student(train),
        make_teacher(train),
        train,
        val,
        prompt='joint',
        control=False,
        schedule=ONE,
    )
    assert 'anchor' in out.history.records[0]['terms']


def run(train, val, run_dir, resume=False):
    schedule = Schedule(
        epochs=3, patience=9, run_dir=run_dir, resume=resume, progress=False
    )
    teacher, student = make_teacher(train), make_student(train)
    out = distill(
        student,
        teacher,
        train,
        val,
        prompt='joint',
        candidates=CandidateSampling(
            num_uniform=2, num_teacher_topk=2, num_student_topk=2, refresh_every=2
        ),
        batch_size=64,
        schedule=schedule,
    )
    return teacher, out


@pytest.mark.parametrize('cut', [6, 14])  # In the student's run, in the control's.
def test_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path, cut, monkeypatch):
    train, val, _ = make_split()
    teacher, straight = run(train, val, tmp_path / 'a')
    calls, step = [0], loop.train_step

    def interrupted(*args):
        calls[0] += 1
        if calls[0] > cut:
            raise KeyboardInterrupt
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, 'train_step', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(train, val, tmp_path / 'b')
    resumed_teacher, resumed = run(train, val, tmp_path / 'b', resume=True)
    for a, b in (
        (straight.student, resumed.student),
        (straight.control, resumed.control),
        (teacher, resumed_teacher),
    ):
        torch.testing.assert_close(state(a), state(b), rtol=0, atol=0)


def test_errors():
    train, val, _ = make_split()
    teacher, student = make_teacher(train), make_student(train)
    targets = soft_targets(teacher, normalized_adj_dict(train))
    with pytest.raises(ValueError, match="'prompt' must be one of"):
        distill(student, teacher, train, val, prompt='thawed')
    with pytest.raises(TypeError, match="a module with prompt='joint'"):
        distill(student, targets, train, val, prompt='joint')
    plain = make_teacher(train, prompt_start_dict=None)
    with pytest.raises(ValueError, match="a module 'prompt' with prompt='joint'"):
        distill(student, plain, train, val, prompt='joint')
    disabled = make_teacher(train)
    disabled.disable_prompt()
    with pytest.raises(ValueError, match="its prompt in use with prompt='joint'"):
        distill(student, disabled, train, val, prompt='joint')
    with pytest.raises(ValueError, match="'teacher_bpr_weight' must be positive"):
        distill(student, teacher, train, val, prompt='joint', teacher_bpr_weight=0)
    with pytest.raises(ValueError, match='requires the same names'):
        distill(student, teacher, train, val, weights={'bpr': 1.0}, schedule=ONE)
    with pytest.raises(
        ValueError, match=r"'control_weights' requires a weight for each"
    ):
        distill(student, teacher, train, val, control_weights={'bpr': 1.0})


@pytest.mark.parametrize('candidates', [None, CandidateSampling(2, 2, 2)])
def test_items_that_are_never_drawn_and_never_taken_stay_as_they_are(candidates):
    train, val, _ = make_split()
    taken = train[INTERACTS].edge_index[1].unique()
    never = torch.arange(5)
    # Nobody has taken the first five items.
    edges = train[INTERACTS].edge_index
    edges = edges[:, ~torch.isin(edges[1], never)]
    train[INTERACTS].edge_index, train[REV_INTERACTS].edge_index = edges, edges.flip(0)
    assert torch.isin(never, taken).any()
    student, teacher = make_student(train), make_teacher(train)
    start = copy.deepcopy(student).embeddings.tables['item']
    out = distill(
        student,
        teacher,
        train,
        val,
        candidates=candidates,
        negative_items=torch.arange(5, 40),
        learning_rate=0.01,
        schedule=QUICK,
    )
    assert out.control is not None
    for model in (student, out.control):
        moved = (model.embeddings.tables['item'] != start).any(dim=1)
        assert not moved[:5].any()
        assert moved[5:].all()


@pytest.mark.parametrize('dtype', [torch.double, torch.bfloat16])
def test_the_student_may_be_in_another_precision_than_its_teacher(dtype):
    train, val, _ = make_split()
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    found = []
    for kind in (torch.float, dtype):
        student = make_student(train).to(kind)
        out = distill(student, targets, train, val, control=False, schedule=QUICK)
        assert out.student.embeddings()['user'].dtype == kind
        found.append(out.history.records[0]['loss'])
    assert found[0] == pytest.approx(found[1], rel=1e-2)
