import pytest
import torch

from promptmm_pyg.data import Split
from promptmm_pyg.distillation import distill
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.models.ease import EASE
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import TrainingConfig
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, USER_ITEM
from tests.training.setting import make_split


def dense(dtype=torch.double):
    out = torch.zeros(5, 7, dtype=dtype)
    out[EDGE_INDEX[0], EDGE_INDEX[1]] = 1
    return out


def test_weights_solve_each_items_ridge_regression_on_the_others():
    # The constrained problem falls apart into one regression a column.
    model = EASE(NUM_NODES, edge_type=USER_ITEM, l2=0.7).fit(EDGE_INDEX)
    a = dense()
    expected = torch.zeros(7, 7, dtype=torch.double)
    for j in range(7):
        others = [i for i in range(7) if i != j]
        x = a[:, others]
        gram = x.t() @ x + 0.7 * torch.eye(6, dtype=torch.double)
        expected[others, j] = torch.linalg.solve(gram, x.t() @ a[:, j])
    torch.testing.assert_close(model.weight, expected.float())


def test_scores_are_histories_times_weights():
    model = EASE(NUM_NODES, edge_type=USER_ITEM, l2=0.7).fit(EDGE_INDEX)
    users = torch.tensor([2, 4, 2, 0])
    expected = dense(torch.float)[users] @ model.weight
    torch.testing.assert_close(model.scores(users), expected)
    assert not model.scores(torch.tensor([4])).any()


def test_output_is_the_truncated_svd_of_the_scores():
    model = EASE(NUM_NODES, edge_type=USER_ITEM, l2=0.7).fit(EDGE_INDEX)
    x_dict = model.as_output(width=2).x_dict
    u, sigma, vh = torch.linalg.svd(model.scores(torch.arange(5)))
    expected = (u[:, :2] * sigma[:2]) @ vh[:2]
    torch.testing.assert_close(
        x_dict['user'] @ x_dict['item'].t(), expected, atol=1e-4, rtol=1e-4
    )


def test_is_evaluated_and_teaches():
    train, val, _ = make_split()
    model = EASE({'user': 60, 'item': 40}, edge_type=USER_ITEM, l2=10.0)
    model.fit(train[USER_ITEM].edge_index)
    assert evaluate(model.scores, val, ks=(10,)).metrics['Recall@10'] > 10 / 40
    student = MatrixFactorization({'user': 60, 'item': 40}, embedding_dim=4)
    targets = SoftTargets.from_output(model.as_output(width=8))
    quick = TrainingConfig(epochs=1, progress=False)
    result = distill(
        student, targets, Split(train, val, val), baseline=False, config=quick
    )
    assert 'pairwise' in result.history.records[0]['losses']


def test_a_large_catalogue_is_an_error_with_its_memory():
    # 16 bytes * 40000^2 = 23.8 GiB.
    with pytest.raises(ValueError, match=r'max_items=20000 .*40000.*23\.8 GiB'):
        EASE({'user': 2, 'item': 40000}, edge_type=USER_ITEM)
    with pytest.raises(ValueError, match=r"free memory \(got .* MiB\).*'GraphFilter'"):
        EASE({'user': 2, 'item': 10**6}, edge_type=USER_ITEM, max_items=10**6)
    with pytest.raises(ValueError, match='max_items=6 items'):
        EASE(NUM_NODES, edge_type=USER_ITEM, max_items=6)
    EASE(NUM_NODES, edge_type=USER_ITEM, max_items=7)
