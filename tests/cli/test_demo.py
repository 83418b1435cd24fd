import json
import shutil
import sys

import pytest

from promptmm_pyg.cli import demo, main
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.runs import Run
from promptmm_pyg.serving import Recommender

from .conftest import printed

SMALL = {
    'data': {
        **demo.TEACHER['data'],
        'synthetic': {'num_users': 40, 'num_items': 60, 'num_clusters': 4},
    },
    'train': {**demo.TEACHER['train'], 'epochs': 2},
}


@pytest.fixture(scope='module')
def small():
    student = {**demo.STUDENT, 'train': {**demo.STUDENT['train'], 'epochs': 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, 'TEACHER', {**demo.TEACHER, **SMALL})
        patch.setattr(demo, '_LIGHT_GCN', SMALL)
        patch.setattr(demo, 'STUDENT', student)
        yield


@pytest.fixture(scope='module')
def shown(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'demo'
    return folder, *printed('demo', '--out', folder, '--quiet')


def test_the_table_compares_four_models(shown):
    folder, out, _ = shown
    content = json.loads((folder / 'evaluation-test.json').read_text())
    rows = [line.split() for line in out.splitlines()]
    for name, width in {
        'LightGCN': '64',
        'teacher': '64',
        'student': '16',
        'baseline': '16',
    }.items():
        row = next(row for row in rows if row[:2] == [name, width])
        metrics = content['metrics'][name]
        expected = [f'{metrics[key]:.4f}' for key in ('Recall@20', 'NDCG@20')]
        assert row[3:] == expected


def test_test_is_read_once(shown):
    folder, _, _ = shown
    content = json.loads((folder / 'evaluation-test.json').read_text())
    assert len(content['test_reads']) == 1


def test_differences_are_those_that_matter(shown):
    _, out, _ = shown
    for pair in ('teacher - LightGCN', 'student - baseline', 'teacher - student'):
        assert f'\n{pair}' in out


def test_five_items_are_recommended_with_their_taste(shown):
    _, out, _ = shown
    rows = out.split('five recommendations')[1].splitlines()[2:7]
    assert [row.split()[1] for row in rows] == ['1', '2', '3', '4', '5']
    assert all(row.split()[-2] == 'taste' for row in rows)


def test_the_user_shown_is_the_most_active_one(shown):
    folder, out, _ = shown
    served = Recommender.load(folder / 'recommender')
    users = Run.open(folder).data.train[INTERACTS].edge_index[0]
    busiest = served.user_ids[int(users.bincount().argmax())]
    assert f'five recommendations for {busiest}, the most active user' in out


def test_a_figure_is_drawn(shown):
    folder, out, _ = shown
    assert f'figure: {folder / "demo.png"}' in out
    assert (folder / 'demo.png').read_bytes().startswith(b'\x89PNG')


def test_the_folder_is_a_run_like_any_other(shown, capsys):
    folder, _, _ = shown
    assert main(['evaluate', str(folder)]) == 0
    assert main(['recommend', str(folder), '--users', 'u1', '-k', '1']) == 0


def test_a_demo_replaces_a_demo_and_reads_test_anew(shown, tmp_path, capsys):
    folder, out, _ = shown
    folder = shutil.copytree(folder, tmp_path / 'demo')
    assert main(['demo', '--out', str(folder), '--quiet']) == 0
    again, err = capsys.readouterr()
    assert again.splitlines()[:20] == out.splitlines()[:20]
    assert 'it was read 0 times before' in err


def test_a_run_of_ones_own_is_not_replaced(small, trained, fails):
    assert 'contains a run on your own data' in fails('demo', '--out', trained)


def test_without_matplotlib_all_but_the_figure_is_there(
    small, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert main(['demo', '--out', str(tmp_path / 'demo'), '--quiet']) == 0
    out, err = capsys.readouterr()
    assert '".[viz]"' in err
    assert 'figure:' not in out
    assert not (tmp_path / 'demo' / 'demo.png').exists()


def test_the_data_are_described_without_warnings(shown):
    _, _, err = shown
    assert err.startswith('synthetic data: 40 users, 60 items, three modalities\n')
    assert 'warning: train' not in err
