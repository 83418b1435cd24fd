import json

import pytest
import torch
import torch.nn.functional as F

import promptmm_pyg.training.loop as loop
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletLoader, Triplets
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training import (
    TEACHER_WEIGHTS,
    Schedule,
    bpr_terms,
    promptmm_terms,
    train_teacher,
)
from promptmm_pyg.training.loop import train_step
from tests.training.setting import (
    QUICK,
    LightGCN,
    make_split,
    make_student,
    make_teacher,
)


def make_loader(train, **kwargs):
    return TripletLoader(train[INTERACTS].edge_index, 60, 40, **kwargs)


def hand_written_bpr(user_x, item_x, batch):
    losses = []
    for user, positive, negative in zip(*(x.tolist() for x in batch), strict=True):
        margin = user_x[user] @ item_x[positive] - user_x[user] @ item_x[negative]
        losses.append(torch.log1p(torch.exp(-margin)))
    return torch.stack(losses).mean()


def test_terms_equal_loops_over_the_batch():
    train, _, _ = make_split()
    output = make_teacher(train).eval()(normalized_adj_dict(train))
    batch = next(iter(make_loader(train, batch_size=16)))
    terms = promptmm_terms(output, batch)
    x = output.x_dict
    torch.testing.assert_close(
        terms['bpr'], hand_written_bpr(x['user'], x['item'], batch)
    )
    rows = x['user'][batch.user], x['item'][batch.positive], x['item'][batch.negative]
    norms = [row.square().sum(dim=1) / 2 for row in rows]
    torch.testing.assert_close(terms['l2'], sum(norms).mean())
    prompt = output.prompt_dict
    torch.testing.assert_close(
        terms['prompt_bpr'], hand_written_bpr(prompt['user'], prompt['item'], batch)
    )
    views = output.modality_x_dict.values()
    expected = [hand_written_bpr(m['user'], m['item'], batch) for m in views]
    torch.testing.assert_close(terms['modality_bpr'], torch.stack(expected).mean())
    halves = [x.square().sum(1).mean() / 2 for m in views for x in m.values()]
    torch.testing.assert_close(terms['modality_l2'], torch.stack(halves).mean())


def test_terms_of_parts_that_do_not_exist_are_zero():
    x_dict = {'user': torch.ones(2, 3), 'item': torch.ones(4, 3)}
    index = torch.tensor([0])
    batch = (index, index, index + 1)
    terms = promptmm_terms(TeacherOutput(x_dict, {}), Triplets(*batch))
    assert set(terms) == set(TEACHER_WEIGHTS)
    assert terms['prompt_bpr'] == terms['modality_bpr'] == terms['modality_l2'] == 0


def test_two_epochs_equal_the_same_steps_written_by_hand():
    # Two batches an epoch and two epochs: a missing `zero_grad` would show.
    train, val, _ = make_split()
    schedule = Schedule(epochs=2, patience=9, progress=False)
    ours, theirs = make_student(train, cls=LightGCN), make_student(train, cls=LightGCN)
    weights = {'bpr': 1.0, 'l2': 0.1}
    train_teacher(
        ours,
        train,
        val,
        terms=bpr_terms,
        weights=weights,
        learning_rate=0.05,
        batch_size=150,
        seed=3,
        schedule=schedule,
    )

    loader = make_loader(train, batch_size=150, seed=3)
    assert len(loader) == 2
    adjacency = normalized_adj_dict(train)
    parameters = list(theirs.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    step, states = 0, []
    for _ in range(2):
        for batch in loader:
            step += 1
            x = theirs(adjacency)
            rows = [
                x['user'][batch.user],
                x['item'][batch.positive],
                x['item'][batch.negative],
            ]
            margin = (rows[0] * (rows[1] - rows[2])).sum(dim=1)
            norms = sum(row.square().sum() for row in rows) / (2 * len(margin))
            loss = -F.logsigmoid(margin).mean() + 0.1 * norms
            grads = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g, (m, v) in zip(parameters, grads, moments, strict=True):
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g * g)
                    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
                    p -= 0.05 * m_hat / (v_hat.sqrt() + 1e-8)
        states.append([p.clone() for p in parameters])
    # The loop keeps the better of the two epochs.
    trained = list(ours.parameters())
    gaps = [
        max(
            float((a - b).abs().max().detach()) for a, b in zip(trained, s, strict=True)
        )
        for s in states
    ]
    assert min(gaps) < 1e-5
    assert max(gaps) > 1e-3  # The two epochs do differ.


def test_every_part_of_the_teacher_is_trained():
    train, val, _ = make_split()
    teacher = make_teacher(train)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    train_teacher(teacher, train, val, schedule=QUICK)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]) == ('start' in name), name


def test_same_seed_same_teacher_and_another_seed_another():
    train, val, _ = make_split()
    x = []
    for seed in (5, 5, 6):
        teacher = make_teacher(train)
        train_teacher(teacher, train, val, seed=seed, schedule=QUICK)
        x.append(get_embeddings(teacher, (normalized_adj_dict(train),))['item'])
    assert torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])


def test_best_state_on_validation_is_restored(monkeypatch):
    train, val, _ = make_split()
    values = iter([0.1, 0.9, 0.2, 0.3])
    states = []
    model = make_student(train)

    def fake(model, *_):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {'Recall@20': next(values)}

    monkeypatch.setattr('promptmm_pyg.training.teacher.validation', fake)
    history = train_teacher(
        model,
        train,
        val,
        inputs=(),
        terms=bpr_terms,
        weights={'bpr': 1.0, 'l2': 0.0},
        schedule=Schedule(epochs=10, patience=2, progress=False),
    )
    assert history.num_epochs == 4
    assert (history.best_epoch, history.best_value) == (2, 0.9)
    torch.testing.assert_close(dict(model.state_dict()), states[1])
    assert not model.training


def run_teacher(train, val, run_dir, epochs, resume=False):
    teacher = make_teacher(train)
    history = train_teacher(
        teacher,
        train,
        val,
        seed=2,
        batch_size=64,
        schedule=Schedule(
            epochs=epochs, patience=9, run_dir=run_dir, resume=resume, progress=False
        ),
    )
    return teacher, history


@pytest.mark.parametrize('cut', [1, 3, 4])
def test_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path, cut, monkeypatch):
    train, val, _ = make_split()
    straight, straight_history = run_teacher(train, val, tmp_path / 'a', 5)

    # Ctrl-C in the middle of the epoch after the cut.
    calls, step = [0], loop.train_step

    def interrupted(*args):
        calls[0] += 1
        if calls[0] > cut * 4 + 2:
            raise KeyboardInterrupt
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, 'train_step', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_teacher(train, val, tmp_path / 'b', 5)
    torch.manual_seed(12345)
    resumed, history = run_teacher(train, val, tmp_path / 'b', 5, resume=True)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(straight_history.records, history.records, strict=True):
        assert {**a, 'seconds': 0} == {**b, 'seconds': 0}


def test_log_holds_one_line_per_epoch(tmp_path):
    train, val, _ = make_split()
    _, history = run_teacher(train, val, tmp_path, 3)
    lines = (tmp_path / 'log.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == history.records
    assert [r['epoch'] for r in records] == [1, 2, 3]
    assert set(records[0]['terms']) == set(TEACHER_WEIGHTS)
    assert 'Recall@20' in records[0]['validation']
    total = sum(w * records[0]['terms'][k] for k, w in TEACHER_WEIGHTS.items())
    assert abs(records[0]['loss'] - total) < 1e-5


def test_learns_what_the_planted_data_hold():
    train, val, _ = make_split(200, 100)
    teacher = make_teacher(train)
    before = evaluate(
        get_embeddings(teacher, (normalized_adj_dict(train),)), val, ks=(10,)
    )
    train_teacher(
        teacher,
        train,
        val,
        learning_rate=0.01,
        schedule=Schedule(epochs=20, monitor='Recall@10', progress=False),
    )
    after = evaluate(
        get_embeddings(teacher, (normalized_adj_dict(train),)), val, ks=(10,)
    )
    assert after.metrics['Recall@10'] > before.metrics['Recall@10'] + 0.1


def test_progress_bar_shows_loss_and_validation(capsys):
    train, val, _ = make_split()
    schedule = Schedule(epochs=1, progress=True)
    train_teacher(make_teacher(train), train, val, schedule=schedule)
    err = capsys.readouterr().err
    assert 'PromptMM' in err
    assert 'loss=' in err
    assert 'Recall@20=' in err


def test_errors(tmp_path):
    train, val, _ = make_split()

    def run(teacher=None, **kwargs):
        schedule = QUICK._replace(**kwargs.pop('schedule', {}))
        teacher = teacher or make_teacher(train)
        train_teacher(teacher, train, val, schedule=schedule, **kwargs)

    with pytest.raises(
        ValueError, match="'terms' and 'weights' requires the same names"
    ):
        run(weights={'bpr': 1.0})
    for monitor in ('Recall', 'AUC@20', 'Recall@0', 'Recall@x'):
        with pytest.raises(ValueError, match=f"'monitor' must be.*'{monitor}'"):
            run(schedule={'monitor': monitor})
    with pytest.raises(ValueError, match=r"'monitor' requires a cutoff .* 40 items"):
        run(schedule={'monitor': 'Recall@41', 'run_dir': tmp_path / 'new'})
    assert not (tmp_path / 'new').exists()  # No epoch was trained for it.
    run(schedule={'monitor': 'Recall@40', 'epochs': 1})
    with pytest.raises(ValueError, match="'resume' requires a 'run_dir'"):
        run(schedule={'resume': True})
    with pytest.raises(FileNotFoundError, match='saved state'):
        run(schedule={'resume': True, 'run_dir': tmp_path})
    with pytest.raises(ValueError, match="'epochs' must be positive"):
        run(schedule={'epochs': 0})
    broken = make_teacher(train)
    with torch.no_grad():
        broken.embeddings.tables['user'][0, 0] = float('nan')
    before = broken.embeddings.tables['item'].clone()
    with pytest.raises(FloatingPointError, match="'positive_logits' must be finite"):
        run(broken)
    torch.testing.assert_close(broken.embeddings.tables['item'].data, before)


def test_a_sum_that_is_not_finite_leaves_the_parameters_alone():
    weight = torch.nn.Parameter(torch.ones(2))
    terms = {'bpr': weight.sum() / 0, 'l2': weight.sum()}
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(FloatingPointError, match=r"'loss' must be finite.*'bpr'"):
        train_step(optimizer, terms, {'bpr': 1.0, 'l2': 1.0})
    assert torch.equal(weight.detach(), torch.ones(2))


def test_negatives_are_drawn_among_the_items_given():
    train, val, _ = make_split()
    items, drawn = torch.arange(0, 40, 3), set()

    def terms(x_dict, batch):
        drawn.update(batch.negative.tolist())
        return bpr_terms(x_dict, batch)

    train_teacher(
        make_student(train),
        train,
        val,
        terms=terms,
        weights={'bpr': 1.0, 'l2': 0.1},
        negative_items=items,
        schedule=QUICK,
    )
    assert drawn == set(items.tolist())
