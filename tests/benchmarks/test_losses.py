import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import promptmm_pyg.losses
from benchmarks import losses, report, run, settings
from benchmarks.recipes import RECIPES, Context
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import Schedule, normalized_adj_dict
from tests.training.setting import make_split, make_teacher

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    setting = replace(settings.SETTINGS['synthetic'], epochs=1, validate_every=1)
    monkeypatch.setitem(settings.SETTINGS, 'synthetic', setting)
    split = split_per_user(make_synthetic_dataset(60, 120, 4))
    for module in (run, losses):
        monkeypatch.setattr(module, 'read', lambda *_: split)
    schedule = Schedule(epochs=1, patience=1, progress=False)
    monkeypatch.setattr(losses, 'SCHEDULE', schedule)

    def start(module, *arguments):
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['x', 'synthetic', *arguments, *folders])
        module.main()

    def both():
        start(run, '--seeds', '0', '1')
        chosen = ['--losses', 'ListwiseKDLoss', 'PromptMM']
        start(losses, '--seeds', '0', '1', '--widths', '4', '8', *chosen)
        return tmp_path / 'losses-synthetic.json'

    both.losses = lambda: start(losses, '--seeds', '0', '--losses', 'PromptMM')
    return both


def test_every_distillation_loss_of_the_library_has_a_recipe():
    modules = {
        name
        for name in promptmm_pyg.losses.__all__
        if name[0].isupper() and not name.endswith(('Terms', 'Weights'))
    }
    # Those that compare with a teacher: all but the losses of interactions.
    of_interactions = {'BPRLoss', 'SampledSoftmaxLoss'}
    assert modules - of_interactions == set(RECIPES) - {'PromptMM'}


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_makes_a_loss_that_reaches_the_student(name):
    train, val, _ = make_split(80, 120)
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    torch.manual_seed(0)
    objective, shares = RECIPES[name](Context(targets, train, 4))
    sizes = {'user': 80, 'item': 120}
    start = MatrixFactorization(sizes, 4)
    before = {key: x.detach().clone() for key, x in start.embeddings().items()}
    losses.distill(
        start,
        targets,
        train,
        val,
        objective=objective,
        candidates=losses.CANDIDATES,
        weights={'bpr': 0.0, 'l2': 0.0, **shares},
        control=False,
        schedule=Schedule(epochs=1, progress=False),
    )
    for key, x in start.embeddings().items():
        assert not torch.equal(before[key], x), key


def test_the_result_holds_control_losses_and_the_shuffled_teacher(quick):
    path = quick()
    result = json.loads(path.read_text())
    names = {row['name'] for row in result['losses']}
    assert names == {
        'control',
        'ListwiseKDLoss',
        'PromptMM',
        'PromptMM, shuffled teacher',
        'teacher cut, untrained',
    }
    for row in result['losses']:
        assert row['width'] in (4, 8)
        assert len(row['test']['seeds']) == 2
        assert ('difference' in row) == (row['name'] != 'control')
    text = report.render(path)
    (line,) = (x for x in text.splitlines() if x.startswith('| ListwiseKDLoss |'))
    assert f'{result["losses"][1]["test"]["mean"]:.4f}' in line


def test_what_is_chosen_is_the_best_on_validation(quick, monkeypatch):
    quick()
    values = {losses.TRIALS[0]: 0.1, losses.TRIALS[1]: 0.3, losses.TRIALS[2]: 0.2}
    monkeypatch.setattr(
        losses.Bench,
        'outcome',
        lambda self, name, trial, width, seed: {'validation': values[trial]},
    )
    split = split_per_user(make_synthetic_dataset(60, 120, 4))
    bench = losses.Bench(settings.SETTINGS['synthetic'], split, Path())
    assert losses.choose(bench, 'PromptMM', 4, 0) == losses.TRIALS[1]


def test_only_the_control_is_chosen_at_every_width(quick, monkeypatch):
    asked, choose = set(), losses.choose

    def spy(bench, name, width, seed):
        asked.add((name, width, seed))
        return choose(bench, name, width, seed)

    monkeypatch.setattr(losses, 'choose', spy)
    quick()
    taught = ('ListwiseKDLoss', 'PromptMM', 'PromptMM, shuffled teacher')
    expected = {(name, 4, 0) for name in ('control', *taught)}
    assert asked == {*expected, ('control', 8, 0)}


def test_finished_trials_are_not_run_again(quick, monkeypatch):
    path = quick()
    first = path.read_text()
    monkeypatch.setattr(losses.Bench, '_train', lambda *_: pytest.fail('ran again'))
    assert quick().read_text() == first


def test_a_teacher_is_asked_for(quick):
    with pytest.raises(SystemExit, match=r'no teacher of seed 0\. Run'):
        quick.losses()


def test_a_shuffled_teacher_says_the_same_about_other_nodes():
    train, _, _ = make_split(60, 120)
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    wrong = losses.shuffled(targets, train, seed=0)
    for key, x in targets.x_dict.items():
        assert not torch.equal(wrong.x_dict[key], x)
        torch.testing.assert_close(
            wrong.x_dict[key].sort(dim=0).values, x.sort(dim=0).values
        )
