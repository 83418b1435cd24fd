import numpy as np
import pytest
import torch

from promptmm_pyg.data import INTERACTS, REV_INTERACTS, build_graph
from promptmm_pyg.data.build import first_mentions

EDGES = torch.tensor([[0, 0, 1, 3], [2, 0, 2, 1]])


def test_reverse_edges_mirror_the_interactions():
    graph = build_graph(EDGES)
    torch.testing.assert_close(graph[INTERACTS].edge_index, EDGES)
    torch.testing.assert_close(graph[REV_INTERACTS].edge_index, EDGES.flip(0))


def test_numpy_and_int32_pairs_become_int64():
    graph = build_graph(EDGES.numpy().astype(np.int32))
    torch.testing.assert_close(graph[INTERACTS].edge_index, EDGES)


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, (4, 3)),
        ({'num_users': 6, 'num_items': 5}, (6, 5)),
        ({'user_ids': list('abcde')}, (5, 3)),
        ({'item_features': {'text': torch.ones(7, 2)}}, (4, 7)),
        ({'user_features': {'text': torch.ones(7, 2)}, 'num_users': 7}, (7, 3)),
    ],
)
def test_node_counts_are_given_or_told_by_ids_or_features(given, expected):
    graph = build_graph(EDGES, **given)
    assert (graph['user'].num_nodes, graph['item'].num_nodes) == expected


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64, torch.int64])
def test_features_become_float32(dtype):
    x = torch.tensor([[1, -2], [3, 4], [0, 7]], dtype=dtype)
    graph = build_graph(EDGES, item_features={'text': x})
    torch.testing.assert_close(graph['item'].x_text, x.float())


def test_float32_features_are_not_copied():
    x = torch.ones(3, 2)
    graph = build_graph(EDGES, item_features={'text': x})
    assert graph['item'].x_text.data_ptr() == x.data_ptr()


def read_only(array):
    array.flags.writeable = False
    return array


def test_read_only_arrays_are_taken_without_a_warning():
    graph = build_graph(
        read_only(EDGES.numpy().copy()),
        item_features={'text': read_only(np.ones((3, 2), dtype=np.float32))},
        item_masks={'text': read_only(np.ones(3, dtype=bool))},
        edge_time=read_only(np.arange(4)),
    )
    torch.testing.assert_close(graph['item'].x_text, torch.ones(3, 2))
    assert graph[INTERACTS].time.tolist() == [0, 1, 2, 3]


def test_masked_rows_become_zero_and_the_input_stays():
    x = torch.tensor([[1.0, 2.0], [torch.nan, 3.0], [5.0, 6.0]])
    before = x.clone()
    graph = build_graph(
        EDGES,
        item_features={'text': x},
        item_masks={'text': torch.tensor([True, False, True])},
    )
    expected = torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 6.0]])
    torch.testing.assert_close(graph['item'].x_text, expected)
    assert graph['item'].mask_text.tolist() == [True, False, True]
    torch.testing.assert_close(x, before, equal_nan=True)


def test_users_may_have_modalities_too():
    graph = build_graph(
        EDGES,
        user_features={'text': torch.ones(4, 2)},
        user_masks={'text': torch.tensor([True, True, False, True])},
    )
    assert graph['user'].x_text[2].tolist() == [0.0, 0.0]


def test_ids_and_times_are_kept():
    graph = build_graph(
        EDGES, item_ids=['x', 'y', 'z'], user_ids=[7, 5, 9, 1], edge_time=[4, 3, 2, 1]
    )
    assert graph['item'].raw_id.tolist() == ['x', 'y', 'z']
    assert graph['user'].raw_id.tolist() == [7, 5, 9, 1]
    assert graph[INTERACTS].time.tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize('kind', [list, np.array, lambda x: np.array(x, dtype=object)])
def test_text_ids_are_strings_of_any_length(kind):
    ids = ['x' * 10_000, 'y\0', 'z']
    raw_id = build_graph(EDGES, item_ids=kind(ids))['item'].raw_id
    assert raw_id.dtype == object
    # NumPy's own arrays of text drop NUL at the end.
    assert raw_id.tolist() == (ids if kind is not np.array else [ids[0], 'y', 'z'])


def merge_by_a_loop(pairs, times, weights, duplicates):
    """Rows by pair: which pair, time and weight stay, in the order of their rows."""
    rows_of = {}
    for row, pair in enumerate(pairs):
        rows_of.setdefault(pair, []).append(row)
    merged = []
    for pair, rows in rows_of.items():
        last = rows[-1] if times is None else max(rows, key=lambda r: (times[r], r))
        row = last if duplicates == 'last' else rows[0]
        time = times and times[last if duplicates == 'sum' else row]
        weight = weights and weights[row]
        if duplicates == 'sum':
            weight = sum(weights[r] for r in rows) if weights else len(rows)
        merged.append((row, pair, time, weight))
    return [entry[1:] for entry in sorted(merged)]


@pytest.mark.parametrize('duplicates', ['first', 'last', 'sum'])
@pytest.mark.parametrize('timed', [True, False])
@pytest.mark.parametrize('weighted', [True, False])
def test_repeats_are_merged_as_by_a_loop(duplicates, timed, weighted):
    random = np.random.default_rng(0)
    edges = random.integers(0, 7, (2, 200))
    times = random.integers(0, 9, 200) if timed else None
    weights = random.integers(1, 5, 200).astype(float) if weighted else None
    graph = build_graph(
        edges, edge_time=times, edge_weight=weights, duplicates=duplicates
    )
    store = graph[INTERACTS]
    expected = merge_by_a_loop(
        list(zip(*edges.tolist(), strict=True)),
        (times is not None and times.tolist()) or None,
        (weights is not None and weights.tolist()) or None,
        duplicates,
    )
    assert list(zip(*store.edge_index.tolist(), strict=True)) == [
        x[0] for x in expected
    ]
    assert ('time' in store) == timed
    if timed:
        assert store.time.tolist() == [x[1] for x in expected]
    assert ('weight' in store) == (weighted or duplicates == 'sum')
    if 'weight' in store:
        assert store.weight.tolist() == [x[2] for x in expected]


def test_without_repeats_nothing_changes():
    for duplicates in ('first', 'last'):
        graph = build_graph(EDGES, edge_time=[4, 3, 2, 1], duplicates=duplicates)
        assert torch.equal(graph[INTERACTS].edge_index, EDGES)
        assert graph[INTERACTS].time.tolist() == [4, 3, 2, 1]


def test_a_number_out_of_proportion_is_refused():
    build_graph(torch.tensor([[99_999], [0]]))
    with pytest.raises(ValueError, match="'num_users' must be at most 100 times"):
        build_graph(torch.tensor([[10**12], [0]]))
    with pytest.raises(ValueError, match=r"'num_items' .*from zero"):
        build_graph(torch.tensor([[0], [30_000_000]]))


def test_first_mentions_agree_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(6, (2, 200), generator=generator)
    seen: set[tuple[int, int]] = set()
    expected = []
    for position, pair in enumerate(map(tuple, edges.t().tolist())):
        if pair not in seen:
            expected.append(position)
        seen.add(pair)
    assert first_mentions(edges, 6).tolist() == expected


NAN = torch.tensor([[1.0], [torch.nan], [0.0]])


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'edge_index': EDGES.t()}, r"'edge_index' .* shape \[2, E\] \(got \[4, 2\]\)"),
        ({'edge_index': EDGES[:, :0]}, 'at least one interaction'),
        ({'edge_index': EDGES.float()}, r'integers \(got torch.float32\)'),
        ({'edge_index': EDGES - 1}, r'users in \[0, 3\) \(got -1 to 2\)'),
        ({'num_items': 2}, r"items in \[0, 2\) \(got 0 to 2\).*'num_items'"),
        (
            {'edge_index': torch.cat([EDGES, EDGES[:, 1:2]], dim=1)},
            "got 1 repeated, the first is user 0, item 0.*'first', 'last' or 'sum'",
        ),
        ({'duplicates': 'drop'}, "'duplicates' must be one of 'error', 'first'"),
        ({'edge_weight': [1, 2]}, r'one entry per interaction \(got shape \[2\] for 4'),
        ({'edge_weight': [1, 2, 3, torch.inf]}, "'edge_weight' must be finite"),
        (
            {'edge_weight': np.array([1.0, 2.0, 3.0, 1e300])},
            "'edge_weight' must be finite",
        ),
        ({'edge_time': [1, 2]}, r'one entry per interaction \(got shape \[2\] for 4'),
        ({'edge_time': [1.0, torch.nan, 0.0, 2.0]}, "'edge_time' must be finite"),
        (
            {'item_features': {'text': torch.ones(2, 5)}, 'num_items': 3},
            r"item_features\['text'\].* \(got shape \[2, 5\] for 3 nodes\)",
        ),
        ({'item_features': {'text': torch.ones(3)}}, r'\(got shape \[3\] for 3 nodes'),
        ({'item_features': {'text': torch.ones(3, 0)}}, 'at least one column'),
        ({'item_features': {'text': NAN}}, r'in 1 rows, the first is 1\).*a mask'),
        ({'item_features': {'text': NAN.nan_to_num(torch.inf)}}, 'NaN or infinity'),
        (
            {'item_features': {'text': np.array([['a'], ['b'], ['c']])}},
            'must contain numbers',
        ),
        ({'item_features': {'a b': torch.ones(3, 1)}}, r"underscores \(got 'a b'\)"),
        (
            {'item_masks': {'text': torch.ones(3, dtype=torch.bool)}},
            r"'item_masks' must name modalities .*got \['text'\]",
        ),
        (
            {
                'item_features': {'text': torch.ones(3, 1)},
                'item_masks': {'text': torch.ones(3)},
            },
            r"item_masks\['text'\].* boolean with shape \[3\] \(got torch.float32",
        ),
        ({'user_ids': ['a', 'b', 'a', 'c']}, r"each id once \(got 'a' again\)"),
        ({'user_ids': ['a', 'b'], 'num_users': 4}, 'one entry per node'),
        ({'user_ids': [0.5, 1.5, 2.5, 3.5]}, 'integers or strings'),
        ({'user_ids': np.array(['a', 1, 2, 3], dtype=object)}, 'not a mix'),
    ],
)
def test_errors_name_what_is_wrong(changed, message):
    with pytest.raises(ValueError, match=message):
        build_graph(**{'edge_index': EDGES, **changed})
