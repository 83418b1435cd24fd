"""What every recommendation model shares: how it is built, called and trained."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import (
    INTERACTS,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
)
from promptmm_pyg.data.split import Split
from promptmm_pyg.functional import rows, score_pairs
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import bpr_loss, squared_norm
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.transforms import (
    AddModalityPCA,
    StandardizeModalities,
    is_standardized,
)

Fitted = TypeVar('Fitted')


class FromData:
    """Adds ``from_data`` to a model with the shared constructor."""

    reads_features: ClassVar[bool] = False
    """Whether the model reads modality features."""
    reads_prompt: ClassVar[bool] = False
    """Whether the model has a prompt that starts from the features' PCA."""

    @classmethod
    def from_data(cls, data: Split | HeteroData, **kwargs: Any) -> Self:
        """Builds the model for a data set.

        The sizes and features are those of the training graph. Features are
        standardized (:class:`~promptmm_pyg.transforms.StandardizeModalities`) and a
        prompt starts from their principal components
        (:class:`~promptmm_pyg.transforms.AddModalityPCA`) unless the graph was
        transformed so already.

        Args:
            data: A split, or its training graph.
            **kwargs: Further arguments of the constructor.

        Raises:
            ValueError: If the model reads features and the data have none, or an
                argument does not fit.

        Example:
            >>> from promptmm_pyg.data import make_synthetic_dataset
            >>> from promptmm_pyg.models import LightGCN
            >>> LightGCN.from_data(make_synthetic_dataset(30, 20), embedding_dim=8)
            LightGCN(NodeEmbeddings(user=30, item=20, embedding_dim=8), num_layers=2)
        """
        train: HeteroData = getattr(data, 'train', data)
        if cls.reads_features and modality_x_dict(train):
            if not is_standardized(train):
                train = StandardizeModalities()(train)
            kwargs.setdefault('modality_x_dict', modality_x_dict(train))
            if cls.reads_prompt:
                if 'prompt_start_dict' not in kwargs:
                    kwargs['prompt_start_dict'] = _prompt_start(train)
                masks = modality_mask_dict(train)
                if masks:
                    kwargs.setdefault('modality_mask_dict', masks)
        kwargs.setdefault('edge_type', INTERACTS)
        return cls(num_nodes_dict(train), **kwargs)  # type: ignore[call-arg]


def _prompt_start(train: HeteroData) -> dict[NodeType, Tensor]:
    if any('prompt_start' not in train[key] for key in num_nodes_dict(train)):
        train = AddModalityPCA()(train)
    return {key: train[key].prompt_start for key in num_nodes_dict(train)}


class GraphRecommender(FromData, torch.nn.Module):
    """The base of all trained models.

    A model is called with edges and returns embeddings, either ``x_dict`` or a
    :class:`~promptmm_pyg.targets.TeacherOutput`. :meth:`losses` computes the named
    losses of a batch on that output, which ``train`` adds up
    with :attr:`loss_weights`.

    Args:
        num_nodes_dict: The number of nodes per node type.
        edge_type: ``(user, relation, item)``, who is ranked for and what is ranked.

    Raises:
        ValueError: If ``edge_type`` does not connect two of the node types.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-3}
    """The default weight of each loss."""
    any_graph: ClassVar[bool] = False
    """Whether the model also embeds graphs without ``edge_type``."""

    def __init__(
        self, num_nodes_dict: dict[NodeType, int], edge_type: EdgeType = INTERACTS
    ) -> None:
        super().__init__()
        if self.any_graph and not {edge_type[0], edge_type[-1]} <= set(num_nodes_dict):
            self.user, self.item = edge_type[0], edge_type[-1]
        else:
            self.user, self.item = node_types(num_nodes_dict, edge_type)
        self.edge_type = edge_type

    def losses(self, output: Any, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch: ``bpr`` of the embeddings, and ``l2``, half the
        squared norm of an example's three rows, averaged over the batch.

        Args:
            output: What the model returned.
            batch: User, positive and negative items ``[B]``.
        """
        x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
        return {'bpr': self.bpr(x_dict, batch), 'l2': self.l2(x_dict, batch)}

    def bpr(self, x_dict: Mapping[NodeType, Tensor], batch: Triplets) -> Tensor:
        """BPR of one pair of tables on one batch."""
        return bpr_of(x_dict, self.user, self.item, batch)

    def l2(self, x_dict: Mapping[NodeType, Tensor], batch: Triplets) -> Tensor:
        """Half the squared norm of an example's rows, averaged over the batch."""
        user_x, item_x = x_dict[self.user], x_dict[self.item]
        return squared_norm(
            rows(user_x, batch.user),
            rows(item_x, batch.positive),
            rows(item_x, batch.negative),
        )


def bpr_of(
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


class ClosedForm(FromData, ABC, Generic[Fitted]):
    """The base of models that are computed, not trained step by step.

    Args:
        num_nodes_dict: The number of nodes per node type.
        edge_type: ``(user, relation, item)``, the interactions.

    Raises:
        ValueError: If a size does not fit.
    """

    def __init__(
        self, num_nodes_dict: dict[NodeType, int], edge_type: EdgeType = INTERACTS
    ) -> None:
        self.user, self.item = node_types(num_nodes_dict, edge_type)
        self.edge_type = edge_type
        self.num_users = num_nodes_dict[self.user]
        self.num_items = num_nodes_dict[self.item]
        self._fitted: Fitted | None = None

    @abstractmethod
    def fit(self, edge_index: Tensor) -> Self:
        """Computes all that scores need of the training interactions and returns the
        model.

        Args:
            edge_index: (user, item) pairs ``[2, E]``; repeats count once.

        Raises:
            ValueError: If an index is outside the numbers of nodes.
        """

    @abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """The scores of every item, for :func:`~promptmm_pyg.ranking.rank_items` and
        :func:`~promptmm_pyg.evaluation.evaluate`.

        Args:
            users: Users ``[B]``.

        Returns:
            Scores ``[B, num_items]``.

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If an index is outside the number of users.
        """

    @abstractmethod
    def as_output(self, width: int, seed: int = 0) -> TeacherOutput:
        """The tables of the given width whose inner products are closest to the
        scores of all users (truncated SVD, never the dense scores), to teach with.

        Args:
            width: The width of the tables.
            seed: Seed of the decomposition's start. (default: ``0``)

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If ``width`` exceeds the number of users or items.
        """

    def _state(self) -> Fitted:
        if self._fitted is None:
            raise RuntimeError("the model is not fitted. Call 'fit(edge_index)' first")
        return self._fitted


def features_or_none(modality_x_dict: Any) -> dict[str, Any]:
    """Features as a dictionary, empty without any.

    Raises:
        TypeError: If they are something else, such as a width given by position.
    """
    if not isinstance(modality_x_dict, Mapping | None):
        raise TypeError(
            f"'modality_x_dict' must be a dictionary {{modality: {{node_type: Tensor}}}} "
            f"(got '{type(modality_x_dict).__name__}'). Other arguments have to be named"
        )
    return dict(modality_x_dict or {})


def node_types(
    num_nodes_dict: Mapping[NodeType, int], edge_type: EdgeType
) -> tuple[NodeType, NodeType]:
    """The first and the last entry of ``edge_type``: who is ranked for, and what.

    Args:
        num_nodes_dict: The number of nodes per node type.
        edge_type: ``(user, relation, item)`` by whatever names.

    Raises:
        ValueError: If it is no triple, or an end is not a node type or both are one.

    Example:
        >>> node_types({'reader': 2, 'book': 3}, ('reader', 'borrows', 'book'))
        ('reader', 'book')
    """
    if len(edge_type) != 3 or isinstance(edge_type, str):
        raise ValueError(
            f"'edge_type' must be a triple (user, relation, item) (got {edge_type!r})"
        )
    user, _, item = edge_type
    if user == item or not {user, item} <= set(num_nodes_dict):
        raise ValueError(
            f"'edge_type' requires two different ends among the node types "
            f'{sorted(num_nodes_dict)} (got {edge_type})'
        )
    return user, item


def check_both_ways(edge_types: Iterable[EdgeType], user: str, item: str) -> None:
    """Raises unless edges lead from users to items and from items to users."""
    edge_types = list(edge_types)
    ends = {(src, dst) for src, _, dst in edge_types}
    if not {(user, item), (item, user)} <= ends:
        raise ValueError(
            f"'edge_index_dict' requires edges from {user!r} to {item!r} and back (got "
            f"{edge_types}). Add reverse edges with 'T.ToUndirected()'"
        )
