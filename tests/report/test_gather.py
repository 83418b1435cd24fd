import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, REV_INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.report.content import Bar
from promptmm_pyg.report.gather import (
    agrees,
    comparison,
    data_facts,
    drawn_metric,
    part_shares,
    recorded_groups,
    recorded_slices,
    slices,
    table_bytes,
)

CONTENT = {
    'split': 'val',
    'num_users': 30,
    'width': {'teacher': 8},
    'metrics': {
        'teacher': {'Recall@10': 0.1, 'Recall@20': 0.5, 'Recall@50': 0.9},
        'student': {'Recall@10': None, 'Recall@20': None, 'Recall@50': None},
    },
    'differences': {
        'teacher - student': {
            'Recall@20': {'difference': 0.1, 'low': -0.1, 'high': 0.3, 'confidence': 1}
        }
    },
    'slices': {
        'teacher': {
            'warm': {'num_users': 30, 'Recall@20': 0.5},
            'cold': {'num_users': 0, 'Recall@20': None},
        }
    },
    'test_reads': [{'time': 'one', 'models': []}, {'time': 'two', 'models': []}],
}


def graph(num_users=30, num_items=60):
    """User n has n interactions with consecutive items, modulo the catalogue."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = num_users, num_items
    data['item'].x_text = torch.ones(num_items, 3)
    pairs = [(u, (7 * u + n) % num_items) for u in range(num_users) for n in range(u)]
    data[INTERACTS].edge_index = torch.tensor(pairs).t()
    data[REV_INTERACTS].edge_index = torch.tensor(pairs).t().flip(0)
    asked = [(u, (7 * u + 40) % num_items) for u in range(num_users)]
    data[INTERACTS].edge_label_index = torch.tensor(asked).t()
    return data


def evaluation(data, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tables = {
        key: torch.randn(int(data[key].num_nodes), 4, generator=generator)
        for key in ('user', 'item')
    }
    return evaluate(tables, data)


def written(found):
    return {
        **CONTENT,
        'metrics': {name: dict(one.metrics) for name, one in found.items()},
    }


def test_the_second_cutoff_is_drawn():
    assert drawn_metric(CONTENT) == 'Recall@20'
    assert drawn_metric({'metrics': {'m': {'NDCG@9': 0.0, 'Recall@9': 0.0}}}) == (
        'Recall@9'
    )


def test_a_comparison_has_the_recorded_values():
    one = comparison(CONTENT)
    assert (one.split, one.num_users, one.num_test_reads) == ('validation', 30, 2)
    assert one.last_test_read == 'two'
    assert one.bars == {'teacher': Bar(0.5)}
    assert one.metrics == CONTENT['metrics']
    assert list(one.metrics) == ['student', 'teacher']
    assert one.differences[0] == ('teacher - student', 'Recall@20', (0.1, -0.1, 0.3))


def test_an_interval_contains_the_mean_and_the_value_stays_as_recorded():
    found = {'teacher': evaluation(graph())}
    content = written(found)
    content['metrics']['teacher']['Recall@20'] += 1e-5
    bar = comparison(content, found).bars['teacher']
    assert bar.value == content['metrics']['teacher']['Recall@20']
    assert bar.low < bar.value < bar.high


def test_a_resampled_interval_is_about_two_standard_errors_wide():
    found = {'m': evaluation(graph())}
    values = found['m'].per_user['Recall@20'].double()
    bar = comparison(written(found), found).bars['m']
    expected = 2 * 1.96 * values.std(correction=0) / len(values) ** 0.5
    assert abs(bar.high - bar.low - expected) < 0.2 * expected


def test_changed_models_do_not_agree():
    found = {'m': evaluation(graph()), 'n': evaluation(graph(), seed=1)}
    content = written(found)
    assert agrees(content, found)
    content['metrics']['n']['MAP@50'] += 2e-3
    assert not agrees(content, found)
    content['metrics']['n']['MAP@50'] = None
    assert agrees(content, found)
    del content['metrics']['n']
    assert agrees(content, found)


def test_slices_by_history_add_up_to_the_evaluation():
    data = graph()
    found = {'m': evaluation(data)}
    history = slices(found, data, 'Recall@20')[1]
    assert [(row.name, row.num_users) for row in history.rows] == [
        ('0-4', 5),
        ('5-9', 5),
        ('10-19', 10),
        ('20+', 10),
    ]
    total = sum(row.num_users * row.bars['m'].value for row in history.rows)
    assert abs(total / 30 - found['m'].metrics['Recall@20']) < 1e-6


def test_few_users_have_no_interval():
    data = graph(num_users=50)
    history = slices({'m': evaluation(data)}, data, 'Recall@20')[1]
    known = {row.num_users: row.bars['m'].low is not None for row in history.rows}
    assert known == {5: False, 10: False, 30: True}


def test_an_empty_slice_has_no_bar():
    data = graph()
    popularity = slices({'m': evaluation(data)}, data, 'Recall@20')[0]
    empty = [row for row in popularity.rows if row.num_users == 0]
    assert empty
    assert all(row.bars == {} for row in empty)


def test_missing_modalities_are_a_slice_only_where_something_is_missing():
    data = graph()
    found = {'m': evaluation(data)}
    assert len(slices(found, data, 'Recall@20')) == 2
    data['item'].mask_text = torch.arange(60) % 2 == 0
    part = slices(found, data, 'Recall@20')[2]
    assert [row.name for row in part.rows] == ['has every modality', 'lacks text']
    assert sum(row.num_users for row in part.rows) == 30


def test_recorded_slices_have_no_interval_and_leave_out_what_is_empty():
    (part,) = recorded_slices(CONTENT, 'Recall@20')
    assert [(row.name, row.num_users, row.bars) for row in part.rows] == [
        ('warm', 30, {'teacher': Bar(0.5)}),
        ('cold', 0, {}),
    ]
    assert recorded_slices({}, 'Recall@20') == []


def test_recorded_groups_have_their_intervals():
    value = {'mean': 0.5, 'low': 0.4, 'high': 0.6}
    part = {'groups': {'young': {'num_users': 9, 'Recall@20': value}}}
    content = {'groups': {'student': part, 'served': part}}
    (found,) = recorded_groups(content, 'Recall@20')
    assert found.rows == [('young', 9, {'student': Bar(0.5, 0.4, 0.6)})]
    assert recorded_groups({}, 'Recall@20') == []


def test_shares_are_those_of_the_mean_lengths():
    parts = {'id': torch.tensor([[3.0, 4.0], [0.0, -1.0]]), 'text': torch.eye(2)}
    assert part_shares(parts) == {'id': 0.75, 'text': 0.25}
    assert part_shares({'id': torch.ones(2, 2)}) == {}  # One source, no share.


def test_facts_count_what_is_there():
    data = graph()
    data['item'].mask_text = torch.arange(60) % 4 != 0
    facts = data_facts(data, data)
    assert facts['users'] == '30'
    assert facts['training interactions'] == str(29 * 30 // 2)
    assert facts['validation positives'] == '30'
    assert facts['modality text'] == '3 numbers per item; missing for 25.0% of items'


def test_bytes_follow_the_precision():
    x = {'user': torch.zeros(3, 4), 'item': torch.zeros(5, 4)}
    assert table_bytes(x) == 128
    assert table_bytes({key: value.half() for key, value in x.items()}) == 64
