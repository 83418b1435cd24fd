import json
from unittest.mock import patch

import pytest
import torch

import promptmm_pyg
from promptmm_pyg.models import PromptMM
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs import RunError, distill_run, train_run
from promptmm_pyg.runs.folder import (
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from promptmm_pyg.runs.run import Run
from promptmm_pyg.runs.stages import load_data
from tests.training.setting import Stop


def test_tensors_come_back_also_when_they_share_memory(tmp_path):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    save_tensors(tmp_path / 'new' / 'x', {'a': x, 'b': x.t(), 'c': x})
    found = load_tensors(tmp_path / 'new' / 'x', '')
    assert torch.equal(found['a'], x)
    assert torch.equal(found['b'], x.t())
    assert torch.equal(found['c'], x)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['x']


def test_missing_tensors_raise_with_a_fix(tmp_path):
    with pytest.raises(RunError, match=r'there is no .*x.\. Train it'):
        load_tensors(tmp_path / 'x', 'Train it')


def test_damaged_tensors_are_a_mistake(tmp_path):
    (tmp_path / 'x').write_bytes(b'no tensors')
    with pytest.raises(RunError, match=r'is damaged .*Train it'):
        load_tensors(tmp_path / 'x', 'Train it')


def test_tensors_that_may_not_be_read_are_not_called_missing(tmp_path, monkeypatch):
    save_tensors(tmp_path / 'x', {'a': torch.ones(1)})

    def refuse(path, *_):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr('pathlib.Path.open', refuse)  # Root may read everything.
    with pytest.raises(PermissionError, match='Permission denied'):
        load_tensors(tmp_path / 'x', '')


def test_a_damaged_configuration_is_a_mistake(tmp_path):
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(RunError, match=r'config.json. is damaged'):
        Run(tmp_path).read_config()


@pytest.mark.parametrize('content', [[], {}, {'format': 'other'}])
def test_another_configuration_is_no_run(tmp_path, content):
    (tmp_path / 'config.json').write_text(json.dumps(content))
    with pytest.raises(RunError, match='is not a run'):
        Run(tmp_path).read_config()


def test_json_comes_back_and_leaves_nothing_else(tmp_path):
    write_json(tmp_path / 'a' / 'b.json', {'x': [1, None]})
    assert read_json(tmp_path / 'a' / 'b.json') == {'x': [1, None]}
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['b.json']


@pytest.mark.parametrize('overwrite', [True, False])
def test_a_folder_of_something_else_is_never_emptied(tmp_path, overwrite):
    (tmp_path / 'thesis.tex').write_text('text')
    with pytest.raises(RunError, match='exists and is not a run'):
        Run(tmp_path).check_writable(overwrite=overwrite)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'x').write_text('text')
    with pytest.raises(RunError, match='exists and is not a run'):
        Run(tmp_path / 'x').check_writable(overwrite=True)


def test_an_empty_folder_may_be_used(tmp_path):
    Run(tmp_path).check_writable(overwrite=False)


def test_a_run_opens_its_models(distilled):
    run = Run.open(distilled)
    x_dicts = run.embeddings()
    for name in ('teacher', 'student', 'baseline'):
        model = getattr(run, name)()
        assert not model.training
        x_dict = get_embeddings(model, run.data.inputs)
        assert torch.equal(x_dict['item'], x_dicts[name]['item'])
    torch.testing.assert_close(run.recommender().item_x, x_dicts['served']['item'])
    assert run.config['teacher']['embedding_dim'] == 8
    assert run.metrics('student')['monitor'] == 'Recall@20'


def test_evaluate_returns_what_it_writes(distilled, copy_of, capsys):
    run = Run.open(copy_of(distilled))
    results = run.evaluate('test')
    content = read_json(run.evaluation_file('test'))
    assert content['split'] == 'test'
    assert content['metrics'] == {name: x.metrics for name, x in results.items()}
    assert len(content['test_reads']) == 1
    run.evaluate('val')
    assert 'test_reads' not in read_json(run.evaluation_file('val'))


def test_python_and_the_command_line_train_the_same_run(trained, distilled, tmp_path):
    config = {key: x for key, x in Run(trained).config.items() if key != 'versions'}
    run = train_run(tmp_path / 'run', config, progress=False)
    distill_run(run, Run(distilled).student_config, progress=False)
    for file in ('teacher', 'student', 'student/baseline'):
        name = f'{file}/model.safetensors'
        assert (run.path / name).read_bytes() == (distilled / name).read_bytes()
    assert run.config == Run.open(distilled).config


def test_a_run_is_not_replaced_without_overwrite(trained, distilled):
    with pytest.raises(RunError, match='contains a run'):
        train_run(trained, Run(trained).config)
    with pytest.raises(RunError, match='has a student'):
        distill_run(distilled)


def test_sections_that_are_left_out_have_defaults(tmp_path):
    sizes = {'num_users': 40, 'num_items': 60, 'num_clusters': 4}
    data = {'format': 'synthetic', 'synthetic': sizes, 'split': {'method': 'per-user'}}
    run = train_run(tmp_path, {'data': data, 'train': {'epochs': 1}}, progress=False)
    assert run.config['loss_weights'] == dict(PromptMM.loss_weights)
    distill_run(run, {'train': {'epochs': 1}, 'loss_weights': {'l2': 0.1}})
    weights = run.student_config['loss_weights']
    assert (weights['l2'], weights['listwise']) == (0.1, 1.0)


def test_the_package_offers_run():
    assert promptmm_pyg.Run is Run


def test_loaded_data_are_not_read_again_and_a_stopped_training_goes_on(tmp_path):
    config = {
        'data': {
            'format': 'synthetic',
            'synthetic': {'num_users': 40, 'num_items': 30},
            'split': {'method': 'per-user', 'val_ratio': 0.2, 'test_ratio': 0.2},
        },
        'model': 'MatrixFactorization',
        'train': {'epochs': 3},
    }
    options = {'loaded': load_data({**config, 'prompt': None}), 'progress': False}
    with patch('promptmm_pyg.runs.stages.load_split', side_effect=AssertionError):
        run = train_run(tmp_path / 'a', config, callbacks=(Stop(),), **options)
        assert run.metrics('teacher')['num_epochs'] == 1
        run = train_run(tmp_path / 'a', config, resume=True, **options)
    assert run.metrics('teacher')['num_epochs'] == 3
    expected = train_run(tmp_path / 'b', config, progress=False)
    for name, value in expected.teacher().state_dict().items():
        assert torch.equal(run.teacher().state_dict()[name], value)
    assert expected.config['data_sha256'] == run.config['data_sha256']
