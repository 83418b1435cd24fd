"""Independent components, another starting point of the soft prompt."""

import torch
from torch import Tensor
from torch_geometric.data.datapipes import functional_transform

from promptmm_pyg._utils import check_positive
from promptmm_pyg.transforms.modality_pca import principal_components
from promptmm_pyg.transforms.prompt_start import Combine, ItemComponents


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
        raise ImportError(
            "'independent_components' requires 'scikit-learn'. Install it with "
            "'pip install promptmm_pyg[ica]'"
        ) from error
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
