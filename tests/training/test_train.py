"""``train`` on the whole graph: its steps, best state, resume, files and errors."""

import importlib
import json
import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg._files import locked
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletLoader, Triplets
from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.models import EASE
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training import (
    Callback,
    TrainingConfig,
    bpr_losses,
    load_state,
    save_state,
    train,
)
from promptmm_pyg.training.loop import LOG, step_output, train_step
from promptmm_pyg.training.validation import sample_users
from tests.training.setting import (
    QUICK,
    Interrupted,
    LightGCN,
    Stop,
    make_split,
    make_student,
    make_teacher,
)

INDEX = torch.tensor([0])
BATCH = Triplets(INDEX, INDEX, INDEX + 1)


def states_equal(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def without_seconds(history):
    return [{**record, 'seconds': None} for record in history.records]


def bpr_by_hand(x, batch):
    losses = []
    for user, positive, negative in zip(*(i.tolist() for i in batch), strict=True):
        margin = x['user'][user] @ (x['item'][positive] - x['item'][negative])
        losses.append(torch.log1p(torch.exp(-margin)))
    return torch.stack(losses).mean()


def l2_by_hand(x, batch):
    keys = ('user', 'item', 'item')
    pairs = zip(keys, batch, strict=True)
    return sum(x[key][i].square().sum(dim=1) / 2 for key, i in pairs).mean()


def one_batch(data):
    return next(iter(TripletLoader(data.train[INTERACTS].edge_index, 60, 40, 16)))


def test_bpr_losses_equal_loops_over_the_batch():
    data = make_split()
    x, batch = make_student(data.train)(), one_batch(data)
    expected = {'bpr': bpr_by_hand(x, batch), 'l2': l2_by_hand(x, batch)}
    torch.testing.assert_close(bpr_losses(x, batch), expected)
    torch.testing.assert_close(bpr_losses(TeacherOutput(x, {}), batch), expected)


def test_the_teachers_losses_equal_loops_over_the_batch():
    data = make_split()
    teacher, batch = make_teacher(data.train).eval(), one_batch(data)
    output = teacher(normalized_adj_dict(data.train))
    views = list(output.modality_x_dict.values())
    halves = [x.square().sum(1).mean() / 2 for view in views for x in view.values()]
    expected = {
        'bpr': bpr_by_hand(output.x_dict, batch),
        'l2': l2_by_hand(output.x_dict, batch),
        'prompt_bpr': bpr_by_hand(output.prompt_dict, batch),
        'modality_bpr': sum(bpr_by_hand(x, batch) for x in views) / len(views),
        'modality_l2': torch.stack(halves).mean(),
    }
    torch.testing.assert_close(teacher.losses(output, batch), expected)
    bare = TeacherOutput(output.x_dict, {})
    losses = teacher.losses(bare, batch)
    parts = ('prompt_bpr', 'modality_bpr', 'modality_l2')
    assert [losses[name] for name in parts] == [0, 0, 0]


def test_the_test_positives_are_never_read():
    data = make_split()._replace(test=None)
    train(make_student(data.train), data, config=QUICK)


def test_two_epochs_equal_the_same_steps_written_by_hand():
    # Two batches per epoch and two epochs: a missing `zero_grad` would show.
    data = make_split()
    ours, theirs = (make_student(data.train, cls=LightGCN) for _ in range(2))
    config = TrainingConfig(
        epochs=2, patience=9, learning_rate=0.05, batch_size=150, seed=3, progress=False
    )
    history = train(ours, data, config=config, loss_weights={'bpr': 1.0, 'l2': 0.1})

    edge_index = data.train[INTERACTS].edge_index
    loader = TripletLoader(edge_index, 60, 40, batch_size=150, seed=3)
    assert len(loader) == 2
    adj_dict = normalized_adj_dict(data.train)
    parameters = list(theirs.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    step, states, losses = 0, [], []
    for _ in range(2):
        for batch in loader:
            step += 1
            x = theirs(adj_dict)
            rows = [
                x['user'][batch.user],
                x['item'][batch.positive],
                x['item'][batch.negative],
            ]
            margin = (rows[0] * (rows[1] - rows[2])).sum(dim=1)
            norms = l2_by_hand(theirs.embeddings(), batch)  # Of the tables.
            loss = -F.logsigmoid(margin).mean() + 0.1 * norms
            losses.append(float(loss.detach()))
            grads = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g, (m, v) in zip(parameters, grads, moments, strict=True):
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g * g)
                    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
                    p -= 0.05 * m_hat / (v_hat.sqrt() + 1e-8)
        states.append([p.clone() for p in parameters])
    expected = states[history.best_epoch - 1]
    torch.testing.assert_close(list(ours.parameters()), expected, rtol=0, atol=1e-5)
    means = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2]
    assert [r['loss'] for r in history.records] == pytest.approx(means, rel=1e-5)


def test_every_part_of_the_teacher_is_trained():
    data = make_split()
    teacher = make_teacher(data.train)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    train(teacher, data, config=QUICK)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]) == ('start' in name), name


def test_same_seed_same_teacher_and_another_seed_another():
    data = make_split()
    teachers = []
    for seed in (5, 5, 6):
        teachers.append(make_teacher(data.train, dropout=0.3))
        train(teachers[-1], data, config=replace(QUICK, seed=seed))
    assert states_equal(*teachers[:2])
    assert not states_equal(*teachers[1:])


class Own(torch.nn.Module):
    """A model with losses of its own."""

    def __init__(self):
        super().__init__()
        self.user = torch.nn.Parameter(torch.ones(60, 2))
        self.item = torch.nn.Parameter(torch.ones(40, 2))

    def forward(self):
        return {'user': self.user, 'item': self.item}

    def losses(self, output, batch):
        return {'sum': output['user'].sum(), 'square': output['item'].square().sum()}


@pytest.mark.parametrize(
    ('loss_weights', 'own', 'expected'),
    [
        (None, None, {'sum': 1.0, 'square': 1.0}),
        (None, {'sum': 2.0, 'square': 3.0}, {'sum': 2.0, 'square': 3.0}),
        ({'square': 5.0}, {'sum': 2.0, 'square': 3.0}, {'sum': 2.0, 'square': 5.0}),
        ({'sum': 0.0, 'square': 5.0}, None, {'sum': 0.0, 'square': 5.0}),
    ],
)
def test_losses_and_weights_are_the_models_unless_given(loss_weights, own, expected):
    model = Own()
    if own is not None:
        model.loss_weights = own
    config = replace(QUICK, epochs=1, batch_size=10_000)
    history = train(
        model, make_split(), inputs=(), config=config, loss_weights=loss_weights
    )
    (record,) = history.records
    assert record['losses'] == {'sum': 120.0, 'square': 80.0}
    assert record['loss'] == sum(expected[k] * x for k, x in record['losses'].items())


def test_given_losses_replace_the_models():
    def losses(output, batch):
        return {'mean': output['user'].mean()}

    config = replace(QUICK, epochs=1)
    history = train(Own(), make_split(), inputs=(), config=config, losses=losses)
    assert list(history.records[0]['losses']) == ['mean']


def test_best_state_on_validation_is_restored(monkeypatch):
    values, states = iter([0.1, 0.9, 0.2, 0.3]), []
    data = make_split()
    model = make_student(data.train)

    def fake(model, *_):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {'Recall@20': next(values)}

    module = importlib.import_module('promptmm_pyg.training.train')
    monkeypatch.setattr(module, 'validation', fake)
    config = TrainingConfig(epochs=10, patience=2, validate_every=1, progress=False)
    history = train(model, data, inputs=(), config=config)
    assert history.num_epochs == 4
    assert (history.best_epoch, history.best_value) == (2, 0.9)
    torch.testing.assert_close(dict(model.state_dict()), states[1])
    assert not model.training


@pytest.mark.parametrize('cls', [LightGCN, EASE])
def test_of_many_users_a_sample_is_validated(cls):
    """With all positives of its users, and the same in each validation."""
    data = make_split()
    config = replace(QUICK, validate_every=1, validation_users=9)
    model = EASE.from_data(data) if cls is EASE else make_student(data.train, cls=cls)
    history = train(model, data, config=config)
    sampled = sample_users(data.val, 9)
    pairs, every = (x[INTERACTS].edge_label_index for x in (sampled, data.val))
    users = pairs[0].unique()
    assert users.numel() == 9
    assert pairs.size(1) == int(torch.isin(every[0], users).sum()) < every.size(1)
    assert sample_users(data.val, 60) is data.val
    output = model.scores if cls is EASE else get_embeddings(model, data.train)
    assert history.best_metrics == evaluate(output, sampled, ks=(20,)).metrics


def run(data, run_dir, epochs=5, **options):
    teacher = make_teacher(data.train, dropout=0.3)
    config = TrainingConfig(
        epochs=epochs,
        seed=2,
        batch_size=64,
        run_dir=run_dir,
        progress=False,
        **{'validate_every': 1, **options},
    )
    return teacher, train(teacher, data, config=config)


@pytest.mark.parametrize('options', [{}, {'num_neighbors': [2, 2]}])
def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path, options):
    data = make_split()
    straight, expected = run(data, tmp_path / 'a', **options)
    # In the third of four batches, in the epochs after the first, third and fourth.
    for number, cut in enumerate((6, 8, 4)):
        with pytest.raises(KeyboardInterrupt), Interrupted(cut):
            run(data, tmp_path / 'b', resume=number > 0, **options)
        torch.manual_seed(12345)
    resumed, history = run(data, tmp_path / 'b', resume=True, **options)
    assert states_equal(straight, resumed)
    assert without_seconds(expected) == without_seconds(history)


def test_a_run_that_a_callback_stops_and_resumes_equals_an_uninterrupted_one(tmp_path):
    data, stop = make_split(), Stop()
    straight, expected = run(data, tmp_path / 'a')
    options = {'callbacks': (stop, Callback())}  # One that returns True is enough.
    for number in range(2):
        stopped, history = run(data, tmp_path / 'b', resume=number > 0, **options)
        assert history.num_epochs == number + 1
        assert not stopped.training
    resumed, history = run(data, tmp_path / 'b', resume=True)
    assert stop.epochs == [1, 2]
    assert states_equal(straight, resumed)
    assert without_seconds(expected) == without_seconds(history)


def test_checkpoints_are_written_in_time_and_at_the_end(tmp_path):
    data = make_split()
    with patch('promptmm_pyg.training.loop.save_state', wraps=save_state) as saved:
        expected = run(data, tmp_path / 'a', checkpoint_seconds=1e6)
        assert saved.call_count == 1
    first = {'checkpoint_seconds': 1e6, 'callbacks': (Stop(3),)}
    run(data, tmp_path / 'b', **first)
    resumed = run(data, tmp_path / 'b', resume=True, checkpoint_seconds=1e6)
    assert states_equal(expected[0], resumed[0])
    lines = (tmp_path / 'b' / LOG).read_text().splitlines()
    assert [json.loads(line)['epoch'] for line in lines] == [1, 2, 3, 4, 5]


def test_a_run_that_stops_before_its_first_validation_is_validated():
    options = {'validate_every': 3, 'callbacks': (Stop(),)}
    _, history = run(make_split(), None, **options)
    assert history.best_epoch == history.num_epochs == 1
    assert history.records[0]['validation']['Recall@20'] == history.best_value


def test_two_trainings_do_not_share_a_folder(tmp_path):
    data = make_split()
    expected = pytest.raises(ValueError, match="'run_dir' must not be in use")
    with locked(tmp_path), expected:
        run(data, tmp_path, 1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        run(data, tmp_path, 1, resume=True)
    run(data, tmp_path, 1)  # The lock is free again.


def test_the_log_has_one_line_per_epoch(tmp_path):
    data = make_split()
    teacher, history = run(data, tmp_path, 3)
    lines = (tmp_path / 'log.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == history.records
    assert [r['epoch'] for r in records] == [1, 2, 3]
    assert 'Recall@20' in records[0]['validation']
    weights = teacher.loss_weights
    total = sum(weights[k] * value for k, value in records[0]['losses'].items())
    assert records[0]['loss'] == pytest.approx(total, abs=1e-5)
    assert set(records[0]['losses']) == set(weights)


def test_validation_is_run_every_few_epochs_and_at_the_end():
    config = replace(QUICK, epochs=5, validate_every=2)
    data = make_split()
    records = train(make_student(data.train), data, config=config).records
    assert [r['epoch'] for r in records if 'validation' in r] == [2, 4, 5]


@pytest.mark.parametrize('options', [{}, {'num_neighbors': [3, 3], 'batch_size': 512}])
def test_learns_the_synthetic_tastes(options):
    data = make_split(200, 100)
    teacher, adj_dict = make_teacher(data.train), normalized_adj_dict(data.train)

    def recall():
        x_dict = get_embeddings(teacher, (adj_dict,))
        return evaluate(x_dict, data.val, ks=(10,)).metrics['Recall@10']

    before = recall()
    config = TrainingConfig(
        epochs=20, monitor='Recall@10', learning_rate=0.01, progress=False, **options
    )
    train(teacher, data, config=config)
    assert recall() > before + 0.05


def test_a_closed_form_is_fitted_and_validated():
    data = make_split()
    model, fitted = (EASE({'user': 60, 'item': 40}, l2=10.0) for _ in '12')
    history = train(model, data, config=replace(QUICK, monitor='Recall@10'))
    fitted.fit(data.train[INTERACTS].edge_index)
    users = torch.arange(60)
    assert torch.equal(model.scores(users), fitted.scores(users))
    metrics = evaluate(fitted.scores, data.val, ks=(10,)).metrics
    assert history.best_value == metrics['Recall@10']
    assert history.records == [{'epoch': 1, 'validation': metrics}]


def test_progress_shows_loss_and_validation(capsys, monkeypatch):
    monkeypatch.setattr('promptmm_pyg._progress.SECONDS', 0.0)
    data = make_split()
    train(make_teacher(data.train), data, config=TrainingConfig(epochs=1))
    err = capsys.readouterr().err
    assert all(
        text in err for text in ('PromptMM: 1 of 1 epochs', 'loss 0.', 'Recall@20 0.')
    )


def test_negatives_are_drawn_from_the_items_given():
    items, drawn, data = torch.arange(0, 40, 3), set(), make_split()

    def losses(x_dict, batch):
        drawn.update(batch.negative.tolist())
        return bpr_losses(x_dict, batch)

    model = make_student(data.train)
    train(model, data, losses=losses, negative_items=items, config=QUICK)
    assert drawn == set(items.tolist())


def test_a_loss_that_is_not_finite_leaves_the_parameters_unchanged():
    weight = torch.nn.Parameter(torch.ones(2))

    def step(batch, _):
        return step_output({'bpr': weight.sum() / 0, 'l2': weight.sum()}, None)

    with pytest.raises(FloatingPointError, match=r"'loss' must be finite.*'bpr'"):
        train_step(torch.optim.SGD([weight], lr=1.0), step, BATCH)
    assert torch.equal(weight.detach(), torch.ones(2))


def test_a_model_that_is_not_finite_is_an_error():
    data = make_split()
    model = make_teacher(data.train)
    with torch.no_grad():
        model.embeddings.tables['user'][0, 0] = float('nan')
    with pytest.raises(FloatingPointError, match=r"'loss' must be finite.*'bpr'"):
        train(model, data, config=QUICK)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'monitor': 'Recall'}, "'monitor' must be.*'Recall'"),
        ({'monitor': 'AUC@20'}, "'monitor' must be.*'AUC@20'"),
        ({'monitor': 'Recall@0'}, "'monitor' must be.*'Recall@0'"),
        ({'monitor': 'Recall@x'}, "'monitor' must be.*'Recall@x'"),
        ({'epochs': 0}, "'epochs' must be positive"),
        ({'batch_size': 'all'}, "'batch_size' must be a number or 'auto'"),
        ({'batch_size': 0}, "'batch_size' must be positive"),
        ({'patience': 0}, "'patience' must be positive"),
        ({'learning_rate': 0.0}, "'learning_rate' must be positive"),
        ({'weight_decay': -1.0}, "'weight_decay' must"),
        ({'validate_every': -1}, "'validate_every' must be zero or more"),
        ({'block_size': 0}, "'block_size' must be positive"),
        ({'propagate_every': 0}, "'propagate_every' must be positive"),
        ({'optimizer': 'sgd'}, "'optimizer' must be one of 'dense'"),
        ({'resume': True}, "'resume' requires a 'run_dir'"),
        (
            {'propagate_every': 2, 'optimizer': 'lazy'},
            r"'propagate_every' must be 1 with optimizer='lazy' \(got 2",
        ),
        (
            {'propagate_every': 2, 'num_neighbors': [2]},
            r"'propagate_every' must be 1 with 'num_neighbors' \(got 2",
        ),
    ],
)
def test_a_config_with_a_bad_value_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)


@pytest.mark.parametrize(
    ('interactions', 'step', 'rate'),
    [
        (0, 1024, 3e-3),
        (8_000, 1024, 3e-3),
        (11_800, 2048, 3e-3),  # 1,475 per step: between 2^10 and 2^11, nearer to 2^11.
        (30_000, 4096, 6e-3),
        (60_000, 8192, 1e-2),
        (10_000_000, 2**20, 1e-2),
    ],
)
def test_auto_has_about_eight_steps_per_epoch(interactions, step, rate):
    config = TrainingConfig().resolve(interactions, shared_forward=True)
    assert config.batch_size * config.propagate_every == step
    assert config.batch_size == min(step, 32_768)
    assert config.learning_rate == pytest.approx(rate)
    alone = TrainingConfig().resolve(interactions)
    assert alone.propagate_every == 1
    given = TrainingConfig(batch_size=100, learning_rate=0.1, validate_every=2)
    assert given.resolve(interactions) == given


def test_auto_of_a_started_model_is_small_steps_and_every_validation():
    config = TrainingConfig().resolve(60_000, is_started=True)
    assert (config.learning_rate, config.validate_every) == (0.001, 1)
    assert TrainingConfig().resolve(60_000).validate_every == 5
    given = TrainingConfig(learning_rate=0.1, validate_every=3)
    config = given.resolve(60_000, is_started=True)
    assert (config.learning_rate, config.validate_every) == (0.1, 3)


def test_auto_batches_of_neighborhoods_are_small():
    config = TrainingConfig(num_neighbors=[5]).resolve(10**7, shared_forward=True)
    assert (config.batch_size, config.propagate_every) == (2048, 1)


def test_auto_trains_as_with_its_numbers(monkeypatch):
    monkeypatch.setattr('promptmm_pyg.training.config._SMALLEST', 8)
    monkeypatch.setattr('promptmm_pyg.training.config._LARGEST', 16)
    data = make_split()
    number = data.train['user', 'interacts', 'item'].edge_index.size(1)
    step = 2 ** round(math.log2(number / 8))
    assert step > 16
    numbers = {'batch_size': 16, 'propagate_every': step // 16, 'learning_rate': 3e-3}
    models = []
    for options in ({'batch_size': 'auto', 'learning_rate': 'auto'}, numbers):
        torch.manual_seed(0)
        models.append(make_student(data.train))
        train(models[-1], data, config=replace(QUICK, **options))
    for x, y in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(x, y)


def test_errors_before_training(tmp_path):
    data = make_split()
    student = make_student(data.train)
    with pytest.raises(ValueError, match=r"'loss_weights' must name.*\['speed'\]"):
        train(student, data, loss_weights={'speed': 1.0})
    with pytest.raises(TypeError, match=r"'data' must be a Split \(got HeteroData"):
        train(student, data.train)
    with pytest.raises(ValueError, match='same names'):
        train(student, data, losses=bpr_losses, loss_weights={'bpr': 1.0})
    config = replace(QUICK, monitor='Recall@41', run_dir=tmp_path / 'new')
    with pytest.raises(
        ValueError, match=r"'monitor' .* 40 items .*'Recall@40' or less"
    ):
        train(student, data, config=config)
    assert not (tmp_path / 'new').exists()
    with pytest.raises(FileNotFoundError, match='saved training state'):
        train(student, data, config=replace(QUICK, run_dir=tmp_path, resume=True))
    model = LightGCN({'user': 60, 'item': 40}).to('meta')
    with pytest.raises(ValueError, match=r"'data.train' must.*'model', meta \(got cpu"):
        train(model, data)


def test_a_run_that_was_started_on_a_gpu_is_an_error(tmp_path):
    data = make_split()
    config = TrainingConfig(epochs=1, run_dir=tmp_path, progress=False)
    train(make_student(data.train), data, config=config)
    path = tmp_path / 'checkpoint.safetensors'
    state = load_state(path)
    # The generator of a GPU has 16 bytes: a seed and an offset.
    state['loader']['generator'] = torch.zeros(16, dtype=torch.uint8)
    save_state(path, state)
    config = replace(config, epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"'resume' requires.*CPU or GPU"):
        train(make_student(data.train), data, config=config)


def test_the_loss_of_one_pair_is_that_of_bpr():
    x = {'user': torch.tensor([[1.0]]), 'item': torch.tensor([[2.0], [-1.0]])}
    expected = bpr_loss(torch.tensor([2.0]), torch.tensor([-1.0]))
    torch.testing.assert_close(bpr_losses(x, BATCH)['bpr'], expected)
    assert bpr_losses(x, BATCH)['l2'] == 3.0
