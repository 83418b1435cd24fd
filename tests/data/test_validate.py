import numpy as np
import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    REV_INTERACTS,
    build_graph,
    split_by_part,
    validate,
)
from promptmm_pyg.data.validate_graph import _row_hashes

EDGES = torch.tensor([[0, 0, 1, 1, 2, 2, 0], [0, 1, 1, 2, 2, 0, 2]])
PART = torch.tensor([0, 0, 0, 0, 0, 1, 2])


def make_graph(**options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, generator=generator)
    return build_graph(EDGES, item_features={'text': x}, **options)


def make_split():
    return split_by_part(make_graph(), PART)


def found(data):
    return [(level, where, problem) for level, where, problem, _ in validate(data)]


def test_a_sound_graph_and_a_sound_split_have_no_findings():
    assert validate(make_graph()) == []
    assert validate(make_split()) == []
    validate(make_split(), raise_on_error=True)


def break_num_nodes(graph):
    del graph['item'].num_nodes


def break_reverse(graph):
    del graph[REV_INTERACTS]


def break_dtype(graph):
    graph[INTERACTS].edge_index = graph[INTERACTS].edge_index.int()


def break_range(graph):
    graph[INTERACTS].edge_index = graph[INTERACTS].edge_index + 1


def break_reverse_range(graph):
    graph[REV_INTERACTS].edge_index = graph[REV_INTERACTS].edge_index - 1


def break_label_range(graph):
    graph[INTERACTS].edge_label_index = torch.tensor([[0], [7]])


def break_unique(graph):
    edges = torch.cat([EDGES, EDGES[:, :2]], dim=1)
    graph[INTERACTS].edge_index = edges
    graph[REV_INTERACTS].edge_index = edges.flip(0)


def break_mirror(graph):
    graph[REV_INTERACTS].edge_index = EDGES.flip(0)[:, :-1]


def break_mirror_of_same_size(graph):
    graph[REV_INTERACTS].edge_index = EDGES.clone()


def break_rows(graph):
    graph['item'].x_text = torch.randn(5, 4)


def break_nan(graph):
    graph['item'].x_text[1, 2] = torch.nan


def break_inf(graph):
    graph['item'].x_text[1, 2] = -torch.inf


def break_feature_dtype(graph):
    graph['item'].x_text = torch.ones(3, 4, dtype=torch.long)


def break_mask(graph):
    graph['item'].mask_text = torch.ones(3)


def break_mask_name(graph):
    graph['item'].mask_image = torch.ones(3, dtype=torch.bool)


def break_ids(graph):
    graph['item'].raw_id = np.array(['a', 'b', 'a'])


ERRORS = {
    break_num_nodes: ("graph['item']", "has no 'num_nodes'"),
    break_reverse: ('rev_interacts', "has no 'edge_index'"),
    break_dtype: ("'interacts'", 'of int64'),
    break_range: ('graph: edge_index', 'points outside'),
    break_reverse_range: ('graph: reverse edges', 'points outside'),
    break_label_range: ('graph: edge_label_index', 'points outside'),
    break_unique: ('graph: edge_index', 'holds 2 repeated pairs'),
    break_mirror: ('graph: reverse edges', 'do not mirror'),
    break_mirror_of_same_size: ('graph: reverse edges', 'do not mirror'),
    break_rows: ('x_text', 'has 5 rows for 3 nodes'),
    break_nan: ('x_text', 'NaN or infinity in 1 rows'),
    break_inf: ('x_text', 'NaN or infinity in 1 rows'),
    break_feature_dtype: ('x_text', 'no matrix of floating point'),
    break_mask: ('x_text', 'mask that is not boolean of shape [3]'),
    break_mask_name: ('mask_image', 'no features beside it'),
    break_ids: ("graph['item'].raw_id", '3 ids, 2 different, for 3 nodes'),
}


@pytest.mark.parametrize('breaking', ERRORS)
def test_each_error_is_found_and_is_the_only_one(breaking):
    graph = make_graph()
    breaking(graph)
    ((level, where, problem),) = found(graph)
    assert level == 'error'
    assert ERRORS[breaking][0] in where
    assert ERRORS[breaking][1] in problem


def test_reverse_edges_in_another_order_mirror_too():
    graph = make_graph()
    graph[REV_INTERACTS].edge_index = EDGES.flip(0)[:, [3, 1, 0, 2, 6, 5, 4]]
    assert validate(graph) == []


def test_users_and_items_without_edges_are_warnings():
    graph = build_graph(EDGES, num_users=5, num_items=4)
    assert found(graph) == [
        ('warning', "graph['user']", '2 of 5 have no message edge'),
        ('warning', "graph['item']", '1 of 4 have no message edge'),
    ]


def with_text(rows, mask=None):
    graph = make_graph()
    graph['item'].x_text = torch.tensor(rows)
    if mask is not None:
        graph['item'].mask_text = torch.tensor(mask)
    return [problem for _, _, problem in found(graph)]


def test_rows_of_zeros_are_a_warning_unless_masked():
    rows = [[1.0, -2.0], [0.0, 0.0], [3.0, 4.0]]
    assert with_text(rows) == ['holds 1 rows of zeros that no mask marks as missing']
    assert with_text(rows, [True, False, True]) == []


def test_repeated_rows_are_a_warning_unless_masked():
    rows = [[1.0, -2.0], [3.0, 4.0], [1.0, -2.0]]
    assert with_text(rows) == ['holds 1 rows that repeat another row']
    assert with_text(rows, [True, True, False]) == []


def test_constant_columns_are_a_warning():
    rows = [[1.0, -2.0, 5.0], [3.0, -2.0, 5.0], [4.0, -2.0, 5.0]]
    assert with_text(rows) == ['holds 2 constant columns of 3']


def test_words_that_no_item_has_are_no_warning():
    rows = [[0.0, 1.0, 5.0, 0.0, 0.0], [0.0, 2.0, 5.0, 0.0, 0.0], [0.0, 0, 5.0, 1.0, 0]]
    assert with_text(rows) == ['holds 1 constant columns of 5']
    dense = [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
    assert with_text(dense) == ['holds 1 constant columns of 2']


def test_a_modality_that_nobody_has_is_a_warning():
    rows = [[0.0, 0.0]] * 3
    assert with_text(rows, [False] * 3) == ['has no row that is present']


def test_row_hashes_agree_with_unique_rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-1, 2, (500, 4), generator=generator).float()
    assert _row_hashes(x).unique().numel() == x.unique(dim=0).size(0)


def leak_into_messages(split):
    # Both directions, as adding an undirected edge does.
    edges = torch.cat([split.train[INTERACTS].edge_index, EDGES[:, 6:]], dim=1)
    for graph in split:
        graph[INTERACTS].edge_index = edges
        graph[REV_INTERACTS].edge_index = edges.flip(0)


def leak_into_reverse(split):
    split.train[REV_INTERACTS].edge_index = EDGES.flip(0)


def leak_into_train_labels(split):
    split.train[INTERACTS].edge_label_index = EDGES


def leak_into_own_messages(split):
    split.test[INTERACTS].edge_index = EDGES


def leak_into_own_reverse(split):
    split.test[REV_INTERACTS].edge_index = EDGES.flip(0)


def leak_val_into_test(split):
    split.test[INTERACTS].edge_label_index = EDGES[:, 5:]


def leak_by_features(split):
    split.test['item'].x_text = split.test['item'].x_text + 1


def leak_by_mask(split):
    split.test['item'].mask_text = torch.ones(3, dtype=torch.bool)


LEAKS = {
    leak_into_messages: 'positives are among the training message edges',
    leak_into_reverse: 'positives are among the training reverse edges',
    leak_into_train_labels: 'positives are among the training positives',
    leak_into_own_messages: 'positives are among the own message edges',
    leak_into_own_reverse: 'positives are among the own reverse edges',
    leak_val_into_test: '1 positives of validation are test positives too',
    leak_by_features: 'has other message edges or features than training',
    leak_by_mask: 'has other message edges or features than training',
}


@pytest.mark.parametrize('leak', LEAKS)
def test_each_leak_is_found(leak):
    split = make_split()
    leak(split)
    problems = [problem for level, _, problem in found(split) if level == 'error']
    assert any(LEAKS[leak] in problem for problem in problems)


def test_message_edges_that_differ_without_a_leak_are_an_error():
    split = make_split()
    for edge_type in (INTERACTS, REV_INTERACTS):
        split.val[edge_type].edge_index = split.val[edge_type].edge_index[:, 1:]
    assert found(split) == [
        ('error', 'val', 'has other message edges or features than training')
    ]


def test_parts_need_labels():
    split = make_split()
    del split.val[INTERACTS].edge_label_index
    assert found(split) == [('error', 'val: edge_label_index', 'is not there')]


def test_parts_need_the_same_nodes():
    split = make_split()
    split.test['item'].num_nodes = 9
    assert [where for _, where, _ in found(split)] == ['test']


@pytest.mark.parametrize(
    ('labels', 'level', 'problem'),
    [
        (EDGES[:, :0], 'warning', 'holds no positives'),
        (torch.tensor([[0], [9]]), 'error', 'points outside of the nodes'),
        (torch.tensor([[0, 0], [2, 2]]), 'error', 'holds repeated pairs'),
        (torch.tensor([[0.0], [2.0]]), 'error', 'is not int64 of shape [2, E]'),
    ],
)
def test_positives_are_checked(labels, level, problem):
    split = make_split()
    split.test[INTERACTS].edge_label_index = labels
    assert found(split) == [(level, 'test: edge_label_index', problem)]


@pytest.mark.parametrize('name', ['train', 'val', 'test'])
@pytest.mark.parametrize('edge_type', [INTERACTS, REV_INTERACTS])
def test_a_graph_without_its_edges_is_an_error(name, edge_type):
    split = make_split()
    del getattr(split, name)[edge_type]
    assert [where for _, where, _ in found(split)] == [f'{name}{list(edge_type)}']


def test_errors_come_first():
    graph = build_graph(EDGES, item_features={'a': torch.ones(3, 1)})
    graph['item'].x_b = torch.full((3, 1), torch.nan)
    levels = [finding.level for finding in validate(graph)]
    assert levels == ['error', *['warning'] * (len(levels) - 1)]
    assert len(levels) > 1


def test_check_raises_on_errors_and_lists_them():
    graph = make_graph()
    break_nan(graph)
    break_ids(graph)
    with pytest.raises(ValueError, match=r"'data' must be mended:\n- .*\n- "):
        validate(graph, raise_on_error=True)


def test_check_warns_of_warnings():
    graph = build_graph(EDGES, num_items=4)
    with pytest.warns(UserWarning, match='1 of 4 have no message edge. They are cold'):
        validate(graph, raise_on_error=True)
