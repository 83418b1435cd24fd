import json
import sys
from dataclasses import replace

import pytest

from benchmarks import report, run, settings
from promptmm_pyg.data import make_synthetic_dataset, split_per_user

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    setting = replace(settings.SETTINGS['synthetic'], epochs=1, validate_every=1)
    monkeypatch.setitem(settings.SETTINGS, 'synthetic', setting)
    split = split_per_user(make_synthetic_dataset(60, 55, 4))
    monkeypatch.setattr(run, 'read', lambda *_: split)

    def start(*seeds):
        arguments = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        seeds = ['--seeds', *map(str, seeds)]
        monkeypatch.setattr(sys, 'argv', ['run', 'synthetic', *seeds, *arguments])
        run.main()
        return json.loads((tmp_path / 'synthetic.json').read_text())

    return start


def test_every_model_has_its_control_and_every_difference_its_interval(quick):
    result = quick(0, 1)
    assert result['seeds'] == [0, 1]
    for kind in settings.SETTINGS['synthetic'].students:
        assert f'{kind} student' in result['models']
        assert f'{kind} control' in result['models']
        interval = result['differences'][f'{kind} student - {kind} control']
        assert interval['low'] <= interval['difference'] <= interval['high']
        assert f'{kind} student - teacher cut to width 16' in result['differences']
    model = result['models']['LightGCN student']
    assert model['width'] == 16
    assert model['parameters'] == 16 * (60 + 55)
    assert len(model['test']['Recall@20']['seeds']) == 2


def test_differences_are_those_of_the_means(quick):
    result = quick(0, 1)
    for title, interval in result['differences'].items():
        a, b = title.split(' - ')
        means = [result['models'][name]['test']['Recall@20']['mean'] for name in (a, b)]
        assert abs(interval['difference'] - (means[0] - means[1])) < 1e-6


def test_finished_seeds_are_not_run_again(quick, monkeypatch):
    first = quick(0)
    monkeypatch.setattr(run, 'run_seed', lambda *_: pytest.fail('ran again'))
    assert quick(0)['models'] == first['models']


def test_other_numbers_are_another_run():
    setting = settings.SETTINGS['synthetic']
    assert setting.digest() == replace(setting).digest()
    assert setting.digest() != replace(setting, learning_rate=1.0).digest()


def test_report_prints_the_numbers_of_the_file(quick):
    result = quick(0)
    text = report.table(result)
    mean = result['models']['PromptMM teacher']['test']['Recall@20']['mean']
    assert '| PromptMM teacher | 64 | ' in text
    assert f'{mean:.4f}' in text
    assert 'LightGCN student - LightGCN control' in text


def test_real_data_needs_its_folder():
    with pytest.raises(ValueError, match=r"'--data' must be the folder of 'tiktok'"):
        settings.read('tiktok', None)
