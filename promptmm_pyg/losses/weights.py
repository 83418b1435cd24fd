"""Weighted sums of losses: by name, and over the views of a teacher."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._base import at_least_float32, check_finite, check_mask
from promptmm_pyg.losses.listwise import list_divergence


def weighted_sum(
    losses: Mapping[str, Tensor], loss_weights: Mapping[str, float]
) -> Tensor:
    """Returns the sum of every loss times its weight.

    A loss without a weight or a weight without a loss is an error. A weight of zero
    leaves its loss out of the graph.

    Args:
        losses: Scalar losses by name.
        loss_weights: Finite weights, zero or more, by the same names; not all zero.

    Raises:
        ValueError: If the names differ, a loss is no scalar, a weight is negative or
            not finite, or all are zero.

    Example:
        >>> import torch
        >>> weighted_sum({'bpr': torch.tensor(2.0)}, {'bpr': 0.5})
        tensor(1.)
    """
    if set(losses) != set(loss_weights):
        raise ValueError(
            f"'losses' and 'loss_weights' must have the same names (got "
            f'{sorted(losses)} and {sorted(loss_weights)}). Use the weight 0 for a '
            f'loss that is not wanted'
        )
    for name, loss in losses.items():
        _check_scalar(name, loss)
    check_weights('loss_weights', loss_weights)
    total: Tensor | None = None
    for name, loss in losses.items():
        if loss_weights[name] > 0:
            part = loss_weights[name] * loss
            total = part if total is None else total + part
    assert total is not None
    return total


def _check_scalar(name: str, loss: Tensor) -> None:
    if loss.dim() != 0:
        raise ValueError(
            f"'losses' must be scalars (got shape {list(loss.size())} for {name!r}). "
            f"Use reduction='mean' or 'sum'"
        )


def check_weights(argument: str, weights: Mapping[str, float]) -> None:
    """Raises unless weights are finite and zero or more, and one is above zero."""
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"'{argument}' must be finite and zero or more (got {weight} for "
                f'{name!r})'
            )
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"'{argument}' must have at least one weight above zero (got "
            f'{dict(weights)})'
        )


def agreement_weights(
    view_logits: Tensor,
    fused_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns weights of the views per list, the larger, the closer the list of a view
    is to that of the fused teacher.

    .. math::
        w_{mb} = \mathrm{softmax}_m \left( - \mathrm{KL} \left( \mathrm{softmax}
        (\mathbf{y}_b / \tau) \,\|\, \mathrm{softmax} (\mathbf{y}^m_b / \tau) \right)
        \right)

    For the losses ``[M, B]`` of the views with ``reduction='none'``, the objective is
    ``(weights * losses).sum(dim=0).mean()``. Gradients flow to both inputs. The
    divergence is not multiplied by :math:`\tau^2`: a high temperature makes views
    equal.

    Args:
        view_logits: Raw scores of every view ``[M, B, K]``.
        fused_logits: Raw scores of the teacher ``[B, K]``.
        temperature: Divides all scores. (default: ``1.0``)
        mask: Boolean ``[B, K]``, true for the candidates to use; at least one per row.
            (default: all)

    Returns:
        Weights ``[M, B]`` with sum one over views.

    Raises:
        ValueError: If shapes do not fit, there is no view, a list is empty, a score
            is not finite or the temperature is not positive.
        TypeError: If the mask is not boolean.

    Example:
        >>> fused = torch.tensor([[1.0, 0.0]])
        >>> agreement_weights(torch.stack([fused, fused + 3.0]), fused)
        tensor([[0.5000],
                [0.5000]])
    """
    if view_logits.dim() != 3 or view_logits.size(0) == 0:
        raise ValueError(
            f"'view_logits' must have shape [M, B, K] with at least one view (got "
            f'{list(view_logits.size())})'
        )
    check_same_shape('fused_logits', fused_logits, 'view_logits[0]', view_logits[0])
    check_positive('temperature', temperature)
    if mask is not None:
        check_mask('fused_logits', fused_logits, 'mask', mask)
    check_finite('view_logits', view_logits, mask)
    check_finite('fused_logits', fused_logits, mask)
    view = at_least_float32(view_logits) / temperature
    fused = at_least_float32(fused_logits) / temperature
    return (-list_divergence(view, fused, mask)).softmax(dim=0)


class FixedViewWeights(torch.nn.Module):
    r"""The weighted mean of one loss per view, with given weights.

    .. math::
        \mathcal{L} = \frac{\sum_m a_m \mathcal{L}_m}{\sum_m a_m}

    A view of weight zero is left out of the graph.

    Args:
        weights: A finite number of zero or more for every view, by name; not all zero.

    Shapes:
        - **inputs:** scalar losses by name of view
        - **output:** scalar

    Raises:
        ValueError: If a weight is negative or not finite, all are zero, the names of
            losses and weights differ, or a loss is no scalar or not finite.

    Example:
        >>> view_weights = FixedViewWeights({'image': 3.0, 'text': 1.0})
        >>> view_weights({'image': torch.tensor(1.0), 'text': torch.tensor(5.0)})
        tensor(2.)
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        check_weights('weights', weights)
        total = sum(weights.values())
        self._weights = {name: weight / total for name, weight in weights.items()}

    def weights(self) -> dict[str, float]:
        """Returns the weight of every view; they sum to one."""
        return dict(self._weights)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return weighted_sum(_checked_losses(losses, self._weights), self._weights)

    def extra_repr(self) -> str:
        return _as_text(self._weights)


class LearnedViewWeights(torch.nn.Module):
    r"""The weighted mean of one loss per view, with weights that are trained with the
    student, minus their entropy.

    .. math::
        \mathcal{L} = \sum_m w_m \mathcal{L}_m - \lambda \, H(\mathbf{w}), \qquad
        \mathbf{w} = \mathrm{softmax}(\mathbf{a}), \quad H(\mathbf{w}) = - \sum_m w_m
        \log w_m

    Without the entropy, the view with the smallest loss would get all the weight. With
    it, the best weights are :math:`w_m \propto \exp(- \mathcal{L}_m / \lambda)`. The
    objective may be negative, and weight decay on :math:`\mathbf{a}` makes weights more
    equal.

    Args:
        names: The views, each once, in the order of the trained parameter.
        entropy_weight: :math:`\lambda`. (default: ``1.0``)

    Shapes:
        - **inputs:** scalar losses by name of view
        - **output:** scalar

    Raises:
        TypeError: If ``names`` is a single string.
        ValueError: If a name is missing or repeated, ``entropy_weight`` is not
            positive, the names of losses and views differ, or a loss is no scalar or
            not finite.

    Example:
        >>> LearnedViewWeights(['image', 'text']).weights()
        {'image': 0.5, 'text': 0.5}
    """

    def __init__(self, names: Iterable[str], entropy_weight: float = 1.0) -> None:
        super().__init__()
        if isinstance(names, str):
            raise TypeError(
                f"'names' must be several names (got the string {names!r}). Put it "
                f'into a list'
            )
        self.names = tuple(names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"'names' must contain every view once (got {list(self.names)})"
            )
        check_positive('entropy_weight', entropy_weight)
        self.entropy_weight = entropy_weight
        self.logits = torch.nn.Parameter(torch.empty(len(self.names)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes all weights equal."""
        torch.nn.init.zeros_(self.logits)

    def weights(self) -> dict[str, float]:
        """Returns the current weight of every view; they sum to one."""
        weights = self.logits.detach().softmax(dim=-1)
        return dict(zip(self.names, weights.tolist(), strict=True))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        checked = _checked_losses(losses, self.names)
        loss = torch.stack([checked[name] for name in self.names])
        log_weight = self.logits.log_softmax(dim=-1)
        return (log_weight.exp() * (loss + self.entropy_weight * log_weight)).sum()

    def extra_repr(self) -> str:
        return f'{_as_text(self.weights())}, entropy_weight={self.entropy_weight}'


def _checked_losses(
    losses: Mapping[str, Tensor], names: Iterable[str]
) -> dict[str, Tensor]:
    if set(losses) != set(names):
        raise ValueError(
            f"'losses' must contain one loss for every view (got {sorted(losses)} for "
            f'views {sorted(names)})'
        )
    for name, loss in losses.items():
        _check_scalar(name, loss)
        check_finite(f'losses[{name}]', loss)
    return {name: at_least_float32(loss) for name, loss in losses.items()}


def _as_text(weights: Mapping[str, float]) -> str:
    return ', '.join(f'{name}={weight:.3g}' for name, weight in weights.items())
