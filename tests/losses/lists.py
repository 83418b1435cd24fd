"""Raw scores of both signs: inner products are no probabilities."""

import torch

REDUCTIONS = ('none', 'mean', 'sum')
HALVES = (torch.float16, torch.bfloat16)


def pair(*size, seed=0, dtype=torch.double, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (3 * torch.randn(size, generator=generator, dtype=torch.double))
        .to(dtype)
        .requires_grad_(requires_grad)
        for _ in range(2)
    )


def targets(num_lists, num_candidates, num_targets=1):
    mask = torch.zeros(num_lists, num_candidates, dtype=torch.bool)
    mask[:, :num_targets] = True
    return mask


def dropping(num_lists, num_candidates, *columns):
    mask = torch.ones(num_lists, num_candidates, dtype=torch.bool)
    mask[:, list(columns)] = False
    return mask


def reduced(values, reduction):
    return values if reduction == 'none' else getattr(values, reduction)()


def assert_finite(loss, *inputs):
    loss.sum().backward()
    assert loss.isfinite().all()
    for x in inputs:
        assert x.grad.isfinite().all()
