import pytest
import torch

from promptmm_pyg.models import Popularity
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, USER_ITEM


def test_scores_are_numbers_of_users_for_every_user():
    model = Popularity(NUM_NODES, edge_type=USER_ITEM).fit(EDGE_INDEX)
    degree = [len(set(EDGE_INDEX[0, EDGE_INDEX[1] == i].tolist())) for i in range(7)]
    expected = torch.tensor(degree, dtype=torch.float).repeat(2, 1)
    assert torch.equal(model.scores(torch.tensor([4, 0])), expected)


@pytest.mark.parametrize('width', [None, 1, 3])
def test_embeddings_score_the_same(width):
    model = Popularity(NUM_NODES, edge_type=USER_ITEM).fit(EDGE_INDEX)
    x_dict = model.as_output(width).x_dict
    assert x_dict['user'].size(1) == x_dict['item'].size(1) == (width or 1)
    assert torch.equal(
        x_dict['user'] @ x_dict['item'].t(), model.scores(torch.arange(5))
    )


def test_repeated_interactions_count_once():
    edge_index = torch.tensor([[0, 0, 1], [2, 2, 0]])
    scores = (
        Popularity({'user': 2, 'item': 3}).fit(edge_index).scores(torch.tensor([0]))
    )
    assert scores.tolist() == [[1.0, 0.0, 1.0]]


def test_a_catalogue_without_items_is_an_error():
    with pytest.raises(
        ValueError, match=r"'num_nodes_dict\['item'\]' must be positive"
    ):
        Popularity({'user': 1, 'item': 0}, edge_type=USER_ITEM)
