"""The mean over the candidates of a list."""

from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each row of ``x`` where ``mask`` is true, which is somewhere."""
    if mask is None:
        return x.mean(dim=-1)
    return x.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)
