"""What a recommender needs of a trained model and its data; requires
torch_geometric.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._feature_fit import Features
from promptmm_pyg.serving._ids import Ids
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.placement import Placement, place_cold

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from promptmm_pyg.data.split import Split
    from promptmm_pyg.targets import TeacherOutput


class ModelData(NamedTuple):
    """Embeddings of a model, and the ids, interactions and features of its data."""

    user_x: Tensor
    item_x: Tensor
    user_ids: Ids
    item_ids: Ids
    seen: Tensor
    """The message edges and positives of all parts, ``[2, E]``."""
    train: Tensor
    """Training interactions, ``[2, E]``."""
    validation: Tensor | None
    features: Features
    masks: Features
    reads_features: bool
    """Whether the model itself has embeddings of new items."""

    @classmethod
    def read(
        cls,
        model: 'torch.nn.Module | TeacherOutput | Mapping[str, Tensor]',
        data: 'Split | HeteroData',
        inputs: tuple[Any, ...] | None,
    ) -> 'ModelData':
        """The arguments are those of :meth:`Recommender.from_model`."""
        from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, node_features
        from promptmm_pyg.models.inference import get_embeddings

        graph: HeteroData = getattr(data, 'train', data)
        x_dict: Mapping[str, Tensor]
        if isinstance(model, torch.nn.Module):
            x_dict = get_embeddings(model, graph if inputs is None else inputs)
        else:
            x_dict = model if isinstance(model, Mapping) else model.x_dict
        user_ids, item_ids = (
            graph[key].get('raw_id', range(x_dict[key].size(0))) for key in (USER, ITEM)
        )
        validation = getattr(data, 'val', None)
        if validation is not None:
            validation = validation[INTERACTS].edge_label_index.cpu()
        return cls(
            x_dict[USER],
            x_dict[ITEM],
            user_ids,
            item_ids,
            _known_edges(data),
            graph[INTERACTS].edge_index.cpu(),
            validation,
            *node_features(graph, ITEM),
            getattr(model, 'reads_features', False),
        )

    def place_cold(
        self,
        user_x: Tensor,
        item_x: Tensor,
        known: SeenItems,
        feature_mapper: FeatureMapper | None,
    ) -> Placement:
        """Embeddings of users and items without training interactions."""
        return place_cold(
            user_x,
            item_x,
            self.train,
            known=known,
            validation=self.validation,
            feature_mapper=feature_mapper,
            modality_x=self.features,
            modality_mask=self.masks,
            items=not self.reads_features,
        )


def _known_edges(data: 'Split | HeteroData') -> Tensor:
    from promptmm_pyg.data.schema import INTERACTS

    edges = []
    for name in ('train', 'val', 'test'):
        graph: HeteroData = getattr(data, name, data)
        store = graph[INTERACTS]
        edges.append(store.edge_index.cpu())
        if 'edge_label_index' in store:
            positives = store.edge_label_index.cpu()
            if 'edge_label' in store:
                positives = positives[:, store.edge_label.cpu() > 0]
            edges.append(positives)
    return torch.cat(edges, dim=1)
