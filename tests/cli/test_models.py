"""Every model from the command line."""

import json
from inspect import signature

import pytest
import torch

from promptmm_pyg.cli import build_parser, main
from promptmm_pyg.cli.distill import student_config
from promptmm_pyg.cli.model_options import trained_models
from promptmm_pyg.cli.train import run_config
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import EASE, MODELS
from promptmm_pyg.runs import Run

QUICK = ['--epochs', '1', '--batch-size', '128', '--quiet']


def printed(capsys, *words):
    assert main([*words, '--print-config']) == 0
    return capsys.readouterr().out


def parse(*words):
    return build_parser(words[0]).parse_args(list(words))


@pytest.mark.parametrize('name', MODELS)
def test_every_plain_argument_of_a_model_is_an_option_with_its_default(
    name, files, capsys
):
    words = ['train', files.layout, '--out', 'r', '--model', name]
    config = json.loads(printed(capsys, *words))
    inherited = [MODELS['PromptMM']] if name == 'PromptMMPlus' else []
    for cls in [MODELS[name], *inherited]:
        for argument, parameter in signature(cls).parameters.items():
            if isinstance(parameter.default, int | float | str):
                assert config[argument.replace('_', '-')] == parameter.default
    with pytest.raises(SystemExit):
        main(['train', '--model', name, '--help'])
    helped = capsys.readouterr().out
    assert f'model {name}:' in helped
    assert ('losses:' in helped) == (name in trained_models())
    assert ('prompt:' in helped) == MODELS[name].reads_prompt


@pytest.mark.parametrize('name', MODELS)
def test_the_settings_of_a_run_give_its_model_again(name, files, tmp_path):
    path = tmp_path / 'config.json'
    words = ['train', files.layout, '--out', 'r', '--model', name]
    config = run_config(parse(*words, '--embedding-dim', '7'))
    assert config['model'] == name
    assert config['teacher']['embedding_dim'] == 7
    path.write_text(json.dumps(config))
    assert run_config(parse('train', '--config', str(path), '--out', 'r')) == config
    if name in trained_models():
        config = student_config(parse('distill', 'r', '--student', name))
        path.write_text(json.dumps(config))
        assert student_config(parse('distill', 'r', '--config', str(path))) == config


def test_a_model_in_closed_form_is_a_run_like_any_other(files, tmp_path, capsys):
    out = str(tmp_path / 'run')
    words = ['--model', 'EASE', '--l2', '20', '--embedding-dim', '8']
    assert main(['train', files.layout, '--out', out, *words]) == 0
    assert 'EASE: validation Recall@20' in capsys.readouterr().out
    run = Run.open(out)
    split = run.data.split
    model = EASE(split.train.num_nodes_dict, l2=20.0).fit(
        split.train['user', 'interacts', 'item'].edge_index
    )
    expected = evaluate(model.scores, split.val, ks=(20,)).metrics['Recall@20']
    assert run.metrics('teacher')['best_value'] == pytest.approx(expected)
    assert run.evaluate()['teacher'].metrics['Recall@20'] == pytest.approx(expected)
    users = split.train['user'].raw_id[:2].tolist()
    assert main(['recommend', out, '--users', *map(str, users), '-k', '3']) == 0
    low_rank = model.as_output(8).x_dict
    scores = low_rank['user'] @ low_rank['item'].t()
    served = run.recommender()
    trained = split.train['user', 'interacts', 'item'].edge_index[1].unique()
    served_scores = served.user_x @ served.item_x.t()
    assert torch.allclose(served_scores[:, trained], scores[:, trained], atol=1e-4)
    assert main(['report', out]) == 0
    assert main(['refit', out]) == 0
    assert '1 epochs of the teacher' in capsys.readouterr().out
    relation = 'user', 'interacts', 'item'
    held_out = [graph[relation].edge_label_index for graph in split[1:]]
    everything = torch.cat([split.train[relation].edge_index, *held_out], dim=1)
    fitted = model.fit(everything).as_output(8).x_dict
    served = run.recommender()
    scores = served.user_x @ served.item_x.t()
    expected = fitted['user'] @ fitted['item'].t()
    known = everything[1].unique()
    assert torch.allclose(scores[:, known], expected[:, known], atol=1e-4)
    assert main(['distill', out, *QUICK]) == 0
    assert {'teacher', 'low_rank_teacher', 'student'} <= set(run.evaluate())
    assert main(['train', files.layout, '--out', out, '--dry-run', *words]) == 0


def test_any_model_teaches_any_embedding_model(files, tmp_path, capsys, fails):
    out = str(tmp_path / 'run')
    words = ['--model', 'FREEDOM', '--num-neighbors', '3', '--embedding-dim', '8']
    assert main(['train', files.layout, '--out', out, *words, *QUICK]) == 0
    run = Run.open(out)
    assert run.config['teacher']['num_neighbors'] == 3
    assert type(run.teacher()).__name__ == 'FREEDOM'
    assert run.recommender().num_items == run.data.train['item'].num_nodes
    words = ['--student', 'VBPR', '--embedding-dim', '4', '--loss-weight', 'l2=0.2']
    assert main(['distill', out, *words, *QUICK]) == 0
    assert type(run.student()).__name__ == 'VBPR'
    assert run.student_config['loss_weights']['l2'] == 0.2
    assert main(['evaluate', out]) == 0
    assert 'must be' in fails('explain', out, '--user', str(run.recommender().users[0]))


def test_several_runs_teach_one_student(files, tmp_path, capsys, fails):
    runs = [str(tmp_path / name) for name in ('a', 'b', 'c')]
    for out, name in zip(runs, ('EASE', 'ItemKNN', 'EASE'), strict=True):
        words = ['--model', name, '--embedding-dim', '8', '--quiet']
        assert main(['train', files.layout, '--out', out, *words]) == 0
    words = ['--teachers', *runs[1:], '--embedding-dim', '4', *QUICK]
    assert main(['distill', runs[0], *words]) == 0
    run = Run.open(runs[0])
    teachers = json.loads((run.student_dir / 'teachers.json').read_text())
    assert list(teachers) == ['EASE', 'ItemKNN', 'EASE-2']
    weights = [x['weight'] for x in teachers.values()]
    assert sum(weights) == pytest.approx(1)
    # Standardized scores, weighted; the sum of the weights is 3.
    expected = 0
    for weight, path in zip(weights, runs, strict=True):
        x = Run.open(path).teacher().as_output(8).x_dict
        scores = (x['user'] @ x['item'].t()).double()
        expected = expected + 3 * weight * scores / scores.var(1, False).mean().sqrt()
    ensemble = run.embeddings()['ensemble']
    found = (ensemble['user'] @ ensemble['item'].t()).double()
    assert torch.allclose(found, expected, atol=1e-4)
    assert 'ensemble' in run.evaluate()
    assert main(['refit', runs[0], '--quiet']) == 0
    assert 'epochs of the EASE-2' in capsys.readouterr().out
    words = ['--model', 'EASE', '--split', 'per-user', '--split-seed', '5']
    other = str(tmp_path / 'other')
    assert main(['train', files.table, '--out', other, '--quiet', *words]) == 0
    words = ['--overwrite', '--teachers', other, *QUICK]
    assert 'split alike' in fails('distill', runs[0], *words)
    for same in ([runs[1], runs[1] + '/'], [runs[0]]):  # Each would count twice.
        words = ['--overwrite', '--teachers', *same, *QUICK]
        assert 'each named once' in fails('distill', runs[0], *words)


def test_a_model_that_is_unknown_or_cannot_be_a_student(files, fails):
    assert "'PromptMM'" in fails('train', files.layout, '--out', 'r', '--model', 'BPR')
    message = fails('distill', 'r', '--student', 'EASE')
    assert '--student' in message
    assert "'LightGCN'" in message
    message = fails('train', files.layout, '--out', 'r', '--model', 'EASE', '--dropout')
    assert '--dropout' in message
