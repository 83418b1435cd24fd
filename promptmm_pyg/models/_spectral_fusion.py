"""Modality vectors cleaned and joined among their frequencies."""

import torch
from torch import Tensor


class SpectralFusion(torch.nn.Module):
    r"""Filters the spectrum of every modality and fuses the spectra by their product.

    .. math::
        \hat{\mathbf{h}}^m = \mathcal{F}^{-1} (\mathbf{w}_m \odot \mathcal{F}
        \mathbf{h}^m), \qquad
        \hat{\mathbf{h}}^{f} = \mathcal{F}^{-1} \Big( \mathbf{w}_f \odot \prod_m
        \mathcal{F} \mathbf{h}^m \Big)

    :math:`\mathcal{F}` is the orthonormal real Fourier transform along the channels,
    :math:`\mathbf{w}` are complex and trained, one weight per frequency; they start
    near one, where the first formula passes everything. A product of spectra is a
    circular convolution of vectors. The imaginary parts of the constant and (for an
    even width) of the highest frequency do not matter and get no gradient.

    Args:
        modalities: Their names, in order.
        channels: The width :math:`D`.

    Shapes:
        - **input:** vectors :math:`(M, N, D)`
        - **output:** cleaned vectors :math:`(M, N, D)` and fused vectors
          :math:`(N, D)`
    """

    def __init__(self, modalities: list[str], channels: int) -> None:
        super().__init__()
        self.modalities = modalities
        num = channels // 2 + 1
        # Real pairs: fused optimizers take no complex parameters.
        self.filters = torch.nn.ParameterDict(
            {m: torch.nn.Parameter(torch.empty(num, 2)) for m in modalities}
        )
        self.fusion_filter = torch.nn.Parameter(torch.empty(num, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for weight in [*self.filters.values(), self.fusion_filter]:
            torch.nn.init.normal_(weight, std=0.02)
            with torch.no_grad():
                weight[:, 0] += 1.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # There are no spectra in half precision.
        dtype = torch.promote_types(x.dtype, torch.float)
        spectra = torch.fft.rfft(x.to(dtype), norm='ortho')  # [M, N, D // 2 + 1]
        filters = torch.stack([self.filters[m].to(dtype) for m in self.modalities])
        single = spectra * torch.view_as_complex(filters).unsqueeze(1)
        fusion = torch.view_as_complex(self.fusion_filter.to(dtype))
        width = x.size(-1)
        return (
            torch.fft.irfft(single, n=width, norm='ortho').to(x.dtype),
            torch.fft.irfft(spectra.prod(dim=0) * fusion, n=width, norm='ortho').to(
                x.dtype
            ),
        )

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(modalities={sorted(self.modalities)})'
