"""Whether models differ on the same users: intervals and corrected p-values."""

from typing import Any

import numpy as np
import torch

from promptmm_pyg.evaluation import holm, paired_bootstrap


def permutation_p_value(a: torch.Tensor, b: torch.Tensor) -> float:
    """How likely users would differ by as much on average if either model could have
    been the other: two-sided, signs of their differences drawn anew.

    Args:
        a: Values of each user, averaged over seeds, ``[N]``.
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


def difference(
    a: torch.Tensor | list[torch.Tensor], b: torch.Tensor | list[torch.Tensor]
) -> dict[str, float]:
    """The mean of ``a`` minus ``b``, values of each user by seed, with its 95 %
    interval.
    """
    several = max(len(a), len(b)) > 1
    interval = paired_bootstrap(a, b, resample_seeds=several)
    return {
        'difference': interval.difference,
        'low': interval.low,
        'high': interval.high,
    }


def compare(per_user: dict[str, torch.Tensor], reference: str) -> dict[str, Any]:
    """Every other model minus the reference: interval and corrected p-value."""
    base = per_user[reference]
    rows: dict[str, dict[str, float]] = {}
    for name, values in per_user.items():
        if name != reference:
            rows[name] = {
                **difference(values, base),
                'p': permutation_p_value(values.mean(dim=0), base.mean(dim=0)),
            }
    adjusted = holm([row['p'] for row in rows.values()]).tolist()
    for row, p in zip(rows.values(), adjusted, strict=True):
        row['holm_p'] = p
    return rows
