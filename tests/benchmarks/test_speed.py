import json
import sys

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed import interleaved, operators, scale_steps, serving, teacher


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_alternative_is_measured_on_small_graphs(monkeypatch, tmp_path, capsys):
    small = dict.fromkeys(speed.GRAPHS, (50, 40, 200))
    monkeypatch.setattr(speed, 'GRAPHS', small)
    monkeypatch.setattr(speed, 'FEATURES', {'2 x 8-d': (8, 8)})
    monkeypatch.setattr(speed, 'RANKED_USERS', 30)
    monkeypatch.setattr(operators, 'EDGES_PER_TURN', 1)
    monkeypatch.setattr(speed, 'triad_numbers', lambda: 1000)
    out = tmp_path / 'speed.json'
    monkeypatch.setattr(sys, 'argv', ['speed', '--repeats', '1', '--out', str(out)])
    speed.main()
    result = json.loads(out.read_text())
    assert speed.speed_table(result) == capsys.readouterr().out.rstrip('\n')
    sections = result['sections']
    for name in speed.GRAPHS:
        alternatives = set(sections[f'propagation, {name}'])
        names = {'CSR pair (ours)', 'torch CSR', 'torch COO', 'PyG scatter'}
        assert names <= alternatives
        assert 'Python loop' in sections[f'negatives, {name}']
    for title in ('teacher, 2 x 8-d', 'teacher, 2 x 8-d, freed memory given back'):
        assert len(sections[title]) == 11
    assert 'PyG, edge_index' in sections['LightGCN epoch, 9k x 7k, 60k edges']
    for title, times in sections.items():
        assert '(ours)' in next(iter(times)), title
    rows = [(row['graph'], row['channels']) for row in result['roofline']]
    assert rows == [(g, c) for g in speed.GRAPHS for c in operators.CHANNELS]


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_epochs_are_composed_of_their_parts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, 'GRAPHS', {'small': (50, 40, 200)})
    monkeypatch.setattr(speed, 'RANKED_USERS', 30)
    out = tmp_path / 'epochs.json'
    arguments = ['speed', '--epochs', '--repeats', '1', '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', arguments)
    speed.main()
    result = json.loads(out.read_text())
    assert speed.epochs_table(result) == capsys.readouterr().out.rstrip('\n')
    names = list(result['epochs'])  # The default batch is the smallest.
    assert ['(ours)' in name for name in names] == [True, False] * 3
    value = {'drawing': {'cpu_ms': 1.0}, 'step': {'cpu_ms': 10.0}}
    value['evaluation'] = {'cpu_ms': 100.0}
    assert teacher.epoch_times(value, 16, 33, 'cpu_ms') == 131.0
    monkeypatch.setattr(sys, 'argv', ['speed', '--epochs', '--device', 'cuda:99'])
    with pytest.raises(SystemExit):
        speed.main()
    assert "'cuda:99' is not available" in capsys.readouterr().err


def test_alternatives_take_turns_and_the_first_turn_is_left_out():
    calls = []
    runs = {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}
    times = interleaved(runs, repeats=2)
    assert calls == ['a', 'b'] * 3
    assert times['a']['min_ms'] <= times['a']['median_ms'] <= times['a']['max_ms']


def test_serving_is_measured_on_a_small_recommender(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serving, 'BATCH', 8)
    monkeypatch.setattr(serving, '_in_process', serving.load_cost)
    out = tmp_path / 'serving.json'
    options = '--users 60 --items 1100 --threads 1 --repeats 2 --batches 1 --loads 1'
    monkeypatch.setattr(sys, 'argv', ['serving', *options.split(), '--out', str(out)])
    serving.main()
    result = json.loads(out.read_text())
    table = serving.serving_table(result)
    assert table == capsys.readouterr().out.rstrip('\n')
    for ids in ('integer', 'text'):
        costs = result['ids'][ids]
        assert costs['load']['users'] == costs['streaming']['users'] == 60
        assert costs['threads 1']['single']['recommend']['median_ms'] > 0
        assert f'| recommend | {ids} |' in table
        assert f'| batch of 8, all items, ours | {ids} |' in table


def test_implicit_ranks_the_same_tables():
    pytest.importorskip('implicit')
    model = serving.random_recommender(2000, 1100, 'text')
    ours, theirs = serving.batch_runs(model), serving.implicit_runs(model)
    assert set(ours) == set(theirs)
    for name, run in ours.items():
        rows = [model.items.find(ids) for ids in run().ids]
        same = theirs[name]()[0] == rows
        assert same.mean() > 0.99  # The last digit of a product may differ.


def test_steps_of_sharded_tables_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(scale_steps, 'SHARDED', {'user': 30, 'item': 20})
    monkeypatch.setattr(scale_steps, 'SHARDED_STEPS', 1)
    run = lambda work, arguments, number, **_: work(0, *arguments)  # noqa: E731
    monkeypatch.setattr(scale_steps, 'start_processes', run)
    row = scale_steps.sharded_costs(1, 4, batch_size=8)
    assert row['sent_mib'] == 0 < row['seconds']
    assert row['tables_mib'] == 4 * 4 * 50 / 2**20
    assert len(row['losses']) == 2
    assert '| 1 |' in scale_steps.sharded_table({'sharded': [row]})


def test_item_graphs_are_measured_with_their_recall():
    pytest.importorskip('faiss')
    rows = operators.item_graphs(600, channels=16, k=3)
    assert [row[0] for row in rows] == [
        'clusters',
        'topics',
        'noise',
        'exact, estimated',
    ]
    assert all(0 < row[2] <= 1 for row in rows)
    table = operators.item_graphs_table({'item_graphs': rows, 'num_items': 600})
    assert table.startswith('| 600 items |')
    assert table.count('\n') == 5
