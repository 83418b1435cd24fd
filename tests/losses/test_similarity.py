import pytest
import torch
import torch.nn.functional as F
from sklearn.preprocessing import normalize

from promptmm_pyg.losses.similarity import SimilarityKDLoss, similarity_kd_loss


def make_rows(num_rows=5, student_channels=3, teacher_channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(num_rows, student_channels, generator=g, dtype=torch.double)
    teacher = torch.randn(num_rows, teacher_channels, generator=g, dtype=torch.double)
    return student, 3 * teacher


def test_hand_computed():
    # Student rows of products (9, 12), (12, 16), both (3/5, 4/5) at unit length; the
    # teacher's are (1, 0) and (0, 1): (4 + 16) / 25 and (9 + 1) / 25, over two.
    student = torch.tensor([[3.0], [4.0]])
    teacher = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    loss = similarity_kd_loss(student, teacher, reduction='none')
    torch.testing.assert_close(loss, torch.tensor([0.4, 0.2]))


def test_signs_count():
    # (1, -1) against (1, 1), over sqrt 2: a squared gap of 2 in one place of two.
    student, teacher = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    torch.testing.assert_close(similarity_kd_loss(student, teacher), torch.tensor(1.0))


def test_equals_a_naive_loop():
    student, teacher = make_rows()
    expected = torch.zeros(5, dtype=torch.double)
    for i in range(5):
        rows = []
        for x in (student, teacher):
            products = torch.stack([x[i] @ x[j] for j in range(5)])
            rows.append(products / products.norm())
        expected[i] = (rows[0] - rows[1]).square().sum() / 5
    torch.testing.assert_close(similarity_kd_loss(student, teacher, 'none'), expected)


def test_equals_the_frobenius_norm_of_rows_normalised_by_sklearn():
    student, teacher = make_rows()
    s, t = (torch.from_numpy(normalize((x @ x.T).numpy())) for x in (student, teacher))
    expected = torch.linalg.matrix_norm(s - t) ** 2 / 25
    torch.testing.assert_close(similarity_kd_loss(student, teacher), expected)


def test_scale_rotation_and_width_do_not_count():
    student, teacher = make_rows(student_channels=4)
    g = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.double))
    moved = 7 * F.pad(student, (0, 2)) @ rotation
    torch.testing.assert_close(
        similarity_kd_loss(moved, teacher), similarity_kd_loss(student, teacher)
    )


def test_the_length_of_one_row_counts():
    student, teacher = make_rows()
    longer = student.clone()
    longer[0] *= 5
    gap = similarity_kd_loss(longer, teacher) - similarity_kd_loss(student, teacher)
    assert gap.abs() > 1e-3


def test_zero_with_zero_gradient_where_both_agree():
    _, teacher = make_rows()
    student = (2 * teacher).requires_grad_()
    loss = similarity_kd_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher))


def test_one_row_teaches_nothing():
    student, teacher = make_rows(num_rows=1)
    loss = similarity_kd_loss(student, teacher)
    torch.testing.assert_close(loss, torch.zeros_like(loss))


def test_a_row_of_zeros_is_like_no_other():
    student, teacher = (x.float() for x in make_rows())
    student[2] = 0
    student.requires_grad_()
    loss = similarity_kd_loss(student, teacher, reduction='none')
    loss.sum().backward()
    torch.testing.assert_close(loss[2].detach(), torch.tensor(0.2))  # 1 / N
    assert student.grad.isfinite().all()


def test_rows_of_zeros_alone_cost_nothing():
    x = torch.zeros(3, 2, requires_grad=True)
    loss = similarity_kd_loss(x, torch.zeros(3, 4))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.0))
    torch.testing.assert_close(x.grad, torch.zeros(3, 2))


def test_gradients_flow_to_both():
    rows = [x.requires_grad_() for x in make_rows()]
    assert torch.autograd.gradcheck(SimilarityKDLoss(), rows)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_large_values(dtype):
    # Products of 1e8 are beyond the largest half.
    student = torch.tensor([[1e4, -1e4], [1e4, 1e4]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[1e4], [1e4]], dtype=dtype, requires_grad=True)
    loss = similarity_kd_loss(student, teacher)
    loss.backward()
    # Rows (1, 0) and (0, 1) against (1, 1) / sqrt 2.
    torch.testing.assert_close(loss.detach(), torch.tensor(1 - 0.5**0.5))
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_reduction(reduction):
    rows = make_rows()
    each = SimilarityKDLoss(reduction='none')(*rows)
    assert each.size() == (5,)
    torch.testing.assert_close(
        SimilarityKDLoss(reduction=reduction)(*rows), getattr(each, reduction)()
    )


def test_numbers_of_rows_need_to_agree():
    with pytest.raises(ValueError, match=r'same number of rows \(got 5 and 1\)'):
        similarity_kd_loss(torch.ones(5, 2), torch.ones(1, 2))


def test_a_row_is_needed():
    with pytest.raises(ValueError, match='at least 1 rows'):
        similarity_kd_loss(torch.ones(0, 2), torch.ones(0, 2))


def test_values_need_to_be_finite():
    with pytest.raises(ValueError, match=r"'student_x'.*finite"):
        similarity_kd_loss(torch.full((2, 2), float('inf')), torch.ones(2, 2))


def test_the_reduction_needs_to_be_known():
    with pytest.raises(ValueError, match="'reduction' must"):
        SimilarityKDLoss(reduction='batchmean')


def test_repr():
    assert str(SimilarityKDLoss()) == "SimilarityKDLoss(reduction='mean')"
