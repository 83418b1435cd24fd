import pytest
import torch

from promptmm_pyg.losses import squared_norm


def make_embeddings(batch_size=5):
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch_size, 4, generator=g, dtype=torch.double) for _ in range(3)
    ]


def test_hand_computed():
    # Rows (3, 4) and (0, 0): halves of 25 and 0, mean 6.25.
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(squared_norm(x), torch.tensor(6.25))


def test_tensors_add_up():
    tensors = make_embeddings()
    expected = sum(squared_norm(x) for x in tensors)
    torch.testing.assert_close(squared_norm(*tensors), expected)


def test_it_does_not_grow_with_the_batch():
    tensors = make_embeddings()
    twice = [torch.cat([x, x]) for x in tensors]
    torch.testing.assert_close(squared_norm(*twice), squared_norm(*tensors))


def test_widths_may_differ():
    loss = squared_norm(torch.ones(1, 4), torch.ones(1, 2))
    torch.testing.assert_close(loss, torch.tensor(3.0))


def test_gradient():
    tensors = [x.requires_grad_() for x in make_embeddings()]
    assert torch.autograd.gradcheck(squared_norm, tensors)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    # 2 * 300^2 is beyond the largest half.
    x = torch.full((1, 2), 300.0, dtype=dtype)
    torch.testing.assert_close(squared_norm(x), torch.tensor(300.0**2))


def test_batches_need_one_size():
    with pytest.raises(ValueError, match=r"'embeddings' .* \(got \[2, 3\]\)"):
        squared_norm(torch.ones(2, 1), torch.ones(3, 1))


def test_something_needs_to_be_given():
    with pytest.raises(ValueError, match=r"'embeddings' .* \(got \[\]\)"):
        squared_norm()
