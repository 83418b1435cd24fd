"""The SVD-truncated teacher, a baseline that needs no training."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import ITEM, USER


def truncate_embeddings(x_dict: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    r"""Returns a teacher's embeddings at a smaller width, without training.

    These are the embeddings whose inner products are closest to the teacher's scores of
    all users and items in the least-squares sense: the truncated singular value
    decomposition of :math:`\mathbf{U} \mathbf{V}^{\top}` (`"The approximation of one
    matrix by another of lower rank" <https://doi.org/10.1007/BF02288367>`_), computed
    from two thin QR decompositions without the score matrix. At the teacher's width or
    above, they are unchanged.

    Distillation is only worth its cost if the student is better than this.

    Args:
        x_dict: Embeddings of users and items.
        width: The width of the result.

    Raises:
        ValueError: If ``width`` is not positive.
    """
    check_positive('width', width)
    user_x, item_x = x_dict[USER], x_dict[ITEM]
    if width >= user_x.size(-1):
        return {USER: user_x, ITEM: item_x}
    user_q, user_r = torch.linalg.qr(user_x.double())
    item_q, item_r = torch.linalg.qr(item_x.double())
    left, sizes, right = torch.linalg.svd(user_r @ item_r.t(), full_matrices=False)
    scale = sizes[:width].sqrt()
    return {
        USER: (user_q @ (left[:, :width] * scale)).to(user_x.dtype),
        ITEM: (item_q @ (right[:width].t() * scale)).to(item_x.dtype),
    }
