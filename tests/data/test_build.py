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


def test_string_ids_of_an_object_array_are_taken():
    ids = np.array(['x', 'y', 'z'], dtype=object)
    assert build_graph(EDGES, item_ids=ids)['item'].raw_id.dtype.kind == 'U'


def test_dropping_duplicates_keeps_the_first_mention_and_its_time():
    edges = torch.tensor([[1, 0, 1, 0], [2, 0, 2, 1]])
    graph = build_graph(edges, edge_time=[9, 8, 7, 6], duplicates='drop')
    assert graph[INTERACTS].edge_index.tolist() == [[1, 0, 0], [2, 0, 1]]
    assert graph[INTERACTS].time.tolist() == [9, 8, 6]


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
            "got 1 repeated, the first is user 0, item 0.*duplicates='drop'",
        ),
        ({'duplicates': 'sum'}, "'duplicates' must be one of 'error', 'drop'"),
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
