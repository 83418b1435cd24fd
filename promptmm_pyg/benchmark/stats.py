"""Means over seeds, and differences of models on the same users."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.evaluation import holm, paired_test


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and their values."""
    x = torch.tensor(values, dtype=torch.double)
    std = float(x.std()) if len(values) > 1 else 0.0
    return {'mean': float(x.mean()), 'std': std, 'seeds': list(values)}


def mean(values: Mapping[str, Any]) -> float:
    """The mean of a spread, which may contain the values of its seeds alone."""
    return float(values.get('mean', sum(values['seeds']) / len(values['seeds'])))


def difference(
    a: Tensor | Sequence[Tensor], b: Tensor | Sequence[Tensor]
) -> dict[str, float]:
    """The mean of ``a - b`` with its 95 % interval and p-value over users and training
    seeds.

    Args:
        a: Values per seed and user, ``[num_seeds, N]``; a closed form has one row.
        b: The same for the other model.
    """
    test = paired_test(a, b)
    return {
        'difference': test.difference,
        'low': test.low,
        'high': test.high,
        'p': test.p_value,
    }


def compare(
    per_user: Mapping[str, Tensor], reference: str
) -> dict[str, dict[str, float]]:
    """Every other model minus the reference: interval, p-value and Holm's p-value.

    Args:
        per_user: Values ``[num_seeds, N]`` per model; a closed form has one row.
        reference: The name of one of them.
    """
    base = per_user[reference]
    rows = {
        name: difference(values, base)
        for name, values in per_user.items()
        if name != reference
    }
    corrected = holm([row['p'] for row in rows.values()]).tolist()
    for row, p in zip(rows.values(), corrected, strict=True):
        row['holm_p'] = p
    return rows
