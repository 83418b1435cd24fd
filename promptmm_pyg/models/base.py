"""Base classes of the models: constructor, ``from_data``, edges and losses."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.data.split import Split
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses._rows import bpr_of_rows, squared_norm_of_rows
from promptmm_pyg.models._contrast import contrast
from promptmm_pyg.models._graphs import (
    Bipartite,
    EdgeDict,
    Edges,
    FrozenGraph,
    Operator,
    WeightDict,
    bipartite,
    concat_edges,
    modality_shares,
    weights_by_type,
)
from promptmm_pyg.models._projected_features import (
    LinearStart,
    ProjectedFeatures,
    reset_linear,
)
from promptmm_pyg.nn._features import (
    FeatureDict,
    Features,
    as_tensor,
    in_default_precision,
)
from promptmm_pyg.nn.csr import CSRPair, csr_pair_dict
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.knn import knn_graph
from promptmm_pyg.search_space import SearchSpace, trained_space
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.transforms import (
    AddModalityPCA,
    StandardizeModalities,
    is_standardized,
)


class FromData:
    """The constructor from a data set."""

    reads_features: ClassVar[bool] = False
    """Whether the model reads modality features."""
    reads_prompt: ClassVar[bool] = False
    """Whether the model has a prompt; it starts from the PCA of the features."""
    search_space: ClassVar[SearchSpace] = SearchSpace()
    """The hyper-parameters that are tuned."""

    @classmethod
    def from_data(cls, data: Split | HeteroData, **kwargs: Any) -> Self:
        """Builds the model for a data set.

        Sizes and features are those of the training graph. Features are standardized
        (:class:`~promptmm_pyg.transforms.StandardizeModalities`) and a prompt starts
        from their principal components
        (:class:`~promptmm_pyg.transforms.AddModalityPCA`), unless these transforms were
        applied before.

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
            LightGCN(NodeEmbeddings(user=30, item=20, embedding_dim=8), num_layers=3)
        """
        train: HeteroData = getattr(data, 'train', data)
        if cls.reads_features and modality_x_dict(train):
            train = _standardized(train)
            kwargs.setdefault('modality_x_dict', cls._data_features(train))
            if cls.reads_prompt:
                if 'prompt_start_dict' not in kwargs:
                    kwargs['prompt_start_dict'] = _prompt_start(train)
                masks = modality_mask_dict(train)
                if masks:
                    kwargs.setdefault('modality_mask_dict', masks)
        kwargs.setdefault('edge_type', INTERACTS)
        # Users first: initial values are drawn in this order.
        sizes = {key: int(train[key].num_nodes) for key in NODE_TYPES}
        return cls(sizes, **kwargs)  # type: ignore[call-arg]

    @classmethod
    def prepare_data(cls, train: HeteroData) -> HeteroData:
        """The training graph with what :meth:`from_data` computes from its features,
        once for several models.
        """
        if not cls.reads_features or not modality_x_dict(train):
            return train
        train = _standardized(train)
        return _with_prompt_start(train) if cls.reads_prompt else train

    @classmethod
    def _data_features(cls, train: HeteroData) -> dict[str, dict[NodeType, Tensor]]:
        return modality_x_dict(train)


def _standardized(train: HeteroData) -> HeteroData:
    return train if is_standardized(train) else StandardizeModalities()(train)


def _with_prompt_start(train: HeteroData) -> HeteroData:
    if any('prompt_start' not in train[key] for key in NODE_TYPES):
        return AddModalityPCA()(train)
    return train


def _prompt_start(train: HeteroData) -> dict[NodeType, Tensor]:
    train = _with_prompt_start(train)
    return {key: train[key].prompt_start for key in NODE_TYPES}


class GraphRecommender(FromData, torch.nn.Module):
    """The base of all trained models.

    A model is called with edges and returns embeddings, either ``x_dict`` or a
    :class:`~promptmm_pyg.targets.TeacherOutput`. :meth:`losses` returns the losses of a
    batch by name; ``train`` weights them by :attr:`loss_weights`.

    Edges are a dictionary by edge type, in any form that
    :func:`~promptmm_pyg.nn.as_csr_pair` accepts, or the edges of ``edge_type`` alone;
    the reverse edges are then their transpose.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {node_type: [N_t, F_m]}}``; a model that
            reads none ignores them. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)

    Raises:
        ValueError: If ``edge_type`` does not connect two of the node types.
        TypeError: If ``modality_x_dict`` is not a dictionary.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-3}
    """The default weight of each loss."""
    search_space = trained_space(1e-3)
    any_graph: ClassVar[bool] = False
    """Whether the model also embeds graphs without ``edge_type``."""
    reads_edges: ClassVar[bool] = True
    """Whether the embeddings depend on the edges."""
    reads_weights: ClassVar[bool] = True
    """Whether the embeddings depend on the weights of the edges."""
    printed: ClassVar[tuple[str, ...]] = ('num_layers',)
    """The attributes in the printed form of the model."""
    linear_start: ClassVar[LinearStart] = 'default'
    """The initial weights of linear layers."""
    not_copied: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold operators of the last call; ``None`` in copies and pickles,
    as sparse matrices support neither."""

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        edge_type: EdgeType = INTERACTS,
    ) -> None:
        super().__init__()
        check_features(modality_x_dict)
        if self.any_graph and not {edge_type[0], edge_type[-1]} <= set(num_nodes_dict):
            self.user, self.item = edge_type[0], edge_type[-1]
        else:
            self.user, self.item = node_types(num_nodes_dict, edge_type)
        self.edge_type = edge_type
        self.num_nodes_dict = dict(num_nodes_dict)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for module in self.children():
            reset(module, self.linear_start)

    def losses(self, output: Any, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch: ``bpr`` of the embeddings, and ``l2``, half the
        squared norm of their rows of an example, averaged over the batch.

        Args:
            output: The output of the model.
            batch: User, positive and negative items ``[B]``.
        """
        x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
        return {'bpr': self.bpr(x_dict, batch), 'l2': self.l2(x_dict, batch)}

    def bpr(self, x_dict: Mapping[NodeType, Tensor], batch: Triplets) -> Tensor:
        """BPR of the embeddings of users and items."""
        return bpr_of_rows(x_dict[self.user], x_dict[self.item], *batch)

    def l2(self, x_dict: Mapping[NodeType, Tensor], batch: Triplets) -> Tensor:
        """Half the squared norm of the rows of an example, averaged over the batch."""
        return l2_of_rows(x_dict[self.user], x_dict[self.item], batch)

    def contrast(
        self,
        batch: Triplets,
        views: Callable[[NodeType, Tensor], tuple[Tensor, Tensor]],
        temperature: float,
    ) -> Tensor:
        """InfoNCE from one view to another of the users of a batch, and of its
        positives, ``[2]``. Nodes that occur twice are negatives of each other, as in
        the released codes.

        Args:
            batch: User, positive and negative items ``[B]``.
            views: Returns both views ``[B, D]`` of nodes ``[B]`` of a node type.
            temperature: Divides the cosines.
        """
        nodes = ((self.user, batch.user), (self.item, batch.positive))
        return torch.stack(
            [contrast(*views(key, index), temperature) for key, index in nodes]
        )

    def operators(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        num_nodes_dict: dict[NodeType, int] | None = None,
    ) -> dict[EdgeType, CSRPair]:
        """The operators of all edge types.

        Args:
            edge_index_dict: Edges per type, or those of ``edge_type``.
            edge_weight_dict: Their weights. (default: ``None``)
            num_nodes_dict: The number of nodes of a subgraph. (default: of the graph)
        """
        num_nodes_dict = num_nodes_dict or self.num_nodes_dict
        if not isinstance(edge_index_dict, Mapping):
            adj = bipartite(
                edge_index_dict,
                edge_weight_dict,
                edge_type=self.edge_type,
                num_nodes_dict=num_nodes_dict,
            )
            reverse = (self.item, f'rev_{self.edge_type[1]}', self.user)
            return {self.edge_type: adj.to_item, reverse: adj.to_user}
        return csr_pair_dict(
            dict(edge_index_dict),
            weights_by_type(edge_weight_dict),
            num_nodes_dict=num_nodes_dict,
        )

    def bipartite(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> Bipartite[CSRPair]:
        """The operators from users to items and back, see :meth:`operators`."""
        return bipartite(
            edge_index_dict,
            edge_weight_dict,
            edge_type=self.edge_type,
            num_nodes_dict=self.num_nodes_dict,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(self.not_copied)}

    def __repr__(self) -> str:
        children = dict(self.named_children())
        parts = [str(children[k]) for k in ('embeddings', 'features') if k in children]
        parts += [f'{name}={getattr(self, name)!r}' for name in self.printed]
        return f'{self.__class__.__name__}({", ".join(parts)})'


class IdRecommender(GraphRecommender):
    """The base of models that return embeddings of ids per node type."""

    any_graph = True

    def losses(
        self, output: Mapping[NodeType, Tensor], batch: Triplets
    ) -> dict[str, Tensor]:
        return bpr_and_l2(output, self.user, self.item, batch)


class ContentRecommender(GraphRecommender):
    """The base of models that read the features of items.

    The features are buffers that are not saved, constants; most released codes train
    them, too. Node types other than users and items are ignored.
    """

    reads_features = True
    embeddings: NodeEmbeddings
    temperature: float

    @classmethod
    def _data_features(cls, train: HeteroData) -> dict[str, dict[NodeType, Tensor]]:
        return {
            modality: {ITEM: x_dict[ITEM]}
            for modality, x_dict in modality_x_dict(train).items()
            if ITEM in x_dict
        }

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        edge_type: EdgeType = INTERACTS,
        num_layers: int = 1,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        check_positive('num_layers', num_layers)
        self.num_layers = num_layers
        self.num_nodes_dict = {
            key: num_nodes_dict[key] for key in (self.user, self.item)
        }
        self.modalities = list(modality_x_dict or {})

    @property
    def lead_modality(self) -> str:
        """``'image'``, or else the first modality: the one that released codes treat
        apart.
        """
        return 'image' if 'image' in self.modalities else self.modalities[0]

    @property
    def num_users(self) -> int:
        """The number of users."""
        return int(self.num_nodes_dict[self.user])

    @property
    def num_items(self) -> int:
        """The number of items."""
        return int(self.num_nodes_dict[self.item])

    def unit_features(self, modality_x_dict: Features | None) -> FeatureDict:
        """The features of every modality with rows at unit length."""
        return {
            modality: {
                key: l2_normalize(in_default_precision(as_tensor(x)))
                for key, x in x_dict.items()
            }
            for modality, x_dict in (modality_x_dict or {}).items()
        }

    def project(
        self,
        modality_x_dict: Features | None,
        channels: int | Mapping[str, int | None],
        *,
        bias: bool = True,
    ) -> ProjectedFeatures:
        """A linear layer per modality, from the features of items to ``channels``."""
        return ProjectedFeatures(
            self.num_nodes_dict,
            self.item,
            modality_x_dict or {},
            channels,
            bias=bias,
            start=self.linear_start,
        )

    def knn_edges(
        self,
        modality_x_dict: Features | None,
        num_neighbors: int,
        *,
        weighted: bool = False,
    ) -> list[Edges]:
        """Edges from nearest neighbors by the features of each modality, one of which
        is the item itself (:func:`~promptmm_pyg.nn.knn_graph`).
        """
        check_positive('num_neighbors', num_neighbors)
        return [
            knn_graph(
                as_tensor(x_dict[self.item]),
                num_neighbors,
                weighted=weighted,
                self_loops=True,
            )
            for x_dict in (modality_x_dict or {}).values()
        ]

    def item_graph(
        self,
        modality_x_dict: Features | None,
        num_neighbors: int,
        num_layers: int = 1,
        modality_weights: Mapping[str, float] | None = None,
    ) -> FrozenGraph:
        """The weighted sum of the unweighted graphs of all modalities, frozen; by
        default, the published weights, .9 for ``'text'`` and .1 for the others.
        """
        check_positive('num_item_layers', num_layers)
        shares = modality_shares(self.modalities, modality_weights)
        graphs = self.knn_edges(modality_x_dict, num_neighbors)
        edges = concat_edges(
            [
                (index, w * share)
                for (index, w), share in zip(graphs, shares, strict=True)
            ]
        )
        return FrozenGraph(edges, self.num_items, num_layers)

    def user_tables(self, channels: int, init_std: float | None) -> NodeEmbeddings:
        """A table of users per modality; called, it returns them in order."""
        # With a prefix: a modality may have the name of a method of modules.
        sizes = {f'user_{m}': self.num_users for m in self.modalities}
        return NodeEmbeddings(sizes, channels, init_std)

    def smooth_ids(self, adj: Bipartite[Operator]) -> tuple[Tensor, Tensor]:
        """LightGCN on the id tables: the mean over layers, of users and of items."""
        id_dict = self.embeddings()
        return adj.smooth(id_dict[self.user], id_dict[self.item], self.num_layers)

    def content(self, views: Sequence[Tensor]) -> Tensor:
        """What the modalities add to behavior: their sum over :math:`M + 1`."""
        return torch.stack(list(views)).sum(dim=0) / (len(views) + 1)

    def content_contrast(self, output: TeacherOutput, batch: Triplets) -> Tensor:
        """:meth:`contrast` from :meth:`content` to the rest of the embeddings, over the
        users of the batch plus over its positives.
        """

        def views(key: NodeType, nodes: Tensor) -> tuple[Tensor, Tensor]:
            parts = [x_dict[key][nodes] for x_dict in output.modality_x_dict.values()]
            content = self.content(parts)
            return content, output.x_dict[key][nodes] - content

        return self.contrast(batch, views, self.temperature).sum()

    def output(
        self,
        user_x: Tensor,
        item_x: Tensor,
        users: Iterable[Tensor] = (),
        items: Iterable[Tensor] = (),
    ) -> TeacherOutput:
        """The output of a model.

        Args:
            user_x: Final embeddings of users ``[num_users, D]``.
            item_x: Final embeddings of items ``[num_items, D]``.
            users: Vectors of users, one matrix per modality.
            items: Vectors of items, one matrix per modality.
        """
        parts = zip(self.modalities, users, items, strict=True)
        return TeacherOutput(
            {self.user: user_x, self.item: item_x},
            {name: {self.user: user, self.item: item} for name, user, item in parts},
        )


def check_features(modality_x_dict: Any) -> None:
    """Raises unless features are a dictionary or ``None``, such as a width that was
    passed by position.
    """
    if not isinstance(modality_x_dict, Mapping | None):
        raise TypeError(
            f"'modality_x_dict' must be {{modality: {{node_type: Tensor}}}} (got "
            f"'{type(modality_x_dict).__name__}'). Pass other arguments by keyword"
        )


def node_types(
    num_nodes_dict: Mapping[NodeType, int], edge_type: EdgeType
) -> tuple[NodeType, NodeType]:
    """The node types of users and of items, the ends of ``edge_type``.

    Args:
        num_nodes_dict: The number of nodes per node type.
        edge_type: ``(user, relation, item)``, under any names.

    Raises:
        ValueError: If it is not a triple, or its ends are not two different node types.

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
            f"'edge_type' must connect two different node types of "
            f'{sorted(num_nodes_dict)} (got {edge_type})'
        )
    return user, item


def bpr_and_l2(
    x_dict: Mapping[NodeType, Tensor], user: NodeType, item: NodeType, batch: Triplets
) -> dict[str, Tensor]:
    """BPR, and half the squared norm of the rows of an example, on one batch.

    Args:
        x_dict: Embeddings ``[N_t, D]`` per node type.
        user: The node type of users.
        item: The node type of items.
        batch: User, positive and negative items ``[B]``.
    """
    user_x, item_x = x_dict[user], x_dict[item]
    return {
        'bpr': bpr_of_rows(user_x, item_x, *batch),
        'l2': l2_of_rows(user_x, item_x, batch),
    }


def l2_of_rows(user_x: Tensor, item_x: Tensor, batch: Triplets) -> Tensor:
    """Half the squared norm of the rows of an example, averaged over the batch."""
    tables = [(user_x, [batch.user]), (item_x, [batch.positive, batch.negative])]
    return squared_norm_of_rows(tables, batch.user.numel())


def linears(
    number: int, in_channels: int, out_channels: int, *, bias: bool = True
) -> torch.nn.ModuleList:
    """Linear layers of one shape."""
    return torch.nn.ModuleList(
        torch.nn.Linear(in_channels, out_channels, bias=bias) for _ in range(number)
    )


def reset(module: torch.nn.Module, start: LinearStart = 'default') -> None:
    """Resets a module: linear layers by :func:`reset_linear`, other modules reset
    themselves.
    """
    if isinstance(module, torch.nn.Linear):
        reset_linear(module, start)
    elif hasattr(module, 'reset_parameters'):
        cast(Any, module).reset_parameters()
    else:
        for child in module.children():
            reset(child, start)


def normal_std(init_std: float | None, *shape: int) -> float:
    """``init_std``, or the standard deviation of Xavier's normal start of a matrix."""
    return math.sqrt(2 / sum(shape)) if init_std is None else init_std


def unsquared_norm(*embeddings: Tensor) -> Tensor:
    """The sum of the Frobenius norms of the given rows of one batch, not squared,
    divided by the number of rows of the first: a penalty of several released codes.

    Args:
        *embeddings: Rows of one batch, each ``[B, D]``.
    """
    norms = torch.stack([x.norm() for x in embeddings])
    return norms.sum() / embeddings[0].size(0)
