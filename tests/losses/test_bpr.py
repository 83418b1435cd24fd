import math

import pytest
import torch

from promptmm_pyg.losses import bpr_loss, squared_norm


def make_scores(num_pairs=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(2, num_pairs, generator=g, dtype=torch.double)
    return scores[0], scores[1]


def test_hand_computed():
    # Margins ln 3 and -ln 3: sigmoid gives 3/4 and 1/4.
    positive = torch.tensor([math.log(3.0), 0.0])
    loss = bpr_loss(positive, positive.flip(0), reduction='none')
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(4)]))


def test_a_tie_costs_log_two():
    loss = bpr_loss(torch.tensor([-5.0]), torch.tensor([-5.0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_only_the_difference_matters():
    positive, negative = make_scores()
    torch.testing.assert_close(
        bpr_loss(positive + 7, negative + 7), bpr_loss(positive, negative)
    )


def test_a_step_down_raises_the_positive_and_lowers_the_negative():
    positive, negative = (x.requires_grad_() for x in make_scores())
    bpr_loss(positive, negative, reduction='sum').backward()
    assert (positive.grad < 0).all()
    torch.testing.assert_close(negative.grad, -positive.grad)


def make_embeddings(batch_size=5):
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch_size, 4, generator=g, dtype=torch.double) for _ in range(3)
    ]


def test_squared_norm_hand_computed():
    # Rows (3, 4) and (0, 0): halves of 25 and 0, mean 6.25.
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(squared_norm(x), torch.tensor(6.25))


def test_squared_norms_add_up():
    tensors = make_embeddings()
    expected = sum(squared_norm(x) for x in tensors)
    torch.testing.assert_close(squared_norm(*tensors), expected)


def test_the_squared_norm_does_not_grow_with_the_batch():
    tensors = make_embeddings()
    twice = [torch.cat([x, x]) for x in tensors]
    torch.testing.assert_close(squared_norm(*twice), squared_norm(*tensors))


def test_widths_of_the_squared_norm_may_differ():
    loss = squared_norm(torch.ones(1, 4), torch.ones(1, 2))
    torch.testing.assert_close(loss, torch.tensor(3.0))


def test_gradient_of_the_squared_norm():
    tensors = [x.requires_grad_() for x in make_embeddings()]
    assert torch.autograd.gradcheck(squared_norm, tensors)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_of_the_squared_norm_does_not_overflow(dtype):
    # 2 * 300^2 is beyond the largest half.
    x = torch.full((1, 2), 300.0, dtype=dtype)
    torch.testing.assert_close(squared_norm(x), torch.tensor(300.0**2))


def test_batches_must_have_one_size():
    with pytest.raises(ValueError, match=r"'embeddings' .* \(got \[2, 3\]\)"):
        squared_norm(torch.ones(2, 1), torch.ones(3, 1))


def test_one_tensor_must_be_given():
    with pytest.raises(ValueError, match=r"'embeddings' .* \(got \[\]\)"):
        squared_norm()
