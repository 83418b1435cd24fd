import pytest
import torch

from promptmm_pyg.models._graphs import (
    FrozenGraph,
    item_edges,
    max_edges,
    modality_shares,
)
from tests.models.setting import dense_knn
from tests.nn.graphs import features


def as_dense(edges, num_nodes=7):
    return FrozenGraph(edges, num_nodes)(torch.eye(num_nodes))


def test_layers_are_powers_and_gradients_the_transpose():
    edges = item_edges(features(4), 3)
    S = dense_knn(features(4), 3, weighted=False, self_loops=False)
    x = features(2, seed=1).requires_grad_()
    graph = FrozenGraph(edges, 7, num_layers=2)
    torch.testing.assert_close(graph(x), S @ S @ x)
    weight = features(2, seed=2)
    (graph(x) * weight).sum().backward()
    torch.testing.assert_close(x.grad, S.t() @ S.t() @ weight)


def test_the_maximum_is_elementwise():
    graphs = [item_edges(features(4, seed=i), 3) for i in range(3)]
    matrices = torch.stack([as_dense(edges) for edges in graphs])
    torch.testing.assert_close(as_dense(max_edges(graphs, 7)), matrices.amax(dim=0))


@pytest.mark.parametrize(
    ('modalities', 'weights', 'expected'),
    [
        (['image', 'text'], None, [0.1, 0.9]),
        (['audio', 'image', 'text'], None, [0.05, 0.05, 0.9]),
        (['text'], None, [1.0]),
        (['audio', 'image'], None, [0.5, 0.5]),
        (['image', 'text'], {'text': 6.0, 'image': 2.0}, [0.25, 0.75]),
    ],
)
def test_weights_of_modalities_are_as_published_or_scaled(
    modalities, weights, expected
):
    assert modality_shares(modalities, weights) == pytest.approx(expected)


def test_masked_rows_and_rows_of_zeros_have_no_edges():
    x = features(4)
    x[2] = 0.0
    mask = torch.ones(7, dtype=torch.bool)
    mask[5] = False
    matrix = as_dense(item_edges(x, 3, mask))
    for absent in (2, 5):
        assert (matrix[absent] == 0).all()
        assert (matrix[:, absent] == 0).all()
    assert (matrix > 0).sum() == 5 * 3


def test_weights_are_single_whatever_the_features_are():
    assert item_edges(features(4).double(), 3)[1].dtype == torch.float


def test_nothing_is_saved_and_what_it_holds_moves():
    graph = FrozenGraph(item_edges(features(4), 3), 7)
    assert graph.state_dict() == {}
    moved = graph.to('meta')
    assert all(buffer.is_meta for buffer in moved.buffers())


def test_errors_and_repr():
    edges = item_edges(features(4), 3)
    assert str(FrozenGraph(edges, 7)) == 'FrozenGraph(7, edges=21, num_layers=1)'
    with pytest.raises(ValueError, match="'num_layers' must be positive"):
        FrozenGraph(edges, 7, num_layers=0)
    with pytest.raises(ValueError, match="'num_neighbors' must be positive"):
        item_edges(features(4), 0)
