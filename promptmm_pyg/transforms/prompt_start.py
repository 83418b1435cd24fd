"""The start of the prompt: PCA, ICA or random numbers, as ``prompt`` of every node."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import (
    check_choice,
    check_finite_features,
    check_positive,
    checked_edges,
    missing_extra,
)
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    USER,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.transforms.features import standardize

Combine = Literal['concat', 'mean']


class ItemComponents(BaseTransform):
    """Base of the transforms that decompose the items' features; :meth:`components`
    is the decomposition.
    """

    def __init__(self, out_channels: int, combine: Combine, seed: int) -> None:
        check_positive('out_channels', out_channels)
        check_choice('combine', combine, ('concat', 'mean'))
        self.out_channels = out_channels
        self.combine = combine
        self.seed = seed

    def components(self, x: Tensor) -> Tensor:
        """The components ``[N, out_channels]`` of features ``[N, F]``."""
        raise NotImplementedError

    def forward(self, data: HeteroData) -> HeteroData:
        start = item_components(data, self.combine, self.components)
        return with_prompt_start(data, start)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.out_channels}, combine='{self.combine}')"
        )


def item_components(
    data: HeteroData, combine: Combine, components: Callable[[Tensor], Tensor]
) -> Tensor:
    """Decomposes the standardized item modalities, jointly or separately.

    Args:
        data: A graph with item modalities.
        combine: ``'concat'`` decomposes them side by side, ``'mean'`` averages the
            components of each; an item without a modality uses those it has.
        components: Features ``[N, F]`` to components ``[N, P]``.

    Raises:
        ValueError: If no item has a modality, or one is not finite where it is present.
    """
    masks = modality_mask_dict(data)
    parts, present = [], []
    for modality, features in modality_x_dict(data).items():
        if ITEM in features:
            mask = masks.get(modality, {}).get(ITEM)
            x = features[ITEM]
            part = standardize(x, mask, f"data['{ITEM}'].x_{modality}")
            parts.append(part)
            ones = part.new_ones(x.size(0))
            present.append(ones if mask is None else mask.to(part))
    if not parts:
        raise ValueError(
            "'data' requires at least one item modality, 'data['item'].x_<name>' "
            '(got none). Build the teacher without a prompt instead'
        )
    num_present = torch.stack(present).sum(dim=0).clamp_min(1)[:, None]
    if combine == 'concat':
        # A missing block is zero; the others are scaled up.
        return components(torch.cat(parts, dim=1) * (len(parts) / num_present))
    pairs = zip([components(x) for x in parts], present, strict=True)
    return sum((s * p[:, None] for s, p in pairs), torch.zeros(())) / num_present


def with_prompt_start(data: HeteroData, start: Tensor) -> HeteroData:
    """Sets ``prompt_start``: on items at a root-mean-square of 1, on users the mean
    over the items of their message edges.

    Args:
        data: A graph; it is changed.
        start: The items' starting point ``[num_items, P]``.
    """
    start = start / start.square().mean().sqrt().clamp_min(1e-12)
    num_users = data.num_nodes_dict[USER]
    user, item = checked_edges(
        data[INTERACTS].edge_index,
        (num_users, start.size(0)),
        f'data[{INTERACTS}].edge_index',
    )
    total = start.new_zeros(num_users, start.size(1))
    total.index_add_(0, user, start[item])
    degree = torch.bincount(user, minlength=num_users).clamp_min(1)
    data[ITEM].prompt_start = start
    data[USER].prompt_start = total / degree[:, None]
    return data


@functional_transform('add_random_prompt')
class AddRandomPrompt(BaseTransform):
    """Adds ``prompt_start`` to users and items: for items normal random numbers at a
    root-mean-square of 1, and for users their mean over the items of the message
    edges.

    The baseline of :class:`~promptmm_pyg.transforms.AddModalityPCA`: the same scale and
    shape without features.

    Args:
        out_channels: The number of columns. (default: ``32``)
        seed: Seed of the numbers. (default: ``0``)
    """

    def __init__(self, out_channels: int = 32, seed: int = 0) -> None:
        check_positive('out_channels', out_channels)
        self.out_channels = out_channels
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        generator = torch.Generator().manual_seed(self.seed)
        num_items = data.num_nodes_dict[ITEM]
        start = torch.randn(num_items, self.out_channels, generator=generator)
        return with_prompt_start(data, start.to(data[INTERACTS].edge_index.device))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.out_channels}, seed={self.seed})'


_EXACT_WIDTH = 1024  # Up to here the covariance is decomposed exactly.


@functional_transform('add_modality_pca')
class AddModalityPCA(ItemComponents):
    r"""Adds ``prompt_start`` to users and items: the principal components of the
    items' features, and for users their mean over the items of the message edges.

    Modalities are standardized first, so widths and scales do not matter. Seed and
    signs are fixed: the same data give the same prompt. The result is scaled to a
    root-mean-square of 1 over items.

    The paper averages the components of each modality (``combine='mean'``), whose axes
    are unrelated; ``combine='concat'`` decomposes all modalities jointly. Items without
    a modality use those they have.

    Call it on a graph whose message edges are *training* edges.

    Args:
        out_channels: The number of components. Features of a lower rank are padded
            with zeros. (default: ``32``)
        combine: ``'concat'`` or ``'mean'``. (default: ``'concat'``)
        seed: Seed of the randomized decomposition, used above 1,024 columns.
            (default: ``0``)
    """

    def __init__(
        self,
        out_channels: int = 32,
        combine: Combine = 'concat',
        seed: int = 0,
    ) -> None:
        super().__init__(out_channels, combine, seed)

    def components(self, x: Tensor) -> Tensor:
        return principal_components(x, self.out_channels, self.seed)


def principal_components(x: Tensor, out_channels: int, seed: int = 0) -> Tensor:
    """Returns the scores ``[N, out_channels]`` of the rows of ``x`` on its principal
    axes, strongest first, each axis turned so that its largest entry is positive.

    Args:
        x: Features ``[N, F]``; centered here.
        out_channels: The number of axes; those beyond the rank are zero.
        seed: Seed of the randomized decomposition of wide features.
    """
    centered = (x - x.mean(dim=0)).double()
    axes = _axes(centered, out_channels, seed)
    scores = centered @ axes
    out = scores.new_zeros(x.size(0), out_channels)
    out[:, : axes.size(1)] = scores
    components: Tensor = out.to(x.dtype)
    return components


def principal_axes(x: Tensor, num_axes: int, seed: int = 0) -> Tensor:
    """Returns the principal axes ``[num_axes, F]`` of the rows of ``x``, as
    :func:`principal_components` uses them: at unit length, strongest first, each
    turned so that its largest entry is positive.

    Args:
        x: Features ``[N, F]``; centered here.
        num_axes: The number of axes; those beyond the rank are zero.
        seed: Seed of the randomized decomposition of wide features.

    Example:
        >>> x = torch.tensor([[0.0, -2.0], [0.0, 0.0], [0.0, 2.0]])
        >>> principal_axes(x, 1).abs()
        tensor([[0., 1.]])
    """
    check_positive('num_axes', num_axes)
    axes = _axes((x - x.mean(dim=0)).double(), num_axes, seed)
    out = axes.new_zeros(num_axes, x.size(1))
    out[: axes.size(1)] = axes.t()
    rows: Tensor = out.to(x.dtype)
    return rows


def _axes(centered: Tensor, num_axes: int, seed: int) -> Tensor:
    check_finite_features('x', [centered])
    rank = min(num_axes, *centered.shape)
    if centered.size(1) <= _EXACT_WIDTH:
        values, vectors = _eigh(centered.t() @ centered)
        axes = vectors.flip(1)[:, :rank]
        used = values.flip(0)[:rank] > 1e-10 * values.max().clamp_min(1e-30)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _, sizes, axes = torch.svd_lowrank(centered, q=rank, niter=4)
        used = sizes > 1e-5 * sizes.max().clamp_min(1e-30)
    strongest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    turned: Tensor = axes * strongest.sign() * used
    return turned


def _eigh(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, smallest first, and eigenvectors, where none is negative."""
    try:
        values, vectors = torch.linalg.eigh(covariance)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # LAPACK may not converge where many eigenvalues are zero, as with few items.
        vectors, values, _ = torch.linalg.svd(covariance)
        values, vectors = values.flip(0), vectors.flip(1)
    return values, vectors


@functional_transform('add_modality_ica')
class AddModalityICA(ItemComponents):
    r"""Adds ``prompt_start`` to users and items: the independent components of the
    items' features (:func:`independent_components`), and for users their mean over the
    items of the message edges.

    All else is as in :class:`~promptmm_pyg.transforms.AddModalityPCA`, but all
    components have the same variance.

    Requires scikit-learn. Call it on a graph whose message edges are *training* edges.

    Args:
        out_channels: The number of components. Features of a lower rank are padded
            with zeros. (default: ``32``)
        combine: ``'concat'`` decomposes all modalities jointly, ``'mean'`` averages
            the components of each. (default: ``'concat'``)
        seed: Seed of the search. (default: ``0``)
        max_iter: Steps after which scikit-learn warns that the search has not
            converged. (default: ``1000``)
    """

    def __init__(
        self,
        out_channels: int = 32,
        combine: Combine = 'concat',
        seed: int = 0,
        max_iter: int = 1000,
    ) -> None:
        super().__init__(out_channels, combine, seed)
        check_positive('max_iter', max_iter)
        self.max_iter = max_iter

    def components(self, x: Tensor) -> Tensor:
        return independent_components(x, self.out_channels, self.seed, self.max_iter)


def independent_components(
    x: Tensor, out_channels: int, seed: int = 0, max_iter: int = 1000
) -> Tensor:
    r"""Returns the independent components ``[N, out_channels]`` of the rows of ``x`` by
    the fixed-point algorithm of the `"Fast and Robust Fixed-Point Algorithms for
    Independent Component Analysis" <https://doi.org/10.1109/72.761722>`_ paper
    (scikit-learn's ``FastICA``).

    They are a rotation of the whitened principal components: uncorrelated, each of
    mean 0 and variance 1. The method leaves order and sign open: components are sorted
    by the variance of ``x`` that they explain, and the column of ``x`` that a component
    explains best has a positive loading.

    Args:
        x: Features ``[N, F]``; centered here.
        out_channels: The number of components; those beyond the rank are zero.
        seed: Seed of the search. (default: ``0``)
        max_iter: Steps of the search at most. (default: ``1000``)

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If ``out_channels`` is not positive.
    """
    try:
        from sklearn.decomposition import FastICA
    except ImportError as error:
        raise missing_extra('independent_components', 'scikit-learn', 'ica') from error
    check_positive('out_channels', out_channels)
    centered = (x - x.mean(dim=0)).double()
    # In the space of the principal components, so the width does not matter.
    scores = principal_components(x.double(), out_channels, seed)
    scores = scores[:, scores.abs().amax(dim=0) > 0]
    out = centered.new_zeros(x.size(0), out_channels)
    if scores.size(1) > 0:
        white = scores / scores.std(dim=0, correction=0)
        # A second whitening would start from axes determined by rounding only.
        search = FastICA(whiten=False, random_state=seed, max_iter=max_iter)
        sources = torch.from_numpy(search.fit_transform(white.cpu().numpy())).to(out)
        loadings = centered.t() @ sources  # [F, K], as the components are uncorrelated.
        order = loadings.square().sum(dim=0).argsort(descending=True, stable=True)
        strongest = loadings.gather(0, loadings.abs().argmax(dim=0, keepdim=True))
        out[:, : sources.size(1)] = (sources * strongest.sign())[:, order]
    components: Tensor = out.to(x.dtype)
    return components
