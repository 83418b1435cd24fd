"""The losses of PromptMM's teacher, for any names of the two sides."""

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._ranking_terms import bpr_term, l2_term
from promptmm_pyg.targets import TeacherOutput


def promptmm_terms(
    output: TeacherOutput, edge_type: EdgeType, batch: Triplets
) -> dict[str, Tensor]:
    """What :func:`promptmm_pyg.training.promptmm_terms` returns.

    Args:
        output: What the teacher returned.
        edge_type: The relation from users to items.
        batch: User, positive and negative items ``[B]``.
    """
    user, _, item = edge_type
    views = list(output.modality_x_dict.values())
    norms = [
        x.square().sum(dim=-1).mean() / 2 for x_dict in views for x in x_dict.values()
    ]
    return {
        'bpr': bpr_term(output.x_dict, user, item, batch),
        'l2': l2_term(output.x_dict, user, item, batch),
        'prompt_bpr': _mean_bpr([output.prompt_dict], edge_type, batch),
        'modality_bpr': _mean_bpr(views, edge_type, batch),
        'modality_l2': _mean(norms),
    }


def _mean_bpr(
    views: list[dict[NodeType, Tensor]], edge_type: EdgeType, batch: Triplets
) -> Tensor:
    user, _, item = edge_type
    both = [x_dict for x_dict in views if user in x_dict and item in x_dict]
    return _mean([bpr_term(x_dict, user, item, batch) for x_dict in both])


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean() if losses else torch.zeros(())
