import pytest
import torch
from torch.testing import assert_close

from promptmm_pyg.content import encode_content, join_content
from promptmm_pyg.data import build_graph, split_by_part, validate
from tests.content.encoders import Lengths


def graph(items=('a', 'b', 'c')):
    edges = torch.tensor([[0, 1, 1, 0], [0, 1, 2, 1]])
    return build_graph(edges, user_ids=[5, 6], item_ids=list(items))


def rows(contents):
    return encode_content(contents, Lengths(), progress=False)


def test_rows_are_joined_by_raw_id():
    data = join_content(graph(), rows({'c': 'aaa', 'x': 'x', 'a': 'b'}), 'text')
    assert_close(data['item'].x_text, torch.tensor([[1.0, 0], [0, 0], [3, 3]]))
    assert data['item'].mask_text.tolist() == [True, False, True]


def test_rows_that_are_absent_stay_absent():
    data = join_content(graph(), rows({'a': None, 'b': 'b', 'c': ''}), 'text')
    assert data['item'].mask_text.tolist() == [False, True, False]


def test_numbers_and_their_text_are_one_id():
    data = join_content(graph([1, 2, 3]), rows({'1': 'a', '3': 'aa'}), 'text')
    assert data['item'].x_text[:, 0].tolist() == [1, 0, 2]
    same = join_content(graph(['1', '2', '3']), rows({1: 'a', 3: 'aa'}), 'text')
    assert_close(same['item'].x_text, data['item'].x_text)


def test_leading_zeros_are_part_of_an_id():
    data = join_content(graph(['1', '01', '2']), rows({'01': 'a'}), 'text')
    assert data['item'].mask_text.tolist() == [False, True, False]


def test_users_can_have_content():
    data = join_content(graph(), rows({'6': 'a'}), 'bio', node_type='user')
    assert data['user'].mask_bio.tolist() == [False, True]
    assert 'x_bio' not in data['item']


def test_the_graph_itself_is_not_changed():
    before = graph()
    join_content(before, rows({'a': 'a'}), 'text')
    assert 'x_text' not in before['item']


def test_the_graphs_of_a_split_share_what_is_joined():
    split = split_by_part(graph(), torch.tensor([0, 0, 1, 2]))
    joined = join_content(split, rows({'a': 'a', 'b': 'bb', 'c': 'cac'}), 'text')
    assert joined.val['item'].x_text is joined.train['item'].x_text
    assert joined.test['item'].mask_text is joined.train['item'].mask_text
    assert [x for x in validate(joined) if x.level == 'error'] == []


@pytest.mark.parametrize(
    ('contents', 'options', 'match'),
    [
        ({'a': 'a'}, {'modality': 'te xt'}, "'modality' must be made of letters"),
        ({'a': 'a'}, {'node_type': 'movie'}, "'node_type' must be one of"),
        ({'x': 'a'}, {}, r"share ids with the items \(got \['x'\] for \['a'"),
        ({}, {}, 'share ids with the items'),
        ({'1': 'a', 1: 'a', 'a': 'a'}, {}, "one row for each id .*'1' as number"),
    ],
)
def test_what_does_not_fit_is_refused(contents, options, match):
    with pytest.raises(ValueError, match=match):
        join_content(graph(), rows(contents), **{'modality': 'text', **options})


def test_a_taken_name_is_refused():
    data = join_content(graph(), rows({'a': 'a'}), 'text')
    with pytest.raises(ValueError, match=r"must be a new name .*'text'"):
        join_content(data, rows({'a': 'a'}), 'text')


def test_nodes_need_raw_ids():
    data = build_graph(torch.tensor([[0], [0]]))
    with pytest.raises(ValueError, match="'data' must have raw ids of its items"):
        join_content(data, rows({'a': 'a'}), 'text')
