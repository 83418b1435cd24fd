import numpy as np
import pytest

from benchmarks import updates
from promptmm_pyg.benchmark.result import check_result
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset


@pytest.fixture(scope='module')
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    graph = make_synthetic_dataset(num_users=40, num_items=60, num_clusters=4)
    np.save(folder / 'text.npy', graph['item'].x_text.numpy())
    edges = graph[INTERACTS].edge_index.t().tolist()
    pairs = [(f'u{user}', f'i{item}') for user, item in edges]
    order = np.random.default_rng(0).permutation(len(pairs))
    pairs = [pairs[number] for number in order]
    parts = {'old': pairs[:160], 'new': pairs[160:180], 'later': pairs[180:]}
    items = [f'i{number}' for number in range(60)]
    with pytest.MonkeyPatch.context() as patch:
        reader = {'tiny': lambda _: (parts, {'text': 'text.npy'}, items)}
        patch.setattr(updates, 'READERS', reader)
        patch.setattr(updates, 'TRAIN', {'epochs': 1, 'batch_size': 64})
        return updates.measure('tiny', folder, (0, 1))


def test_three_models_are_compared_on_the_same_users(result):
    check_result(result)
    names = [row['name'] for row in result['rows']]
    assert names == ['no update', 'update', 'retraining']
    last = result['rows'][-1]
    assert last['diff_vs_retraining Recall@20']['difference'] == 0
    assert [epochs['student'] for epochs in result['protocol']['epochs']] == [1, 1]
    assert all(len(row['seconds']['seeds']) == 2 for row in result['rows'])


def test_the_table_has_differences_and_times(result):
    lines = updates.updates_table(result).splitlines()
    assert lines[0].startswith('**tiny**, 160 old, 20 new, ')
    assert lines[2].endswith('| NDCG@20 - retraining | CPU seconds |')
    assert [line.split(' | ')[0] for line in lines[4:]] == [
        '| no update',
        '| update',
        '| retraining',
    ]
