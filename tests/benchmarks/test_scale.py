import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import report
from benchmarks.speed import scale
from benchmarks.speed.common import GIB, Size, _held_out, draw_graph
from benchmarks.speed.scale import measure
from benchmarks.speed.scale_steps import Costs, epoch
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS

TINY = {'features': 8, 'width': 4, 'repeats': 1, 'batch_size': 256, 'threads': 1}
STUDENT = ('student step, lazy', 'student epoch, lazy', 'student epoch, dense')
TEACHER = ('teacher step, neighborhoods', 'teacher step, whole graph', 'propagation')


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_sizes_are_measured_in_processes_of_their_own_and_kept(
    monkeypatch, tmp_path, capsys
):
    flags = ['--sizes', '1e3', '300', '--features', '8', '--width', '4']
    flags += ['--repeats', '1', '--memory', '4GiB', '--threads', '1']
    flags += ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['scale', *flags])
    scale.main()
    path = tmp_path / 'scale.json'
    text = path.read_text()
    result = json.loads(text)
    assert [row['interactions'] for row in result['scale']] == [300, 1000]
    for row in result['scale']:
        assert {*STUDENT, *TEACHER, 'evaluation', 'distillation epoch'} <= {
            *row['costs']
        }
        assert row['start_mib'] <= row['student_peak_mib'] <= row['peak_mib']
    assert set(result['exponents']) >= {'propagation', 'student epoch, lazy'}
    assert (tmp_path / 'scale.png').read_bytes().startswith(b'\x89PNG')
    assert scale.scale_table(result) in capsys.readouterr().out
    assert report.render(path) == scale.scale_table(result)
    # An interrupted run goes on: nothing is measured again.
    monkeypatch.setattr(scale, 'in_fresh_process', lambda *_: pytest.fail('again'))
    scale.main()
    assert path.read_text() == text


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_epoch_but_that_on_neighborhoods_is_whole(tmp_path):
    size = Size(2000, **TINY, teacher_batch_size=64)
    row = measure(size, tmp_path)
    shares = {name: cost['share'] for name, cost in row['costs'].items()}
    part = shares.pop('teacher epoch, neighborhoods')
    assert part < 1
    assert set(shares.values()) == {1.0}
    assert row['edges'] == 2000 - row['costs']['evaluation']['users']
    assert row['costs']['student epoch, lazy']['steps'] == math.ceil(row['edges'] / 256)
    assert list(tmp_path.iterdir()) == []  # Features and targets are gone.


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_what_does_not_fit_on_the_whole_graph_goes_without(tmp_path):
    whole = Size(300, **TINY).whole_graph
    row = measure(Size(300, **TINY, memory=whole - 1), tmp_path)
    assert 'teacher step, whole graph' not in row['costs']
    assert 'teacher step, neighborhoods' in row['costs']


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_evaluation_of_a_sample_tells_its_share(tmp_path):
    row = measure(Size(1000, **TINY, ranked_users=25), tmp_path)
    cost = row['costs']['evaluation']
    assert (cost['users'], cost['share']) == (25, 0.25)
    assert cost['estimate'] == pytest.approx(4 * cost['seconds'])


def test_a_budget_that_cannot_hold_a_size_is_refused_before_any_work(tmp_path):
    sizes = [Size(300, **TINY), Size(10**9, memory=16 * GIB)]
    requires = f'{sizes[1].peak / GIB:.2f} GiB'
    with pytest.raises(ValueError, match=rf"'memory'.*{requires}.*got 16.00 GiB"):
        scale.run(sizes, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_is_the_least_budget_that_will_do():
    size = Size(1000, **TINY)
    replace(size, memory=size.peak).check()
    with pytest.raises(ValueError, match="'memory' must be at least"):
        replace(size, memory=size.peak - 1).check()


def test_ten_million_interactions_are_let_into_sixteen_gib_and_not_into_two():
    size = Size(10**7, memory=16 * GIB)
    size.check()
    assert size.whole_graph <= 16 * GIB
    with pytest.raises(ValueError, match="'memory' must be at least"):
        Size(10**7, memory=2 * GIB).check()


@pytest.mark.parametrize(
    'name', ['interactions', 'features', 'width', 'ranked_users', 'repeats', 'seconds']
)
def test_numbers_that_are_not_positive_are_refused(name):
    numbers = {'interactions': 100, **TINY, name: 0}
    with pytest.raises(ValueError, match=f"'{name}' must be positive"):
        Size(**numbers).check()


def test_sizes_on_the_command_line_are_whole_numbers(monkeypatch, capsys):
    assert scale.integer('1e7') == 10**7
    monkeypatch.setattr(sys, 'argv', ['scale', '--sizes', '1.5'])
    with pytest.raises(SystemExit):
        scale.main()
    assert 'must be an integer (got 1.5)' in capsys.readouterr().err


def test_graphs_have_the_edges_asked_for_each_once_in_both_directions():
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


def test_nobody_loses_an_only_interaction():
    user = torch.tensor([0, 0, 1, 2, 2])
    held_out = _held_out(user, Size(30), torch.Generator().manual_seed(0))
    assert user[held_out].tolist() == [0, 2]


def test_degrees_have_a_long_tail_that_is_no_matter_of_the_number():
    item = draw_graph(Size(50_000))[INTERACTS].edge_index[1]
    degree = torch.bincount(item, minlength=1000)
    top = degree.sort(descending=True)
    assert top.values[:100].sum() > 0.25 * degree.sum()
    assert top.values[-500:].sum() > 0.1 * degree.sum()
    assert top.indices[:100].double().mean() > 250


@pytest.mark.parametrize('interactions', [1, 2, 30])
def test_the_smallest_graphs_are_drawn(interactions):
    data = draw_graph(Size(interactions))
    found = data[INTERACTS].edge_index.size(1), data[INTERACTS].edge_label_index.size(1)
    assert sum(found) == interactions


def test_the_exponent_is_that_of_a_power():
    edges = [100, 1000, 5000]
    assert scale.exponent(edges, [3 * e**1.3 for e in edges]) == pytest.approx(1.3)


def test_only_what_was_done_as_a_whole_is_fitted():
    def row(edges, seconds, share):
        cut = {'seconds': seconds, 'share': share, 'estimate': 7.0, 'steps': 1}
        return {'edges': edges, 'costs': {'a': cut}}

    rows = [row(10, 1.0, 1.0), row(100, 10.0, 1.0), row(1000, 11.0, 0.5)]
    assert scale.fitted(rows)['a']['exponent'] == pytest.approx(1.0)
    assert scale.fitted(rows[:1]) == {}
    rows.append(row(1000, 1000.0, 1.0))
    assert scale.fitted(rows)['a']['last_two'] == pytest.approx(2.0)


def test_an_epoch_stops_at_the_steps_or_the_seconds_given():
    taken = []
    whole = epoch(range(4), 4, taken.append)
    assert (whole['share'], whole['steps'], taken) == (1.0, 4, [0, 1, 2, 3])
    assert epoch(range(4), 4, taken.append, max_steps=3)['share'] == 0.75
    cut = epoch(range(4), 4, taken.append, seconds=0)
    assert (cut['steps'], cut['steps_of_epoch']) == (1, 4)
    assert cut['estimate'] > cut['seconds']


def test_costs_are_kept_by_name_with_the_peak_so_far(capsys):
    costs = Costs('x')
    calls = []
    with costs.timed('once'):
        calls.append('once')
    costs.repeated('twice', lambda: calls.append('twice'), 2)
    assert calls == ['once', *['twice'] * 3]  # One warms up.
    assert list(costs.by_name) == ['once', 'twice']
    assert costs.by_name['once']['peak_mib'] <= costs.by_name['twice']['peak_mib']
    assert 'x: once' in capsys.readouterr().out
