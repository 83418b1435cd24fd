import hashlib
import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import losses, report, run, settings, widths
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.distillation import truncate_embeddings
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')

TRIAL = losses.Trial(1.0, 0.01)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    setting = replace(
        settings.SETTINGS['synthetic'],
        epochs=1,
        validate_every=1,
        teacher={'embedding_dim': 8, 'num_layers': 2, 'self_loop_weight': 1.0},
    )
    monkeypatch.setitem(settings.SETTINGS, 'synthetic', setting)
    split = split_per_user(make_synthetic_dataset(60, 120, 4))
    for module in (run, widths):
        monkeypatch.setattr(module, 'read', lambda *_: split)
    schedule = Schedule(epochs=1, patience=1, progress=False)
    for module in (losses, widths):
        monkeypatch.setattr(module, 'SCHEDULE', schedule)

    def start(module, *arguments):
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['x', 'synthetic', *arguments, *folders])
        module.main()

    def both(*arguments):
        start(run, '--seeds', '0', '1')
        given = ['--seeds', '0', '1', '--widths', '4', '8', '--repeats', '2']
        few = ['--chosen-at', '4', '--losses', 'ScaledCosineLoss', 'PromptMM']
        start(widths, *given, *few, *arguments)
        return tmp_path / 'widths-synthetic.json'

    both.bench = losses.Bench(setting, split, tmp_path / 'work')
    both.alone = lambda *arguments: start(widths, *arguments)
    return both


def test_the_result_holds_every_start_with_every_loss_at_every_width(quick):
    result = json.loads(quick().read_text())
    names = ['control', 'ScaledCosineLoss', 'PromptMM']
    found = [(r['init'], r['distillation'], r['width']) for r in result['cells']]
    assert found == [
        (init, name, width)
        for width in (4, 8)
        for init, those in (
            ('random', names),
            ('teacher copy', [*names, 'untrained']),
        )
        for name in those
    ]
    for row in result['cells']:
        assert len(row['test']['seeds']) == 2
        assert ('over_control' in row) == (row['distillation'] != 'control')
        assert ('over_copy' in row) == (row['distillation'] != 'untrained')
        assert ('epochs' in row) == (row['distillation'] != 'untrained')


def test_differences_are_to_the_control_of_the_same_start_and_width(quick):
    cells = json.loads(quick().read_text())['cells']
    mean = {(r['init'], r['distillation'], r['width']): r['test'] for r in cells}
    for row in cells:
        own = row['test']['mean']
        for key, rival in (
            ('over_control', (row['init'], 'control')),
            ('over_copy', ('teacher copy', 'untrained')),
        ):
            if key in row:
                expected = own - mean[*rival, row['width']]['mean']
                assert row[key]['difference'] == pytest.approx(expected, abs=1e-6)


def test_an_untrained_copy_at_the_teachers_width_is_the_teacher(quick):
    result = json.loads(quick().read_text())
    (row,) = (
        r
        for r in result['cells']
        if (r['distillation'], r['width']) == ('untrained', 8)
    )
    assert row['test'] == result['teacher']
    assert row['share_of_teacher'] == pytest.approx(1.0)


def test_trials_of_random_starts_are_those_of_the_loss_benchmark(quick, monkeypatch):
    """The name of a finished trial's file may not change: hours of runs go by it."""
    bench = quick.bench
    monkeypatch.setattr(losses.Bench, '_train', lambda *_: {'epoch': 7})
    bench.outcome('control', TRIAL, 4, 0)
    numbers = [
        bench.setting.digest(),
        'control',
        [TRIAL.weight, TRIAL.l2],
        4,
        0,
        losses.LEARNING_RATE,
        losses.SCHEDULE,
    ]
    digest = hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]
    kept = bench.work / 'losses' / f'synthetic-{digest}.safetensors'
    assert kept.is_file()
    bench.outcome('control', TRIAL, 4, 0, losses.COPY)
    assert len(list(kept.parent.iterdir())) == 2


def test_a_copied_start_is_the_teacher_cut_and_a_random_one_is_as_it_was(quick):
    quick()
    bench = quick.bench
    for width in (4, 8):
        copied = bench.student(width, 1, losses.COPY).embeddings()
        expected = truncate_embeddings(bench.targets(1).x_dict, width)
        for key, x in expected.items():
            assert torch.equal(copied[key], x)
    torch.manual_seed(1)
    expected = losses.MatrixFactorization({'user': 60, 'item': 120}, 4).embeddings()
    for key, x in bench.student(4, 1, losses.RANDOM).embeddings().items():
        assert torch.equal(x, expected[key])


def test_only_the_control_is_chosen_at_every_width(quick, monkeypatch):
    asked = []
    choose = losses.choose
    monkeypatch.setattr(
        widths, 'choose', lambda bench, *where: asked.append(where) or TRIAL
    )
    result = json.loads(quick().read_text())
    taught = [(name, 4, 0) for name in ('ScaledCosineLoss', 'PromptMM')]
    assert asked == [*taught, ('control', 4, 0), ('control', 8, 0)]
    assert result['chosen_at'] == 4
    assert all(
        row['trial'] == TRIAL._asdict()
        for row in result['cells']
        if row['distillation'] != 'untrained'
    )
    assert choose(quick.bench, 'control', 4, 0) in losses.CONTROL_TRIALS


def test_finished_trials_are_not_run_again(quick, monkeypatch):
    first = json.loads(quick().read_text())['cells']
    monkeypatch.setattr(losses.Bench, '_train', lambda *_: pytest.fail('ran again'))
    assert json.loads(quick().read_text())['cells'] == first


def test_costs_are_of_tables_and_a_cached_teacher_is_as_large_as_a_student(quick):
    result = json.loads(quick().read_text())
    costs = {(r['how'], r['width']): r for r in result['costs']}
    assert len(costs) == len(result['costs']) == 4
    for width in (4, 8):
        student, cached = (costs[how, width] for how in (widths.STUDENT, widths.CACHED))
        assert student['parameters'] == width * (60 + 120)
        assert student['bytes'] == cached['bytes'] == 4 * width * (60 + 120)
        # The same teacher stands behind all of its cuts.
        assert cached['parameters'] == costs[widths.CACHED, 4]['parameters'] > 1440
        for row in (student, cached):
            for name in ('refresh', 'serve_1', 'serve_1024'):
                assert row[name]['min_ms'] <= row[name]['median_ms']


def test_a_refresh_gives_the_tables_that_are_served(quick, monkeypatch):
    seen = []
    timed = widths.interleaved
    monkeypatch.setattr(
        widths,
        'interleaved',
        lambda runs, repeats: seen.append(dict(runs)) or timed(runs, repeats),
    )
    rows = widths.costs(quick.bench, [4], 1)
    assert [row['how'] for row in rows] == [widths.STUDENT, widths.CACHED]
    assert [list(runs) for runs in seen] == [list(seen[0])] * 3
    for run_now in seen[0].values():
        tables = run_now()
        assert tables['user'].shape == (60, 4)
        assert tables['item'].shape == (120, 4)
    for runs, num_users in zip(seen[1:], (1, 60), strict=True):
        for run_now in runs.values():
            assert run_now().ids.shape == (num_users, 20)


def test_a_width_beyond_the_teachers_is_an_error(quick):
    with pytest.raises(SystemExit, match=r"'--widths' must be at most 8.*\(got 16"):
        quick.alone('--widths', '16')


def test_the_report_prints_the_numbers_of_the_file(quick):
    path = quick()
    result = json.loads(path.read_text())
    text = report.render(path)
    lines = [
        x for x in text.splitlines() if x.startswith('| teacher copy | PromptMM |')
    ]
    rows = [
        r
        for r in result['cells']
        if (r['init'], r['distillation']) == ('teacher copy', 'PromptMM')
    ]
    values, over_control, over_copy = lines
    for row in rows:
        assert f'{row["test"]["mean"]:.4f} ± {row["test"]["std"]:.4f}' in values
        assert f'{row["share_of_teacher"]:.0%}' in values
        assert f'{row["over_control"]["low"]:+.4f}' in over_control
        assert f'{row["over_copy"]["high"]:+.4f}' in over_copy
    for row in result['costs']:
        (line,) = (
            x
            for x in text.splitlines()
            if x.startswith(f'| {row["how"]} | {row["width"]} | ')
        )
        assert f'{row["parameters"]:,} | {row["bytes"] / 2**20:.2f} |' in line
        assert f'{row["serve_1024"]["median_ms"]:.3f}' in line
