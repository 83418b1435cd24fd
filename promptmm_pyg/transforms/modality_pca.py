"""Principal components, the starting point of the soft prompt."""

import torch
from torch import Tensor
from torch_geometric.data.datapipes import functional_transform

from promptmm_pyg._utils import check_finite_features, check_positive
from promptmm_pyg.transforms.prompt_start import Combine, ItemComponents

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
