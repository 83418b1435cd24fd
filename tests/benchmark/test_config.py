from pathlib import Path

import pytest

from promptmm_pyg.benchmark import load_config
from promptmm_pyg.benchmark.config import Dataset
from promptmm_pyg.benchmark.experiments import make_experiment
from tests.benchmark.setting import CONFIGS

ALL = sorted(path.stem for path in Path(CONFIGS).glob('*.toml'))
CONFIG = """
kind = "suite"
extends = "base.toml"
datasets = ["a"]
trials = 2
[training]
epochs = 5
"""
BASE = """
seeds = [3]
trials = 1
[training]
epochs = 1
patience = 4
[dataset.a]
prompt_channels = 3
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'base.toml').write_text(BASE)
    (tmp_path / 'mine.toml').write_text(CONFIG)
    return tmp_path / 'mine.toml'


@pytest.mark.parametrize('name', [name for name in ALL if name != 'datasets'])
def test_a_committed_configuration_makes_its_experiment(name):
    config = load_config(f'{CONFIGS}/{name}.toml')
    assert make_experiment(config).__doc__
    assert config.name == name


def test_a_file_is_merged_over_the_one_it_extends(path):
    config = load_config(path)
    assert (config.kind, config.name, config.seeds) == ('suite', 'mine', (3,))
    assert config.options == {'trials': 2, 'training': {'epochs': 5, 'patience': 4}}
    (dataset,) = config.datasets
    assert (dataset.name, dataset.prompt_channels) == ('a', 3)


def test_overrides_are_toml_or_bare_words(path):
    config = load_config(
        path,
        overrides=['training.epochs=9', 'models=["EASE"]', 'name=other', 'a.b=true'],
    )
    assert config.options['training'] == {'epochs': 9, 'patience': 4}
    assert config.options['models'] == ['EASE']
    assert config.options['a'] == {'b': True}
    assert config.name == 'other'
    with pytest.raises(ValueError, match=r"'overrides' must be key=value \(got 'x'"):
        load_config(path, overrides=['x'])


def test_arguments_replace_data_sets_and_seeds(path, tmp_path):
    (tmp_path / 'b').mkdir()
    options = {'datasets': ['b', 'a', 'b'], 'data': tmp_path}
    config = load_config(path, seeds=[7, 8], **options)
    assert [dataset.name for dataset in config.datasets] == ['b', 'a']
    # Without settings, the defaults.
    assert config.datasets[0] == Dataset('b', folder=tmp_path / 'b')
    assert config.seeds == (7, 8)


def test_the_folder_of_a_data_set_is_itself_or_named_as_it_is(path, tmp_path):
    (tmp_path / 'data' / 'a').mkdir(parents=True)
    data = tmp_path / 'data'
    one = load_config(path, data=data / 'a', datasets=['mine'])
    assert one.datasets[0].folder == data / 'a'
    assert load_config(path, data=data).datasets[0].folder == data / 'a'
    with pytest.raises(ValueError, match="'data' must be the folder of 'a'"):
        load_config(path).datasets[0].read()


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (
            None,
            r"'datasets' must be among \['a'\], which have .* \(got 'b'\)",
        ),
        ('data', r"'datasets' must be among the folders in .*\['a'\] \(got 'b'\)"),
        ('missing', r"'data' must be a folder \(got .*missing"),
    ],
)
def test_unknown_data_sets_are_errors(data, message, path, tmp_path):
    (tmp_path / 'data' / 'a').mkdir(parents=True)
    folder = data and tmp_path / data
    with pytest.raises(ValueError, match=message):
        load_config(path, data=folder, datasets=['b'])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('kind = "suite"', "must have the key 'datasets'"),
        ('datasets = ["a"]', "must have the key 'kind'"),
        ('kind = ', 'must be TOML'),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a]\nwidth = 3',
            r"'dataset.a' must have keys among .* \(got \['width'\]\)",
        ),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a.models]\nLightGNC = {}',
            r"'dataset.a.models' must be one of .*'LightGCN'.* \(got 'LightGNC'\)",
        ),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a.models.LightGCN]\nlayers=2',
            r"'dataset.a.models.LightGCN' .*'num_layers'.* \(got \['layers'\]\)",
        ),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a.students]\nMF = {}',
            r"'dataset.a.students' must be one of .*'MatrixFactorization'.*'MF'",
        ),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a]\ntraining={epoch=1}',
            r"'dataset.a.training' .*'epochs'.* \(got \['epoch'\]\)",
        ),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a]\ncandidates={uniform=1}',
            r"'dataset.a.candidates' .*'num_uniform'.* \(got \['uniform'\]\)",
        ),
        (
            'kind = "suite"\ndatasets = ["a"]\n[dataset.a]\nsynthetic={users=1}',
            r"'dataset.a.synthetic' .*'num_users'.* \(got \['users'\]\)",
        ),
    ],
)
def test_errors_name_the_key(tmp_path, text, message):
    path = tmp_path / 'x.toml'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('other', "'kind' must be one of 'suite', 'variants'"),
        ('missing_module:Main', r"importable 'module:Class' \(got 'missing_module"),
        ('json:missing', r"importable 'module:Class' \(got 'json:missing'"),
        ('json:dumps', r"must be a subclass of Experiment \(got 'json:dumps'"),
    ],
)
def test_unknown_kinds_are_errors(path, kind, message):
    with pytest.raises(ValueError, match=message):
        make_experiment(load_config(path, overrides=[f'kind="{kind}"']))


def test_unknown_options_are_errors(path):
    with pytest.raises(ValueError, match=r"'suite' must have keys .*\['widths'\]"):
        make_experiment(load_config(path, overrides=['widths=[1]']))
    with pytest.raises(ValueError, match=r"'training' .*'epochs'.*\['epoch'\]"):
        make_experiment(load_config(path, overrides=['training.epoch=1']))
