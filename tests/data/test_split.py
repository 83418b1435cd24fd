import pytest
import torch

from promptmm_pyg.data import INTERACTS, REV_INTERACTS, Split, build_graph
from promptmm_pyg.data import split_by_part as split
from promptmm_pyg.data.problems import collect_errors

EDGES = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2]])
PART = torch.tensor([0, 1, 0, 2, 0])


def make_graph():
    return build_graph(
        EDGES,
        item_features={'text': torch.arange(6.0).view(3, 2)},
        item_masks={'text': torch.tensor([True, False, True])},
        item_ids=['x', 'y', 'z'],
        edge_time=[10, 20, 30, 40, 50],
    )


def test_message_edges_are_the_training_edges_in_all_three():
    for graph in split(make_graph(), PART):
        assert graph[INTERACTS].edge_index.tolist() == [[0, 1, 2], [0, 1, 2]]
        assert graph[REV_INTERACTS].edge_index.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_labels_are_the_edges_of_the_part():
    out = split(make_graph(), PART)
    assert out.train[INTERACTS].edge_label_index.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert out.val[INTERACTS].edge_label_index.tolist() == [[0], [1]]
    assert out.test[INTERACTS].edge_label_index.tolist() == [[1], [2]]


def test_times_follow_their_edges():
    out = split(make_graph(), PART)
    for graph in out:
        assert graph[INTERACTS].time.tolist() == [10, 30, 50]
    assert out.val[INTERACTS].edge_label_time.tolist() == [20]
    assert out.test[INTERACTS].edge_label_time.tolist() == [40]


def test_features_masks_and_ids_are_shared_not_copied():
    data = make_graph()
    for graph in split(data, PART):
        assert graph['item'].x_text is data['item'].x_text
        assert graph['item'].mask_text is data['item'].mask_text
        assert graph['item'].raw_id is data['item'].raw_id
        assert graph['user'].num_nodes == 3


def test_what_belongs_to_all_reverse_edges_does_not_outlive_them():
    data = make_graph()
    data[REV_INTERACTS].weight = torch.ones(5)
    assert 'weight' not in split(data, PART).train[REV_INTERACTS]


def test_the_graph_itself_stays_whole():
    data = make_graph()
    split(data, PART)
    torch.testing.assert_close(data[INTERACTS].edge_index, EDGES)
    assert 'edge_label_index' not in data[INTERACTS]
    assert data[REV_INTERACTS].edge_index.size(1) == 5


def test_setting_an_attribute_on_one_part_leaves_the_others():
    out = split(make_graph(), PART)
    out.val['item'].extra = torch.ones(3)
    assert 'extra' not in out.train['item']


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (PART[:3], r"'part' .* \(got shape \[3\] for 5 interactions\)"),
        (PART - 1, r'0 \(train\), 1 \(val\) or 2 \(test\) \(got -1 to 1\)'),
        (PART + 1, r'\(got 1 to 3\)'),
        (torch.ones(5, dtype=torch.long), 'at least one interaction for training'),
    ],
)
def test_errors(part, message):
    with pytest.raises(ValueError, match=message):
        split(make_graph(), part)


def test_a_split_graph_is_not_split_again():
    out = split(make_graph(), PART)
    assert isinstance(out, Split)
    with pytest.raises(ValueError, match="'data' must be a graph before its split"):
        split(out.train, torch.tensor([0, 0, 1]))


def test_the_parts_of_the_graph_are_the_default():
    data = make_graph()
    with pytest.raises(ValueError, match=r"'part' must be given .* 'split_column'"):
        split(data)
    data[INTERACTS].part = PART
    out, expected = split(data), split(make_graph(), PART)
    for graph, other in zip(out, expected, strict=True):
        assert 'part' not in graph[INTERACTS]
        assert torch.equal(
            graph[INTERACTS].edge_label_index, other[INTERACTS].edge_label_index
        )
    assert torch.equal(data[INTERACTS].part, PART)


def test_pairs_in_two_parts_are_refused_with_both_parts_and_their_number():
    edges = torch.tensor([[0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1]])
    options = {'user_ids': ['ann', 'bob'], 'item_ids': ['x', 'y']}
    part = torch.tensor([0, 0, 0, 2, 2, 0])
    match = (
        r"each pair once \(got 1 in 'train' twice, the first is user bob, item y; 2 in "
        r"both 'train' and 'test', the first is user ann, item x\)"
    )
    with pytest.raises(ValueError, match=match):
        build_graph(edges, edge_part=part, **options)
    graph = build_graph(edges, edge_part=part, duplicates='first', **options)
    assert graph[INTERACTS].part.tolist() == [0, 0, 0]


def test_errors_of_the_data_can_be_collected():
    x = torch.tensor([[1.0], [torch.nan], [2.0]])
    edges = torch.tensor([[0, 0, 1], [0, 0, 2]])
    with collect_errors() as errors:
        graph = build_graph(edges, item_features={'a': x}, item_ids=['x', 'y', 'z'])
    assert len(errors) == 2
    assert "NaN or infinity in 1 rows, the first is 'y'" in errors[1]
    assert graph[INTERACTS].edge_index.tolist() == [[0, 1], [0, 2]]
    assert graph['item'].mask_a.tolist() == [True, False, True]
    with pytest.raises(ValueError, match='each pair once'):
        build_graph(edges)
