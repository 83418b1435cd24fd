"""How likely an item's content is its own, by what its users took besides."""

import torch
from torch import Tensor

from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.nn.csr import CSRPair

_CHANNELS = 256  # Of the features, sent at once: users by channels exist for these.
_ROWS = 4096  # Of the items, compared at once.


def content_reliability(x: Tensor, adj: CSRPair, num_rounds: int = 2) -> Tensor:
    r"""Returns how likely the content of every item is its own, in [0, 1], from how
    well it agrees with what its users took besides.

    With rows :math:`\hat{\mathbf{x}}` at unit length, and their mean
    :math:`\bar{\mathbf{x}}` and covariance :math:`\mathbf{\Sigma}` over all items with
    content,

    .. math::
        \mathbf{o}_i = \sum_{j \neq i} (\mathbf{A}^{\top} \mathbf{A})_{ij} \, t_j
        \hat{\mathbf{x}}_j, \qquad
        z_i = \frac{(\hat{\mathbf{x}}_i - \bar{\mathbf{x}})^{\top} \mathbf{o}_i}
        {\sqrt{\mathbf{o}_i^{\top} \mathbf{\Sigma} \mathbf{o}_i}}

    is the agreement in standard deviations of what the content of any item would have
    there: zero on average where content is foreign. A share :math:`\pi` of the items is
    taken to be so, :math:`z \sim \mathcal{N}(0, 1)`, the rest to have
    :math:`z \sim \mathcal{N}(\mu, 1)`. The mean :math:`m` of all :math:`z_i` and how
    far their variance exceeds one, :math:`v`, settle both, and :math:`t_i` is the
    posterior of the second kind:

    .. math::
        \frac{\pi}{1 - \pi} = \frac{v}{m^2}, \quad \mu = m + \frac{v}{m}, \qquad
        t_i = \mathrm{sigmoid} \Big( \mu z_i - \frac{\mu^2}{2} - \log \frac{\pi}
        {1 - \pi} \Big)

    Where no more than chance spreads the agreement (:math:`v \leq 0`) or there is none
    (:math:`m \leq 0`), all :math:`t_i` are one. In the first round all :math:`t_j` are
    one, in the next those of the round before. Where there is nothing to compare, for
    lack of content or of other items, :math:`t_i` is the mean of all others (one if
    there are none): no evidence is no reproach.

    Args:
        x: Features of the items ``[N, F]``.
        adj: The operator from users to items, one entry an edge.
        num_rounds: The number of rounds. (default: ``2``)
    """
    matrix = adj.matrices(x.dtype)[0]
    rows = torch.arange(x.size(0), device=x.device)
    rows = rows.repeat_interleave(matrix.crow_indices().diff().long())
    itself = x.new_zeros(x.size(0)).index_add_(0, rows, matrix.values().square())
    unit, trust = l2_normalize(x), x.new_ones(x.size(0))
    for _ in range(num_rounds):
        agreement, known = _agreement(unit, _others(unit, adj, trust, itself), itself)
        if known.any():
            found = _posterior(agreement[known])
            trust = torch.full_like(trust, float(found.mean()))
            trust[known] = found
    return trust


def _others(unit: Tensor, adj: CSRPair, trust: Tensor, itself: Tensor) -> Tensor:
    """What the users of every item took besides, ``[N, F]``."""
    parts = []
    for own in unit.split(_CHANNELS, dim=1):
        sent = trust[:, None] * own
        parts.append(adj @ (adj.t() @ sent) - itself[:, None] * sent)
    return torch.cat(parts, dim=1)


def _agreement(unit: Tensor, others: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
    """The standardized agreement ``[N]``, and where there is any."""
    present = (unit != 0).any(dim=1)
    count = present.sum().clamp(min=1)
    mean = unit.sum(dim=0) / count
    covariance = unit.t() @ unit / count - mean.outer(mean)
    dots, variances, squares = [], [], []
    for own, other in zip(unit.split(_ROWS), others.split(_ROWS), strict=True):
        dots.append(((own - mean) * other).sum(dim=1))
        variances.append(((other @ covariance) * other).sum(dim=1))
        squares.append(other.square().sum(dim=1))
    variance, square = torch.cat(variances), torch.cat(squares)
    # What an item that is alone has of others is rounding, as is the variance of
    # contents that are all alike.
    known = present & (square > 1e-10 * itself.square())
    known &= variance > torch.finfo(unit.dtype).eps * square
    return torch.cat(dots) / variance.clamp(min=1e-30).sqrt(), known


def _posterior(agreement: Tensor) -> Tensor:
    """The probability of the kind that agrees, by the moments of both together."""
    mean = agreement.mean()
    excess = (agreement.var(correction=0) - 1).clamp(min=0)
    if not mean > 0:
        return torch.ones_like(agreement)
    shift = mean + excess / mean
    odds = excess / mean.square()  # Of foreign content; its logarithm may be -inf.
    return torch.sigmoid(shift * agreement - shift.square() / 2 - odds.log())
