"""Significance of differences between models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_probability


@dataclass(frozen=True)
class PairedTest:
    """A mean difference with its confidence interval and p-value."""

    difference: float
    low: float
    high: float
    confidence: float
    p_value: float
    """Two-sided, of the hypothesis that the difference is zero."""
    num_seeds: tuple[int, int]
    """The number of trainings of each model."""

    @property
    def significant(self) -> bool:
        """Whether zero is outside the interval."""
        return not self.low <= 0 <= self.high

    @property
    def includes_training_noise(self) -> bool:
        """Whether a model has several trainings. Without, the interval is valid for
        the two trained models only.
        """
        return max(self.num_seeds) > 1

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; an end at infinity is ``None``."""
        values = {**asdict(self), 'num_seeds': list(self.num_seeds)}
        ends = {k: None for k in ('low', 'high') if math.isinf(values[k])}
        return values | ends


def paired_test(
    a: Tensor | Sequence[Tensor],
    b: Tensor | Sequence[Tensor],
    *,
    confidence: float = 0.95,
) -> PairedTest:
    r"""The mean of ``a - b`` over the same users, with an interval and a p-value that
    include training noise.

    Users, and the training seeds of each model, are random samples; seeds of ``a`` and
    ``b`` are independent, never paired. The variance of the difference has three parts,

    .. math::
        V = \max \left( V_\textrm{user} - V_\textrm{both}, \, 0 \right)
        + \max \left( V_\textrm{seed}, \, V_\textrm{both} \right),

    .. math::
        V_\textrm{user} = \frac{1}{U} \, s_u^2(\bar{a}_{\cdot u} - \bar{b}_{\cdot u}),
        \quad
        V_\textrm{seed} = \frac{1}{S_a} \, s_s^2(\bar{a}_{s \cdot})
        + \frac{1}{S_b} \, s_s^2(\bar{b}_{s \cdot}),
        \quad
        V_\textrm{both} = \frac{e_a^2}{S_a U} + \frac{e_b^2}{S_b U}

    with the sample variance :math:`s^2` over :math:`U` users of means over
    :math:`S` seeds, that over seeds of means over users, and the mean square
    :math:`e^2` of the interaction of user and seed, which is a part of both of the
    others. The reference is Student's t with the degrees of freedom of `"An Approximate
    Distribution of Estimates of Variance Components"
    <https://www.jstor.org/stable/3002019>`_ (Satterthwaite, 1946).

    A model with a single row adds no training noise: exact for a closed form; for a
    trained model, the result is valid for this training only. With one row each this is
    the paired t-test over users.

    Args:
        a: One value per user ``[N]``, or one such vector per training seed (a
            sequence, or ``[num_seeds, N]``).
        b: The same for the other model; its number of seeds may differ.
        confidence: The coverage probability. (default: 0.95)

    Returns:
        The test. With one user, the interval is unbounded.

    Raises:
        ValueError: If the numbers of users differ, a value is not finite, or an option
            is out of range.

    Example:
        >>> a = torch.tensor([[0.5, 0.75, 1.0, 0.25], [0.5, 0.75, 0.75, 0.5]])
        >>> test = paired_test(a, torch.tensor([0.25, 0.25, 0.5, 0.0]))
        >>> test.difference, test.significant, test.includes_training_noise
        (0.375, True, True)
    """
    from scipy.special import stdtr, stdtrit

    check_positive('confidence', confidence)
    check_probability('confidence', confidence)
    a, b = _by_seed('a', a), _by_seed('b', b)
    if a.size(1) != b.size(1):
        raise ValueError(
            "'a' and 'b' must contain the same users "
            f'(got {a.size(1)} and {b.size(1)} of them)'
        )
    difference = float(a.mean() - b.mean())
    variance, df = (float(x) for x in difference_variance(a, b))
    std_error = math.sqrt(variance)
    if a.size(1) == 1:
        half, p_value = math.inf, 1.0
    elif std_error == 0:
        half, p_value = 0.0, float(difference == 0)
    else:
        half = std_error * float(stdtrit(df, (1 + confidence) / 2))
        p_value = 2 * float(stdtr(df, -abs(difference) / std_error))
    return PairedTest(
        difference,
        difference - half,
        difference + half,
        confidence,
        p_value,
        (a.size(0), b.size(0)),
    )


class Gap(NamedTuple):
    """The largest difference between the means of two groups."""

    high_group: str
    low_group: str
    difference: float
    low: float
    high: float
    p_value: float


def largest_gap(
    groups: Mapping[str, Tensor], *, confidence: float = 0.95
) -> Gap | None:
    """The two groups of users whose means differ most, with an interval and a p-value
    (Welch's test), both corrected by Bonferroni for all pairs of groups, since the
    largest of many differences is large by chance.

    Args:
        groups: The values of the users of each group, ``[N_g]``. Groups of one user
            are ignored.
        confidence: The coverage probability. (default: 0.95)

    Returns:
        The gap; ``None`` with fewer than two groups of two users.

    Example:
        >>> gap = largest_gap({'a': torch.tensor([1.0, 2.0]), 'b': torch.zeros(2)})
        >>> gap.high_group, gap.difference
        ('a', 1.5)
    """
    from scipy.special import stdtr, stdtrit

    check_probability('confidence', confidence)
    values = {name: x.double() for name, x in groups.items() if x.numel() > 1}
    if len(values) < 2:
        return None
    means = {name: float(x.mean()) for name, x in values.items()}
    top, bottom = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    if top == bottom:
        top, bottom = list(means)[:2]
    difference, num_pairs = means[top] - means[bottom], math.comb(len(values), 2)
    parts = [float(values[x].var()) / values[x].numel() for x in (top, bottom)]
    variance = sum(parts)
    if variance == 0:
        p_value = float(difference == 0)
        return Gap(top, bottom, difference, difference, difference, p_value)
    sizes = [values[name].numel() for name in (top, bottom)]
    df = variance**2 / sum(x**2 / (n - 1) for x, n in zip(parts, sizes, strict=True))
    error = math.sqrt(variance)
    half = error * float(stdtrit(df, 1 - (1 - confidence) / (2 * num_pairs)))
    p_value = min(1.0, 2 * num_pairs * float(stdtr(df, -difference / error)))
    return Gap(top, bottom, difference, difference - half, difference + half, p_value)


def difference_variance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The variance of the mean difference of two models, and its degrees of freedom,
    as in :func:`paired_test`.

    Args:
        a: Values ``[*, num_seeds, N]``.
        b: The same for the other model.
    """
    num_users = a.size(-1)
    users = _variance(a.mean(-2) - b.mean(-2)) / num_users
    seeds, both, of_seeds, of_both = (torch.zeros_like(users) for _ in range(4))
    for values in (a, b):
        num_seeds = values.size(-2)
        means = values.mean(-1)
        rest = values - means.unsqueeze(-1)
        rest = rest - rest.mean(-2, keepdim=True)
        df = max((num_seeds - 1) * (num_users - 1), 1)
        own = rest.square().sum((-2, -1)) / (df * num_seeds * num_users)
        both, of_both = both + own, of_both + own.square() / df
        own = _variance(means) / num_seeds
        seeds, of_seeds = seeds + own, of_seeds + own.square() / max(num_seeds - 1, 1)
    variance = (users - both).clamp(min=0) + seeds.maximum(both)
    # Squares of the mean squares over their degrees of freedom.
    squares = users.square() / max(num_users - 1, 1) + of_both
    squares = squares + of_seeds * (seeds > both)
    return variance, variance.square() / squares


def _variance(values: Tensor) -> Tensor:
    """Sample variance over the last dimension; zero for a single value."""
    return values.var(-1, correction=min(1, values.size(-1) - 1))


def holm(p_values: Tensor | Sequence[float]) -> Tensor:
    r"""Adjusted p-values of a family of tests by the `"A Simple Sequentially
    Rejective Multiple Test Procedure" <https://www.jstor.org/stable/4615733>`_ paper:
    rejecting those of at most :math:`\alpha` keeps the probability of any false
    rejection at most :math:`\alpha`, for any dependence between the tests.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`,

    .. math::
        \tilde{p}_{(i)} = \min \left( 1, \max_{j \le i} \, (m - j + 1) \, p_{(j)}
        \right)

    Args:
        p_values: One p-value per test, ``[m]``, in any order.

    Returns:
        The adjusted values in the order given, ``[m]``, in double precision.

    Raises:
        ValueError: If a value is NaN or outside [0, 1], or there are several
            dimensions.

    Example:
        >>> holm([0.25, 0.0625, 1.0]).tolist()
        [0.5, 0.1875, 1.0]
    """
    p = torch.as_tensor(p_values, dtype=torch.double).detach().cpu()
    if p.dim() != 1:
        raise ValueError(f"'p_values' must have shape [m] (got {list(p.size())})")
    invalid = p[~((p >= 0) & (p <= 1))]  # Also NaN.
    if invalid.numel() > 0:
        raise ValueError(f"'p_values' must be in [0, 1] (got {float(invalid[0])})")
    order = p.argsort(stable=True)
    steps = torch.arange(p.numel(), 0, -1, dtype=torch.double)
    adjusted = torch.empty_like(p)
    adjusted[order] = (steps * p[order]).cummax(dim=0).values.clamp(max=1.0)
    return adjusted


def _by_seed(name: str, values: Tensor | Sequence[Tensor]) -> Tensor:
    if not isinstance(values, Tensor):
        values = torch.stack(list(values))
    values = values.detach().cpu().double()
    values = values.unsqueeze(0) if values.dim() == 1 else values
    if values.dim() != 2 or values.numel() == 0 or not values.isfinite().all():
        raise ValueError(
            f"'{name}' must contain finite values of shape [N] or [num_seeds, N] "
            f'(got {list(values.size())}, {int((~values.isfinite()).sum())} not finite)'
        )
    return values
