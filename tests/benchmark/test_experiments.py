import json
from pathlib import Path

import numpy as np
import pytest
import torch

from promptmm_pyg.benchmark import load_config, render, runner
from promptmm_pyg.benchmark.experiments import (
    KINDS,
    Budget,
    Main,
    make_experiment,
    shuffled,
    suite_minutes,
)
from promptmm_pyg.benchmark.registry import SEARCH_SPACES
from promptmm_pyg.benchmark.report import plot
from promptmm_pyg.benchmark.result import mean, rows_by_name, write_result
from promptmm_pyg.benchmark.significance import compare
from promptmm_pyg.cli import main
from promptmm_pyg.targets import SoftTargets
from tests.benchmark.setting import CONFIGS, TINY, rows_of, run, tiny, tiny_bench

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
METRIC = 'Recall@20'
QUICK = {
    'main': [],
    'losses': ['losses=["ListwiseKDLoss","PromptMM"]', 'widths=[4,8]'],
    'widths': [
        *('losses=["ListwiseKDLoss"]', 'widths=[4,8]', 'tuned_width=4'),
        'cost_repeats=1',
    ],
    'ensemble': ['widths=[4,8]', 'closed_form_widths=[8,16]'],
    'ablation': [
        'options={denoise=[{denoise=true}],graph=[{item_graph_weight=0.1}]}',
    ],
    'missing': ['shares=[0.0,0.9]'],
    'noise': ['dataset.synthetic.models.PromptMMPlus={embedding_dim=4,num_layers=1}'],
    'shortcuts': ['shares=[0.0]'],
    'cold': ['trials={l2=[0.01,0.1]}'],
    'suite': ['models=["Popularity","LightGCN","FREEDOM"]', 'trials=2', 'width=8'],
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """A small run of each configuration, on request."""
    done = {}

    def result(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, run(tiny(name, *QUICK[name]), folder)
        return done[name]

    return result


def gain(row, reference, key='diff_vs_baseline'):
    """The difference of a row equals that of the means."""
    values = [x['test'][METRIC]['mean'] for x in (row, reference)]
    return row[key]['difference'] == pytest.approx(values[0] - values[1], abs=1e-6)


@pytest.mark.parametrize('name', QUICK)
def test_a_finished_benchmark_is_repeated_from_its_cache(name, results, monkeypatch):
    folder, first = results(name)
    for function in ('train', 'distill'):
        monkeypatch.setattr(runner, function, lambda *_, **__: pytest.fail('trained'))
    again = run(tiny(name, *QUICK[name]), folder)
    measured = ('costs',)
    assert {k: v for k, v in again.items() if k not in measured} == {
        k: v for k, v in first.items() if k not in measured
    }
    assert first['test_reads'] == 1
    assert json.loads(json.dumps(first['protocol'])) == first['protocol']


@pytest.mark.parametrize('name', QUICK)
def test_every_row_is_in_the_table(name, results):
    folder, result = results(name)
    text = render(folder / f'{name}-synthetic.json')
    assert text.startswith('**synthetic**')
    for row in result['rows']:
        assert row['name'] in text
        for key, value in row.items():
            if key.startswith('diff_vs_') and name not in ('suite', 'losses'):
                assert f'{value["low"]:+.4f}' in text


def test_main_compares_students_with_everything(results):
    rows = rows_by_name(results('main')[1])
    assert list(rows) == [
        *('LightGCN', 'PromptMM', 'MatrixFactorization student'),
        *('MatrixFactorization baseline', 'truncated teacher, width 4', 'EASE'),
    ]
    student = rows['MatrixFactorization student']
    for key, name in {
        'baseline': 'MatrixFactorization baseline',
        'truncated_teacher': 'truncated teacher, width 4',
        'teacher': 'PromptMM',
        'LightGCN': 'LightGCN',
        'EASE': 'EASE',
    }.items():
        assert gain(student, rows[name], f'diff_vs_{key}'), key
    assert gain(rows['PromptMM'], rows['LightGCN'], 'diff_vs_LightGCN')
    teacher = rows['PromptMM']['test'][METRIC]['mean']
    ratio = student['test'][METRIC]['mean'] / teacher
    assert student['retained_ratio'] == pytest.approx(ratio, abs=1e-6)
    assert (student['width'], student['parameters']) == (4, 4 * 170)
    assert (rows['EASE']['width'], rows['EASE']['parameters']) == (110, 110**2)
    assert set(student['test']) > {'Recall@10', 'NDCG@50', 'MRR@20'}


def test_the_baseline_has_its_own_penalty():
    config = load_config(f'{CONFIGS}/main.toml', datasets=['tiktok'])
    bench = type('Bench', (), {'dataset': config.datasets[0]})()
    bench.teacher = lambda arm: None
    entries = Main().named(bench)
    student = entries['MatrixFactorization student'].arm
    baseline = entries['MatrixFactorization baseline'].arm
    assert (student.params['l2'], baseline.params['l2']) == (0.01, 0.05)
    assert (student.recipe, baseline.recipe) == ('PromptMM', None)
    assert student.candidates['num_teacher_topk'] == 10


def test_losses_are_compared_at_every_width(results):
    rows = rows_of(results('losses')[1])
    names = ['baseline', 'ListwiseKDLoss', 'PromptMM', 'PromptMM, shuffled teacher']
    for width in (4, 8):
        for name in names[1:]:
            row = rows[name, width, 'random']
            assert gain(row, rows['baseline', width, 'random'])
            assert row['best_params'] == rows[name, 4, 'random']['best_params']
        cut = rows['truncated teacher', width, 'truncated teacher']
        assert gain(cut, rows['baseline', width, 'random'])
        assert 'diff_vs_baseline' not in rows['baseline', width, 'random']
    assert len(rows) == 2 * (len(names) + 1)


def test_only_the_baseline_is_tuned_at_every_width():
    config = tiny('losses', *QUICK['losses'])
    experiment = make_experiment(config)
    bench = experiment.bench(config.datasets[0], (0,), 'unused', 'cpu')
    for (width, _, name), entry in experiment.named(bench).items():
        tuned_width = entry.tuned_as.params['embedding_dim']
        assert tuned_width == (width if name == 'baseline' else 4)
        assert len(entry.trials) == (10 if name == 'baseline' else 3)


def test_widths_have_two_starts_and_costs(results):
    folder, result = results('widths')
    rows = rows_of(result)
    for start in ('random', 'truncated teacher'):
        row = rows['ListwiseKDLoss', 8, start]
        assert gain(row, rows['baseline', 8, start])
        cut = rows['truncated teacher', 8, 'truncated teacher']
        assert gain(row, cut, 'diff_vs_truncated_teacher')
    assert gain(cut, rows['baseline', 8, 'truncated teacher'])
    costs = {(row['name'], row['width']): row for row in result['costs']}
    assert len(costs) == 4
    assert costs['MatrixFactorization', 8]['bytes'] == 4 * 8 * 170
    assert costs['MatrixFactorization', 8]['parameters'] == 8 * 170
    write_result(folder / 'widths-synthetic.json', result)
    text = render(folder / 'widths-synthetic.json')
    assert f'{costs["MatrixFactorization", 4]["refresh"]["median_ms"]:.3f}' in text
    with pytest.raises(ValueError, match=r"'widths' must be at most 8, the teacher's"):
        run(tiny('widths', 'widths=[9]'), folder)


def test_a_shuffled_teacher_has_the_same_embeddings_of_other_nodes(tmp_path):
    bench = tiny_bench(tmp_path)
    torch.manual_seed(0)
    x_dict = {'user': torch.randn(60, 4), 'item': torch.randn(110, 4)}
    wrong = shuffled(SoftTargets(x_dict, {}), bench.train, seed=0)
    for key, x in x_dict.items():
        assert not torch.equal(wrong.x_dict[key], x)
        assert torch.equal(wrong.x_dict[key].sort(dim=0).values, x.sort(dim=0).values)
    assert wrong.top.item_index.size() == (60, 100)


def test_students_of_an_ensemble(results):
    result = results('ensemble')[1]
    *singles, together = result['teachers']
    names = [row['name'] for row in result['teachers']]
    assert names == ['PromptMM', 'GraphFilter', 'EASE', 'ensemble']
    for row in singles:
        weights = {name: float(name == row['name']) for name in names[:-1]}
        assert row['weights'] == [weights, weights]
    for weights in together['weights']:
        assert list(weights) == names[:-1]
        assert sum(weights.values()) == pytest.approx(1.0)
    rows = rows_of(result)
    for width in (4, 8):
        for name in names:
            row = rows[name, width]
            assert gain(row, rows['baseline', width])
            assert gain(row, rows['LightGCN', 8], 'diff_vs_LightGCN')
            assert gain(row, rows['EASE', 110], 'diff_vs_EASE')
            assert row['best_params']['score_scale'] in (1.0, 3.0)
            assert (f'{name}, truncated', width) in rows
    assert result['protocol']['EASE']['width'] in (8, 16)


def test_the_models_of_a_suite_teach(tmp_path):
    more = ['widths=[4]', 'closed_form_widths=[8]']
    models = 'models=["Popularity","EASE","LightGCN","FREEDOM"]'
    suite = [x for x in QUICK['suite'] if 'width' not in x]
    run(tiny('suite', *suite, models), tmp_path)
    path = tmp_path / 'suite-{dataset}.json'
    result = run(tiny('ensemble-suite', *more, f'suite={path}'), tmp_path)
    names = [row['name'] for row in result['teachers']]
    assert names[1:] == ['ensemble', 'ensemble of all seeds']
    members = ['EASE', 'LightGCN', 'FREEDOM']
    assert list(result['teachers'][1]['weights'][0]) == members
    # The seeds of every model are one teacher.
    weights = result['teachers'][2]['weights']
    assert weights[0] == weights[1]
    row = rows_of(result)['ensemble', 4]
    for name, width in (('LightGCN', 64), ('EASE', 110)):
        assert gain(row, rows_of(result)[name, width], f'diff_vs_{name}')
    # A reference that the suite lacks is left out.
    run(tiny('suite', *QUICK['suite']), tmp_path)
    result = run(tiny('ensemble-suite', *more, f'suite={path}'), tmp_path)
    assert [row['name'] for row in result['rows']][:2] == ['LightGCN', 'baseline']


def test_a_suite_of_other_data_is_an_error(results, tmp_path):
    path = results('suite')[0] / 'suite-synthetic.json'
    other = json.loads(path.read_text()) | {'dataset': 'other'}
    (tmp_path / 'x.json').write_text(json.dumps(other))
    suite = f'suite={tmp_path / "x.json"}'
    with pytest.raises(ValueError, match="'suite' requires a result on 'synthetic'"):
        run(tiny('ensemble-suite', 'widths=[4]', suite), tmp_path)


def test_an_ablation_has_each_option_all_and_all_but_each(results):
    rows = rows_by_name(results('ablation')[1])
    assert list(rows) == [
        *('plain', 'plain without prompt', 'denoise', 'graph', 'all options'),
        *('all but denoise', 'all but graph'),
    ]
    l2 = rows['plain']['best_params']['l2']
    both = {'denoise': True, 'item_graph_weight': 0.1, 'l2': l2}
    assert rows['all options']['best_params'] == both
    assert rows['all but graph']['best_params'] == {'denoise': True, 'l2': l2}
    assert l2 in (0.1, 3 * 0.1)
    for name, row in rows.items():
        if name != 'plain':
            assert gain(row, rows['plain'])
        assert ('diff_vs_all_options' in row) == name.startswith('all but')
        if name.startswith('all but'):
            assert gain(row, rows['all options'], 'diff_vs_all_options')


@pytest.mark.parametrize(
    ('name', 'shares'), [('missing', (0.0, 0.9)), ('noise', (0.0, 0.4))]
)
def test_variants_are_compared_with_the_first_at_every_share(results, name, shares):
    folder, result = results(name)
    rows = rows_of(result)
    first = result['rows'][0]['name']
    assert {row['share'] for row in result['rows']} == set(shares)
    for (variant, share), row in rows.items():
        if variant == first:
            assert 'diff_vs_baseline' not in row
        else:
            assert gain(row, rows[first, share])
    if name == 'missing':
        # Without content, nothing is missing.
        low, high = (rows[first, share] for share in shares)
        assert low['test'] == high['test']
        assert low['missing_ratio'] < 0.5 < high['missing_ratio']
        assert rows['zero', 0.9]['test'] != rows['zero', 0.0]['test']
        plot(result, folder / 'missing.png')
        assert (folder / 'missing.png').read_bytes()[:4] == b'\x89PNG'
    assert f'{shares[1]:.0%} of items' in render(folder / f'{name}-synthetic.json')


def test_shortcuts_are_compared_within_their_group(results):
    rows = rows_of(results('shortcuts')[1])
    groups = {group for _, group in rows}
    assert groups == {'LightGCN', 'PromptMM', 'MatrixFactorization'}
    for (name, group), row in rows.items():
        assert ('diff_vs_baseline' in row) == (name != 'exact')
        if name != 'exact':
            assert gain(row, rows['exact', group])
    lazy = rows["optimizer='lazy'", 'MatrixFactorization']
    assert lazy['best_params']['learning_rate'] in (3e-3, 1e-2)


def test_options_of_variants_are_checked(tmp_path):
    for override, message in {
        'corruption=other': "'corruption' must be one of None, 'missing'",
        'arms=[{name="a"}]': "'arms' must have 'name' and 'model'",
        'arms=[{name="a",model="b"}]': "'model' must be one of",
        'pattern=rows': "'pattern' must be one of",
    }.items():
        with pytest.raises(ValueError, match=message):
            run(tiny('missing', override), tmp_path)


def test_cold_items_are_ranked_alone_and_among_all(results):
    folder, result = results('cold')
    rows = rows_by_name(result)
    assert list(rows) == [
        *('random', 'popularity', 'VBPR', 'CLCRec', 'PromptMM'),
        *('MatrixFactorization baseline', 'MatrixFactorization student'),
    ]
    # Popularity orders cold items by chance.
    assert rows['popularity']['test_cold'] == rows['random']['test_cold']
    assert rows['popularity']['test'] != rows['random']['test']
    student = rows['MatrixFactorization student']
    values = [
        rows[f'MatrixFactorization {role}']['test_cold'][METRIC]['mean']
        for role in ('student', 'baseline')
    ]
    difference = student['diff_vs_baseline']['difference']
    assert difference == pytest.approx(values[0] - values[1], abs=1e-6)
    assert result['cold_items']['test'] > 0
    plot(result, folder / 'cold.png')
    assert (folder / 'cold.png').read_bytes()[:4] == b'\x89PNG'


def test_a_suite_has_all_trials_and_costs(results):
    folder, result = results('suite')
    rows = rows_by_name(result)
    for name, row in rows.items():
        values = [trial['validation'] for trial in row['trials']]
        assert len(values) == 2
        assert row['best_params'] == row['trials'][values.index(max(values))]['params']
        assert row['trials'][0]['params'] == SEARCH_SPACES[name].defaults
        assert row['validation']['seeds'][0] == max(values)
        seconds = [trial['seconds'] for trial in row['trials']] + row['seconds'][1:]
        assert row['seconds_total'] == pytest.approx(sum(seconds))
        assert set(row['test']) == {'Recall@10', METRIC, 'Recall@50', 'NDCG@20'}
    assert rows['LightGCN']['parameters'] == 8 * 170
    assert len(rows['LightGCN']['seconds']) == 2
    assert len(rows['Popularity']['seconds']) == 1
    assert f'{suite_minutes(result):.0f} minutes' in render(
        folder / 'suite-synthetic.json'
    )
    plot(result, folder / 'suite.png')
    assert (folder / 'suite.png').read_bytes()[:4] == b'\x89PNG'


def test_differences_can_be_computed_again_from_the_per_user_values(results):
    folder, result = results('suite')
    arrays = np.load(folder / result['per_user'])
    rows = rows_by_name(result)
    assert list(arrays) == ['users', *rows]
    tables = {name: torch.from_numpy(arrays[name]) for name in rows}
    for reference in {'LightGCN', result['best']}:
        for name, values in compare(tables, reference).items():
            assert rows[name][f'diff_vs_{reference}'] == values
    for name, table in tables.items():
        expected = rows[name]['test'][METRIC]['mean']
        assert float(table.mean()) == pytest.approx(expected, abs=1e-6)


def test_models_are_added_as_if_all_had_run_at_once(results, tmp_path):
    _, whole = results('suite')
    _, *more = QUICK['suite']
    run(tiny('suite', *more, 'models=["Popularity","LightGCN"]'), tmp_path)
    added = run(tiny('suite', *more, 'models=["FREEDOM"]', 'add=true'), tmp_path)
    for one, two in zip(whole['rows'], added['rows'], strict=True):
        for key in ('name', 'test', 'validation', 'diff_vs_LightGCN', 'best_params'):
            assert one.get(key) == two.get(key)
    with pytest.raises(ValueError, match=r"same protocol \(got 'trials' 2 in"):
        run(tiny('suite', 'models=["EASE"]', 'add=true', 'trials=3'), tmp_path)
    with pytest.raises(ValueError, match="'add' requires a result to add to"):
        run(tiny('suite', 'add=true'), tmp_path / 'empty')


def test_entries_train_in_processes_of_their_own(tmp_path):
    config = tiny('suite', 'models=["MatrixFactorization"]', 'trials=1', seeds=[0])
    result = run(config, tmp_path, jobs=2)
    (row,) = result['rows']
    assert row['threads'] == [1]
    assert not [key for key in row if key.startswith('diff_vs_')]


def small_suite(test, above=(), trials=2, seconds=60.0):
    """A suite's result, as far as it is compared; validation reverses test."""
    rows = []
    for name, x in test.items():
        row = {
            'name': name,
            'validation': {'mean': 1 - x, 'std': 0.0, 'seeds': [1 - x]},
            'test': {METRIC: {'mean': x, 'std': 0.01, 'seeds': [x]}},
            'seconds_total': seconds,
        }
        if name != 'LightGCN':
            p = 0.01 if name in above else 0.5
            gains = {'difference': x - test['LightGCN'], 'low': 0.0, 'high': 0.0}
            row['diff_vs_LightGCN'] = {**gains, 'holm_p': p}
        rows.append(row)
    return {
        'kind': 'suite',
        'name': 'suite',
        'dataset': 'synthetic',
        'seeds': [0, 1],
        'protocol': {'trials': trials, 'training': {'patience': 3 * trials}},
        'best': max(test, key=test.get),
        'rows': rows,
        'versions': {},
    }


def budget(tmp_path, small, large):
    for size, result in (('small', small), ('large', large)):
        (tmp_path / size).mkdir(exist_ok=True)
        write_result(tmp_path / size / 'suite-synthetic.json', result)
    overrides = [f'small={tmp_path / "small"}']
    config = load_config(
        f'{CONFIGS}/budget.toml', datasets=['synthetic'], overrides=overrides
    )
    return run(config, tmp_path / 'large')


def test_two_budgets_are_compared_by_rank_and_significance(tmp_path):
    test = {'A': 0.3, 'B': 0.2, 'LightGCN': 0.1, 'Worse': 0.05}
    # By hand: two neighbors of four swapped, 1 - 6 * 2 / (4 * 15).
    other = {'A': 0.2, 'B': 0.3, 'LightGCN': 0.1, 'Worse': 0.05, 'C': 0.9}
    small = small_suite(other, ('B', 'Worse'), seconds=90.0)
    result = budget(tmp_path, small, small_suite(test, ('A',), trials=4))
    assert result['spearman'] == pytest.approx(1 - 12 / 60)
    assert (result['small']['above'], result['large']['above']) == (['B'], ['A'])
    assert result['small']['minutes'] == pytest.approx(7.5)
    assert result['small']['best'] == 'C'
    text = render(tmp_path / 'large' / 'budget-synthetic.json')
    head = '2 trials, patience 6, 8 min of trainings | 4 trials, patience 12, 4 min'
    assert head in text
    # The best on validation first.
    assert '|---|---|---|\n| Worse | 0.0500 ± 0.0100 | 0.0500 ± 0.0100 |' in text
    assert text.endswith('\n| A | 0.2000 ± 0.0100 | 0.3000 ± 0.0100 * |')
    assert '| C |' not in text


def test_budgets_require_two_models_in_common(tmp_path):
    with pytest.raises(ValueError, match=r"in common \(got \['LightGCN'\]\)"):
        budget(
            tmp_path,
            small_suite({'LightGCN': 0.1, 'C': 0.9}),
            small_suite({'LightGCN': 0.1, 'A': 0.3}),
        )
    config = load_config(f'{CONFIGS}/budget.toml', datasets=['synthetic'])
    with pytest.raises(ValueError, match="'small' requires results of the suite"):
        Budget(small=str(tmp_path / 'none')).check(config.datasets[0], tmp_path)


def test_the_minutes_of_a_suite_may_be_unknown():
    result = small_suite({'LightGCN': 0.1, 'A': 0.3})
    assert suite_minutes(result) == pytest.approx(2)
    del result['rows'][0]['seconds_total']
    assert suite_minutes(result) is None


def test_every_kind_is_documented():
    guide = Path('docs/guides/benchmarks.md').read_text()
    for name, cls in KINDS.items():
        assert f'`{name}`' in guide
        assert cls.__doc__


def test_the_command_runs_a_configuration_and_prints_a_result(tmp_path, capsys):
    sets = [
        x
        for text in [*TINY, 'models=["EASE","LightGCN"]', 'trials=1']
        for x in ('--set', text)
    ]
    folders = ['--out', str(tmp_path), '--work', str(tmp_path / 'work')]
    command = ['benchmark', f'{CONFIGS}/suite.toml', '--dataset', 'synthetic']
    assert main([*command, '--seeds', '0', '--jobs', '0', *sets, *folders]) == 0
    out = capsys.readouterr().out
    path = tmp_path / 'suite-synthetic.json'
    assert f'written: {path}' in out
    image = tmp_path / 'x.png'
    assert main(['benchmark', str(path), '--plot', str(image)]) == 0
    assert capsys.readouterr().out.strip() in out
    assert image.exists()
    assert main(['benchmark', str(tmp_path / 'none.toml')]) == 2
    assert 'must be a configuration (TOML) or result (JSON)' in capsys.readouterr().err
    assert main([*command, '--plot', 'x.png']) == 2
    assert "'--plot' requires a result file" in capsys.readouterr().err


def test_a_mean_is_that_of_the_seeds_where_only_they_were_written():
    assert mean({'seeds': [1.0, 2.0]}) == 1.5
    assert mean({'mean': 3.0, 'seeds': [1.0]}) == 3.0
