"""How much each modality's view of a teacher counts in distillation."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._checks_scores import check_finite, check_mask
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses.listwise import masked_divergence
from promptmm_pyg.losses.total import weighted_sum


def agreement_weights(
    view_logits: Tensor,
    fused_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns how far each view is to be trusted, list by list: the closer its list
    is to the fused teacher's, the more.

    .. math::
        w_{mb} = \mathrm{softmax}_m \left( - \mathrm{KL} \left( \mathrm{softmax}
        (\mathbf{y}_b / \tau) \,\|\, \mathrm{softmax} (\mathbf{y}^m_b / \tau) \right)
        \right)

    For the losses ``[M, B]`` of the views with ``reduction='none'``, the objective is
    ``(weights * losses).sum(dim=0).mean()``. Weights are constants where the logits
    are, as those of saved targets; otherwise gradients flow to both. The divergence
    is not multiplied by :math:`\tau^2`: a high temperature makes views equal.

    Args:
        view_logits: Raw scores of every view ``[M, B, K]``.
        fused_logits: Raw scores of the teacher ``[B, K]``.
        temperature: Softens all lists. (default: ``1.0``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. (default: all do)

    Returns:
        Weights ``[M, B]`` that sum to one over views.

    Raises:
        ValueError: If shapes do not fit, there is no view, a list is empty, a score
            that takes part is not finite or the temperature is not positive.
        TypeError: If ``mask`` is not boolean.

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
    view = _log_probs('view_logits', view_logits, temperature, mask)
    fused = _log_probs('fused_logits', fused_logits, temperature, mask)
    return (-masked_divergence(view, fused, mask)).softmax(dim=0)


def _log_probs(
    name: str, logits: Tensor, temperature: float, mask: Tensor | None
) -> Tensor:
    check_finite(name, logits, mask)
    logits = at_least_float32(logits) / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.log_softmax(dim=-1)


class FixedViewWeights(torch.nn.Module):
    r"""The weighted mean of one loss per view, with weights that are given.

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
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"'weights' must be finite and zero or more (got {weight} for "
                    f'{name!r})'
                )
        total = sum(weights.values())
        if not total > 0:
            raise ValueError(
                f"'weights' requires at least one above zero (got {dict(weights)})"
            )
        self._weights = {name: weight / total for name, weight in weights.items()}

    def weights(self) -> dict[str, float]:
        """Returns the weight of every view; they sum to one."""
        return dict(self._weights)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        _check_losses(losses, self._weights)
        terms = {name: at_least_float32(loss) for name, loss in losses.items()}
        return weighted_sum(terms, self._weights)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return _shares(self._weights)


class LearnedViewWeights(torch.nn.Module):
    r"""The weighted mean of one loss per view, with weights that are trained along
    with the student, minus their entropy.

    .. math::
        \mathcal{L} = \sum_m w_m \mathcal{L}_m - \lambda \, H(\mathbf{w}), \qquad
        \mathbf{w} = \mathrm{softmax}(\mathbf{a}), \quad H(\mathbf{w}) = - \sum_m w_m
        \log w_m

    Without the entropy all weight would end on the view that is easiest to copy. With
    it, the best weights are :math:`w_m \propto \exp(- \mathcal{L}_m / \lambda)`: no
    view is dropped, and :math:`\lambda`, in the unit of the losses, says how much
    larger a loss has to be for a third of the weight. The objective may be negative,
    and weight decay on :math:`\mathbf{a}` pulls towards equal weights.

    Args:
        names: The views, each once. Their order is that of the trained parameter.
        entropy_weight: :math:`\lambda`. (default: ``1.0``)

    Shapes:
        - **inputs:** scalar losses by name of view
        - **output:** scalar

    Raises:
        TypeError: If ``names`` is a single string.
        ValueError: If there is no name or one comes twice, ``entropy_weight`` is not
            positive, the names of losses and views differ, or a loss is no scalar or
            not finite.

    Example:
        >>> view_weights = LearnedViewWeights(['image', 'text'])
        >>> view_weights.weights()
        {'image': 0.5, 'text': 0.5}
    """

    def __init__(self, names: Iterable[str], entropy_weight: float = 1.0) -> None:
        super().__init__()
        self.names = _as_names(names)
        check_positive('entropy_weight', entropy_weight)
        self.entropy_weight = entropy_weight
        self.logits = torch.nn.Parameter(torch.empty(len(self.names)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes all weights equal."""
        torch.nn.init.zeros_(self.logits)

    def weights(self) -> dict[str, float]:
        """Returns the present weight of every view; they sum to one."""
        share = self.logits.detach().softmax(dim=-1)
        return dict(zip(self.names, share.tolist(), strict=True))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        _check_losses(losses, self.names)
        loss = torch.stack([at_least_float32(losses[name]) for name in self.names])
        log_weight = self.logits.log_softmax(dim=-1)
        return (log_weight.exp() * (loss + self.entropy_weight * log_weight)).sum()

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f'{_shares(self.weights())}, entropy_weight={self.entropy_weight}'


def _as_names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(
            f"'names' must be several names (got the string {names!r}). Put it "
            f'into a list'
        )
    names = tuple(names)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"'names' must contain every view once (got {list(names)})")
    return names


def _check_losses(losses: Mapping[str, Tensor], names: Iterable[str]) -> None:
    if set(losses) != set(names):
        raise ValueError(
            f"'losses' must contain one loss for every view (got {sorted(losses)} for "
            f'views {sorted(names)})'
        )
    for name, loss in losses.items():
        if loss.dim() != 0:
            raise ValueError(
                f"'losses' must be scalars (got shape {list(loss.size())} for "
                f"{name!r}). Reduce it with 'mean' or 'sum'"
            )
        check_finite(f'losses[{name}]', loss)


def _shares(weights: Mapping[str, float]) -> str:
    return ', '.join(f'{name}={weight:.3g}' for name, weight in weights.items())
