"""Adam, over all rows of a table or over those that a step touched."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_non_negative, check_positive

OptimizerKind = Literal['dense', 'lazy']


class LazyAdamW(torch.optim.AdamW):
    r"""AdamW (`"Decoupled Weight Decay Regularization"
    <https://arxiv.org/abs/1711.05101>`_) that leaves alone the rows of a table whose
    gradient a step does not hold: a step costs :math:`O(B D)` for the :math:`B` rows
    it touched in place of :math:`O(N D)`.

    Parameters with a sparse gradient (:func:`~promptmm_pyg.training.row_tables`,
    :class:`torch.nn.Embedding` with ``sparse=True``) are updated row by row, all
    others as in :class:`torch.optim.AdamW`. In a row that is touched by every step so
    far, and in a row at its first touch, the update is that of AdamW. A row that is
    not touched

    * does not move, while AdamW goes on along the row's first moment and decays it,
    * keeps both moments, while AdamW decays them: at its next touch, old gradients
      weigh as if no step had passed. Bias correction counts all steps.

    The state has the form of AdamW's, so either may go on from the other.
    :class:`torch.optim.SparseAdam` is lazy in the same way, but it adds ``eps`` before
    bias is corrected, which is another update where gradients are small, and it has no
    weight decay and no place for dense gradients.

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
        # A scaler has to take its scale off the gradients itself: the rows see none.
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
        for parameter, _ in sparse:  # Out of sight of the dense step.
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
                f"'params' requires gradients that are sparse in their rows alone (got one "
                f'with {grad.sparse_dim()} sparse axes). Densify it first'
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
    parameters: Iterable[torch.nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    kind: OptimizerKind = 'dense',
) -> torch.optim.AdamW:
    """AdamW over the parameters that want gradients, in its fused form, or
    :class:`LazyAdamW` with ``kind='lazy'``.
    """
    check_positive('learning_rate', learning_rate)
    check_non_negative('weight_decay', weight_decay)
    check_choice('optimizer', kind, ('dense', 'lazy'))
    trained = [p for p in parameters if p.requires_grad]
    if kind == 'lazy':
        return LazyAdamW(trained, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.AdamW(
        trained, lr=learning_rate, weight_decay=weight_decay, fused=True
    )
