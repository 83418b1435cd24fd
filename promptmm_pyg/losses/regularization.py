"""The penalty on the embeddings of a batch."""

import torch
from torch import Tensor

from promptmm_pyg.losses._precision import at_least_float32


def squared_norm(*embeddings: Tensor) -> Tensor:
    """Returns half the squared norm of one example, summed over the given tensors and
    averaged over the batch.

    Args:
        *embeddings: Rows of one batch, each ``[B, D]``.

    Raises:
        ValueError: If none is given or their first sizes differ.

    Example:
        >>> squared_norm(torch.ones(2, 4), torch.zeros(2, 4))
        tensor(2.)
    """
    sizes = [x.size(0) for x in embeddings]
    if not sizes or len(set(sizes)) > 1:
        raise ValueError(f"'embeddings' must share one batch size (got {sizes})")
    total = torch.stack([at_least_float32(x).square().sum() for x in embeddings]).sum()
    return total / (2 * sizes[0])
