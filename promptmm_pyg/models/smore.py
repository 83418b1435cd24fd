"""SMORE: modalities denoised and fused in the frequency domain."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, FrozenGraph, WeightDict, max_edges
from promptmm_pyg.models.base import ContentRecommender, linears
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput


class SMORE(ContentRecommender):
    r"""A teacher after the `"Spectrum-based Modality Representation Fusion Graph
    Convolutional Network for Multimodal Recommendation"
    <https://arxiv.org/abs/2412.14978>`_ paper, in our notation.

    Projected features are filtered and fused in the frequency domain
    (:math:`\hat{\mathbf{h}}^m`, :math:`\hat{\mathbf{h}}^f`) and gate the id vectors of
    items, which are propagated on frozen item graphs: :math:`\mathbf{S}_m` of the
    nearest neighbors by one modality, the item itself included, weighted by cosine
    (negative cosines are zero) and normalized symmetrically, :math:`\mathbf{S}_f` the
    elementwise maximum of all; and from items to users.

    .. math::
        \mathbf{H}_i^v = \mathbf{S}_v^K \big( \mathbf{E}_i \odot \sigma(G_v
        \hat{\mathbf{H}}^v) \big), \qquad \mathbf{H}_u^v = \mathbf{A} \mathbf{H}_i^v,
        \qquad v \in M \cup \{f\}

    Gates on behavior :math:`\mathbf{c}`, the LightGCN vector of the ids, weight them:

    .. math::
        \mathbf{s} = \frac{1}{|M| + 1} \Big( \sum_m \sigma(P_m \mathbf{c}) \odot
        \mathrm{softmax}(Q_m \mathbf{h}^f) \odot \mathbf{h}^m + \sigma(P_f \mathbf{c})
        \odot \mathbf{h}^f \Big), \qquad \mathbf{x} = \mathbf{c} + \mathbf{s}

    where :math:`G` and :math:`P` are linear, :math:`Q` linear, tanh, linear, and the
    softmax is over channels. The modality vectors of the output are the summands of the
    bracket, each plus an equal part of the fused summand, so :math:`\mathbf{s}` is
    their sum divided by :math:`|M| + 1`.

    :meth:`losses` has ``bpr``, ``l2`` and ``contrast``: InfoNCE from :math:`\mathbf{s}`
    to :math:`\mathbf{c}` over the batch's users plus over its positives. Everything is
    that of the released code, except that features are constants.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The shared width :math:`D`. (default: ``64``)
        num_layers: Layers of the id propagation. (default: ``3``)
        num_item_layers: Layers :math:`K` of the item graphs. (default: ``1``)
        num_neighbors: Neighbors of an item, with itself. (default: ``10``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes or rows do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-4,
        'contrast': 0.01,
    }
    search_space = trained_space(
        1e-4,
        num_layers=Choices(3, (1, 2, 3, 4)),
        num_neighbors=Choices(10, (5, 10, 20)),
        contrast=Range(0.01, 1e-3, 0.1),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 3,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        temperature: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('temperature', temperature)
        self.temperature = temperature
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.fusion = SpectralFusion(self.modalities, embedding_dim)
        self.features = self.project(modality_x_dict, embedding_dim)
        graphs = self.knn_edges(modality_x_dict, num_neighbors, weighted=True)
        self.graphs = torch.nn.ModuleList(
            FrozenGraph(edges, self.num_items, num_item_layers)
            for edges in [*graphs, max_edges(graphs, self.num_items)]
        )
        # Of the modalities in order, and of the fused view at last.
        size = len(graphs) + 1, embedding_dim, embedding_dim
        self.gates, self.preferences = linears(*size), linears(*size)
        self.shares = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Linear(embedding_dim, embedding_dim),
                torch.nn.Tanh(),
                torch.nn.Linear(embedding_dim, embedding_dim, bias=False),
            )
            for _ in self.modalities
        )
        self.reset_parameters()

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        user_x, item_x = self.smooth_ids(adj)
        item_views = self._item_views(self.embeddings()[self.item])
        user_views = adj.to_user @ torch.cat(item_views, dim=-1)  # One product for all.
        users = self._weighted(user_views.chunk(len(item_views), dim=-1), user_x)
        items = self._weighted(item_views, item_x)
        user_x, item_x = user_x + self.content(users), item_x + self.content(items)
        return self.output(user_x, item_x, users, items)

    def _item_views(self, ids: Tensor) -> list[Tensor]:
        single, fused = self.fusion(torch.stack(list(self.features().values())))
        return [
            frozen(ids * gate(x).sigmoid())
            for x, gate, frozen in zip(
                [*single, fused], self.gates, self.graphs, strict=True
            )
        ]

    def _weighted(self, views: Sequence[Tensor], behavior: Tensor) -> list[Tensor]:
        *single, fused = views
        *gates, fused_gate = (lin(behavior).sigmoid() for lin in self.preferences)
        fused_part = fused_gate * fused / len(single)
        return [
            gate * share(fused).softmax(dim=-1) * view + fused_part
            for share, view, gate in zip(self.shares, single, gates, strict=True)
        ]

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """``bpr``, ``l2`` and ``contrast`` of one batch."""
        contrast = self.content_contrast(output, batch)
        return {**super().losses(output, batch), 'contrast': contrast}


class SpectralFusion(torch.nn.Module):
    r"""Filters the spectrum of every modality and fuses the spectra by their product.

    .. math::
        \hat{\mathbf{h}}^m = \mathcal{F}^{-1} (\mathbf{w}_m \odot \mathcal{F}
        \mathbf{h}^m), \qquad
        \hat{\mathbf{h}}^{f} = \mathcal{F}^{-1} \Big( \mathbf{w}_f \odot \prod_m
        \mathcal{F} \mathbf{h}^m \Big)

    :math:`\mathcal{F}` is the orthonormal real Fourier transform along the channels,
    :math:`\mathbf{w}` are trained complex weights, one per frequency, real and
    imaginary parts initialized from :math:`\mathcal{N}(0, 1)`; with weights of one the
    first formula is the identity. A product of spectra is a circular
    convolution of vectors. The imaginary parts of the constant and (for an even width)
    of the highest frequency have no effect and get no gradient.

    Args:
        modalities: Their names, in order.
        channels: The width :math:`D`.

    Shapes:
        - **input:** vectors :math:`(M, N, D)`
        - **output:** filtered vectors :math:`(M, N, D)` and fused vectors
          :math:`(N, D)`
    """

    def __init__(self, modalities: list[str], channels: int) -> None:
        super().__init__()
        self.modalities = modalities
        num = channels // 2 + 1
        # Real pairs: fused optimizers do not support complex parameters. With a prefix:
        # a modality may have the name of a method of modules.
        self.filters = torch.nn.ParameterDict()
        for modality in modalities:
            weight = torch.nn.Parameter(torch.empty(num, 2))
            self.filters[f'filter_{modality}'] = weight
        self.fusion_filter = torch.nn.Parameter(torch.empty(num, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in [*self.filters.values(), self.fusion_filter]:
            torch.nn.init.normal_(weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # There is no Fourier transform in half precision.
        dtype = torch.promote_types(x.dtype, torch.float)
        spectra = torch.fft.rfft(x.to(dtype), norm='ortho')  # [M, N, D // 2 + 1]
        filters = torch.stack([x.to(dtype) for x in self.filters.values()])
        single = spectra * torch.view_as_complex(filters).unsqueeze(1)
        fusion = torch.view_as_complex(self.fusion_filter.to(dtype))
        single, fused = (
            torch.fft.irfft(spectrum, n=x.size(-1), norm='ortho').to(x.dtype)
            for spectrum in (single, spectra.prod(dim=0) * fusion)
        )
        return single, fused

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(modalities={sorted(self.modalities)})'
