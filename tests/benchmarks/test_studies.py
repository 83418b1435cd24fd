import sys
from itertools import product

import pytest
import torch

import promptmm_pyg.losses
from benchmarks.report import plot, render
from benchmarks.studies.ablation import PARTS, part_losses
from benchmarks.studies.distillation import LOSSES, shuffled
from promptmm_pyg.benchmark import load_config
from promptmm_pyg.benchmark.experiments import make_experiment
from promptmm_pyg.benchmark.result import load_result, rows_by_name, write_result
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.distillation import CandidateSampling, distill
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import TrainingConfig
from tests.benchmark.setting import (
    CONFIGS,
    METRIC,
    check_finished,
    gain,
    plotted,
    rows_of,
    run,
    small_run,
    tiny,
    tiny_bench,
    tiny_dataset,
)

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
SEARCH = ['search_trials=1', 'search_width=8']
QUICK = {
    'main': ['search_trials=3', 'search_width=8'],
    'losses': ['losses=["ListwiseKDLoss","PromptMM"]', 'widths=[4,8]', *SEARCH],
    'widths': [
        *SEARCH,
        *('losses=["ListwiseKDLoss"]', 'widths=[4,8]', 'tuned_width=4'),
        'cost_repeats=1',
    ],
    'ensemble': ['widths=[4,8]', 'closed_form_widths=[8,16]', *SEARCH],
    'starts': ['widths=[4]', 'closed_form_widths=[8]', 'search_trials=1'],
    'ablation': [
        'options={denoise=[{denoise=true}],graph=[{item_graph_weight=0.1}]}',
    ],
    'promptmm': [
        'parts=["PromptMM","without prompt","joint prompt","truncated start"]',
        *('students=["MatrixFactorization"]', 'width=4', 'teacher_l2=[1.0]'),
        *('weights=[1.0]', 'start_learning_rates=[1e-3]', 'baseline_l2=[1.0, 3.0]'),
    ],
    'prompts': [
        'conditions=["as given","columns on other scales"]',
        *('starts=["no prompt","PCA","interactions"]', 'l2=[1.0]'),
        'dataset.synthetic.students.LightGCN={embedding_dim=4,num_layers=1,l2=0.1}',
    ],
    'missing': ['shares=[0.0,0.9]'],
    'noise': ['dataset.synthetic.models.PromptMMPlus={embedding_dim=4,num_layers=1}'],
    'cold': ['trials={l2=[0.01,0.1]}'],
    'placement': ['trials={l2=[0.01]}', 'models=["VBPR"]'],
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """A small run of each configuration, on request."""
    done = {}

    def result(name):
        if name not in done:
            done[name] = small_run(name, QUICK[name], tmp_path_factory)
        return done[name]

    return result


@pytest.mark.parametrize('name', QUICK)
def test_a_finished_study_is_repeated_from_its_cache(name, results, monkeypatch):
    check_finished(name, QUICK[name], *results(name), monkeypatch)


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
    assert 'retained_ratio' in student
    assert (student['width'], student['parameters']) == (4, 4 * 170)
    assert (rows['EASE']['width'], rows['EASE']['parameters']) == (110, 110**2)
    assert set(student['test']) > {'Recall@10', 'NDCG@50', 'MRR@20'}


def test_every_row_of_main_is_tuned_by_equally_many_trials(results):
    folder, result = results('main')
    rows = rows_by_name(result)
    for name, row in rows.items():
        assert row['num_trials'] == (1 if name.startswith('truncated') else 3), name
    student, baseline = (
        rows[f'MatrixFactorization {name}']['best_params']
        for name in ('student', 'baseline')
    )
    assert set(student) - set(baseline) in ({'weight'}, {'start'})
    # The suite has the same LightGCN, from the same trainings.
    options = ['models=["LightGCN"]', 'trials=3', 'width=8', 'training={}']
    config = tiny('suite', *options)
    cached = set((folder / 'work').iterdir())
    assert (
        run(config, folder)['rows'][0]['test'][METRIC]
        == (rows['LightGCN']['test'][METRIC])
    )
    assert set((folder / 'work').iterdir()) == cached


def test_losses_are_compared_at_every_width(results):
    rows = rows_of(results('losses')[1])
    names = ['ListwiseKDLoss', 'PromptMM', 'PromptMM, shuffled teacher']
    for width in (4, 8):
        baseline = rows.pop(('baseline', width, 'random'))
        assert 'diff_vs_baseline' not in baseline
        cut = rows.pop(('truncated teacher', width, 'truncated'))
        for row in (cut, *(rows[name, width, 'random'] for name in names)):
            assert gain(row, baseline)
    for name in names:
        first, second = (rows.pop((name, width, 'random')) for width in (4, 8))
        assert first['best_params'] == second['best_params']
    assert not rows


def test_only_the_baseline_is_tuned_at_every_width(tmp_path):
    config = tiny('losses', *QUICK['losses'])
    experiment = make_experiment(config)
    bench = experiment.bench(config.datasets[0], (0,), tmp_path, 'cpu')
    for entry in experiment.entries(bench):
        if entry.tuned_as is not None:
            tuned_width = entry.tuned_as.params['embedding_dim']
            baseline = entry.name == 'baseline'
            assert tuned_width == (entry.factors['width'] if baseline else 4)
            assert len(entry.trials) == 4


def test_widths_have_two_starts_and_costs(results):
    folder, result = results('widths')
    rows = rows_of(result)
    cut = rows['truncated teacher', 8, 'truncated']
    for start in ('random', 'truncated'):
        row = rows['ListwiseKDLoss', 8, start]
        assert gain(row, rows['baseline', 8, start])
        assert gain(row, cut, 'diff_vs_truncated_teacher')
    assert gain(cut, rows['baseline', 8, 'truncated'])
    costs = {(row['name'], row['width']): row for row in result['costs']}
    assert len(costs) == 4
    student = costs['MatrixFactorization', 8]
    assert (student['bytes'], student['parameters']) == (4 * 8 * 170, 8 * 170)
    write_result(folder / 'widths-synthetic.json', result)
    text = render(folder / 'widths-synthetic.json')
    assert f'{student["refresh"]["median_ms"]:.3f}' in text
    with pytest.raises(ValueError, match=r"'widths' must be at most 8, the teacher's"):
        run(tiny('widths', 'widths=[9]', *SEARCH), folder)


def test_a_shuffled_teacher_has_the_embeddings_of_other_nodes(tmp_path):
    bench = tiny_bench(tmp_path)
    x_dict = {'user': torch.randn(60, 4), 'item': torch.randn(110, 4)}
    permuted = shuffled(SoftTargets(x_dict, {}), bench.train, seed=0).x_dict
    for key, x in x_dict.items():
        assert not torch.equal(permuted[key], x)
        assert torch.equal(permuted[key].sort(dim=0).values, x.sort(dim=0).values)


def test_starts_of_students(results):
    result = results('starts')[1]
    rows = {(r['name'], r.get('student'), r.get('start')): r for r in result['rows']}
    cut = rows['ensemble, truncated teacher', '', None]
    for student in ('MatrixFactorization', 'LightGCN'):
        started = rows['ensemble', student, 'truncated']
        # No epoch is restored that is worse than the start.
        assert started['validation']['mean'] >= cut['validation']['mean'] - 0.01
        assert {'random', 'truncated'} <= {
            start for _, name, start in rows if name == student
        }
        assert gain(started, cut, 'diff_vs_truncated_teacher')


def test_students_of_an_ensemble(results):
    result = results('ensemble')[1]
    names = [row['name'] for row in result['teachers']]
    assert names == ['PromptMM', 'GraphFilter', 'EASE', 'ensemble']
    *singles, ensemble = (row['weights'] for row in result['teachers'])
    for name, weights in zip(names, singles, strict=False):
        assert weights == [{part: float(part == name) for part in names[:-1]}] * 2
    for weights in ensemble:
        assert list(weights) == names[:-1]
        assert sum(weights.values()) == pytest.approx(1.0)
    rows = rows_of(result)
    for width, name in product((4, 8), names):
        row = rows[name, width]
        assert gain(row, rows['baseline', width])
        assert gain(row, rows['LightGCN', 8], 'diff_vs_LightGCN')
        assert gain(row, rows['EASE', 110], 'diff_vs_EASE')
        assert row['best_params']['score_scale'] in (1.0, 3.0)
        assert (f'{name}, truncated', width) in rows
    assert result['protocol']['EASE']['width'] in (8, 16)


def test_the_models_of_a_suite_are_teachers(tmp_path):
    options = ['widths=[4]', 'closed_form_widths=[8]', *SEARCH]
    options.append(f'suite={tmp_path}/suite-{{dataset}}.json')
    models = 'models=["Popularity","EASE","LightGCN","FREEDOM"]'
    run(tiny('suite', 'trials=2', models), tmp_path)
    result = run(tiny('ensemble-suite', *options), tmp_path)
    _, ensemble, all_seeds = result['teachers']
    assert (ensemble['name'], all_seeds['name']) == (
        'ensemble',
        'ensemble of all seeds',
    )
    assert list(ensemble['weights'][0]) == ['EASE', 'LightGCN', 'FREEDOM']
    assert all_seeds['weights'][0] == all_seeds['weights'][1]
    rows = rows_of(result)
    for name, width in (('LightGCN', 64), ('EASE', 110)):
        assert gain(rows['ensemble', 4], rows[name, width], f'diff_vs_{name}')
    # A reference that the suite lacks is left out.
    run(tiny('suite', 'trials=1', 'models=["LightGCN","FREEDOM"]'), tmp_path)
    result = run(tiny('ensemble-suite', *options), tmp_path)
    assert [row['name'] for row in result['rows']][:2] == ['LightGCN', 'baseline']
    other = load_result(tmp_path / 'suite-synthetic.json') | {'dataset': 'other'}
    write_result(tmp_path / 'suite-synthetic.json', other)
    with pytest.raises(ValueError, match="'suite' must be a result on 'synthetic'"):
        run(tiny('ensemble-suite', *options), tmp_path)


def test_an_ablation_has_each_option_all_and_all_but_each(results):
    rows = rows_by_name(results('ablation')[1])
    assert list(rows) == [
        *('plain', 'plain without prompt', 'denoise', 'graph', 'all options'),
        *('all but denoise', 'all but graph'),
    ]
    l2 = rows['plain']['best_params']['l2']
    assert l2 in (0.1, 3 * 0.1)
    both = {'denoise': True, 'item_graph_weight': 0.1, 'l2': l2}
    assert rows['all options']['best_params'] == both
    assert rows['all but graph']['best_params'] == {'denoise': True, 'l2': l2}
    plain, full = rows.pop('plain'), rows['all options']
    for name, row in rows.items():
        assert gain(row, plain)
        if name.startswith('all but'):
            assert gain(row, full, 'diff_vs_all_options')


@pytest.mark.parametrize(
    ('name', 'shares'), [('missing', (0.0, 0.9)), ('noise', (0.0, 0.4))]
)
def test_variants_are_compared_with_the_first_at_every_share(results, name, shares):
    folder, result = results(name)
    rows = rows_of(result)
    first = result['rows'][0]['name']
    assert {share for _, share in rows} == set(shares)
    for (variant, share), row in rows.items():
        assert ('diff_vs_baseline' in row) == (variant != first)
        assert variant == first or gain(row, rows[first, share])
    assert f'{shares[1]:.0%} of items' in render(folder / f'{name}-synthetic.json')
    if name == 'missing':
        # LightGCN uses no content.
        low, high = (rows[first, share] for share in shares)
        assert low['test'] == high['test']
        assert low['missing_ratio'] < 0.5 < high['missing_ratio']
        assert rows['zero', 0.9]['test'] != rows['zero', 0.0]['test']
        plot(result, folder / 'missing.png')
        plotted(folder / 'missing.png')


@pytest.mark.parametrize('override', ['corruption=other', 'pattern=rows'])
def test_options_of_corruption_are_checked(override, tmp_path):
    with pytest.raises(ValueError, match=f"'{override.split('=')[0]}' must be one of"):
        run(tiny('missing', override), tmp_path)


@pytest.mark.parametrize(
    ('name', 'override', 'message'),
    [
        ('losses', 'losses=["KD"]', "'losses' must be one of .*'PairwiseKDLoss'"),
        ('losses', 'student=MF', "'student' must be one of .*'MatrixFactorization'"),
        ('losses', 'starts=["cut"]', "'starts' must be one of 'random', 'truncated"),
        ('losses', 'trials=[{l1=1}]', r"'student.MatrixFactorization' .*\['l1'\]"),
        ('ablation', 'model=X', "'model' must be one of .*'PromptMMPlus'"),
        (
            'ablation',
            'options={a=[{gate=1}]}',
            r"PromptMMPlus' .*'denoise'.*\['gate'\]",
        ),
        ('cold', 'models=["X"]', "'models' must be one of .*'CLCRec'.* \\(got 'X'"),
        ('placement', 'models=["X"]', "'models' must be one of .*'VBPR'"),
        ('suite', 'models=["X"]', "'models' must be one of 'Popularity'"),
        ('promptmm', 'parts=["view"]', "'parts' must be one of .*'fused view'"),
        ('promptmm', 'students=["X"]', "'students' must be one of 'MatrixFact"),
        ('prompts', 'starts=["X"]', "'starts' must be one of .*'PCA'"),
        ('noise', 'corruption=X', "'corruption' must be one of 'missing', 'noise'"),
    ],
)
def test_unknown_names_are_errors_that_list_the_known(
    name, override, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        run(tiny(name, override), tmp_path)
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('name', QUICK)
def test_every_read_of_test_is_a_counted_one_of_a_row(name, results, monkeypatch):
    folder, result = results(name)
    config = tiny(name, *QUICK[name])
    (dataset,) = config.datasets
    experiment = make_experiment(config)
    bench = experiment.bench(dataset, config.seeds, folder / 'work', 'cpu')
    positives = bench.split.test[INTERACTS].edge_label_index
    reads, original = [], evaluate

    def observed(scores, data, **options):
        reads.append(torch.equal(data[INTERACTS].edge_label_index, positives))
        return original(scores, data, **options)

    for module in list(sys.modules.values()):
        if getattr(module, 'evaluate', None) is original:
            monkeypatch.setattr(module, 'evaluate', observed)
    experiment.entries(bench)  # Tunes.
    assert not any(reads)
    experiment.run(bench, dataset, folder)
    assert set(bench.test_reads.values()) == {1}
    assert sum(reads) == bench.test_reads.total()
    rows = [*result['rows'], *result.get('teachers', ())]
    tested = [row[key][METRIC]['seeds'] for row in rows for key in bench.test_items]
    # Equal models in several rows are read once.
    assert sum(reads) <= sum(map(len, tested))


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
    assert gain(student, rows['MatrixFactorization baseline'], test='test_cold')
    assert result['cold_items']['test'] > 0
    plot(result, folder / 'cold.png')
    plotted(folder / 'cold.png')


def small_suite(path, test, above=(), trials=2, seconds=60.0):
    """Writes a suite's result, as far as it is compared; validation reverses test."""
    rows = [
        {
            'name': name,
            'validation': {'mean': 1 - x, 'seeds': [1 - x]},
            'test': {METRIC: {'mean': x, 'std': 0.01, 'seeds': [x]}},
            'seconds_total': seconds,
            'diff_vs_LightGCN': {
                'difference': x - test['LightGCN'],
                'low': 0.0,
                'high': 0.0,
                'holm_p': 0.01 if name in above else 0.5,
            },
        }
        for name, x in test.items()
    ]
    protocol = {'trials': trials, 'training': {'patience': 3 * trials}}
    head = {'kind': 'suite', 'name': 'suite', 'dataset': 'synthetic', 'seeds': [0, 1]}
    best = max(test, key=test.get)
    result = {**head, 'protocol': protocol, 'best': best, 'rows': rows, 'versions': {}}
    write_result(path / 'suite-synthetic.json', result)


def test_two_budgets_are_compared_by_rank_and_significance(tmp_path):
    small, large = tmp_path / 'small', tmp_path / 'large'
    config = load_config(
        f'{CONFIGS}/budget.toml', datasets=['synthetic'], overrides=[f'small={small}']
    )
    with pytest.raises(ValueError, match="'small' must be a folder with results of"):
        run(config, large)
    test = {'A': 0.3, 'B': 0.2, 'LightGCN': 0.1, 'Worse': 0.05}
    # By hand: two neighbors of four swapped, 1 - 6 * 2 / (4 * 15).
    other = {'A': 0.2, 'B': 0.3, 'LightGCN': 0.1, 'Worse': 0.05, 'C': 0.9}
    small_suite(small, other, ('B', 'Worse'), seconds=90.0)
    small_suite(large, test, ('A',), trials=4)
    result = run(config, large)
    assert result['spearman'] == pytest.approx(1 - 12 / 60)
    assert (result['small']['above'], result['large']['above']) == (['B'], ['A'])
    assert result['small']['minutes'] == pytest.approx(7.5)
    assert result['small']['best'] == 'C'
    text = render(large / 'budget-synthetic.json')
    head = '2 trials, patience 6, 8 min of trainings | 4 trials, patience 12, 4 min'
    assert head in text
    # The best on validation first.
    assert '|---|---|---|\n| Worse | 0.0500 ± 0.0100 | 0.0500 ± 0.0100 |' in text
    assert text.endswith('\n| A | 0.2000 ± 0.0100 | 0.3000 ± 0.0100 * |')
    assert '| C |' not in text
    small_suite(small, {'LightGCN': 0.1, 'C': 0.9})
    with pytest.raises(ValueError, match=r"in common \(got \['LightGCN'\]\)"):
        run(config, large)


def test_every_distillation_loss_is_compared():
    modules = {
        name
        for name in promptmm_pyg.losses.__all__
        if name[0].isupper() and not name.endswith(('Terms', 'Weights'))
    }
    of_interactions = {'BPRLoss', 'SampledSoftmaxLoss'}
    compared = {name.partition(',')[0] for name in LOSSES}
    assert compared - {'PromptMM', 'TARec', 'FDRec'} <= modules - of_interactions
    missing = modules - of_interactions - compared
    assert not {name for name in missing if name.endswith('KDLoss')}


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_reaches_the_student(name):
    torch.manual_seed(0)
    sizes = {'user': 60, 'item': 110}
    x_dict = {key: torch.randn(size, 8) for key, size in sizes.items()}
    targets = SoftTargets(x_dict, {})
    student = MatrixFactorization(sizes, embedding_dim=4)
    before = {key: x.detach().clone() for key, x in student().items()}
    losses = LOSSES[name].make(targets, 4, 7.0)
    assert {loss.weight for loss in losses} == {7.0}
    distill(
        student,
        targets,
        tiny_dataset().read(),
        losses=losses,
        loss_weights={'bpr': 0.0, 'l2': 0.0},
        candidates=CandidateSampling(5, 5, 5),
        baseline=False,
        config=TrainingConfig(epochs=1, progress=False),
    )
    for key, x in student().items():
        assert not torch.equal(before[key], x), key


def test_the_parts_of_promptmm_are_compared_with_all_of_them(results):
    rows = rows_by_name(results('promptmm')[1])
    students = ('PromptMM', 'without prompt', 'joint prompt', 'truncated start')
    assert list(rows) == [
        *('teacher', 'teacher without prompt', 'truncated teacher', 'baseline'),
        *students,
    ]
    for name in students:
        references = {'baseline', 'truncated_teacher', 'full'}
        assert references - ({'full'} if name == 'PromptMM' else set()) == {
            key.removeprefix('diff_vs_') for key in rows[name] if 'diff_vs_' in key
        }
    assert 'teacher_validation' in rows['joint prompt']
    assert 'teacher_validation' not in rows['PromptMM']


def test_each_part_of_promptmm_changes_what_it_is_named_after():
    made = {
        name: part_losses(part.losses).make(None, 4, 2.0)
        for name, part in PARTS.items()
    }
    every = ['pairwise', 'listwise', 'embedding']
    for name, losses in made.items():
        left_out = name.removeprefix('without ').replace('-', '')
        assert [x.name for x in losses] == [x for x in every if x != left_out]
        assert {x.weight for x in losses} == {2.0}
        views = {'fused view': 'fused', 'all views': 'all'}
        expected = views.get(name.partition(',')[0], 'modalities')
        for loss in losses:
            assert getattr(loss, 'views', expected) == expected
    modes = {
        name: losses[-2].loss.listwise
        for name, losses in made.items()
        if len(losses) == 3
    }
    assert [name for name, mode in modes.items() if mode == 'kl'] == [
        'coupled list-wise'
    ]
    assert len({part_losses(part.losses).key for part in PARTS.values()}) == 7
