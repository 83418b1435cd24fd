"""Independent components, another starting point of the soft prompt."""

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.transforms.modality_pca import principal_components
from promptmm_pyg.transforms.prompt_start import (
    Combine,
    item_components,
    with_prompt_start,
)


@functional_transform('add_modality_ica')
class AddModalityICA(BaseTransform):
    r"""Adds ``prompt_start`` to users and items: the independent components of the
    items' content (:func:`independent_components`), and for users their mean over the
    items of the message edges.

    All else is as in :class:`~promptmm_pyg.transforms.AddModalityPCA`. Components have
    one variance each, where principal components have the content's own: the prompt
    then starts with all directions of content on a par.

    Needs scikit-learn. Call it on a graph whose message edges are *training* edges.

    Args:
        out_channels: The number of components. Content of a lower rank is padded
            with zeros. (default: ``32``)
        combine: ``'concat'`` decomposes all modalities together, ``'mean'`` averages
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
        check_positive('out_channels', out_channels)
        check_choice('combine', combine, ('concat', 'mean'))
        check_positive('max_iter', max_iter)
        self.out_channels = out_channels
        self.combine = combine
        self.seed = seed
        self.max_iter = max_iter

    def forward(self, data: HeteroData) -> HeteroData:
        start = item_components(data, self.combine, self._components)
        return with_prompt_start(data, start)

    def _components(self, x: Tensor) -> Tensor:
        return independent_components(x, self.out_channels, self.seed, self.max_iter)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.out_channels}, combine='{self.combine}')"
        )


def independent_components(
    x: Tensor, out_channels: int, seed: int = 0, max_iter: int = 1000
) -> Tensor:
    r"""Returns components ``[N, out_channels]`` of the rows of ``x`` that are as
    independent as can be, by the fixed-point algorithm of the `"Fast and Robust
    Fixed-Point Algorithms for Independent Component Analysis"
    <https://doi.org/10.1109/72.761722>`_ paper (scikit-learn's ``FastICA``).

    They are a rotation of the whitened principal components: uncorrelated, each of
    mean 0 and variance 1. Order and sign, which the method leaves open, are fixed:
    first the component that explains most of ``x``, each turned so that the column of
    ``x`` that it explains best rises with it.

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
        raise ImportError(
            "'independent_components' requires 'scikit-learn'. Install it with "
            "'pip install promptmm_pyg[ica]'"
        ) from error
    check_positive('out_channels', out_channels)
    centered = (x - x.mean(dim=0)).double()
    # Found in the space of the principal components, so that width costs nothing.
    scores = principal_components(x.double(), out_channels, seed)
    scores = scores[:, scores.abs().amax(dim=0) > 0]
    out = centered.new_zeros(x.size(0), out_channels)
    if scores.size(1) > 0:
        white = scores / scores.std(dim=0, correction=0)
        # Whitening twice would start from axes that rounding alone decides.
        search = FastICA(whiten=False, random_state=seed, max_iter=max_iter)
        found = torch.from_numpy(search.fit_transform(white.cpu().numpy())).to(out)
        loadings = centered.t() @ found  # [F, K], as the components are uncorrelated.
        order = loadings.square().sum(dim=0).argsort(descending=True, stable=True)
        strongest = loadings.gather(0, loadings.abs().argmax(dim=0, keepdim=True))
        out[:, : found.size(1)] = (found * strongest.sign())[:, order]
    components: Tensor = out.to(x.dtype)
    return components
