import json
import sys
from dataclasses import replace

import pytest

from benchmarks import losses, mixture, report, run, settings
from promptmm_pyg.data import planted_dataset, split_per_user
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Runs the teachers' benchmark, then this one; returns its result."""
    setting = replace(settings.SETTINGS['synthetic'], epochs=1, validate_every=1)
    monkeypatch.setitem(settings.SETTINGS, 'synthetic', setting)
    split = split_per_user(planted_dataset(60, 120, 4))
    schedule = Schedule(epochs=1, patience=1, progress=False)
    for module in (run, mixture):
        monkeypatch.setattr(module, 'read', lambda *_: split)
    for module in (losses, mixture):
        monkeypatch.setattr(module, 'SCHEDULE', schedule)

    def start(module, *arguments):
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['x', 'synthetic', *arguments, *folders])
        module.main()

    def both():
        if not (tmp_path / 'work').exists():
            start(run, '--seeds', '0', '1')
        start(mixture, '--seeds', '0', '1', '--widths', '4', '8')
        return tmp_path / 'mixture-synthetic.json'

    return both


def test_every_student_stands_beside_control_and_cut_teacher(quick):
    path = quick()
    result = json.loads(path.read_text())
    names = [(row['name'], row['width']) for row in result['students']]
    of_width = ['no teacher']
    for name in mixture.TEACHERS:
        of_width += [name, f'{name}, cut']
    assert names == [(name, width) for width in (4, 8) for name in of_width]
    assert len(result['students'][1]['test']['seeds']) == 2
    for row in result['students']:
        assert ('over_control' in row) == (row['name'] in mixture.TEACHERS)
    table = report.render(path)
    assert all(f'| {name} |' in table for name in of_width)


def test_the_mixture_has_weights_of_both_and_the_others_of_one(quick):
    result = json.loads(quick().read_text())
    promptmm, graph_filter, mixed = (row['weights'][0] for row in result['teachers'])
    assert promptmm == {'PromptMM': 1.0, 'GraphFilter': 0.0}
    assert graph_filter == {'PromptMM': 0.0, 'GraphFilter': 1.0}
    assert sum(mixed.values()) == pytest.approx(1.0)


def test_finished_trials_are_not_trained_again(quick, monkeypatch):
    first = quick().read_text()
    monkeypatch.setattr(losses, 'distill', None)
    assert quick().read_text() == first
