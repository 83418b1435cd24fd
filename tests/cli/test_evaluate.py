import json
import re
import shutil

import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.evaluation import evaluate, paired_test, slice_by_cold_start
from promptmm_pyg.runs.run import Run

from .conftest import printed

METRICS = ('Recall', 'NDCG', 'Precision', 'HitRatio', 'MRR', 'MAP')


@pytest.fixture(scope='module')
def oracle(distilled):
    """The evaluations of the three models, straight from the library."""
    folder = Run(distilled)
    data, tables = folder.data, folder.embeddings()
    found = {name: evaluate(x, data.test) for name, x in tables.items()}
    return found, data.test


@pytest.fixture(scope='module')
def reported(distilled, tmp_path_factory):
    """What the program prints and writes about test."""
    run = shutil.copytree(distilled, tmp_path_factory.mktemp('runs') / 'reported')
    out, err = printed('evaluate', run, '--eval-split', 'test')
    return out, err, json.loads((run / 'evaluation-test.json').read_text())


def test_the_table_has_every_metric_of_every_model(reported, oracle):
    out, _, _ = reported
    found, _ = oracle
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    for name in METRICS:
        for k in (10, 20, 50):
            key = f'{name}@{k}'
            expected = [f'{one.metrics[key]:.4f}' for one in found.values()]
            assert rows[key] == expected


def test_the_table_names_models_and_widths(reported):
    out, _, _ = reported
    lines = [line.split() for line in out.splitlines()]
    assert ['teacher', 'student', 'baseline', 'truncated_teacher', 'served'] in lines
    assert ['embedding', 'dim', '8', '4', '4', '4', '4'] in lines


def test_the_file_has_the_same_numbers(reported, oracle):
    _, _, content = reported
    found, _ = oracle
    assert content['metrics'] == {name: one.metrics for name, one in found.items()}
    assert content['split'] == 'test'
    assert content['num_users'] == found['teacher'].users.numel()


def test_differences_are_paired_and_in_the_order_of_their_name(reported, oracle):
    out, _, content = reported
    found, _ = oracle
    pairs = (
        ('student', 'baseline'),
        ('student', 'truncated_teacher'),
        ('teacher', 'student'),
    )
    for a, b in pairs:
        for metric in ('Recall@20', 'NDCG@20'):
            pair = (found[name].per_user[metric] for name in (a, b))
            expected = paired_test(*pair)
            assert content['differences'][f'{a} - {b}'][metric] == expected.to_dict()
            text = f'{expected.difference:+.4f}  [{expected.low:+.4f}'
            assert text in out
    assert 'one training each: training noise is not included' in out


def test_slices_are_warm_and_cold(reported, oracle):
    out, _, content = reported
    found, graph = oracle
    expected = slice_by_cold_start(found['student'], graph)['warm']
    sliced = content['slices']['student']['warm']
    assert sliced['num_users'] == expected.users.numel()
    assert sliced['Recall@20'] == expected.metrics['Recall@20']
    assert f'warm   {expected.users.numel():>5}  Recall@20' in out


def test_an_empty_slice_is_null_and_a_dash(files, tmp_path, capsys):
    # Cold items only: nothing warm is held out.
    run = str(tmp_path / 'run')
    data = [files.table, '--features', f'text={files.text}', '--split', 'cold-items']
    main(['train', *data, '--out', run, '--epochs', '1', '--quiet'])
    assert main(['evaluate', run]) == 0
    content = json.loads((tmp_path / 'run' / 'evaluation-val.json').read_text())
    assert content['slices']['teacher']['warm']['Recall@20'] is None
    assert content['slices']['teacher']['cold']['Recall@20'] is not None
    row = next(x for x in capsys.readouterr().out.splitlines() if x[:4] == 'warm')
    assert row.split()[-1] == '-'


def test_validation_is_the_default_and_named(distilled, copy_of, capsys):
    run = copy_of(distilled)
    assert main(['evaluate', str(run)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith('validation: ')
    assert 'read once' not in err
    assert not (run / 'evaluation-test.json').exists()
    content = json.loads((run / 'evaluation-val.json').read_text())
    metrics = json.loads((run / 'student' / 'metrics.json').read_text())
    assert content['metrics']['student']['Recall@20'] == metrics['best_value']


def test_every_reading_of_test_is_counted(distilled, copy_of, capsys):
    run = copy_of(distilled)
    for times in range(3):
        capsys.readouterr()
        assert main(['evaluate', str(run), '--eval-split', 'test']) == 0
        assert f'it was read {times} times before' in capsys.readouterr().err
    content = json.loads((run / 'evaluation-test.json').read_text())
    assert len(content['test_reads']) == 3
    models = ['baseline', 'served', 'student', 'teacher', 'truncated_teacher']
    assert content['test_reads'][0]['models'] == models


def test_a_new_student_does_not_undo_the_readings(distilled, copy_of, capsys):
    run = copy_of(distilled)
    main(['evaluate', str(run), '--eval-split', 'test'])
    main(['distill', str(run), '--epochs', '1', '--quiet', '--overwrite'])
    capsys.readouterr()
    main(['evaluate', str(run), '--eval-split', 'test'])
    assert 'it was read 1 times before' in capsys.readouterr().err


def test_a_teacher_alone_can_be_evaluated(trained, copy_of, capsys):
    assert main(['evaluate', str(copy_of(trained))]) == 0
    out = capsys.readouterr().out
    assert 'student' not in out
    assert 'differences' not in out


def test_without_a_baseline_two_columns_remain(trained, copy_of, capsys):
    run = copy_of(trained)
    more = ['--epochs', '1', '--embedding-dim', '8', '--no-baseline', '--quiet']
    main(['distill', str(run), *more])
    capsys.readouterr()
    assert main(['evaluate', str(run)]) == 0
    out = capsys.readouterr().out
    assert ['teacher', 'student', 'truncated_teacher', 'served'] in [
        x.split() for x in out.splitlines()
    ]
    assert 'student - control' not in out


def test_a_small_catalogue_shortens_the_lists(tmp_path, capsys):
    file = tmp_path / 'x.csv'
    pairs = [(u, i) for u in range(8) for i in range(12) if (u + i) % 2]
    text = ''.join(f'{u},{i}\n' for u, i in pairs)
    file.write_text(f'user_id,item_id\n{text}')
    run = str(tmp_path / 'run')
    words = ['--no-prompt', '--epochs', '1', '--monitor', 'Recall@5', '--quiet']
    assert main(['train', str(file), '--out', run, *words]) == 0
    assert main(['evaluate', run]) == 0
    assert 'Recall@12' in capsys.readouterr().out


def test_a_part_without_interactions_is_a_mistake(files, tmp_path, fails):
    run = str(tmp_path / 'run')
    data = [files.table, '--features', f'text={files.text}', '--test-ratio', '0']
    main(['train', *data, '--out', run, '--epochs', '1', '--quiet'])
    message = fails('evaluate', run, '--eval-split', 'test')
    assert "the data hold no interactions for 'test'" in message


def test_what_is_not_a_run_is_a_mistake(tmp_path, fails):
    assert 'is not a run' in fails('evaluate', tmp_path / 'no')


def test_data_that_are_gone_are_a_mistake(files, tmp_path, fails):
    data = shutil.copytree(files.layout, tmp_path / 'data')
    run = str(tmp_path / 'run')
    main(['train', str(data), '--out', run, '--epochs', '1', '--quiet'])
    shutil.rmtree(data)
    assert "'path' must exist (got" in fails('evaluate', run)


@pytest.mark.parametrize('split', ['val', 'test'])
def test_json_is_one_document_of_what_is_recorded(distilled, copy_of, capsys, split):
    run = copy_of(distilled)
    capsys.readouterr()
    assert main(['evaluate', str(run), '--json', '--eval-split', split]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    file = run / f'evaluation-{split}.json'
    facts = {'num_items': 60, 'file': str(file), 'baseline_tuned': False}
    assert document == {**json.loads(file.read_text()), **facts}
    assert set(document) - {'test_reads'} == {
        *('split', 'num_users', 'embedding_dim', 'metrics', 'differences', 'slices'),
        *facts,
    }
    assert ('note: test should be read once' in err) == (split == 'test')


def test_a_read_only_run_is_a_mistake_before_any_work(distilled, fails, monkeypatch):
    monkeypatch.setattr('os.access', lambda path, mode: False)
    message = fails('evaluate', distilled)
    assert f"'{distilled}' must be writable, since its evaluation-val.json" in message


def test_metrics_by_name_and_groups_of_users(distilled, tmp_path, capsys, fails):
    run = Run.open(shutil.copytree(distilled, tmp_path / 'run'))
    users = run.data.val['user'].raw_id.tolist()
    table = tmp_path / 'users.csv'
    rows = [f'{user},{"old" if i % 3 else "new"}' for i, user in enumerate(users[2:])]
    table.write_text('\n'.join(['user_id,kind', *rows]))
    words = ['--metrics', 'Coverage', 'Novelty', '--groups', f'{table}:kind']
    assert main(['evaluate', str(run.path), *words]) == 0
    printed = capsys.readouterr().out
    assert 'Coverage@20' in printed
    assert 'MAP@20' not in printed
    assert 'by group of users' in printed
    assert re.search(r'student  Recall@20  \w+ - \w+  \+0\.\d+  \[', printed)
    content = json.loads(run.evaluation_file('val').read_text())
    result = run.evaluate(metrics=('Coverage',))['student']
    groups = ['unknown'] * 2 + [row.split(',')[1] for row in rows]
    values = result.per_user['Recall@20']
    for name, recorded in content['groups']['student']['groups'].items():
        mask = torch.tensor([groups[user] == name for user in result.users.tolist()])
        assert recorded['num_users'] == int(mask.sum())
        mean = recorded['Recall@20']['mean']
        assert mean == pytest.approx(float(values[mask].mean()), abs=1e-6)
    assert main(['report', str(run.path)]) == 0
    assert 'not of the current models' not in capsys.readouterr().err
    words = ['evaluate', run.path, '--groups']
    assert 'FILE:COLUMN' in fails(*words, str(table))
    assert 'no file' in fails(*words, 'no.csv:kind')
    assert "'age'" in fails(*words, f'{table}:age')
    assert "'metrics' must be one of" in fails(*words[:2], '--metrics', 'Accuracy')
    table.write_text('user_id,kind\nnobody,old\n')
    assert 'none of them' in fails(*words, f'{table}:kind')
