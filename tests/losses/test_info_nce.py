import math

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.losses import info_nce_loss

GROUP = torch.tensor([3, 1, 3, 2, 1, 3])


def make_rows(num_rows=6, channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, num_rows, channels, generator=g, dtype=torch.double)
    return x[0], x[1]


def naive(anchor, positive, temperature, group):
    losses = []
    for b in range(len(anchor)):
        logits = [
            F.cosine_similarity(anchor[b], positive[j], dim=0) / temperature
            for j in range(len(positive))
            if j == b or group[j] != group[b]
        ]
        own = F.cosine_similarity(anchor[b], positive[b], dim=0) / temperature
        losses.append(torch.stack(logits).logsumexp(0) - own)
    return torch.stack(losses)


def test_hand_computed():
    # Cosines 1 with its own and 0 with the other row, at temperature 1 / ln 3.
    loss = info_nce_loss(torch.eye(2), 5 * torch.eye(2), 1 / math.log(3))
    torch.testing.assert_close(loss, torch.tensor(math.log(4 / 3)))


def test_equals_the_cross_entropy_of_torch():
    anchor, positive = make_rows()
    cosine = F.cosine_similarity(anchor[:, None], positive[None], dim=-1)
    torch.testing.assert_close(
        info_nce_loss(anchor, positive, 0.5),
        F.cross_entropy(cosine / 0.5, torch.arange(6)),
    )


def test_symmetric_equals_the_cross_entropy_of_torch_both_ways():
    anchor, positive = make_rows()
    cosine = F.cosine_similarity(anchor[:, None], positive[None], dim=-1) / 0.2
    own = torch.arange(6)
    expected = (F.cross_entropy(cosine, own) + F.cross_entropy(cosine.t(), own)) / 2
    torch.testing.assert_close(
        info_nce_loss(anchor, positive, symmetric=True), expected
    )


@pytest.mark.parametrize('group', [GROUP, torch.arange(6), torch.arange(6) // 3])
def test_groups_equal_a_loop_that_leaves_rows_out(group):
    rows = make_rows()
    torch.testing.assert_close(
        info_nce_loss(*rows, 0.3, group, reduction='none'), naive(*rows, 0.3, group)
    )


def test_symmetric_groups_equal_the_loop_both_ways():
    anchor, positive = make_rows()
    expected = naive(anchor, positive, 0.3, GROUP) + naive(positive, anchor, 0.3, GROUP)
    loss = info_nce_loss(anchor, positive, 0.3, GROUP, symmetric=True, reduction='none')
    torch.testing.assert_close(loss, expected / 2)


def test_rows_of_one_group_are_no_negatives():
    anchor, positive = (x.requires_grad_() for x in make_rows())
    loss = info_nce_loss(anchor, positive, group=GROUP, reduction='none')
    loss[1].backward()
    # Row 4 is of the group of row 1.
    assert (positive.grad[4] == 0).all()
    assert (positive.grad[[0, 1, 2, 3, 5]] != 0).any(dim=-1).all()


def test_rows_all_alike_cost_the_logarithm_of_their_number():
    anchor, _ = make_rows(num_rows=1)
    loss = info_nce_loss(anchor.expand(7, 4), anchor.expand(7, 4))
    torch.testing.assert_close(loss, torch.tensor(math.log(7), dtype=torch.double))


def test_length_does_not_matter():
    anchor, positive = make_rows()
    torch.testing.assert_close(
        info_nce_loss(5 * anchor, 0.1 * positive), info_nce_loss(anchor, positive)
    )


def test_symmetric_is_equal_for_both_orders():
    anchor, positive = make_rows()
    torch.testing.assert_close(
        info_nce_loss(anchor, positive, symmetric=True),
        info_nce_loss(positive, anchor, symmetric=True),
    )
    one_way = info_nce_loss(anchor, positive), info_nce_loss(positive, anchor)
    assert (one_way[0] - one_way[1]).abs() > 1e-3


def test_descent_brings_student_rows_to_their_teachers():
    student, teacher = make_rows()
    for _ in range(300):
        student.requires_grad_()
        (grad,) = torch.autograd.grad(info_nce_loss(student, teacher), student)
        student = (student - grad).detach()
    cosine = F.cosine_similarity(student[:, None], teacher[None], dim=-1)
    torch.testing.assert_close(cosine.argmax(dim=1), torch.arange(6))


def test_zero_rows_have_cosine_zero_and_a_finite_gradient():
    anchor = torch.zeros(3, 4, requires_grad=True)
    loss = info_nce_loss(anchor, make_rows(3)[1].float())
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log(3)))
    assert anchor.grad.isfinite().all()


def test_one_row_has_no_negative():
    with pytest.raises(ValueError, match=r"'anchor' must .* two rows \(got shape \[1,"):
        info_nce_loss(torch.ones(1, 4), torch.ones(1, 4))


def test_rows_must_have_two_axes():
    with pytest.raises(ValueError, match=r"'anchor' must be \[B, D\]"):
        info_nce_loss(torch.ones(4), torch.ones(4))


def test_every_row_must_have_a_negative():
    match = r"'group' must leave every row a negative \(got 6 rows"
    with pytest.raises(ValueError, match=match):
        info_nce_loss(*make_rows(), group=torch.ones(6, dtype=torch.long))


def test_groups_must_be_integers():
    with pytest.raises(TypeError, match=r"'group' .* integers \(got torch.float32\)"):
        info_nce_loss(*make_rows(), group=torch.arange(6.0))
