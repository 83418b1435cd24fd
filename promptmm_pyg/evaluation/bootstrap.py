"""Significance of differences between models."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_probability

_CHUNK = 1_000_000  # Draws per chunk, 8 MB of indices.


@dataclass(frozen=True)
class Interval:
    """A mean difference with its confidence interval."""

    difference: float
    low: float
    high: float
    confidence: float

    @property
    def significant(self) -> bool:
        """Whether zero is outside the interval."""
        return not self.low <= 0 <= self.high


def paired_bootstrap(
    a: Tensor | Sequence[Tensor],
    b: Tensor | Sequence[Tensor],
    *,
    num_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    resample_seeds: bool = False,
) -> Interval:
    """The mean of ``a - b`` over the same users, with a percentile bootstrap interval.

    Users are drawn with replacement, with their values under both models. Values of
    several training seeds are averaged per user first: the interval is valid for these
    trained models. ``resample_seeds=True`` also draws the seeds, independently for
    ``a`` and ``b``: the interval is valid for repeated training, requires several seeds
    and is wider.

    Args:
        a: One value per user ``[N]``, or one such vector per training seed (a
            sequence, or ``[num_seeds, N]``).
        b: The same for the other model; its number of seeds may differ.
        num_samples: The number of bootstrap samples. (default: 10000)
        confidence: The coverage probability. (default: 0.95)
        seed: Seed of the random draws. (default: 0)
        resample_seeds: Whether to draw training seeds, too. (default: ``False``)

    Raises:
        ValueError: If the numbers of users differ, a value is not finite, or an option
            is out of range.

    Example:
        >>> a = torch.tensor([0.5, 0.75, 1.0, 0.25])
        >>> interval = paired_bootstrap(a, a - 0.25)
        >>> interval.difference, interval.significant
        (0.25, True)
    """
    check_positive('num_samples', num_samples)
    check_positive('confidence', confidence)
    check_probability('confidence', confidence)
    a, b = _by_seed('a', a), _by_seed('b', b)
    if a.size(1) != b.size(1):
        raise ValueError(
            "'a' and 'b' must contain the same users "
            f'(got {a.size(1)} and {b.size(1)} of them)'
        )
    generator = torch.Generator().manual_seed(seed)
    if resample_seeds:
        values = torch.cat([a, -b])
    else:
        values = (a.mean(0) - b.mean(0)).unsqueeze(0)

    means = _resampled_means(values, num_samples, generator)  # [num_samples, rows]
    if resample_seeds:
        plus, minus = means[:, : a.size(0)], means[:, a.size(0) :]
        samples = _resampled_columns(plus, generator)
        samples = samples + _resampled_columns(minus, generator)
    else:
        samples = means.view(-1)
    tail = (1 - confidence) / 2
    low, high = samples.quantile(samples.new_tensor([tail, 1 - tail])).tolist()
    return Interval(float(a.mean() - b.mean()), low, high, confidence)


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


def _resampled_means(
    values: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:
    """Means over columns drawn with replacement, the same columns for each row."""
    num_users = values.size(1)
    chunk = max(1, _CHUNK // num_users)
    means = []
    for start in range(0, num_samples, chunk):
        size = min(chunk, num_samples - start)
        # With the counts of each user, the sums are one matrix product.
        drawn = torch.randint(num_users, (size, num_users), generator=generator)
        drawn += num_users * torch.arange(size).unsqueeze(1)
        counts = torch.bincount(drawn.view(-1), minlength=size * num_users)
        means.append(counts.view(size, -1).double() @ values.t() / num_users)
    return torch.cat(means)


def _resampled_columns(means: Tensor, generator: torch.Generator) -> Tensor:
    """The mean over as many columns, drawn with replacement row by row."""
    seeds = torch.randint(means.size(1), means.size(), generator=generator)
    return means.gather(1, seeds).mean(dim=1)


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
