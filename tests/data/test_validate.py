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


def issues_of(data):
    return [(level, where, problem) for level, where, problem, _ in validate(data)]


def test_a_valid_graph_and_a_valid_split_have_no_issues():
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
    break_unique: ('graph: edge_index', 'contains 2 repeated pairs'),
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
    ((level, where, problem),) = issues_of(graph)
    assert level == 'error'
    assert ERRORS[breaking][0] in where
    assert ERRORS[breaking][1] in problem


def test_reverse_edges_in_another_order_mirror_too():
    graph = make_graph()
    graph[REV_INTERACTS].edge_index = EDGES.flip(0)[:, [3, 1, 0, 2, 6, 5, 4]]
    assert validate(graph) == []


def test_users_and_items_without_edges_are_warnings():
    graph = build_graph(EDGES, num_users=5, num_items=4)
    assert issues_of(graph) == [
        ('warning', "graph['user']", '2 of 5 have no message edge (3, 4)'),
        ('warning', "graph['item']", '1 of 4 have no message edge (3)'),
    ]


def with_text(rows, mask=None):
    graph = make_graph()
    graph['item'].x_text = torch.tensor(rows)
    if mask is not None:
        graph['item'].mask_text = torch.tensor(mask)
    return [problem for _, _, problem in issues_of(graph)]


def test_rows_of_zeros_are_a_warning_unless_masked():
    rows = [[1.0, -2.0], [0.0, 0.0], [3.0, 4.0]]
    assert with_text(rows) == [
        'contains 1 rows of zeros that no mask marks as missing (item 1)'
    ]
    assert with_text(rows, [True, False, True]) == []


def test_repeated_rows_are_a_warning_unless_masked():
    rows = [[1.0, -2.0], [3.0, 4.0], [1.0, -2.0]]
    assert with_text(rows) == ['contains 1 rows that repeat another row']
    assert with_text(rows, [True, True, False]) == []


def test_constant_columns_are_a_warning():
    rows = [[1.0, -2.0, 5.0], [3.0, -2.0, 5.0], [4.0, -2.0, 5.0]]
    assert with_text(rows) == [
        'contains 2 constant columns of 3 (column 1 is -2, column 2 is 5)'
    ]


def test_words_that_no_item_has_are_no_warning():
    rows = [[0.0, 1.0, 5.0, 0.0, 0.0], [0.0, 2.0, 5.0, 0.0, 0.0], [0.0, 0, 5.0, 1.0, 0]]
    assert with_text(rows) == ['contains 1 constant columns of 5 (column 2 is 5)']
    dense = [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
    assert with_text(dense) == ['contains 1 constant columns of 2 (column 0 is 0)']


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
    problems = [problem for level, _, problem in issues_of(split) if level == 'error']
    assert any(LEAKS[leak] in problem for problem in problems)


def test_message_edges_that_differ_without_a_leak_are_an_error():
    split = make_split()
    for edge_type in (INTERACTS, REV_INTERACTS):
        split.val[edge_type].edge_index = split.val[edge_type].edge_index[:, 1:]
    assert issues_of(split) == [
        ('error', 'val', 'has other message edges or features than training')
    ]


def test_parts_need_labels():
    split = make_split()
    del split.val[INTERACTS].edge_label_index
    assert issues_of(split) == [('error', 'val: edge_label_index', 'is not there')]


def test_parts_need_the_same_nodes():
    split = make_split()
    split.test['item'].num_nodes = 9
    assert [where for _, where, _ in issues_of(split)] == ['test']


@pytest.mark.parametrize(
    ('labels', 'level', 'problem'),
    [
        (EDGES[:, :0], 'warning', 'contains no positives'),
        (torch.tensor([[0], [9]]), 'error', 'points outside of the nodes'),
        (torch.tensor([[0, 0], [2, 2]]), 'error', 'contains 1 repeated pairs'),
        (torch.tensor([[0.0], [2.0]]), 'error', 'is not int64 of shape [2, E]'),
    ],
)
def test_positives_are_checked(labels, level, problem):
    split = make_split()
    split.test[INTERACTS].edge_label_index = labels
    ((actual, where, text),) = issues_of(split)
    assert (actual, where) == (level, 'test: edge_label_index')
    assert text.startswith(problem)


@pytest.mark.parametrize('name', ['train', 'val', 'test'])
@pytest.mark.parametrize('edge_type', [INTERACTS, REV_INTERACTS])
def test_a_graph_without_its_edges_is_an_error(name, edge_type):
    split = make_split()
    del getattr(split, name)[edge_type]
    assert [where for _, where, _ in issues_of(split)] == [f'{name}{list(edge_type)}']


def test_errors_come_first():
    graph = build_graph(EDGES, item_features={'a': torch.ones(3, 1)})
    graph['item'].x_b = torch.full((3, 1), torch.nan)
    levels = [issue.level for issue in validate(graph)]
    assert levels == ['error', *['warning'] * (len(levels) - 1)]
    assert len(levels) > 1


def test_check_raises_on_errors_and_lists_them():
    graph = make_graph()
    break_nan(graph)
    break_ids(graph)
    with pytest.raises(ValueError, match=r"'data' must have no errors:\n- .*\n- "):
        validate(graph, raise_on_error=True)


def test_check_warns_of_warnings():
    graph = build_graph(EDGES, num_items=4)
    with pytest.warns(
        UserWarning, match='1 of 4 have no message edge .3.. They are cold'
    ):
        validate(graph, raise_on_error=True)


def named_split():
    graph = make_graph(
        user_ids=['ann', 'bob', 'cy'], item_ids=[f'i{n}' for n in range(3)]
    )
    return split_by_part(graph, PART)


def test_issues_name_raw_ids():
    split = named_split()
    leak_into_messages(split)
    split.train['item'].x_text[1] = torch.nan
    problems = [problem for level, _, problem in issues_of(split) if level == 'error']
    assert "contains NaN or infinity in 1 rows (item 'i1')" in problems
    assert (
        "1 positives are among the training message edges (the first: user 'ann', "
        "item 'i2')"
    ) in problems


def test_all_errors_are_listed_at_once():
    split = named_split()
    split.train['item'].x_text[1] = torch.nan
    leak_val_into_test(split)
    leak_into_train_labels(split)
    split.train['user'].raw_id = np.array(['ann', 'bob', 'ann'])
    errors = ' '.join(text for level, _, text in issues_of(split) if level == 'error')
    for text in ('NaN', 'are test positives too', 'training positives', "'ann'"):
        assert text in errors


def test_a_user_with_every_item_is_an_error():
    edges = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 0]])
    graph = build_graph(edges, user_ids=['ann', 'bob', 'cy'])
    split = split_by_part(graph, torch.tensor([0, 0, 0, 0, 1, 2]))
    assert issues_of(split)[0] == (
        'error',
        "train['user']",
        "user 'ann' has every item (3), so that there is no negative to train with",
    )
    # A repeated pair is no further item.
    edges = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 2, 0]])
    for graph in split:
        graph[INTERACTS].edge_index = edges
        graph[REV_INTERACTS].edge_index = edges.flip(0)
    assert not any('every item' in problem for _, _, problem in issues_of(split))


SECONDS = 1_700_000_000


def with_times(*times):
    edges = torch.stack([torch.arange(40) % 8, torch.arange(40) % 13])
    time = torch.arange(40) * 1000 + SECONDS
    time[: len(times)] = torch.tensor(times)
    graph = build_graph(
        edges, edge_time=time, user_ids=[f'u{n}' for n in range(8)], num_items=13
    )
    split = split_by_part(graph, (torch.arange(40) >= 20).long())
    return [text for _, where, text in issues_of(split) if where.endswith(': time')]


def test_plausible_times_have_no_warning():
    assert with_times() == []


@pytest.mark.parametrize(
    ('times', 'problem'),
    [
        ([SECONDS * 1000] * 3, '3 of 40 times are in milliseconds since 1970 where'),
        ([SECONDS * 10**9], '1 of 40 times are in nanoseconds since 1970 where most'),
        ([SECONDS * 1000] * 39, '1 of 40 times are in seconds since 1970 where most'),
        ([0, 0], '2 of 40 times are 0 among seconds since 1970 (the first: 0, 1970-'),
        ([4_000_000_000], '1 of 40 times are more than a year in the future'),
        ([-5], "1 of 40 times are negative (the first: -5, 1969-12-31, user 'u0'"),
    ],
)
def test_implausible_times_have_a_warning(times, problem):
    (text,) = with_times(*times)
    assert text.startswith(problem)


def test_ranks_are_no_dates():
    edges = torch.stack([torch.arange(40) % 8, torch.arange(40) % 13])
    graph = build_graph(edges, edge_time=torch.arange(40))
    split = split_by_part(graph, (torch.arange(40) >= 30).long())
    assert not any(where.endswith(': time') for _, where, _ in issues_of(split))


def columns_of(x, columns=None):
    graph = build_graph(
        torch.stack([torch.arange(8) % 3, torch.arange(8)]), item_features={'text': x}
    )
    if columns is not None:
        graph.feature_columns = {'item.x_text': columns}
    return [issue for issue in validate(graph) if 'column' in issue.problem]


RANDOM = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
PERM = torch.tensor([[3.0, 1, 0, 2, 7, 5, 6, 4]]).t()


@pytest.mark.parametrize('first', [0, 1])
def test_a_column_that_counts_the_rows_is_a_warning(first):
    (issue,) = columns_of(torch.cat([RANDOM, PERM + first], dim=1))
    assert issue.problem == 'contains 1 columns that count the rows (column 1)'
    assert columns_of(torch.cat([RANDOM, PERM * 2], dim=1)) == []


def test_the_fix_names_the_option_and_the_columns():
    x = torch.cat([RANDOM, PERM * 2, torch.full((8, 1), -1.0)], dim=1)
    constant, counts = columns_of(x, ('price', 'Unnamed: 0', 'stock'))
    assert constant.problem == "contains 1 constant columns of 3 ('stock' is -1)"
    assert constant.fix.endswith("drop_columns=['stock'] (--drop-columns 'stock')")
    assert counts.problem == "contains 1 columns that count the rows ('Unnamed: 0')"


def test_a_first_row_of_zeros_alone_is_padding():
    x = torch.cat([RANDOM, PERM + 2], dim=1)
    x[0] = 0
    graph = build_graph(
        torch.stack([torch.arange(8) % 3, torch.arange(8)]), item_features={'text': x}
    )
    (issue,) = validate(graph)
    assert 'zeros in the first row (item 0) and in no other' in issue.problem
    assert '--padding-row' in issue.fix
    graph['item'].x_text[5] = 0
    assert 'contains 2 rows of zeros' in validate(graph)[0].problem
