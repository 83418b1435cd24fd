import numpy as np
import pytest
import torch

from promptmm_pyg.data import Split
from promptmm_pyg.distillation import distill
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.models.graph_filter import GraphFilter
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import TrainingConfig
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, USER_ITEM, features
from tests.training.setting import make_split

ALL = torch.arange(5)


def modalities():
    return {'image': {'item': features(3)}, 'text': {'item': features(4, seed=1)}}


def deviations(scores):
    """Rows over their standard deviation, one by one."""
    rows = [row / row.std(correction=0) if row.std() > 0 else row * 0 for row in scores]
    return torch.stack(rows)


def dense_scores(num_layers, popularity, weight=0.0, x_dict=None):
    a = torch.zeros(5, 7, dtype=torch.double)
    a[EDGE_INDEX[0], EDGE_INDEX[1]] = 1
    per_user = torch.diag(1 / a.sum(1).clamp(min=1))
    root = torch.diag(a.sum(0).clamp(min=1) ** -0.5)
    s = root @ a.t() @ per_user @ a @ root
    walks = a @ torch.linalg.matrix_power(s, num_layers)
    out = deviations(walks * a.sum(0).clamp(min=1) ** popularity)
    for features_of in (x_dict or {}).values():
        x = features_of['item'].double()
        x = x / x.norm(dim=1, keepdim=True)
        mean = a @ x
        mean = mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)
        out = out + weight * deviations(mean @ x.t())
    return out.float()


@pytest.mark.parametrize('num_layers', [1, 2, 4])
@pytest.mark.parametrize('popularity', [0.0, 0.5, 1.0])
def test_scores_are_those_of_dense_matrices(num_layers, popularity):
    model = GraphFilter(
        NUM_NODES, edge_type=USER_ITEM, num_layers=num_layers, popularity=popularity
    ).fit(EDGE_INDEX)
    expected = dense_scores(num_layers, popularity)
    torch.testing.assert_close(model.scores(ALL), expected)
    users = torch.tensor([3, 0, 3])
    torch.testing.assert_close(model.scores(users), expected[users])


def test_content_joins_with_its_weight():
    model = GraphFilter(
        NUM_NODES, modalities(), edge_type=USER_ITEM, modality_weight=0.3
    )
    expected = dense_scores(4, 0.5, 0.3, modalities())
    torch.testing.assert_close(model.fit(EDGE_INDEX).scores(ALL), expected)


def test_the_tables_of_full_width_rank_as_the_scores_do():
    model = GraphFilter(NUM_NODES, modalities(), edge_type=USER_ITEM).fit(EDGE_INDEX)
    output = model.as_output(width=5)
    x_dict = output.x_dict
    assert x_dict['item'].shape == (7, 5 + 3 + 4)
    torch.testing.assert_close(
        x_dict['user'] @ x_dict['item'].t(), model.scores(ALL), atol=1e-4, rtol=1e-4
    )
    image = output.modality_x_dict['image']
    torch.testing.assert_close(image['item'].norm(dim=1), torch.ones(7))
    assert not image['user'][4].any()  # A user without a history has no taste.


def test_narrow_tables_are_the_truncated_svd_of_the_walks():
    model = GraphFilter(NUM_NODES, edge_type=USER_ITEM, num_layers=1, popularity=0.0)
    x_dict = model.fit(EDGE_INDEX).as_output(width=2).x_dict
    a = torch.zeros(5, 7)
    a[EDGE_INDEX[0], EDGE_INDEX[1]] = 1
    root = torch.diag(a.sum(0).clamp(min=1) ** -0.5)
    walks = a @ root @ a.t() @ torch.diag(1 / a.sum(1).clamp(min=1)) @ a @ root
    u, sigma, vh = torch.linalg.svd(walks)
    expected = deviations((u[:, :2] * sigma[:2]) @ vh[:2])
    actual = x_dict['user'] @ x_dict['item'].t()
    torch.testing.assert_close(actual[:4], expected[:4], atol=1e-4, rtol=1e-4)


def test_repeated_edges_count_once():
    twice = torch.cat([EDGE_INDEX, EDGE_INDEX[:, :2]], dim=1)
    first, second = (
        GraphFilter(NUM_NODES, edge_type=USER_ITEM).fit(edges)
        for edges in (EDGE_INDEX, twice)
    )
    assert torch.equal(first.scores(ALL), second.scores(ALL))


def test_a_user_without_a_history_scores_nothing():
    model = GraphFilter(NUM_NODES, modalities(), edge_type=USER_ITEM).fit(EDGE_INDEX)
    assert not model.scores(torch.tensor([4])).any()
    assert not model.as_output(width=3).x_dict['user'][4].any()


def test_it_finds_planted_tastes_and_teaches():
    train, val, _ = make_split()
    sizes = {'user': 60, 'item': 40}
    model = GraphFilter(sizes, edge_type=USER_ITEM).fit(train[USER_ITEM].edge_index)
    assert evaluate(model.scores, val, ks=(10,)).metrics['Recall@10'] > 10 / 40
    targets = SoftTargets.from_output(model.as_output(width=8))
    quick = TrainingConfig(epochs=1, progress=False)
    student = MatrixFactorization(sizes, embedding_dim=4)
    result = distill(
        student, targets, Split(train, val, val), baseline=False, config=quick
    )
    assert 'pairwise' in result.history.records[0]['losses']


def test_a_weight_of_zero_leaves_the_content_out():
    plain = GraphFilter(NUM_NODES, edge_type=USER_ITEM).fit(EDGE_INDEX)
    zero = GraphFilter(
        NUM_NODES, modalities(), edge_type=USER_ITEM, modality_weight=0.0
    )
    assert torch.equal(zero.fit(EDGE_INDEX).scores(ALL), plain.scores(ALL))
    assert zero.as_output(2).modality_x_dict == {}


def polynomial_scores(coefficients, scales, alpha=0.89, exponent=0.67):
    """MM-GF by dense matrices, one modality at a time."""
    a = np.zeros((5, 7))
    a[EDGE_INDEX[0], EDGE_INDEX[1]] = 1

    def normalized(x):
        row, column = x.sum(axis=1, keepdims=True), x.sum(axis=0, keepdims=True)
        row, column = np.where(row > 0, row, 1), np.where(column > 0, column, 1)
        return row**-alpha * x * column ** (alpha - 1)

    def filtered(gram):
        p = gram**exponent
        bound = np.linalg.eigvalsh(p).max()
        powers = (
            c * bound * np.linalg.matrix_power(p / bound, k)
            for k, c in enumerate(coefficients, 1)
        )
        return a @ sum(powers)

    z = normalized(a)
    interactions = out = filtered(z.T @ z)
    for name, x_dict in modalities().items():
        x = x_dict['item'].double().numpy()
        low, median, high = np.percentile(x, (25, 50, 75), axis=0)
        x = (x - median) / (high - low)
        z = normalized(x - x.min())
        content, scale = filtered(z @ z.T), scales[name]
        if scale is None:
            scale = 0.1 * interactions.std(axis=1).mean() / content.std(axis=1).mean()
        out = out + scale * content
    return torch.from_numpy(out).float()


@pytest.mark.parametrize('coefficients', [(1.0,), (2.0, -1.0), (0.7, 0.1, -0.01)])
@pytest.mark.parametrize('image', [3.0, None])
def test_polynomial_scores_are_those_of_dense_matrices(coefficients, image):
    scales = {'image': image, 'text': 0.5}
    model = GraphFilter(
        NUM_NODES,
        modalities(),
        edge_type=USER_ITEM,
        polynomial=coefficients,
        modality_scales={name: x for name, x in scales.items() if x is not None},
    ).fit(EDGE_INDEX)
    expected = polynomial_scores(coefficients, scales)
    torch.testing.assert_close(model.scores(ALL), expected, rtol=1e-4, atol=1e-5)
    users = torch.tensor([3, 0])
    torch.testing.assert_close(model.scores(users), model.scores(ALL)[users])
    assert not model.scores(torch.tensor([4])).any()


def test_polynomial_tables_of_full_width_equal_the_scores():
    model = GraphFilter(
        NUM_NODES, modalities(), edge_type=USER_ITEM, polynomial=(1.0,)
    ).fit(EDGE_INDEX)
    output = model.as_output(width=5)
    user, item = output.x_dict.values()
    torch.testing.assert_close(user @ item.t(), model.scores(ALL), rtol=1e-4, atol=1e-4)
    alone = polynomial_scores((1.0,), {'image': 1.0, 'text': 0.0}) - polynomial_scores(
        (1.0,), {'image': 0.0, 'text': 0.0}
    )
    user, item = output.modality_x_dict['image'].values()
    torch.testing.assert_close(user @ item.t(), alone, rtol=1e-4, atol=1e-4)
    assert list(output.modality_x_dict) == ['image', 'text']


def test_constant_and_absent_features_add_nothing_to_the_polynomial():
    def scores(x_dict):
        model = GraphFilter(NUM_NODES, x_dict, edge_type=USER_ITEM, polynomial=(1.0,))
        return model.fit(EDGE_INDEX).scores(ALL)

    zeros = {'image': {'item': torch.zeros(7, 3)}}
    assert torch.equal(scores(zeros), scores({}))


def test_errors_of_the_polynomial():
    for wrong, fix in (
        ({'polynomial': ()}, "'polynomial' must have a coefficient"),
        (
            {'modality_scales': {'audio': 1.0}},
            r"must have modalities of \['image', 'te",
        ),
        ({'degree_exponent': 1.5}, r"'degree_exponent' must be in \[0, 1\]"),
        ({'similarity_exponent': 0.0}, "'similarity_exponent' must be positive"),
    ):
        with pytest.raises(ValueError, match=fix):
            GraphFilter(NUM_NODES, modalities(), edge_type=USER_ITEM, **wrong)


def test_repr():
    model = GraphFilter(
        NUM_NODES,
        modalities(),
        edge_type=USER_ITEM,
        polynomial=[2.0, -1.0],
        modality_scales={'text': 600.0},
    )
    assert str(model) == (
        'GraphFilter(polynomial=(2.0, -1.0), modality_weight=0.1, '
        "modality_scales={'text': 600.0}, modalities=['image', 'text'])"
    )
    assert str(GraphFilter(NUM_NODES, modalities(), edge_type=USER_ITEM)) == (
        'GraphFilter(num_layers=4, popularity=0.5, modality_weight=0.1, '
        "modalities=['image', 'text'])"
    )
