import json
import shutil

import pytest
import torch

from promptmm_pyg.cli import compare, main
from promptmm_pyg.cli.compare import reason_incomparable
from promptmm_pyg.evaluation import Evaluation, paired_test
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.evaluation import evaluate_embeddings

from .conftest import TRAIN


@pytest.fixture(scope='module')
def other(files, tmp_path_factory):
    """A teacher of the same data with another width and without a prompt."""
    run = tmp_path_factory.mktemp('runs') / 'other'
    words = [files.table, '--features', f'text={files.text}', '--no-prompt']
    words += ['--out', str(run), *TRAIN, '--embedding-dim', '6']
    assert main(['train', *words]) == 0
    return run


def rows(out, start):
    return [line.split() for line in out.splitlines() if line.startswith(start)]


def test_runs_are_put_side_by_side(distilled, other, capsys):
    assert main(['compare', str(distilled), str(other)]) == 0
    out = capsys.readouterr().out
    assert rows(out, 'teacher.embedding_dim') == [['teacher.embedding_dim', '8', '6']]
    assert 'teacher.num_layers' not in out
    assert 'data_sha256' not in out
    assert rows(out, 'student: student.embedding_dim') == [
        ['student:', 'student.embedding_dim', '4', '-']
    ]
    assert '\nvalidation\nmodel ' in out
    assert f'\n{other} - {distilled}, with 95% intervals\nteacher   Recall@20 ' in out
    assert 'one training each: training noise is not included' in out


def test_metrics_and_intervals_are_those_of_the_library(distilled, other, capsys):
    assert main(['compare', str(distilled), str(other), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    evaluations = []
    for folder in (distilled, other):
        run = Run(folder)
        evaluations.append(evaluate_embeddings(run.embeddings(), run.data.val))
    first, second = evaluations
    assert found['runs'][0]['validation']['student'] == first['student'].metrics
    assert found['runs'][1]['validation'] == {'teacher': second['teacher'].metrics}
    (difference,) = found['differences']
    assert difference['of'] == [[str(other)], [str(distilled)]]
    assert difference['no_intervals_because'] is None
    assert set(difference['intervals']) == {'teacher'}
    by_metric = difference['intervals']['teacher']
    assert len(by_metric) == 6
    for name in ('Recall@20', 'MAP@20'):
        expected = paired_test(
            second['teacher'].per_user[name], first['teacher'].per_user[name]
        )
        assert by_metric[name] == expected.to_dict()


def summary(name, users=(0.1, 0.2, 0.4, 0.9), **settings):
    per_user = {'Recall@20': torch.tensor(users)}
    index = torch.arange(len(users))
    evaluation = Evaluation(per_user, index, 30, None)
    task = ('hash', torch.zeros(2, 1))
    return compare.Summary(
        name, settings, {}, {}, None, {'teacher': evaluation}, '', task
    )


def test_runs_that_differ_in_their_seed_are_one_model():
    runs = [
        summary('a0', width=8, **{'train.seed': 0}),
        summary('b0', (0.2, 0.3, 0.6, 1.0), width=4, **{'train.seed': 0}),
        summary('a1', (0.3, 0.2, 0.4, 0.7), width=8, **{'train.seed': 1}),
        summary('again', width=8, **{'train.seed': 1}),
        summary('b1', width=4, **{'train.seed': 1}),
    ]
    groups = compare.group_by_seed(runs)
    assert [[x.name for x in group] for group in groups] == [
        *(['a0', 'a1'], ['b0', 'b1'], ['again'])
    ]
    test = compare.differences(groups[0], groups[1], 20)['teacher']['Recall@20']
    a, b = ([x.evaluations['teacher'].per_user for x in group] for group in groups[:2])
    values = ([x['Recall@20'] for x in group] for group in (b, a))
    assert test == paired_test(*values)
    assert test.num_seeds == (2, 2)
    # Nothing else to compare: seed with seed.
    assert compare.group_by_seed(runs[:3:2]) == [[runs[0]], [runs[2]]]


def test_sizes_are_counted(distilled, other, capsys):
    assert main(['compare', str(distilled), str(other), '--json']) == 0
    one = json.loads(capsys.readouterr().out)['runs'][0]
    assert one['parameters']['student'] == one['parameters']['baseline'] == 400
    file = distilled / 'student' / 'model.safetensors'
    assert one['bytes']['student'] == file.stat().st_size
    served = (distilled / 'recommender').iterdir()
    assert one['recommender_bytes'] == sum(path.stat().st_size for path in served)


def test_equal_runs_differ_in_nothing(distilled, copy_of, capsys):
    assert main(['compare', str(distilled), str(copy_of(distilled)), '-k', '10']) == 0
    out = capsys.readouterr().out
    assert out.startswith('no setting differs\n')
    zero = '+0.0000  [+0.0000, +0.0000]  no significant difference'
    assert out.count(zero) == 18
    assert 'Recall@10     +0' in out


def test_other_interactions_have_no_intervals(files, distilled, tmp_path, capsys):
    run = str(tmp_path / 'run')
    words = [files.table, '--features', f'text={files.text}', '--split-seed', '9']
    assert main(['train', *words, '--out', run, *TRAIN]) == 0
    capsys.readouterr()
    assert main(['compare', str(distilled), run]) == 0
    out = capsys.readouterr().out
    assert 'no intervals: the runs differ in users, items or training' in out
    assert rows(out, 'data.split.seed') == [['data.split.seed', '0', '9']]


def test_other_features_of_the_same_interactions_are_compared(
    files, distilled, tmp_path, capsys
):
    run = str(tmp_path / 'run')
    words = [files.table, '--features', f'sound={files.text}', '--out', run]
    assert main(['train', *words, *TRAIN]) == 0
    capsys.readouterr()
    assert main(['compare', str(distilled), run]) == 0
    out = capsys.readouterr().out
    assert 'no intervals' not in out
    assert rows(out, 'data.features')


def test_without_the_data_the_written_metrics_are_shown(
    files, distilled, tmp_path, capsys
):
    data = shutil.copytree(files.layout, tmp_path / 'data')
    run = tmp_path / 'run'
    assert main(['train', str(data), '--out', str(run), *TRAIN]) == 0
    written = json.loads((run / 'teacher' / 'metrics.json').read_text())
    shutil.rmtree(data)
    capsys.readouterr()
    assert main(['compare', str(distilled), str(run), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['runs'][1]['validation']['teacher'] == written['validation']
    assert found['runs'][1]['parameters'] == {'teacher': None}
    why = found['differences'][0]['no_intervals_because']
    assert why.startswith('the metrics are those of training, since')
    assert str(run) in why


def test_what_is_held_out_is_compared_as_a_set():
    pairs = torch.tensor([[0, 1, 1], [5, 2, 3]])
    seen = [
        compare.Summary('x', {}, {}, {}, None, {}, '', ('hash', task))
        for task in (pairs, pairs.flip(1), pairs + 1, pairs[:, :2])
    ]
    assert reason_incomparable(seen[0], seen[1]) is None
    for other_seen in seen[2:]:
        why = reason_incomparable(seen[0], other_seen)
        assert why == 'the runs differ in the interactions held out for validation'


def test_test_data_are_not_read(distilled, other, monkeypatch):
    asked = []

    def watched(tables, graph):
        asked.append(graph)
        return evaluate_embeddings(tables, graph)

    monkeypatch.setattr(compare, 'evaluate_embeddings', watched)
    assert main(['compare', str(distilled), str(other)]) == 0
    run = Run(distilled)
    data = run.data
    val, test = (
        graph['user', 'interacts', 'item'].edge_label_index
        for graph in (data.val, data.test)
    )
    assert not torch.equal(val, test)
    for graph in asked:
        label = graph['user', 'interacts', 'item'].edge_label_index
        assert torch.equal(label, val)
    assert not (distilled / 'evaluation-test.json').exists()


def test_one_run_is_not_enough(distilled, fails):
    assert 'two or more runs are required' in fails('compare', distilled)


def test_a_run_is_named_once(distilled, fails):
    message = fails('compare', distilled, f'{distilled}/../{distilled.name}')
    assert 'each run must be named once' in message


def test_what_is_no_run_is_a_mistake(distilled, tmp_path, fails):
    assert 'is not a run' in fails('compare', distilled, tmp_path)
