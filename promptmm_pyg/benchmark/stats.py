"""Means over seeds, and differences of models on the same users."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg.evaluation import holm, paired_bootstrap


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
    """The mean of ``a - b`` with its 95 % interval over users and, with several, seeds.

    Args:
        a: Values per seed and user, ``[num_seeds, N]``.
        b: The same for the other model.
    """
    several = max(len(a), len(b)) > 1
    interval = paired_bootstrap(a, b, resample_seeds=several)
    return {
        'difference': interval.difference,
        'low': interval.low,
        'high': interval.high,
    }


def permutation_p_value(a: Tensor, b: Tensor) -> float:
    """The two-sided p-value of a permutation test on paired users, which draws the
    signs of their differences again.

    Args:
        a: Values per user, averaged over seeds, ``[N]``.
        b: The same for the other model.
    """
    from scipy import stats

    differences = (a.double() - b.double()).numpy()
    # Whatever its sign, a difference of zero adds nothing.
    differences = differences[differences != 0]
    if differences.size == 0:
        return 1.0
    test = stats.permutation_test(
        (differences,),
        # Rounded, as equal sums of other order have to count as equal.
        lambda x, axis: np.round(x.sum(axis=axis), 9),
        permutation_type='samples',
        n_resamples=9999,
        batch=100,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def compare(
    per_user: Mapping[str, Tensor], reference: str
) -> dict[str, dict[str, float]]:
    """Every other model minus the reference: interval, p-value and Holm's p-value.

    Args:
        per_user: Values ``[num_seeds, N]`` per model.
        reference: The name of one of them.
    """
    base = per_user[reference]
    rows = {
        name: {
            **difference(values, base),
            'p': permutation_p_value(values.mean(dim=0), base.mean(dim=0)),
        }
        for name, values in per_user.items()
        if name != reference
    }
    corrected = holm([row['p'] for row in rows.values()]).tolist()
    for row, p in zip(rows.values(), corrected, strict=True):
        row['holm_p'] = p
    return rows
