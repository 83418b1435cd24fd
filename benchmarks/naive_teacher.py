"""The teacher as the paper writes it, in plain torch, to compare its speed with."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn.modality_encoder import PromptedModalityEncoder


class NaiveTeacher(torch.nn.Module):
    """All formulas of a :class:`~promptmm_pyg.models.PromptMM` with features on
    items, over its parameters: prompted features in full, every block propagated on
    its own by ``torch.sparse.mm`` of a COO matrix with torch's own gradient, every
    layer kept for the mean, torch's dropout.

    Args:
        teacher: Whose parameters, features and numbers are taken.
        to_user: The weighted adjacency ``[num_users, num_items]``, coalesced.
        to_item: Its transpose, coalesced.
    """

    def __init__(self, teacher: PromptMM, to_user: Tensor, to_item: Tensor) -> None:
        super().__init__()
        self.teacher = teacher
        self.to_user = to_user
        self.to_item = to_item

    def forward(self) -> tuple[Tensor, Tensor]:
        teacher = self.teacher
        assert teacher.prompt is not None
        prompts = teacher.prompt()
        ids = {
            key: x + teacher.prompt_id_weight * F.normalize(prompts[key], dim=-1)
            for key, x in teacher.embeddings().items()
        }
        users, items = [ids['user']], [ids['item']]
        for _ in range(teacher.num_layers):
            user_x = torch.sparse.mm(self.to_user, items[-1])
            item_x = torch.sparse.mm(self.to_item, users[-1])
            users.append(user_x)
            items.append(item_x)
        user_x, item_x = torch.stack(users).mean(0), torch.stack(items).mean(0)
        for modality in teacher.modalities:
            item_f = self.reduced(modality, prompts['item'])
            user_f = torch.sparse.mm(self.to_user, item_f)
            item_f = torch.sparse.mm(self.to_item, user_f)
            user_x = user_x + teacher.modality_weight * F.normalize(user_f, dim=-1)
            item_x = item_x + teacher.modality_weight * F.normalize(item_f, dim=-1)
        return user_x, item_x

    def reduced(self, modality: str, prompt: Tensor) -> Tensor:
        """The reduction layer of one modality, ``[num_items, D]``."""
        key = f'{modality}__item'
        encoder = cast(PromptedModalityEncoder, self.teacher.encoders[key])
        x = self.teacher.get_buffer(f'x_{key}')
        out = reduced_in_full(encoder, x, prompt)
        return F.dropout(out, encoder.dropout.p, self.training)


def reduced_in_full(
    encoder: PromptedModalityEncoder, x: Tensor, prompt: Tensor
) -> Tensor:
    """The reduction layer as the paper writes it, prompted features and all, before
    dropout.
    """
    lifted = F.normalize(prompt @ (prompt.t() @ x), dim=-1)
    out: Tensor = encoder.lin(x + encoder.prompt_weight * lifted)
    return out
