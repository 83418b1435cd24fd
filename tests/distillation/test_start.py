"""The SVD-truncated teacher and the starts of a student."""

import pytest
import torch

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.distillation import start_student, truncate_embeddings
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import SoftTargets
from tests.training.setting import LightGCN, make_split, make_student, make_teacher


def make_tables(dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return {
        'user': torch.randn(9, 5, generator=g, dtype=dtype),
        'item': torch.randn(12, 5, generator=g, dtype=dtype),
    }


def make_targets():
    """A teacher of width 6 for the small split."""
    g = torch.Generator().manual_seed(1)
    x_dict = {
        k: torch.randn(n, 6, generator=g) for k, n in (('user', 60), ('item', 40))
    }
    return SoftTargets(x_dict, {})


def scores(x_dict):
    return x_dict['user'] @ x_dict['item'].t()


@pytest.mark.parametrize('width', [1, 3, 4])
def test_scores_are_the_truncated_svd_of_the_score_matrix(width):
    x_dict = make_tables()
    out = truncate_embeddings(x_dict, width)
    left, sizes, right = torch.linalg.svd(scores(x_dict), full_matrices=False)
    expected = (left[:, :width] * sizes[:width]) @ right[:width]
    torch.testing.assert_close(scores(out), expected)
    assert out['user'].shape == (9, width)
    assert out['item'].shape == (12, width)


@pytest.mark.parametrize('width', [5, 8])
def test_at_its_own_width_or_above_it_is_the_teacher(width):
    x_dict = make_tables()
    out = truncate_embeddings(x_dict, width)
    assert torch.equal(out['user'], x_dict['user'])
    assert torch.equal(out['item'], x_dict['item'])


def test_fewer_nodes_than_the_width():
    x_dict = {'user': make_tables()['user'][:2], 'item': make_tables()['item']}
    torch.testing.assert_close(scores(truncate_embeddings(x_dict, 4)), scores(x_dict))


def test_the_type_is_that_of_the_input_which_is_unchanged():
    x_dict = make_tables(torch.float)
    before = {key: x.clone() for key, x in x_dict.items()}
    assert truncate_embeddings(x_dict, 2)['item'].dtype == torch.float
    torch.testing.assert_close(x_dict, before, rtol=0, atol=0)


def test_error():
    with pytest.raises(ValueError, match="'width' must be positive"):
        truncate_embeddings(make_tables(), 0)


def dense_propagation(data, num_layers):
    """The mean of the powers of the normalized adjacency, users first."""
    user, item = data.train[INTERACTS].edge_index
    num_users, num_items = (data.train[key].num_nodes for key in ('user', 'item'))
    adj = torch.zeros(num_users + num_items, num_users + num_items)
    adj[user, num_users + item] = adj[num_users + item, user] = 1.0
    root = adj.sum(1).clamp_min(1e-9).rsqrt()
    adj = root[:, None] * adj * root
    powers = [torch.linalg.matrix_power(adj, k) for k in range(num_layers + 1)]
    return torch.stack(powers).mean(dim=0)


@pytest.mark.parametrize('cls', [MatrixFactorization, LightGCN])
def test_the_output_of_a_started_student_is_the_truncated_teacher(cls):
    data = make_split()
    targets, student = make_targets(), make_student(data.train, 4, cls=cls)
    inputs = (normalized_adj_dict(data.train),)
    start_student(student, targets, inputs=inputs)
    expected = truncate_embeddings(targets.x_dict, 4)
    tables = dict(student.embeddings.tables.items())
    if cls is MatrixFactorization:
        torch.testing.assert_close(tables, expected, rtol=0, atol=0)
        return
    # The best possible tables, by least squares on the dense propagation.
    matrix, rows = dense_propagation(data, 2), torch.cat(list(expected.values()))
    best = matrix @ torch.linalg.pinv(matrix, rtol=1e-4) @ rows
    output = torch.cat([get_embeddings(student, inputs)[key] for key in expected])
    torch.testing.assert_close(
        output, matrix @ torch.cat([tables[key] for key in expected])
    )
    residual = ((best - rows).norm() / rows.norm()).item()
    assert ((output - rows).norm() / rows.norm()).item() < residual + 0.03


def test_columns_beyond_the_teacher_and_a_random_start_stay():
    data, targets = make_split(), make_targets()
    student = make_student(data.train, 8)
    before = {key: x.detach().clone() for key, x in student.embeddings().items()}
    start_student(student, targets, start='random')
    torch.testing.assert_close(dict(student.embeddings()), before, rtol=0, atol=0)
    start_student(student, targets)
    for key, x in student.embeddings().items():
        assert torch.equal(x[:, :6], targets.x_dict[key])
        assert torch.equal(x[:, 6:], before[key][:, 6:])


def test_a_module_without_tables_is_fitted_by_its_parameters():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.user = torch.nn.Embedding(60, 4)
            self.item = torch.nn.Embedding(40, 4, sparse=True)

        def forward(self):
            return {'user': 2 * self.user.weight, 'item': 3 * self.item.weight}

    student, targets = Scaled(), make_targets()
    start_student(student, targets)
    expected = truncate_embeddings(targets.x_dict, 4)
    torch.testing.assert_close(dict(student()), expected, rtol=1e-3, atol=1e-3)


def test_the_tables_of_the_teacher_are_copied():
    data = make_split()
    student, teacher = make_student(data.train, 8), make_teacher(data.train)
    start_student(student, make_targets(), start='teacher tables', teacher=teacher)
    own, other = student.embeddings, teacher.embeddings
    torch.testing.assert_close(own.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert own.tables['user'].data_ptr() != other.tables['user'].data_ptr()


@pytest.mark.parametrize('teacher', [None, make_teacher(make_split().train)])
def test_errors_of_a_start(teacher):
    student, targets = make_student(make_split().train), make_targets()
    with pytest.raises(ValueError, match=r"'start' must be .*'teacher tables'"):
        start_student(student, targets, start='teacher tables', teacher=teacher)
    with pytest.raises(ValueError, match="'start' must be"):
        start_student(student, targets, start='zero')
