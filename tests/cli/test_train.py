import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from promptmm_pyg.cli import build_parser, main
from promptmm_pyg.cli.data import data_config
from promptmm_pyg.data import USER
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.data import load_split, prepare
from promptmm_pyg.runs.run import build_model
from promptmm_pyg.training import TrainingConfig, loop, train
from promptmm_pyg.transforms import (
    AddModalityICA,
    AddModalityPCA,
    AddRandomPrompt,
    StandardizeModalities,
)
from promptmm_pyg.transforms.features import standardize

from .conftest import TRAIN


def argv(files, run, *more):
    data = [files.table, '--features', f'text={files.text}', '--titles', files.titles]
    return ['train', *data, '--out', str(run), *TRAIN, *more]


RECOMMENDER = ('config.json', 'model.safetensors', 'card.json', 'README.md')


def model(run):
    return load_file(run / 'teacher' / 'model.safetensors')


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_holds_all_that_was_promised(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob('*.*')}
    assert names == {
        'config.json',
        'teacher/model.safetensors',
        'teacher/log.jsonl',
        'teacher/checkpoint.safetensors',
        'teacher/metrics.json',
        *(f'teacher/recommender/{name}' for name in RECOMMENDER),
    }


def test_the_model_is_the_one_the_library_trains(trained):
    config = json.loads((trained / 'config.json').read_text())
    data = prepare(load_split(config['data']), config['prompt'])
    teacher = build_model(config, 'teacher', data.train)
    train(
        teacher,
        data.split,
        config=TrainingConfig(
            epochs=2, batch_size=128, validate_every=1, progress=False
        ),
    )
    assert same(model(trained), teacher.state_dict())


def test_options_reach_the_teacher(trained):
    config = json.loads((trained / 'config.json').read_text())
    data = prepare(load_split(config['data']), config['prompt'])
    other = {**config, 'teacher': {**config['teacher'], 'embedding_dim': 5}}
    shapes = {
        x.size(-1)
        for x in build_model(other, 'teacher', data.train).embeddings().values()
    }
    assert shapes == {5}
    assert config['teacher']['embedding_dim'] == 8


def test_the_log_has_a_line_per_epoch_and_metrics_have_the_best(trained):
    lines = (trained / 'teacher' / 'log.jsonl').read_text().splitlines()
    values = [json.loads(line)['validation']['Recall@20'] for line in lines]
    metrics = json.loads((trained / 'teacher' / 'metrics.json').read_text())
    assert len(values) == metrics['num_epochs'] == 2
    assert metrics['best_value'] == max(values)
    assert metrics['validation']['Recall@20'] == max(values)


def test_results_go_to_stdout_and_progress_to_stderr(
    files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr('promptmm_pyg._progress.SECONDS', 0.0)
    words = [word for word in argv(files, tmp_path / 'run') if word != '--quiet']
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith('PromptMM: validation Recall@20 ')
    assert out.endswith(f'next: promptmm distill {tmp_path / "run"}\n')
    assert 'PromptMM: 1 of ' in err


def test_quiet_shows_no_bar(files, tmp_path, capsys):
    assert main(argv(files, tmp_path / 'run')) == 0
    assert 'PromptMM' not in capsys.readouterr().err


def test_a_folder_without_a_prompt_trains(files, tmp_path):
    run = tmp_path / 'run'
    words = ['train', files.layout, '--out', str(run), '--no-prompt', *TRAIN]
    assert main(words) == 0
    assert not any('prompt' in key for key in model(run))


def test_an_interrupted_run_goes_on_to_the_same_model(files, tmp_path, monkeypatch):
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    assert main(argv(files, whole, '--epochs', '4')) == 0

    def interrupt(bar, record, stopping, monitor):
        if record['epoch'] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_show', interrupt)
        assert main(argv(files, broken, '--epochs', '4')) == 130
    assert not (broken / 'teacher' / 'model.safetensors').exists()
    assert main(argv(files, broken, '--epochs', '4', '--resume')) == 0
    assert same(model(whole), model(broken))
    assert len((broken / 'teacher' / 'log.jsonl').read_text().splitlines()) == 4


def test_an_interruption_before_the_first_epoch_costs_nothing(
    files, trained, tmp_path, monkeypatch
):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_train_epoch', interrupt)
        assert main(argv(files, tmp_path / 'run')) == 130
    assert main(argv(files, tmp_path / 'run', '--resume')) == 0
    assert same(model(tmp_path / 'run'), model(trained))


def test_a_finished_run_may_go_on_for_more_epochs(files, trained, copy_of):
    run = copy_of(trained)
    assert main(argv(files, run, '--epochs', '3', '--resume')) == 0
    assert len((run / 'teacher' / 'log.jsonl').read_text().splitlines()) == 3


def test_going_on_with_other_options_is_refused(files, trained, copy_of, fails):
    words = argv(files, copy_of(trained), '--dropout', '0.5', '--resume')
    assert "('teacher.dropout' was 0.2, is 0.5)" in fails(*words)


def test_going_on_for_fewer_epochs_is_refused(files, trained, copy_of, fails):
    words = argv(files, copy_of(trained), '--epochs', '1', '--resume')
    assert 'may raise --epochs, not lower it (was 2, is 1)' in fails(*words)


def test_going_on_with_other_data_is_refused(files, trained, copy_of, fails, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(str(files.layout), data)
    run = tmp_path / 'run'
    words = ['train', str(data), '--out', str(run), *TRAIN]
    assert main(words) == 0
    lists = json.loads((data / 'train.json').read_text())
    lists['0'] = lists['0'][1:]
    (data / 'train.json').write_text(json.dumps(lists))
    assert "'data_sha256' was" in fails(*words, '--resume')


def test_going_on_with_nothing_is_refused(files, tmp_path, fails):
    assert 'is not a run' in fails(*argv(files, tmp_path / 'run', '--resume'))


def test_a_run_is_not_overwritten_by_accident(files, trained, fails):
    before = model(trained)
    assert 'contains a run' in fails(*argv(files, trained))
    assert same(model(trained), before)


def test_a_run_is_overwritten_on_purpose(files, distilled, copy_of):
    run = copy_of(distilled)
    assert main(argv(files, run, '--overwrite', '--seed', '5')) == 0
    assert not same(model(run), model(distilled))
    assert not (run / 'student').exists()
    assert not (run / 'recommender').exists()


def test_data_with_errors_are_not_trained_on(files, tmp_path, fails, monkeypatch):
    from promptmm_pyg.data import Issue

    found = [Issue('error', 'val', 'leaks', 'Remove it')]
    monkeypatch.setattr('promptmm_pyg.runs.data.validate', lambda split, **_: found)
    message = fails(*argv(files, tmp_path / 'run'))
    assert '1 error; the first: val: leaks' in message
    assert not (tmp_path / 'run').exists()


def test_warnings_about_the_data_go_to_stderr(files, tmp_path, capsys, monkeypatch):
    from promptmm_pyg.data import Issue

    found = [Issue('warning', 'item', 'is odd', 'Look')]
    monkeypatch.setattr('promptmm_pyg.runs.data.validate', lambda split, **_: found)
    assert main(argv(files, tmp_path / 'run')) == 0
    assert 'warning: item: is odd. Look\n' in capsys.readouterr().err


def test_data_without_validation_are_refused(files, tmp_path, fails):
    words = argv(files, tmp_path / 'run', '--val-ratio', '0')
    assert 'must hold out interactions for validation' in fails(*words)


def test_a_prompt_needs_features(files, tmp_path, fails):
    words = ['train', files.table, '--out', str(tmp_path / 'run'), *TRAIN]
    assert 'requires item features' in fails(*words)


def test_weights_reach_the_loss(files, trained, copy_of):
    run = copy_of(trained)
    assert main(argv(files, run, '--overwrite', '--loss-weight', 'l2=0.5')) == 0
    first, before = (
        json.loads((x / 'teacher' / 'log.jsonl').read_text().splitlines()[1])
        for x in (run, trained)
    )
    weights = json.loads((run / 'config.json').read_text())['loss_weights']
    assert weights['l2'] == 0.5
    total = sum(weights[name] * value for name, value in first['losses'].items())
    assert first['loss'] == pytest.approx(total, rel=1e-5)
    assert first['losses']['l2'] < before['losses']['l2']


def test_features_are_standardized(files):
    args = build_parser().parse_args(argv(files, 'run'))
    split = load_split(data_config(args))
    found = prepare(split, {'out_channels': 4}).train['item']
    raw = split.train['item']
    expected = standardize(raw.x_text, raw.get('mask_text'))
    assert torch.equal(found.x_text, expected)
    assert not torch.equal(found.x_text, raw.x_text)
    assert found.prompt_start.size() == (60, 4)


@pytest.mark.parametrize(
    ('more', 'match'),
    [
        (['--epochs', '0'], "'epochs' must be positive"),
        (['--dropout', '1'], "'dropout' must be in"),
        (['--monitor', 'Recall'], "'monitor' must be"),
        (['--loss-weight', 'bpr'], 'NAME=VALUE'),
    ],
)
def test_a_value_out_of_range_is_a_mistake(files, tmp_path, fails, more, match):
    assert match in fails(*argv(files, tmp_path / 'run', *more))


@pytest.mark.parametrize('start', ['pca', 'ica', 'random'])
def test_the_prompt_starts_as_its_options_name(files, tmp_path, start):
    run = tmp_path / 'run'
    options = ['--prompt-start', start, '--prompt-dim', '3', '--num-prompt-tokens', '2']
    assert main(argv(files, run, *options, '--epochs', '1')) == 0
    split = load_split(json.loads((run / 'config.json').read_text())['data'])
    kinds = {
        'pca': AddModalityPCA(3),
        'ica': AddModalityICA(3),
        'random': AddRandomPrompt(3),
    }
    expected = kinds[start](StandardizeModalities()(split.train))
    torch.testing.assert_close(
        model(run)['prompt.start_item'], expected['item'].prompt_start
    )


def test_a_missing_modality_gets_its_token(files, tmp_path):
    run = tmp_path / 'run'
    options = ['--missing', 'token', '--modality-dropout', '0.2', '--epochs', '1']
    assert main(argv(files, run, *options)) == 0
    assert any('token' in key for key in model(run))


def test_a_tracker_that_is_unknown_or_cannot_write(files, tmp_path, fails, monkeypatch):
    words = ['train', files.layout, '--out', tmp_path / 'run', '--track']
    assert "before the = (got 'files')" in fails(*words, 'files=x')
    monkeypatch.setitem(sys.modules, 'wandb', None)
    assert "requires 'wandb'" in fails(*words, 'wandb=mine')
    pytest.importorskip('tensorboard')
    (tmp_path / 'file').write_text('')
    assert 'file' in fails(*words, f'tensorboard={tmp_path}/file')
    track = ['--track', f'tensorboard={tmp_path}/logs']
    assert main([*map(str, words[:4]), *TRAIN, *track]) == 0
    assert list((tmp_path / 'logs' / 'PromptMM').iterdir())


def test_a_model_is_trained_on_neighborhoods(files, tmp_path, capsys):
    words = [files.table, *TRAIN, '--model', 'LightGCN', '--num-layers', '2']
    all_edges = ['--edges-per-hop', '-1', '-1']
    for name, more in (
        ('sampled', ['--edges-per-hop', '2', '2']),
        ('all', all_edges),
        ('whole', ['--edges-per-hop', 'none']),
    ):
        assert main(['train', *words, '--out', str(tmp_path / name), *more]) == 0
    runs = {name: Run.open(tmp_path / name) for name in ('sampled', 'all', 'whole')}
    configs = {name: run.config['train']['num_neighbors'] for name, run in runs.items()}
    assert configs == {'sampled': [2, 2], 'all': [-1, -1], 'whole': 'none'}
    for name, shown in (('sampled', [2, 2]), ('whole', ['none'])):
        file = str(tmp_path / name / 'config.json')
        capsys.readouterr()
        out = ['--out', str(tmp_path / 'again'), '--print-config']
        assert main(['train', '--config', file, *out]) == 0
        assert json.loads(capsys.readouterr().out)['edges-per-hop'] == shown
    users = {name: run.embeddings()['teacher'][USER] for name, run in runs.items()}
    torch.testing.assert_close(users['all'], users['whole'], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(users['sampled'], users['whole'], atol=1e-3)
    again = [
        'train',
        *words,
        '--out',
        str(tmp_path / 'all'),
        '--resume',
        '--epochs',
        '3',
    ]
    assert main([*again, *all_edges]) == 0
    assert main(again) == 2
    assert "'train.num_neighbors' was [-1, -1], is auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['10', 'auto'], "--edges-per-hop must be 'auto', 'none' or numbers (got 10"),
        (['0'], "-1 (all edges) or a positive number (got '0')"),
        (['5'], "'num_neighbors' must have at least 6 hops"),
    ],
)
def test_wrong_neighbors_are_refused(files, tmp_path, capsys, words, message):
    options = [files.table, *TRAIN, '--model', 'LightGCN', '--num-layers', '6']
    options += ['--out', str(tmp_path / 'run'), '--edges-per-hop', *words]
    assert main(['train', *options]) == 2
    assert message in capsys.readouterr().err
