from dataclasses import replace

import pytest
import torch

from promptmm_pyg.benchmark import runner
from promptmm_pyg.benchmark.entries import (
    PROMPTMM,
    STARTED,
    Arm,
    Entry,
    Losses,
    Teacher,
    Variant,
    truncated,
)
from promptmm_pyg.distillation import truncate_embeddings
from promptmm_pyg.models import MatrixFactorization
from tests.benchmark.setting import gain, tiny_bench

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
TRAINING = {'epochs': 1, 'batch_size': 128}
MF = Arm('MatrixFactorization', {'embedding_dim': 4}, TRAINING)


@pytest.fixture
def bench(tmp_path):
    return tiny_bench(tmp_path)


def teacher(bench):
    return bench.teacher(Arm('PromptMM', {'embedding_dim': 8}, TRAINING))


def test_a_training_depends_on_its_parameters_and_seed_alone(bench, tmp_path):
    def item_x(folder, arm=MF, seed=0, **params):
        torch.rand(7)  # Earlier draws have no effect.
        return tiny_bench(tmp_path / folder).x_dict(arm, params, seed)['item']

    first = item_x('a')
    assert torch.equal(item_x('b'), first)
    assert not torch.equal(item_x('a', seed=1), first)
    for params in ({'learning_rate': 0.1}, {'l2': 0.5}):
        assert not torch.equal(item_x('a', **params), first), params
    smaller = replace(MF, training={'epochs': 1, 'batch_size': 64})
    assert not torch.equal(item_x('a', smaller), first)


def test_the_outcome_has_its_costs_and_is_read_from_the_cache(bench, monkeypatch):
    outcome = bench.outcome(MF, {}, 0)
    assert outcome['parameters'] == 4 * (60 + 110)
    assert outcome['epoch'] == 1
    assert outcome['seconds'] > outcome['seconds_per_epoch'] > 0
    assert outcome['peak_mib'] > 10
    monkeypatch.setattr(runner, 'train', lambda *_, **__: pytest.fail('trained again'))
    again = bench.outcome(MF, {}, 0)
    assert again['seconds'] == outcome['seconds']
    assert torch.equal(again['x_dict']['user'], outcome['x_dict']['user'])


def test_the_cache_depends_on_features_validation_and_every_part_of_an_arm(tmp_path):
    def path(arm=MF, params=(), change=lambda _: None, seed=0):
        other = tiny_bench(tmp_path)
        other.split = other.split._replace(train=other.split.train.clone())
        change(other.split)
        return other.path(arm, dict(params), seed)

    def features(split):
        split.train['item'].x_text[0, 0] += 1

    def positives(split):
        index = split.val['user', 'interacts', 'item'].edge_label_index
        index[1, 0] = (index[1, 0] + 1) % 110

    one = Teacher('one', None)
    arms = [
        MF,
        replace(MF, params={'embedding_dim': 5}),
        replace(MF, training={'epochs': 3}),
        replace(MF, losses=PROMPTMM, teacher=one),
        replace(MF, losses=Losses('other', None), teacher=one),
        replace(MF, losses=PROMPTMM, teacher=Teacher('two', None)),
        replace(MF, candidates={'num_uniform': 3}),
        replace(MF, start=STARTED),
        replace(MF, variant=Variant(['a'], None)),
        replace(MF, embeddings=one),
    ]
    paths = [path(arm) for arm in arms]
    paths += [path(change=features), path(change=positives)]
    paths += [path(params={'l2': 1.0}.items()), path(seed=1)]
    assert path() == paths[0]
    assert len(set(paths)) == len(paths)


def test_of_equal_trials_the_first_is_best_at_the_first_seed(bench, monkeypatch):
    seeds = []

    def value(arm, params, seed):
        seeds.append(seed)
        return {1: 0.1, 2: 0.3, 3: 0.3}[params['x']]

    monkeypatch.setattr(bench, 'trial_value', value)
    entry = Entry('mf', MF, tuple({'x': x} for x in (1, 2, 3)))
    params, trials = bench.best_params(entry)
    assert params == {'x': 2}
    assert [trial['validation'] for trial in trials] == [0.1, 0.3, 0.3]
    assert seeds == [0, 0, 0]


def test_an_entry_may_be_tuned_as_another_arm(bench, monkeypatch):
    other = replace(MF, params={'embedding_dim': 7})
    monkeypatch.setattr(
        bench, 'trial_value', lambda arm, params, _: params['x'] * (-1) ** (arm != MF)
    )
    trials = ({'x': 1}, {'x': 2})
    assert bench.best_params(Entry('mf', other, trials, MF))[0] == {'x': 2}
    assert bench.best_params(Entry('mf', other, trials))[0] == {'x': 1}


def test_validation_chooses_and_test_is_read_once(bench, monkeypatch):
    reads = []
    evaluate = runner.evaluate

    def observed(scores, data, **options):
        reads.append(data is bench.split.test)
        return evaluate(scores, data, **options)

    monkeypatch.setattr(runner, 'evaluate', observed)
    trials = {'l2': 0.01}, {'l2': 0.1}
    entry = Entry('mf', MF, trials, factors={'width': 4})
    closed_form = Entry('EASE', Arm('EASE'), ({'l2': 1.0}, {'l2': 10.0}))
    given = Entry('cut', truncated(teacher(bench), 4))
    for untested in (entry, closed_form, given):
        bench.runs(untested)
    assert reads
    assert not any(reads)
    for _ in range(2):
        row = bench.row(entry)
        bench.per_user(entry)
    assert sum(reads) == 2  # One per seed.
    assert set(bench.test_reads.values()) == {1}
    values = [bench.outcome(MF, t, 0)['validation'] for t in entry.trials]
    assert row['validation']['seeds'][0] == max(values)
    assert len(row['test']['Recall@20']['seeds']) == len(row['epochs']) == 2
    assert (row['name'], row['width']) == ('mf', 4)


def test_a_closed_form_has_one_seed_and_no_embeddings(bench):
    entry = Entry('EASE', Arm('EASE'), ({'l2': 10.0},))
    runs = bench.runs(entry)
    assert (len(runs.outcomes), 'x_dict' in runs.outcomes[0]) == (1, False)
    one, two = bench.per_user(entry)
    assert torch.equal(one, two)
    assert 'epochs' not in bench.row(entry)


def test_the_search_starts_at_the_defaults_and_continues_from_the_cache(tmp_path):
    space = MatrixFactorization.search_space
    complete = tiny_bench(tmp_path / 'a').search(MF, space, 4)
    first = tiny_bench(tmp_path / 'b').search(MF, space, 2)
    again = tiny_bench(tmp_path / 'b').search(MF, space, 4)
    params = [row['params'] for row in complete]
    assert params[:2] == space.first_trials()
    assert [row['params'] for row in again] == params
    assert [row['seconds'] for row in again[:2]] == [row['seconds'] for row in first]


def test_a_diverging_trial_is_the_worst(bench, monkeypatch):
    def diverge(*_, **__):
        raise FloatingPointError("'loss' must be finite")

    monkeypatch.setattr(runner, 'train', diverge)
    (row,) = bench.search(MF, MatrixFactorization.search_space, 1)
    assert (row['validation'], row['error']) == (0, "'loss' must be finite")
    with pytest.raises(RuntimeError, match=r'MatrixFactorization with .* no state to'):
        bench.test(MF, row['params'], 0)


def test_a_student_learns_from_its_teacher(bench):
    student = replace(MF, losses=PROMPTMM, teacher=teacher(bench))
    alone = bench.x_dict(MF, {}, 0)['item']
    distilled, heavier, sharper = (
        bench.x_dict(student, params, 0)['item']
        for params in ({}, {'weight': 10.0}, {'score_scale': 3.0})
    )
    for x in (alone, heavier, sharper):
        assert not torch.equal(x, distilled)
    targets = teacher(bench).targets(0)
    assert targets.top.item_index.size() == (60, 100)
    scores = targets.x_dict['user'] @ targets.x_dict['item'].t()
    scaled = runner.scale_scores(targets, 3.0).x_dict
    torch.testing.assert_close(scaled['user'] @ scaled['item'].t(), 3.0 * scores)


def test_a_start_from_the_truncated_teacher(bench):
    given = teacher(bench)
    still = {'learning_rate': 1e-12, 'l2': 0.0}
    arm = replace(MF, start=STARTED, teacher=given)
    start = truncate_embeddings(given.targets(0).x_dict, 4)
    x_dict = bench.x_dict(arm, still, 0)
    for key, x in start.items():
        torch.testing.assert_close(x_dict[key], x, rtol=0, atol=1e-6)


def test_embeddings_are_tested_as_they_are(bench, tmp_path):
    given = teacher(bench)
    entry = Entry('cut', truncated(given, 4))
    row = bench.row(entry, ['Recall@20'])
    x_dict = truncate_embeddings(given.targets(1).x_dict, 4)
    values = runner.evaluate(x_dict, bench.split.test, ks=(20,)).metrics
    assert row['test']['Recall@20']['seeds'][1] == values['Recall@20']
    assert row['validation']['seeds'][1] == bench.validate(x_dict)
    assert len(list(tmp_path.iterdir())) == 2  # The teacher alone is cached.


def test_a_row_is_compared_with_its_references(bench):
    one = Entry('one', MF)
    two = Entry(
        'two',
        replace(MF, params={'embedding_dim': 6}),
        references={'baseline': one},
        retained_of=one,
    )
    first, second = bench.row(one), bench.row(two)
    assert gain(second, first)
    ratio = second['test']['Recall@20']['mean'] / first['test']['Recall@20']['mean']
    assert second['retained_ratio'] == pytest.approx(ratio, abs=1e-6)
    assert 'diff_vs_baseline' not in first


def test_a_variant_is_another_training_graph(bench):
    def without_text(split):
        train = bench.dataset.prepare(split.train)
        del train['item'].x_text
        return train

    arm = Arm('VBPR', {'embedding_dim': 4}, TRAINING)
    other = replace(arm, variant=Variant(['no text'], without_text))
    assert 'x_text' not in bench.graph(other.variant)['item']
    assert 'x_text' in bench.train['item']
    one, two = (bench.x_dict(a, {}, 0)['item'].size(1) for a in (arm, other))
    assert one > two
