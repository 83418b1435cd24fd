"""The two terms most models of the field are trained with."""

from collections.abc import Mapping

from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg.functional import rows, score_pairs
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import bpr_loss, squared_norm


def bpr_term(
    x_dict: Mapping[NodeType, Tensor], user: NodeType, item: NodeType, batch: Triplets
) -> Tensor:
    """BPR of one pair of tables on one batch.

    Args:
        x_dict: Embeddings ``[N_t, D]`` per node type.
        user: The node type that is ranked for.
        item: The node type that is ranked.
        batch: User, positive and negative items ``[B]``.
    """
    user_x, item_x = x_dict[user], x_dict[item]
    return bpr_loss(
        score_pairs(user_x, item_x, batch.user, batch.positive),
        score_pairs(user_x, item_x, batch.user, batch.negative),
    )


def l2_term(
    x_dict: Mapping[NodeType, Tensor], user: NodeType, item: NodeType, batch: Triplets
) -> Tensor:
    """Half the squared norm of the three rows of an example, averaged over the batch.

    Args:
        x_dict: Embeddings ``[N_t, D]`` per node type.
        user: The node type that is ranked for.
        item: The node type that is ranked.
        batch: User, positive and negative items ``[B]``.
    """
    user_x, item_x = x_dict[user], x_dict[item]
    return squared_norm(
        rows(user_x, batch.user),
        rows(item_x, batch.positive),
        rows(item_x, batch.negative),
    )
