import inspect
import json
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks import paired, report, run, settings, suite, suite_file, trial
from benchmarks.entry import Choices
from benchmarks.spaces import ENTRIES
from benchmarks.suite_report import suite_table
from promptmm_pyg import models
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models import PromptMM
from promptmm_pyg.training import TEACHER_WEIGHTS, normalized_adj_dict
from promptmm_pyg.training.inputs import triplet_loader
from promptmm_pyg.training.loop import train_step
from promptmm_pyg.training.optimizer import make_optimizer

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
MODELS = ['Popularity', 'LightGCN', 'FREEDOM']
UNTRAINED = ['Popularity', 'ItemKNN', 'EASE', 'GraphFilter']
TRAINED = [name for name, entry in ENTRIES.items() if entry.trained]


@pytest.fixture(scope='module')
def split():
    return split_per_user(make_synthetic_dataset(60, 70, 4))


@pytest.fixture(scope='module')
def train(split):
    return run.prepare(split.train, settings.SETTINGS['synthetic'])


@pytest.fixture
def quick(monkeypatch, tmp_path, split):
    monkeypatch.setattr(suite, 'read', lambda *_: split)

    def start(*more, names=MODELS):
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        size = ['--trials', '2', '--epochs', '1', '--jobs', '0', '--seeds', '0', '1']
        arguments = ['synthetic', '--models', *names, *size, *folders, *more]
        monkeypatch.setattr(sys, 'argv', ['suite', *arguments])
        suite.main()
        return json.loads((tmp_path / 'suite-synthetic.json').read_text())

    start.folder = tmp_path
    return start


def counting(monkeypatch, name):
    """Counts calls of what a trial calls."""
    calls, original = [], getattr(trial, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(trial, name, counted)
    return calls


def test_models_are_added_to_a_result_as_if_all_had_run_at_once(quick):
    whole = quick()
    tables = dict(np.load(quick.folder / 'suite-synthetic-per-user.npz'))
    quick(names=MODELS[:2])
    added = quick('--add', names=MODELS[2:])
    assert list(added['models']) == MODELS
    for key in ('suite', 'best', 'comparisons'):
        assert added[key] == whole[key], key
    again = dict(np.load(quick.folder / 'suite-synthetic-per-user.npz'))
    assert tables.keys() == again.keys()
    for name, values in tables.items():
        assert np.array_equal(values, again[name]), name


def test_models_are_only_added_to_a_result_of_the_same_protocol(quick, monkeypatch):
    with pytest.raises(
        ValueError, match=r"'--add' requires a result to add to \(got no"
    ):
        quick('--add')
    quick(names=MODELS[:1])
    monkeypatch.setattr(suite, 'run_models', lambda *_: pytest.fail('ran'))
    with pytest.raises(ValueError, match=r"same protocol \(got 'batch_size' 2048 in"):
        quick('--add', '--batch-size', '64', names=MODELS[1:])


def test_models_tested_on_other_users_are_not_compared(tmp_path):
    outs = [
        {'name': name, 'users': np.arange(number), 'row': {}, 'per_user': None}
        for name, number in (('a', 5), ('b', 4))
    ]
    with pytest.raises(ValueError, match='same users'):
        suite_file.write_suite(tmp_path, {'dataset': 'x'}, outs)


def test_every_model_of_the_library_is_in_the_suite():
    others = {'BPR-MF', 'LightGCN', 'PromptMM'}
    assert set(ENTRIES) == set(models.__all__) | others
    assert set(ENTRIES) - set(TRAINED) == set(UNTRAINED)


@pytest.mark.parametrize('name', ENTRIES)
def test_a_study_starts_at_the_defaults_of_the_model(name):
    entry = ENTRIES[name]
    known = {} if entry.cls is not models.PromptMMPlus else _of(PromptMM)
    known |= _of(entry.cls)
    for argument in entry.arguments:
        assert entry.defaults[argument] == known[argument], argument
    if entry.cls is PromptMM:
        weights = TEACHER_WEIGHTS
    else:  # Of models without terms of their own, the paper's.
        weights = getattr(entry.cls, 'weights', {'l2': 1e-4})
    for weight in entry.weights:
        assert entry.defaults[weight] == weights[weight], weight
    assert ('learning_rate' in entry.defaults) == entry.trained
    for part in entry.space.values():
        if isinstance(part, Choices):
            assert part.default in part.values
        else:
            assert part.low <= part.default <= part.high


@pytest.mark.parametrize('name', ENTRIES)
def test_the_second_start_differs_from_the_defaults_by_its_penalty_alone(name):
    entry = ENTRIES[name]
    first, *rest = entry.starts
    assert first == entry.defaults
    assert len(rest) == ('l2' in entry.weights)
    for start in rest:
        assert {k: v for k, v in start.items() if v != first[k]}.keys() == {'l2'}
        assert start['l2'] > first['l2']


def _of(cls):
    return {k: p.default for k, p in inspect.signature(cls).parameters.items()}


@pytest.mark.parametrize('name', TRAINED)
def test_every_model_is_built_64_wide_and_takes_a_step(name, train):
    entry = ENTRIES[name]
    torch.manual_seed(0)
    model = entry.make(train, entry.defaults)
    before = [p.detach().clone() for p in model.parameters()]
    terms, weights = entry.objective(model, entry.defaults)
    operators = normalized_adj_dict(train)
    batch = next(iter(triplet_loader(train, batch_size=64, seed=0)))
    model.train()
    loss = terms(model(operators), batch)
    train_step(make_optimizer(model.parameters(), 0.01, 0.0), loss, weights)
    after = list(model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    x_dict = trial.get_embeddings(model, (operators,))
    assert all(x.isfinite().all() for x in x_dict.values())
    assert x_dict['user'].shape[1] == x_dict['item'].shape[1] >= 64


@pytest.mark.parametrize('name', TRAINED)
def test_what_is_chosen_reaches_the_model(name, train):
    entry = ENTRIES[name]
    params = {
        key: part.values[-1] if isinstance(part, Choices) else part.high
        for key, part in entry.space.items()
    }
    model = entry.make(train, params)
    terms, weights = entry.objective(model, params)
    assert {key: weights[key] for key in entry.weights} == {
        key: params[key] for key in entry.weights
    }
    batch = next(iter(triplet_loader(train, batch_size=64, seed=0)))
    values = terms(model.train()(normalized_adj_dict(train)), batch)
    assert weighted_sum(values, weights).isfinite()


@pytest.mark.parametrize('name', UNTRAINED)
def test_untrained_models_score_and_keep_no_tables(name, split, train, tmp_path):
    bench = make_bench(split, train, tmp_path)
    entry = ENTRIES[name]
    outcome = bench.outcome(entry, entry.defaults, 0)
    assert 'x_dict' not in outcome
    assert outcome['parameters'] == 0
    assert 0 < outcome['validation'] <= 1
    assert bench.test(entry, entry.defaults, 0).metrics['Recall@20'] > 0


def make_bench(split, train, work, **kwargs):
    schedule = trial.Schedule(epochs=1, progress=False)
    numbers = {'prompt_channels': 32, 'schedule': schedule, 'batch_size': 256}
    return trial.Bench('synthetic', split, train, work=work, **{**numbers, **kwargs})


def test_tables_depend_on_seed_rate_and_penalty_alone(split, train, tmp_path):
    entry = ENTRIES['BPR-MF']

    def tables(name, seed=0, **params):
        bench = make_bench(split, train, tmp_path / name)
        torch.rand(7)  # What others draw before does not matter.
        return bench.outcome(entry, entry.defaults | params, seed)['x_dict']['item']

    first = tables('a')
    assert torch.equal(tables('b'), first)
    for other in ({'seed': 1}, {'learning_rate': 0.01}, {'l2': 0.01}):
        assert not torch.equal(tables('a', **other), first), other


def test_several_data_sets_in_one_run(quick, monkeypatch):
    folder = quick.folder / 'data'
    (folder / 'ml100k').mkdir(parents=True)
    seen = []
    split = suite.read('synthetic', None)

    def read(dataset, path):
        seen.append((dataset, path))
        return split

    monkeypatch.setattr(suite, 'read', read)
    arguments = ['ml100k', 'synthetic', '--data', str(folder), '--jobs', '0']
    arguments += ['--models', 'LightGCN', 'EASE', '--trials', '1', '--epochs', '1']
    arguments += ['--seeds', '0', '--out', str(quick.folder / 'both')]
    arguments += ['--work', str(quick.folder / 'work')]
    monkeypatch.setattr(sys, 'argv', ['suite', *arguments])
    suite.main()
    assert set(seen) == {('ml100k', folder / 'ml100k'), ('synthetic', None)}
    results = {
        name: json.loads((quick.folder / 'both' / f'suite-{name}.json').read_text())
        for name in ('ml100k', 'synthetic')
    }
    for name, result in results.items():
        assert result['suite']['dataset'] == name
        assert set(result['models']) == {'LightGCN', 'EASE'}
    # The same data under two names.
    assert (
        results['ml100k']['models']['EASE']['test']
        == (results['synthetic']['models']['EASE']['test'])
    )


def test_a_data_set_without_a_folder_is_told_before_training(
    quick, monkeypatch, capsys
):
    arguments = ['synthetic', 'tiktok', '--data', str(quick.folder)]
    monkeypatch.setattr(sys, 'argv', ['suite', *arguments])
    monkeypatch.setattr(suite, 'run_models', None)
    with pytest.raises(SystemExit):
        suite.main()
    assert "'--data' requires a folder of 'tiktok'" in capsys.readouterr().err


def test_the_result_holds_all_that_was_tried_and_its_cost(quick):
    result = quick()
    assert set(result['models']) == set(MODELS)
    for name, model in result['models'].items():
        values = [row['validation'] for row in model['trials']]
        assert len(values) == 2, name
        assert model['chosen'] == model['trials'][values.index(max(values))]['params']
        assert model['trials'][0]['params'] == ENTRIES[name].defaults
        assert model['validation']['seeds'][0] == max(values)
        assert min(model['seconds']) > 0
        assert min(model['peak_mib']) > 10
        # Seed 0 was trained as a trial; what is not trained has no other seed.
        everything = [row['seconds'] for row in model['trials']] + model['seconds'][1:]
        assert model['seconds_in_all'] == pytest.approx(sum(everything))
        assert set(model['test']) == {'Recall@10', 'Recall@20', 'Recall@50', 'NDCG@20'}
    total = sum(model['seconds_in_all'] for model in result['models'].values())
    assert f'All trainings: {total / 60:.0f} minutes' in suite_table(result)
    assert result['models']['LightGCN']['parameters'] == 64 * (60 + 70)
    assert len(result['models']['LightGCN']['test']['Recall@20']['seeds']) == 2
    assert len(result['models']['Popularity']['test']['Recall@20']['seeds']) == 1


def test_users_are_kept_so_that_differences_can_be_computed_again(quick):
    result = quick()
    arrays = np.load(quick.folder / result['per_user'])
    assert set(arrays) == {'users', *MODELS}
    for name in MODELS:
        mean = result['models'][name]['test']['Recall@20']['mean']
        assert arrays[name].shape[1] == arrays['users'].size
        assert float(arrays[name].mean()) == pytest.approx(mean, abs=1e-6)
    kept = {name: torch.from_numpy(arrays[name]) for name in MODELS}
    for name, rows in result['comparisons'].items():
        assert set(rows) == set(MODELS) - {name}
        assert paired.compare(kept, name) == rows
    assert set(result['comparisons']) == {'LightGCN', result['best']}


def test_every_model_is_trained_as_often(quick, monkeypatch):
    calls = counting(monkeypatch, 'train_teacher')
    quick()
    counts = Counter(type(args[0]).__name__ for args in calls)
    # Two trials, and the other seed of the choice.
    assert counts == {'LightGCN': 3, 'FREEDOM': 3}


def test_finished_trials_are_replayed(quick, monkeypatch):
    first = quick()
    calls = counting(monkeypatch, 'train_teacher')
    assert quick() == first
    assert calls == []
    longer = quick('--trials', '3', names=['LightGCN'])
    assert len(calls) <= 2  # The third trial and, if it is chosen, its other seed.
    rows = longer['models']['LightGCN']['trials']
    assert rows[:2] == first['models']['LightGCN']['trials']


@pytest.mark.parametrize('more', [('--batch-size', '100'), ('--patience', '3')])
def test_other_numbers_are_other_trials(quick, monkeypatch, more):
    quick(names=['LightGCN'])
    calls = counting(monkeypatch, 'train_teacher')
    quick(*more, names=['LightGCN'])
    assert len(calls) == 3


def test_other_features_and_other_validation_are_other_trials(train, tmp_path):
    def path(change):
        other = split_per_user(make_synthetic_dataset(60, 70, 4))
        change(other)
        return make_bench(other, train, tmp_path).path(ENTRIES['EASE'], {'l2': 1.0}, 0)

    def features(other):
        other.train['item'].x_text[0, 0] += 1

    def positives(other):
        index = other.val['user', 'interacts', 'item'].edge_label_index
        index[1, 0] = (index[1, 0] + 1) % 70

    assert path(lambda _: None) == path(lambda _: None)
    assert len({path(lambda _: None), path(features), path(positives)}) == 3


def test_test_positives_are_read_by_the_choice_alone(quick, monkeypatch, split):
    calls = counting(monkeypatch, 'evaluate')
    order = []
    monkeypatch.setattr(suite, 'tune', _noting(order, calls, suite.tune))
    quick()
    tests = [args for args in calls if args[1] is split.test]
    # Once a seed; what is not trained has one.
    assert len(tests) == 2 + 2 + 1
    assert order == [0, 0, 0]


def _noting(order, calls, tune):
    """Notes how often the test positives were read while tuning."""

    def noting(bench, entry, trials):
        before = len(calls)
        rows = tune(bench, entry, trials)
        order.append(sum(args[1] is bench.split.test for args in calls[before:]))
        return rows

    return noting


def test_a_choice_that_diverges_is_the_worst_trial(split, train, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise FloatingPointError("'loss' must be finite")

    monkeypatch.setattr(trial, 'train_teacher', diverge)
    bench, entry = make_bench(split, train, tmp_path), ENTRIES['BPR-MF']
    (row,) = suite.tune(bench, entry, 1)
    assert row['validation'] == 0
    assert row['error'] == "'loss' must be finite"
    with pytest.raises(RuntimeError, match=r'BPR-MF with .* seed 0 has no state to'):
        bench.test(entry, entry.defaults, 0)


def test_models_run_in_processes_of_their_own(tmp_path, split, monkeypatch):
    folder = tmp_path / 'mine'
    folder.mkdir()
    graphs = {'train': split.train, 'val': split.val, 'test': split.test}
    for part, graph in graphs.items():
        store = graph['user', 'interacts', 'item']
        index = store.edge_index if part == 'train' else store.edge_label_index
        lists = {}
        for user, item in index.t().tolist():
            lists.setdefault(str(user), []).append(item)
        (folder / f'{part}.json').write_text(json.dumps(lists))
    np.save(folder / 'text_feat.npy', split.train['item'].x_text.numpy())
    monkeypatch.chdir(tmp_path)
    names = ['--models', 'BPR-MF', '--trials', '1', '--epochs', '1']
    more = ['--data', 'mine', '--jobs', '2', '--work', 'work', '--out', '.']
    arguments = ['suite', 'folder', *names, *more, '--seeds', '0']
    monkeypatch.setattr(sys, 'argv', arguments)
    suite.main()
    result = json.loads((tmp_path / 'suite-mine.json').read_text())
    assert list(result['models']) == ['BPR-MF']
    assert result['models']['BPR-MF']['threads'] == [1]
    assert result['comparisons'] == {'BPR-MF': {}}


def test_without_lightgcn_all_are_compared_to_the_best_on_validation(quick):
    result = quick(names=['Popularity', 'ItemKNN'])
    assert list(result['comparisons']) == [result['best']]
    text = report.render(quick.folder / 'suite-synthetic.json')
    assert f'| - {result["best"]} (95 %) |' in text


def test_a_folder_needs_its_path(monkeypatch, capsys):
    arguments = ['suite', 'folder', '--models', 'EASE', '--jobs', '0']
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit):
        suite.main()
    assert (
        "'--data' requires a folder of 'folder' (got None)" in capsys.readouterr().err
    )


def test_tuning_needs_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(
        ImportError, match=r"'tune' requires 'optuna'\. Install it with"
    ):
        suite.tune(None, ENTRIES['EASE'], 1)


def test_p_value_of_few_users_is_that_of_all_signs():
    a, b = torch.tensor([1.0, 0.0, 0.25, 1.0]), torch.tensor([0.0, 0.5, 0.0, 1.0])
    # Of 8 signs of 1, 1/2 and 1/4, three sum to 3/4 or more, three to -3/4 or less.
    assert paired.permutation_p_value(a, b) == pytest.approx(6 / 8)
    assert paired.permutation_p_value(b, a) == pytest.approx(6 / 8)


def test_p_value_without_a_difference_is_one():
    a = torch.tensor([1.0, 0.0])
    assert paired.permutation_p_value(a, a) == 1.0


def test_p_value_of_many_users_is_about_that_of_the_normal_distribution():
    g = torch.Generator().manual_seed(0)
    a = (torch.rand(3000, generator=g) < 0.12).float()
    b = (torch.rand(3000, generator=g) < 0.10).float()
    d = (a - b).double()
    z = float(d.sum() / d.square().sum().sqrt())
    normal = 2 * float(torch.special.ndtr(torch.tensor(-abs(z))))
    assert paired.permutation_p_value(a, b) == pytest.approx(normal, abs=0.02)


def test_p_values_are_corrected_within_their_reference():
    g = torch.Generator().manual_seed(0)
    per_user = {name: torch.rand(2, 40, generator=g) for name in ('a', 'b', 'c', 'd')}
    rows = paired.compare(per_user, 'b')
    p = [row['p'] for row in rows.values()]
    smallest = min(range(3), key=p.__getitem__)
    assert [*rows.values()][smallest]['holm_p'] == pytest.approx(
        min(1, 3 * p[smallest])
    )


def test_report_prints_the_best_on_validation_first(quick):
    result = quick()
    text = report.render(quick.folder / 'suite-synthetic.json')
    rows = [line.split(' | ') for line in text.splitlines()[4:]]
    values = [result['models'][row[0].removeprefix('| ')]['validation'] for row in rows]
    means = [value['mean'] for value in values]
    assert len(rows) == 3
    assert means == sorted(means, reverse=True)
    (line,) = (x for x in text.splitlines() if x.startswith('| FREEDOM |'))
    model, gain = result['models']['FREEDOM'], result['comparisons']['LightGCN']
    assert '| multi-modal |' in line
    assert f'{model["test"]["NDCG@20"]["mean"]:.4f}' in line
    assert f'{gain["FREEDOM"]["low"]:+.4f}' in line
    assert f'{gain["FREEDOM"]["holm_p"]:.4f}' in line


def test_report_draws_the_suite(quick, monkeypatch, capsys):
    quick(names=['Popularity', 'LightGCN'])
    file, image = quick.folder / 'suite-synthetic.json', quick.folder / 'suite.png'
    monkeypatch.setattr(sys, 'argv', ['report', str(file), '--plot', str(image)])
    report.main()
    assert image.read_bytes().startswith(b'\x89PNG')
    assert 'Popularity' in capsys.readouterr().out


def test_drawing_needs_matplotlib(monkeypatch, quick):
    result = quick()
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ImportError, match=r"'suite_plot' requires 'matplotlib'"):
        report.suite_plot(result, 'x.png')
