import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.distillation import CandidateSampling, distill, promptmm_losses
from promptmm_pyg.models import LightGCN, MatrixFactorization
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs.run import Run, build_model, build_student
from promptmm_pyg.serving import FeatureMapper, Recommender
from promptmm_pyg.training import TrainingConfig, loop

from .conftest import DISTILL


def load(run):
    folder = Run.open(run)
    return folder, folder.config, folder.data


def model(run, name='student'):
    return load_file(run / name / 'model.safetensors')


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_has_all_files(distilled):
    names = {str(path.relative_to(distilled)) for path in distilled.rglob('*.*')}
    each = ('model.safetensors', 'log.jsonl', 'checkpoint.safetensors', 'metrics.json')
    expected = {f'student/{name}' for name in each}
    expected |= {f'student/baseline/{name}' for name in each}
    expected |= {'student/config.json', 'student/targets.safetensors'}
    files = ('config.json', 'model.safetensors', 'card.json', 'README.md')
    expected |= {f'recommender/{name}' for name in files}
    assert expected <= names


def test_student_and_baseline_are_those_of_the_library(distilled):
    folder, _, data = load(distilled)
    student = json.loads((distilled / 'student' / 'config.json').read_text())
    module = build_student(student, data.train)
    result = distill(
        module,
        folder.teacher(),
        data.split,
        config=TrainingConfig(
            epochs=2, batch_size=128, validate_every=1, progress=False
        ),
    )
    assert result.baseline is not None
    assert same(model(distilled), result.student.state_dict())
    assert same(model(distilled, 'student/baseline'), result.baseline.state_dict())


def test_the_recommender_serves_the_student_with_raw_ids(distilled):
    folder, _, data = load(distilled)
    tables = folder.embeddings()
    served = Recommender.load(distilled / 'recommender')
    new = data.train[INTERACTS].edge_index[1].bincount(minlength=60) == 0
    assert torch.equal(served.user_x, tables['student']['user'])
    assert torch.equal(served.item_x[~new], tables['student']['item'][~new])
    torch.testing.assert_close(served.item_x, tables['served']['item'])
    assert served.user_ids == data.train['user'].raw_id.tolist()
    assert served.item_ids == data.train['item'].raw_id.tolist()


def test_the_recommender_knows_all_interactions_and_titles(distilled):
    _, _, data = load(distilled)
    served = Recommender.load(distilled / 'recommender')
    parts = [data.train[INTERACTS].edge_index]
    parts += [graph[INTERACTS].edge_label_index for graph in (data.val, data.test)]
    users = torch.cat(parts, 1)[0]
    assert served.seen.num_seen.tolist() == users.bincount(minlength=40).tolist()
    assert served.titles['i3'] == 'The i3'


def test_new_items_have_features_that_are_not_standardized(distilled):
    _, _, data = load(distilled)
    served = Recommender.load(distilled / 'recommender')
    x = data.val['item'].x_text
    expected = FeatureMapper.fit(
        {'text': x},
        served.item_x,
        user_x=served.user_x,
        seen=data.train[INTERACTS].edge_index,
    )
    served.add_items(['new'], {'text': x[:1]}, titles={'new': 'A copy'})
    # Fitted before items without interactions were placed: ranks differ a little.
    row = expected({'text': x[:1]})
    torch.testing.assert_close(served.item_x[60:], row, atol=2e-3, rtol=0.05)
    # The features of the training graph are on another scale.
    assert not torch.allclose(data.train['item'].x_text, x)


def test_a_run_without_features_has_no_feature_mapper(files, tmp_path):
    run = tmp_path / 'run'
    words = ['--no-prompt', '--epochs', '1', '--quiet', '--out', str(run)]
    assert main(['train', files.table, *words]) == 0
    assert main(['distill', str(run), *DISTILL, '--epochs', '1']) == 0
    assert Recommender.load(run / 'recommender').feature_mapper is None


def test_too_few_items_for_a_feature_mapper_are_a_warning(
    trained, copy_of, capsys, monkeypatch
):
    monkeypatch.setattr('promptmm_pyg.serving._feature_fit.MIN_ITEMS', 1000)
    run = copy_of(trained)
    assert main(['distill', str(run), *DISTILL, '--epochs', '1']) == 0
    assert 'warning: no items can be added later: ' in capsys.readouterr().err
    assert Recommender.load(run / 'recommender').feature_mapper is None


def test_the_card_names_metrics_and_training(distilled):
    card = Recommender.load(distilled / 'recommender').card
    metrics = json.loads((distilled / 'student' / 'metrics.json').read_text())
    assert card['metrics']['student'] == metrics
    assert card['metrics']['baseline']['monitor'] == 'Recall@20'
    assert card['training']['student']['embedding_dim'] == 4


def test_the_teacher_is_left_as_it_was(trained, distilled):
    assert same(model(trained, 'teacher'), model(distilled, 'teacher'))


def test_results_name_both_and_the_next_step(trained, copy_of, capsys):
    run = copy_of(trained)
    assert main(['distill', str(run), *DISTILL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('student: validation Recall@20 ')
    assert lines[1].startswith('baseline: validation Recall@20 ')
    assert lines[2] == f'next: promptmm evaluate {run}'


def test_the_baseline_can_be_left_out(trained, copy_of, capsys):
    run = copy_of(trained)
    assert main(['distill', str(run), *DISTILL, '--no-baseline']) == 0
    assert 'baseline: ' not in capsys.readouterr().out
    assert not (run / 'student' / 'baseline').exists()


def test_a_joint_prompt_changes_the_targets_and_not_the_teacher(trained, copy_of):
    run = copy_of(trained)
    # Slow enough that the prompt is better on validation.
    words = ['--embedding-dim', '8', '--prompt', 'joint', '--learning-rate', '0.0003']
    words += ['--student', 'MatrixFactorization', '--start', 'random']
    assert main(['distill', str(run), *DISTILL, *words]) == 0
    tables = Run(run).embeddings()
    assert same(model(run, 'teacher'), model(trained, 'teacher'))
    assert not torch.equal(
        tables['truncated_teacher']['item'], tables['teacher']['item']
    )
    assert tables['student']['item'].size() == tables['teacher']['item'].size()


def test_at_equal_width_the_truncated_teacher_is_the_teacher(trained, copy_of):
    run = copy_of(trained)
    assert main(['distill', str(run), *DISTILL, '--embedding-dim', '8']) == 0
    tables = Run(run).embeddings()
    assert same(tables['truncated_teacher'], tables['teacher'])


def test_the_truncated_teacher_has_the_width_of_the_student(distilled):
    tables = Run(distilled).embeddings()
    names = {'teacher', 'student', 'baseline', 'truncated_teacher', 'served'}
    assert set(tables) == names
    width = tables['student']['item'].size(1)
    assert (
        tables['truncated_teacher']['item'].size(1)
        == width
        < tables['teacher']['item'].size(1)
    )


def test_options_reach_the_student_and_its_losses(trained, copy_of):
    run = copy_of(trained)
    more = [
        '--list-views',
        'fused',
        '--num-uniform',
        '3',
        '--loss-weight',
        'pairwise=0',
    ]
    more += ['--student', 'MatrixFactorization', '--alpha', '2', '--node-types', 'item']
    more += ['--learning-rate', '0.01', '--seed', '3']
    assert main(['distill', str(run), *DISTILL, *more]) == 0
    folder, _, data = load(run)
    teacher = folder.teacher()
    torch.manual_seed(3)
    student = MatrixFactorization(data.train.num_nodes_dict, embedding_dim=4)
    torch.manual_seed(3)
    options = {
        'list_views': ['fused'],
        'alpha': 2.0,
        'node_types': ['item'],
        'pairwise_weight': 0.0,
    }
    result = distill(
        student,
        teacher,
        data.split,
        losses=promptmm_losses(**options),
        candidates=CandidateSampling(num_uniform=3),
        baseline=False,
        config=TrainingConfig(
            epochs=2,
            learning_rate=0.01,
            batch_size=128,
            validate_every=1,
            seed=3,
            progress=False,
        ),
    )
    assert same(model(run), result.student.state_dict())


@pytest.mark.parametrize('name', ['student', 'baseline'])
def test_an_interrupted_run_continues_to_the_same_models(
    trained, distilled, copy_of, monkeypatch, name
):
    run = copy_of(trained)
    shown = []

    def interrupt(bar, record, stopping, monitor):
        shown.append(record['epoch'])
        if len(shown) == {'student': 1, 'baseline': 3}[name]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_show', interrupt)
        assert main(['distill', str(run), *DISTILL]) == 130
    assert not (run / 'student' / 'model.safetensors').exists()
    assert main(['distill', str(run), *DISTILL, '--resume']) == 0
    assert same(model(run), model(distilled))
    assert same(model(run, 'student/baseline'), model(distilled, 'student/baseline'))


def test_a_student_is_not_overwritten_by_accident(distilled, fails):
    assert 'has a student' in fails('distill', distilled, *DISTILL)


def test_a_student_is_overwritten_on_purpose(distilled, copy_of):
    run = copy_of(distilled)
    words = ['--overwrite', '--start', 'random']
    assert main(['distill', str(run), *DISTILL, *words]) == 0
    assert not same(model(run), model(distilled))
    assert same(model(run, 'teacher'), model(distilled, 'teacher'))


def test_resume_requires_a_student(trained, fails):
    assert 'no student to continue' in fails('distill', trained, *DISTILL, '--resume')


def test_resume_with_other_options_is_refused(distilled, fails):
    words = ['distill', distilled, *DISTILL, '--gamma', '3', '--resume']
    assert '--resume requires the options' in fails(*words)


def test_resume_for_fewer_epochs_is_refused(distilled, fails):
    words = ['distill', distilled, *DISTILL, '--epochs', '1', '--resume']
    assert 'may raise --epochs, not lower it (was 2, is 1)' in fails(*words)


def test_resume_continues_both_for_more_epochs(distilled, copy_of):
    run = copy_of(distilled)
    assert main(['distill', str(run), *DISTILL, '--epochs', '3', '--resume']) == 0
    for folder in (run / 'student', run / 'student' / 'baseline'):
        assert len((folder / 'log.jsonl').read_text().splitlines()) == 3


def test_an_interrupted_teacher_cannot_teach(trained, copy_of, fails):
    run = copy_of(trained)
    (run / 'teacher' / 'model.safetensors').unlink()
    message = fails('distill', run, *DISTILL)
    assert "Finish its training: 'promptmm train ... --resume'" in message


def test_data_that_have_changed_are_refused(files, tmp_path, fails):
    data = shutil.copytree(files.layout, tmp_path / 'data')
    run = str(tmp_path / 'run')
    train = ['train', str(data), '--out', run, '--epochs', '1', '--quiet']
    assert main(train) == 0
    lists = json.loads((data / 'test.json').read_text())
    lists.popitem()
    (data / 'test.json').write_text(json.dumps(lists))
    assert 'the data have changed' in fails('distill', run, *DISTILL)


@pytest.mark.parametrize(
    ('more', 'match'),
    [
        (['--embedding-dim', '0'], 'must be positive'),
        (['--list-views', 'smell'], "'views' must be some of"),
        (['--prompt', 'thawed'], 'invalid choice'),
        (['--num-uniform', '0'], "'num_uniform' must be positive"),
    ],
)
def test_a_value_out_of_range_is_a_mistake(trained, copy_of, fails, more, match):
    assert match in fails('distill', copy_of(trained), *DISTILL, *more)


def test_a_teacher_without_a_prompt_cannot_be_tuned(files, tmp_path, fails):
    run = str(tmp_path / 'run')
    words = ['--no-prompt', '--epochs', '1', '--quiet']
    assert main(['train', files.layout, '--out', run, *words]) == 0
    assert 'prompt' in fails('distill', run, *DISTILL, '--prompt', 'joint')


def test_a_student_draws_its_start_from_the_seed(trained):
    _, config, data = load(trained)
    student = {'model': 'LightGCN', 'student': {'embedding_dim': 3, 'num_layers': 2}}
    first = build_student({**student, 'train': {'seed': 1}}, data.train)
    again = build_student({**student, 'train': {'seed': 1}}, data.train)
    other = build_student({**student, 'train': {'seed': 2}}, data.train)
    assert same(first.state_dict(), again.state_dict())
    assert not same(first.state_dict(), other.state_dict())
    assert same(
        build_model(config, 'teacher', data.train).state_dict(),
        build_model(config, 'teacher', data.train).state_dict(),
    )
    assert get_embeddings(first, data.inputs)['item'].size(1) == 3


def test_the_kind_of_the_student_is_an_option(trained):
    _, _, data = load(trained)
    config = {'student': {'embedding_dim': 3}, 'train': {'seed': 0}}
    plain = build_student({**config, 'model': 'MatrixFactorization'}, data.train)
    config['student']['num_layers'] = 1
    graph = build_student({**config, 'model': 'LightGCN'}, data.train)
    assert isinstance(plain, MatrixFactorization)
    assert isinstance(graph, LightGCN)
    assert graph.propagation.num_layers == 1


@pytest.mark.parametrize(('student', 'is_weak'), [(0.1, True), (0.3, False)])
def test_a_teacher_weaker_than_the_baseline_has_a_note(
    distilled, copy_of, monkeypatch, capsys, student, is_weak
):
    run = copy_of(distilled)
    values = {'student': student, 'baseline': 0.2}
    metrics = {'monitor': 'Recall@20', 'best_epoch': 1, 'num_epochs': 1}
    monkeypatch.setattr(
        Run, 'metrics', lambda _, name: {**metrics, 'best_value': values[name]}
    )
    monkeypatch.setattr('promptmm_pyg.cli.distill.distill_run', lambda *_, **__: None)
    assert main(['distill', str(run), *DISTILL, '--overwrite']) == 0
    assert ('is weak on these data' in capsys.readouterr().err) == is_weak
