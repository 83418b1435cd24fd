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
    <https://arxiv.org/abs/1711.05101>`_) that leaves alone the rows of a table whose
    gradient a step does not hold: a step costs :math:`O(B D)` for the :math:`B` rows
    it touched in place of :math:`O(N D)`.

    Parameters with a sparse gradient (:class:`torch.nn.Embedding` with
    ``sparse=True``, :func:`~promptmm_pyg.functional.sparse_gradients`) are updated row
    by row, all others as in :class:`torch.optim.AdamW`. In a row that every step so far
    has updated, and in a row at its first update, the step is that of AdamW. A row
    without a gradient

    * does not move, while AdamW moves it along its first moment and decays it,
    * keeps both moments, while AdamW decays them: at its next update, old gradients
      count as if no step had passed. Bias correction counts all steps.

    The state has the form of AdamW's, so either can continue from the other.
    :class:`torch.optim.SparseAdam` adds ``eps`` before the bias correction, which
    differs where gradients are small, and has no weight decay and no dense gradients.

    Args:
        params: Parameters or groups of them.
        lr: Step size. (default: ``1e-3``)
        betas: Decay rates of the two moments. (default: ``(0.9, 0.999)``)
        eps: Added to the denominator. (default: ``1e-8``)
        weight_decay: Decoupled; of touched rows. (default: ``0.0``)

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
        # A scaler must unscale the gradients itself: the sparse step does not.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: Computes the gradients anew and returns the loss.

        Raises:
            ValueError: If a gradient is sparse in more than its rows.
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
        for parameter, _ in sparse:  # The dense step skips them.
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
                f"'params' must have gradients that are sparse in their rows alone "
                f'(got one with {grad.sparse_dim()} sparse axes). Densify it first'
            )
        state = self.state[parameter]
        if not state:  # As AdamW makes it.
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
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == 'lazy':
        return LazyAdamW(trained, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, fused=True)


def tune_allocator() -> bool:
    """Lets this process keep the memory that its tensors have freed.

    The C library of Linux returns a block of more than 32 MiB to the system as soon as
    it is freed, so on a large graph every table, gradient and product of every step
    causes its page faults again. Call this once, before training. The process then
    holds its peak memory to the end, and a little more because of fragmentation.

    Returns:
        Whether the option is set; ``False`` where the C library is not glibc, whose
        ``mallopt`` this calls.
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
