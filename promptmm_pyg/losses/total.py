"""One objective from named terms."""

import math
from collections.abc import Mapping

from torch import Tensor


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Returns the sum of every term times its weight.

    A term without a weight, or a weight without a term, is an error: what is computed
    is trained, and what is asked for exists. A weight of zero leaves its term out of
    the graph.

    Args:
        terms: Scalar losses by name.
        weights: Finite weights, zero or more, by the same names; not all zero.

    Raises:
        ValueError: If the names differ, a term is no scalar, a weight is negative or
            not finite, or all are zero.

    Example:
        >>> import torch
        >>> weighted_sum({'bpr': torch.tensor(2.0)}, {'bpr': 0.5})
        tensor(1.)
    """
    if set(terms) != set(weights):
        raise ValueError(
            f"'terms' and 'weights' requires the same names (got terms {sorted(terms)} "
            f'and '
            f'weights {sorted(weights)}). Give a term that is not wanted the weight 0'
        )
    for name, term in terms.items():
        if term.dim() != 0:
            raise ValueError(
                f"'terms' must be scalars (got shape {list(term.size())} for "
                f"{name!r}). Reduce it with 'mean' or 'sum'"
            )
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"'weights' must be finite and zero or more (got {weight} for {name!r})"
            )
    parts = [weights[name] * term for name, term in terms.items() if weights[name] > 0]
    if not parts:
        raise ValueError(
            f"'weights' requires at least one above zero (got {dict(weights)})"
        )
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
