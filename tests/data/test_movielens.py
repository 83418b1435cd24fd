import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, from_movielens, split_movielens, validate

EDGES = [[0, 0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 1, 4, 2]]
RATINGS = [5, 1, 4, 3, 2, 5, 4]
TIMES = [70, 60, 50, 40, 30, 20, 10]


def movielens(kind):
    """By hand, after what each class of PyG puts together."""
    data = HeteroData()
    data['movie'].x = torch.eye(5)[:, :3] + 0.5
    store = data['user', 'rates', 'movie']
    store.edge_index = torch.tensor(EDGES)
    store.time = torch.tensor(TIMES)
    if kind == 'MovieLens':
        data['user'].num_nodes = 4
        store.edge_label = torch.tensor(RATINGS)
        return data
    data['user'].x = torch.arange(8.0).view(4, 2)
    store.rating = torch.tensor(RATINGS)
    back = data['movie', 'rated_by', 'user']
    back.edge_index, back.time = store.edge_index.flip([0]), store.time
    if kind == 'MovieLens100K':
        store.edge_label_index = torch.tensor([[0, 2, 3], [4, 0, 1]])
        store.edge_label = torch.tensor([4.0, 2.0, 3.0])
    return data


def pairs(edges):
    return sorted(map(tuple, edges.t().tolist()))


@pytest.mark.parametrize('kind', ['MovieLens', 'MovieLens1M'])
def test_movies_become_items_with_their_features(kind):
    graph = from_movielens(movielens(kind))
    assert graph.num_nodes_dict == {'user': 4, 'item': 5}
    assert graph[INTERACTS].edge_index.tolist() == EDGES
    assert graph[INTERACTS].time.tolist() == TIMES
    assert_close(graph['item'].x_content, torch.eye(5)[:, :3] + 0.5)
    assert graph['user'].raw_id.tolist() == ['0', '1', '2', '3']
    assert list(graph['user'].keys()) == ['num_nodes', 'raw_id']
    assert [x for x in validate(graph) if x.level == 'error'] == []


@pytest.mark.parametrize('kind', ['MovieLens', 'MovieLens1M'])
def test_low_ratings_are_left_out(kind):
    graph = from_movielens(movielens(kind), min_rating=4)
    assert graph[INTERACTS].edge_index.tolist() == [[0, 0, 1, 2], [0, 2, 4, 2]]
    assert graph[INTERACTS].time.tolist() == [70, 50, 20, 10]
    assert graph['item'].num_nodes == 5


def test_names_and_ids_can_be_given():
    graph = from_movielens(
        movielens('MovieLens1M'),
        item_modality='genres',
        user_modality='profile',
        item_ids=[10, 20, 30, 40, 50],
        user_ids=list('abcd'),
    )
    assert graph['item'].raw_id.tolist() == [10, 20, 30, 40, 50]
    assert graph['user'].raw_id.tolist() == ['a', 'b', 'c', 'd']
    assert 'x_genres' in graph['item']
    assert_close(graph['user'].x_profile, torch.arange(8.0).view(4, 2))


def test_the_graph_of_pyg_is_not_changed():
    data = movielens('MovieLens1M')
    before = data.to_dict()
    from_movielens(data, min_rating=4)
    assert str(data.to_dict()) == str(before)


def test_the_test_that_came_is_the_test():
    split = split_movielens(movielens('MovieLens100K'), val_ratio=0.3)
    assert pairs(split.test[INTERACTS].edge_label_index) == [(0, 4), (2, 0), (3, 1)]
    held = [graph[INTERACTS].edge_label_index for graph in (split.train, split.val)]
    assert pairs(torch.cat(held, dim=1)) == pairs(torch.tensor(EDGES))
    assert split.val[INTERACTS].edge_label_index.size(1) == 1
    assert 'edge_label_time' not in split.test[INTERACTS]
    assert [x for x in validate(split) if x.level == 'error'] == []
    for graph in split:
        assert_close(
            graph[INTERACTS].edge_index, split.train[INTERACTS].edge_label_index
        )


def test_low_ratings_are_left_out_of_the_test_too():
    split = split_movielens(movielens('MovieLens100K'), val_ratio=0, min_rating=3)
    assert pairs(split.test[INTERACTS].edge_label_index) == [(0, 4), (3, 1)]
    assert split.train[INTERACTS].edge_index.size(1) == 5
    assert split.val[INTERACTS].edge_label_index.size(1) == 0


def test_the_draw_of_the_validation_has_a_seed():
    data = movielens('MovieLens100K')
    drawn = {
        tuple(
            split_movielens(data, val_ratio=0.3, seed=seed)
            .val[INTERACTS]
            .edge_label_index.flatten()
            .tolist()
        )
        for seed in range(8)
    }
    assert len(drawn) > 1


def test_a_test_that_came_is_not_dropped():
    with pytest.raises(ValueError, match="Keep them with 'split_movielens'"):
        from_movielens(movielens('MovieLens100K'))


def test_there_has_to_be_a_test():
    with pytest.raises(ValueError, match="has no 'edge_label_index'"):
        split_movielens(movielens('MovieLens1M'))


def test_a_rating_is_in_one_part():
    data = movielens('MovieLens100K')
    data['user', 'rates', 'movie'].edge_label_index[:, 0] = 0
    with pytest.raises(ValueError, match=r'each rating once \(got 1 again'):
        split_movielens(data)


@pytest.mark.parametrize(
    ('kind', 'options', 'match'),
    [
        ('MovieLens', {'min_rating': 6}, r'keep a rating \(got 6, the highest is 5\)'),
        ('MovieLens', {'user_modality': 'x'}, "'user_modality' requires features"),
    ],
)
def test_options_have_to_fit(kind, options, match):
    with pytest.raises(ValueError, match=match):
        from_movielens(movielens(kind), **options)


def test_a_least_rating_needs_ratings():
    data = movielens('MovieLens')
    del data['user', 'rates', 'movie'].edge_label
    with pytest.raises(ValueError, match="'min_rating' requires ratings"):
        from_movielens(data, min_rating=1)


def test_other_graphs_are_refused():
    with pytest.raises(ValueError, match='must be a MovieLens graph of PyG'):
        from_movielens(HeteroData())
