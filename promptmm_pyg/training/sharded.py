"""Steps and validation of models whose tables are sharded among processes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.evaluation import Evaluation, evaluate
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.functional import rows
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.nn.sharded_embeddings import sharded_parameters
from promptmm_pyg.targets import SoftTargets, TeacherOutput, eval_mode


def looks_up_rows(model: torch.nn.Module) -> bool:
    """Whether a step looks up the rows of its batch only: the tables of ``model`` are
    sharded and its embeddings do not depend on edges.
    """
    return not getattr(model, 'reads_edges', True) and bool(sharded_parameters(model))


class BatchRows(NamedTuple):
    """The distinct nodes of a batch, and the batch in positions of these."""

    n_id_dict: dict[str, Tensor]
    batch: Triplets
    lists: CandidateLists | None

    @classmethod
    def of(cls, batch: Triplets, lists: CandidateLists | None = None) -> 'BatchRows':
        """The rows of a batch and of its candidate lists."""
        parts = [batch.positive, batch.negative]
        if lists is not None:
            parts.append(lists.item_index)
        users, user = batch.user.unique(return_inverse=True)
        items, inverse = torch.cat([x.reshape(-1) for x in parts]).unique(
            return_inverse=True
        )
        split = inverse.split([x.numel() for x in parts])
        item = [x.view_as(part) for x, part in zip(split, parts, strict=True)]
        local = Triplets(user, item[0], item[1])
        if lists is not None:
            lists = lists._replace(item_index=item[2])
        return cls({USER: users, ITEM: items}, local, lists)

    def cut(self, output: SoftTargets | TeacherOutput) -> TeacherOutput:
        """The rows of these nodes in a teacher's output."""

        def cut(x_dict: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                key: rows(x_dict[key], n_id) for key, n_id in self.n_id_dict.items()
            }

        views = output.modality_x_dict.items()
        return TeacherOutput(cut(output.x_dict), {k: cut(x) for k, x in views})


def evaluate_rows(model: torch.nn.Module, val: HeteroData, k: int) -> Evaluation:
    """Evaluates a model for which :func:`looks_up_rows`; every process has the items
    and the users that are evaluated.
    """
    users = positives(val)[0].unique()
    items = torch.arange(int(val[ITEM].num_nodes), device=users.device)
    with eval_mode(model), torch.no_grad():
        x_dict = model(n_id_dict={USER: users, ITEM: items})

    def scores(user: Tensor) -> Tensor:
        position = torch.searchsorted(users, user.to(users.device))
        result: Tensor = x_dict[USER][position] @ x_dict[ITEM].t()
        return result

    return evaluate(scores, val, ks=(k,))
