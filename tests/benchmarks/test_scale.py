import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import report
from benchmarks.speed import GIB, Size, _held_out, draw_graph, scale
from benchmarks.speed.scale import measure, scale_table
from benchmarks.speed.scale_steps import Costs, epoch
from promptmm_pyg.benchmark.result import load_result
from promptmm_pyg.cli import build_parser
from promptmm_pyg.data import load_dataset
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS

TINY = {'features': 8, 'width': 4, 'repeats': 1, 'batch_size': 256, 'threads': 1}
STUDENT = ('student step, lazy', 'student epoch, lazy', 'student epoch, dense')
TEACHER = ('teacher step, neighborhoods', 'teacher step, whole graph', 'propagation')


@pytest.fixture
def result():
    """The committed result."""
    return load_result(report.RESULTS / 'scale.json')


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_sizes_are_measured_in_processes_of_their_own_and_cached(
    monkeypatch, tmp_path, capsys
):
    flags = ['--sizes', '1e3', '300', '--features', '8', '--width', '4']
    flags += ['--repeats', '1', '--memory', '4GiB', '--threads', '1']
    flags += ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['scale', *flags])
    # Only the first size, for the time that a process takes to start.
    start = iter([scale.in_fresh_process, measure])
    monkeypatch.setattr(scale, 'in_fresh_process', lambda *args: next(start)(*args))
    scale.main()
    path = tmp_path / 'scale.json'
    result = json.loads(path.read_text())
    assert [row['interactions'] for row in result['scale']] == [300, 1000]
    for row in result['scale']:
        costs = {*STUDENT, *TEACHER, 'evaluation', 'distillation epoch'}
        assert costs <= {*row['costs']}
        assert row['start_mib'] <= row['student_peak_mib'] <= row['peak_mib']
    assert set(result['exponents']) >= {'propagation', 'student epoch, lazy'}
    assert (tmp_path / 'scale.png').read_bytes().startswith(b'\x89PNG')
    assert scale_table(result) in capsys.readouterr().out
    # Nothing is measured again.
    monkeypatch.setattr(scale, 'in_fresh_process', lambda *_: pytest.fail('again'))
    scale.main()
    assert {**json.loads(path.read_text()), 'date': result['date']} == result


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_only_the_epoch_on_neighborhoods_is_cut(tmp_path):
    size = Size(2000, **TINY, teacher_batch_size=64)
    row = measure(size, tmp_path)
    shares = {name: cost['share'] for name, cost in row['costs'].items()}
    assert shares.pop('teacher epoch, neighborhoods') < 1
    assert set(shares.values()) == {1.0}
    assert row['edges'] == 2000 - row['costs']['evaluation']['users']
    assert row['costs']['student epoch, lazy']['steps'] == math.ceil(row['edges'] / 256)
    assert list(tmp_path.iterdir()) == []  # Features and targets are removed.


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_steps_that_do_not_fit_are_left_out_and_samples_have_a_share(tmp_path):
    size = Size(1000, **TINY, ranked_users=25)
    row = measure(replace(size, memory=size.whole_graph - 1), tmp_path)
    assert 'teacher step, whole graph' not in row['costs']
    assert 'teacher step, neighborhoods' in row['costs']
    cost = row['costs']['evaluation']
    assert (cost['users'], cost['share']) == (25, 0.25)
    assert cost['estimate'] == pytest.approx(4 * cost['seconds'])


def test_a_memory_limit_below_the_estimate_is_an_error_before_any_work(tmp_path):
    sizes = [Size(300, **TINY), Size(10**9, memory=16 * GIB)]
    requires = f'{sizes[1].peak / GIB:.2f} GiB'
    with pytest.raises(ValueError, match=rf"'memory'.*{requires}.*got 16.00 GiB"):
        scale.run(sizes, tmp_path)
    assert list(tmp_path.iterdir()) == []
    size = Size(10**7, memory=16 * GIB)
    assert size.whole_fits
    replace(size, memory=size.peak).check()
    with pytest.raises(ValueError, match="'memory' must be at least"):
        replace(size, memory=size.peak - 1).check()


@pytest.mark.parametrize('name', ['interactions', 'width', 'seconds'])
def test_settings_must_be_positive(name):
    with pytest.raises(ValueError, match=f"'{name}' must be positive"):
        Size(**{'interactions': 100, **TINY, name: 0}).check()


def test_sizes_on_the_command_line_are_integers(monkeypatch, capsys):
    assert scale.integer('1e7') == 10**7
    monkeypatch.setattr(sys, 'argv', ['scale', '--sizes', '1.5'])
    with pytest.raises(SystemExit):
        scale.main()
    assert 'must be an integer (got 1.5)' in capsys.readouterr().err


def test_graphs_have_distinct_edges_in_both_directions():
    size = Size(5000, ranked_users=200)
    data = draw_graph(size)
    train, held = data[INTERACTS].edge_index, data[INTERACTS].edge_label_index
    pairs = torch.cat([train, held], dim=1)
    assert pairs.size(1) == pairs.unique(dim=1).size(1) == 5000
    assert held[0].unique().numel() == held.size(1) == 200
    assert set(held[0].tolist()) <= set(train[0].tolist())
    assert torch.equal(train.flip([0]), data[REV_INTERACTS].edge_index)
    assert (data['user'].num_nodes, data['item'].num_nodes) == (500, 100)
    assert torch.equal(train, draw_graph(size)[INTERACTS].edge_index)
    user = torch.tensor([0, 0, 1, 2, 2])  # User 1 keeps an only interaction.
    held_out = _held_out(user, Size(30), torch.Generator().manual_seed(0))
    assert user[held_out].tolist() == [0, 2]
    for interactions in (1, 2, 30):
        index = draw_graph(Size(interactions))[INTERACTS]
        total = index.edge_index.size(1) + index.edge_label_index.size(1)
        assert total == interactions


def test_degrees_have_a_long_tail_in_random_order():
    item = draw_graph(Size(50_000))[INTERACTS].edge_index[1]
    degree = torch.bincount(item, minlength=1000)
    top = degree.sort(descending=True)
    assert top.values[:100].sum() > 0.25 * degree.sum()
    assert top.values[-500:].sum() > 0.1 * degree.sum()
    assert top.indices[:100].double().mean() > 250


def test_the_exponent_is_that_of_a_power_of_complete_measurements():
    edges = [100, 1000, 5000]
    assert scale.exponent(edges, [3 * e**1.3 for e in edges]) == pytest.approx(1.3)

    def row(edges, seconds, share):
        return {'edges': edges, 'costs': {'a': {'seconds': seconds, 'share': share}}}

    rows = [row(10, 1.0, 1.0), row(100, 10.0, 1.0), row(1000, 11.0, 0.5)]
    assert scale.fitted(rows)['a']['exponent'] == pytest.approx(1.0)
    assert scale.fitted(rows[:1]) == {}
    rows.append(row(1000, 1000.0, 1.0))
    assert scale.fitted(rows)['a']['last_two'] == pytest.approx(2.0)


def test_an_epoch_stops_after_the_given_steps_or_seconds():
    batches = []
    complete = epoch(range(4), 4, batches.append)
    assert (complete['share'], complete['steps'], batches) == (1.0, 4, [0, 1, 2, 3])
    assert epoch(range(4), 4, batches.append, max_steps=3)['share'] == 0.75
    cut = epoch(range(4), 4, batches.append, seconds=0)
    assert (cut['steps'], cut['steps_of_epoch']) == (1, 4)
    assert cut['estimate'] > cut['seconds']


def test_costs_have_the_peak_so_far(capsys):
    costs = Costs('x')
    calls = []
    with costs.timed('once'):
        calls.append('once')
    costs.repeated('twice', lambda: calls.append('twice'), 2)
    assert calls == ['once', *['twice'] * 3]  # The first is left out.
    once, twice = costs.by_name.values()
    assert once['peak_mib'] <= twice['peak_mib']
    assert 'x: once' in capsys.readouterr().out


def test_the_table_has_estimates_gaps_and_the_memory_limit(result):
    last = result['scale'][-1]
    del last['costs']['teacher step, whole graph']
    last['costs']['evaluation'] |= {'seconds': 3.0, 'share': 0.25, 'estimate': 12.0}
    text = scale_table(result)
    for name, end in {
        'teacher step, whole graph': ' | does not fit |  |',
        'evaluation': ' | 3 (25.00%) | 12 |',
    }.items():
        (line,) = (x for x in text.splitlines() if x.startswith(f'| {name} |'))
        assert end in line
    for block in text.split('\n\n'):
        if block.startswith('|'):
            assert len({line.count('|') for line in block.splitlines()}) == 1
    assert text.endswith('The budget of 16 GiB was kept.')
    last['peak_mib'] = 16 * 1024 + 1.0
    assert scale_table(result).endswith('The budget of 16 GiB was EXCEEDED.')


def test_the_figure_has_logarithmic_axes_and_exponents(result, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(scale, 'save_plot', lambda ax, _: figures.append(ax))
    scale.scale_plot(result, tmp_path / 'x.png')
    (ax,) = figures
    assert (ax.get_xscale(), ax.get_yscale()) == ('log', 'log')
    lines = {line.get_label(): line for line in ax.lines}
    label = f'propagation: {result["exponents"]["propagation"]["exponent"]:.2f}'
    edges, seconds = scale.measured(result['scale'], 'propagation')
    assert list(lines[label].get_xdata()) == edges
    assert list(lines[label].get_ydata()) == seconds
    assert not any(name.startswith('evaluation') for name in lines)
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ImportError, match="'scale_plot' requires 'matplotlib'"):
        scale.scale_plot(result, tmp_path / 'x.png')


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_the_stages_of_a_run_read_the_table_that_is_written(tmp_path, suffix):
    size = Size(2000, **TINY)
    path = scale.write_table(size, tmp_path, suffix, has_pairs=True)
    data = load_dataset(
        path, features={'text': tmp_path / 'text.npy'}, item_ids=tmp_path / 'ids.txt'
    )
    held_out = draw_graph(size)[INTERACTS].edge_index.size(1)
    assert sum(x[INTERACTS].edge_label_index.size(1) for x in data) == held_out
    assert data.train['item'].x_text.size(1) == 8
    options = dict.fromkeys(scale.STAGES, '') | {'train': "--epochs '3'"}
    commands = scale.stage_commands(path, tmp_path, options)
    assert commands['train'][-2:] == ['--epochs', '3']
    parser = build_parser()
    for stage in scale.STAGES[1:]:
        parser.parse_args(commands[stage])


def test_a_stage_has_its_time_and_memory(monkeypatch, tmp_path, capsys):
    flags = ['--sizes', '300', '--stages', 'ids', '--formats', 'csv']
    flags += ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['scale', *flags])
    scale.main()
    result = load_result(tmp_path / 'stages.json')
    (row,) = result['stages']
    assert row['status'] == 0
    assert row['peak_mib'] > 50
    assert scale.stages_table(result) in capsys.readouterr().out
