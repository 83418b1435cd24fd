"""The contrastive term between two views of the nodes of a batch."""

from torch import Tensor

from promptmm_pyg.losses import info_nce_loss


def contrast(anchor: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions over distinct nodes; zero for a single one, which has
    no negative.

    Args:
        anchor: One view of the nodes ``[B, D]``.
        positive: The other view ``[B, D]``.
        temperature: Divides the cosines.
    """
    if anchor.size(0) < 2:
        return anchor.new_zeros(())
    return info_nce_loss(anchor, positive, temperature, symmetric=True)
