"""AdamW over whole tables or over the rows of a batch, and the memory allocator."""

import ctypes
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.training.config import TrainingConfig

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # Of <malloc.h>.
_MAX_INT = 2**31 - 1


class LazyAdamW(torch.optim.AdamW):
    r"""AdamW (`"Decoupled Weight Decay Regularization"
    <https://arxiv.org/abs/1711.05101>`_) that updates only the rows of a table in the
    sparse gradient: a step costs :math:`O(B D)` for :math:`B` rows, not :math:`O(N D)`.

    Parameters with a sparse gradient (:class:`torch.nn.Embedding` with
    ``sparse=True``, :func:`~promptmm_pyg.functional.sparse_gradients`) are updated row
    by row, all others as in :class:`torch.optim.AdamW`. The first update of a row, and
    those of a row in every gradient, are equal to AdamW. A row without a gradient

    * is not changed, where AdamW moves it along its first moment and decays it,
    * does not decay its moments: at its next update, old gradients have the weight they
      had at the last. Bias correction counts all steps.

    The state has the form of AdamW's, so each can continue from the other.
    :class:`torch.optim.SparseAdam` adds ``eps`` before the bias correction, which
    differs for small gradients, and supports no weight decay or dense gradients.

    Args:
        params: Parameters or groups of them.
        lr: Step size. (default: ``1e-3``)
        betas: Decay rates of the two moments. (default: ``(0.9, 0.999)``)
        eps: Added to the denominator. (default: ``1e-8``)
        weight_decay: Decoupled weight decay of updated rows. (default: ``0.0``)

    Example:
        >>> table = torch.nn.Embedding(1000, 2, sparse=True)
        >>> optimizer = LazyAdamW(table.parameters(), lr=0.5)
        >>> before = table.weight.detach().clone()
        >>> table(torch.tensor([3, 3, 8])).sum().backward()
        >>> optimizer.step()
        >>> (table.weight != before).any(dim=1).nonzero().view(-1)
        tensor([3, 8])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            fused=True,
        )
        # The sparse step does not unscale gradients: a scaler must.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step.

        Args:
            closure: Recomputes the gradients and returns the loss.

        Raises:
            ValueError: If a gradient is sparse in more than one dimension.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group['params']:
                grad = parameter.grad
                if grad is not None and grad.is_sparse:
                    self._step_rows(parameter, grad.coalesce(), group)
                    sparse.append((parameter, grad))
        for parameter, _ in sparse:  # To be skipped by the dense step.
            parameter.grad = None
        try:
            super().step()
        finally:
            for parameter, grad in sparse:
                parameter.grad = grad
        return loss

    def _step_rows(
        self, parameter: Tensor, grad: Tensor, group: dict[str, Any]
    ) -> None:
        if grad.sparse_dim() != 1:
            raise ValueError(
                f"'params' must have gradients with one sparse dimension (got "
                f"{grad.sparse_dim()}). Call 'to_dense()' on the gradient"
            )
        state = self.state[parameter]
        if not state:  # As in AdamW.
            state['step'] = torch.zeros((), device=parameter.device)
            state['exp_avg'] = torch.zeros_like(parameter)
            state['exp_avg_sq'] = torch.zeros_like(parameter)
        state['step'] += 1
        beta1, beta2 = group['betas']
        step, rate = float(state['step']), float(group['lr'])
        index, g = grad.indices()[0], grad.values()
        first = state['exp_avg'].index_select(0, index).lerp_(g, 1 - beta1)
        second = state['exp_avg_sq'].index_select(0, index)
        second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state['exp_avg'].index_copy_(0, index, first)
        state['exp_avg_sq'].index_copy_(0, index, second)
        scale = second.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group['eps'])
        x = parameter.index_select(0, index).mul_(1 - rate * group['weight_decay'])
        x.addcdiv_(first, scale, value=-rate / (1 - beta1**step))
        parameter.index_copy_(0, index, x)


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], config: TrainingConfig
) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that require gradients, or :class:`LazyAdamW`
    with ``config.optimizer='lazy'``.
    """
    trained = [p for p in parameters if p.requires_grad]
    rate, decay = float(config.learning_rate), config.weight_decay
    if config.optimizer == 'lazy':
        return LazyAdamW(trained, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, fused=True)


def tune_allocator() -> bool:
    """Makes this process reuse the memory of freed tensors.

    The C library of Linux returns freed blocks of more than 32 MiB to the system, so on
    a large graph every table, gradient and product causes page faults in every step.
    Call this once, before training. The process then never releases its peak memory.

    Returns:
        Whether the option was set; ``False`` without glibc, whose ``mallopt`` this
        calls.
    """
    if not sys.platform.startswith('linux'):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, 'gnu_get_libc_version'):
        return False
    return all(
        library.mallopt(option, value) == 1
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MAX_INT))
    )
