import math

import numpy as np
import pytest
import torch

from promptmm_pyg.data import Split
from promptmm_pyg.distillation import distill
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.models.item_knn import ItemKNN
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import TrainingConfig
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, USER_ITEM
from tests.training.setting import make_split

SIZES = {'user': 30, 'item': 25}


def random_edges():
    g = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(n, (150,), generator=g) for n in (28, 22)])


def naive_similarity(edge_index, k, shrink):
    """Loops over all pairs of items."""
    users = {i: set() for i in range(25)}
    for u, i in edge_index.t().tolist():
        users[i].add(u)
    out = torch.zeros(25, 25)
    for i in range(25):
        actual = []
        for j in range(25):
            shared = len(users[i] & users[j])
            if i != j and shared:
                norm = math.sqrt(len(users[i]) * len(users[j])) + shrink
                actual.append((-np.float32(shared / norm), j))
        for value, j in sorted(actual)[:k]:
            out[i, j] = -float(value)
    return out


@pytest.mark.parametrize('block_size', [1, 4, 1024])
@pytest.mark.parametrize(('k', 'shrink'), [(1, 0.0), (3, 0.0), (3, 5.0), (99, 0.0)])
def test_agrees_with_loops_over_pairs(k, shrink, block_size):
    edge_index = random_edges()
    model = ItemKNN(
        SIZES, edge_type=USER_ITEM, k=k, shrink=shrink, block_size=block_size
    ).fit(edge_index)
    expected = naive_similarity(edge_index, k, shrink)
    torch.testing.assert_close(model.similarity @ torch.eye(25), expected)
    history = torch.zeros(30, 25)
    history[edge_index[0], edge_index[1]] = 1
    users = torch.tensor([3, 29, 3, 0])
    torch.testing.assert_close(model.scores(users), (history @ expected.t())[users])


def test_lower_index_comes_first_among_equals():
    # Items 1 and 2 share the same user with item 0.
    model = ItemKNN({'user': 1, 'item': 3}, edge_type=USER_ITEM, k=1)
    model.fit(torch.tensor([[0, 0, 0], [2, 1, 0]]))
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 0], [1, 0, 0]])
    torch.testing.assert_close(model.similarity @ torch.eye(3), expected)


def test_isolated_users_and_items_score_zero():
    scores = (
        ItemKNN(NUM_NODES, edge_type=USER_ITEM).fit(EDGE_INDEX).scores(torch.arange(5))
    )
    assert not scores[4].any()
    assert not scores[:, [2, 4, 6]].any()
    assert scores.any()


def test_output_is_the_truncated_svd_of_the_scores():
    model = ItemKNN(SIZES, edge_type=USER_ITEM).fit(random_edges())
    x_dict = model.as_output(width=6).x_dict
    u, sigma, vh = torch.linalg.svd(model.scores(torch.arange(30)))
    expected = (u[:, :6] * sigma[:6]) @ vh[:6]
    torch.testing.assert_close(
        x_dict['user'] @ x_dict['item'].t(), expected, atol=1e-3, rtol=1e-3
    )


def test_neither_similarities_nor_scores_are_made_dense():
    sizes = {'user': 500, 'item': 600}
    g = torch.Generator().manual_seed(0)
    edge_index = torch.stack(
        [torch.randint(n, (900,), generator=g) for n in sizes.values()]
    )
    numbers = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.layout == torch.strided:
                numbers.append(out.numel())
            return out

    with Watch():
        ItemKNN(sizes, edge_type=USER_ITEM, block_size=50).fit(edge_index).as_output(
            width=4
        )
    assert numbers
    assert max(numbers) < 500 * 600 / 4


def test_is_evaluated_and_teaches():
    train, val, _ = make_split()
    model = ItemKNN({'user': 60, 'item': 40}, edge_type=USER_ITEM).fit(
        train[USER_ITEM].edge_index
    )
    recall = evaluate(model.scores, val, ks=(10,)).metrics['Recall@10']
    assert recall > 10 / 40
    student = MatrixFactorization({'user': 60, 'item': 40}, embedding_dim=4)
    targets = SoftTargets.from_output(model.as_output(width=8))
    quick = TrainingConfig(epochs=1, progress=False)
    result = distill(
        student, targets, Split(train, val, val), baseline=False, config=quick
    )
    assert 'pairwise' in result.history.records[0]['losses']


def test_errors_and_repr():
    model = ItemKNN(NUM_NODES, edge_type=USER_ITEM).fit(EDGE_INDEX)
    assert str(model) == 'ItemKNN(k=20, shrink=0.0)'
    with pytest.raises(ValueError, match=r"'block_size' must be positive"):
        ItemKNN(NUM_NODES, edge_type=USER_ITEM, block_size=0)
