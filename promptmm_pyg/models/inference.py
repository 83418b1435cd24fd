"""The inputs and the embeddings of a model."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.nn import CSRPair, csr_pair_dict
from promptmm_pyg.targets import TeacherOutput, eval_mode
from promptmm_pyg.transforms import AddBipartiteNorm


def normalized_adj_dict(data: HeteroData) -> dict[EdgeType, CSRPair]:
    """The message edges of ``data`` as operators, to be converted once per graph.

    Weights are the ``edge_weight`` of ``data``, or else symmetric normalization
    (:class:`~promptmm_pyg.transforms.AddBipartiteNorm`).
    """
    edge_types = (INTERACTS, REV_INTERACTS)
    if any('edge_weight' not in data[edge_type] for edge_type in edge_types):
        data = AddBipartiteNorm()(data)  # Works on a shallow copy.
    return csr_pair_dict(
        {edge_type: data[edge_type].edge_index for edge_type in edge_types},
        {edge_type: data[edge_type].edge_weight for edge_type in edge_types},
        num_nodes_dict=data.num_nodes_dict,
    )


def get_embeddings(
    model: torch.nn.Module, inputs: HeteroData | tuple[Any, ...]
) -> dict[str, Tensor]:
    """The embeddings of a model in eval mode, without gradients.

    Args:
        model: Returns ``x_dict`` or a :class:`~promptmm_pyg.targets.TeacherOutput`.
        inputs: The arguments of the model, or a graph whose message edges are its
            argument (:func:`normalized_adj_dict`).
    """
    if isinstance(inputs, HeteroData):
        inputs = (normalized_adj_dict(inputs),)
    with eval_mode(model), torch.no_grad():
        output = model(*inputs)
    x_dict: dict[str, Tensor] = (
        output.x_dict if isinstance(output, TeacherOutput) else output
    )
    return x_dict
