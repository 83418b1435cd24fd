"""Checks of features and masks, and a module that stores features."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_finite_features
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, in_blocks

Features = Mapping[str, Mapping[NodeType, Tensor | ChunkedFeatures]]
FeatureDict = dict[str, dict[NodeType, Tensor]]  # modality -> node type -> tensor


def check_rows(
    num_nodes_dict: dict[NodeType, int],
    modality_x_dict: Features,
    prompt_start_dict: Mapping[NodeType, Tensor],
) -> None:
    """Raises unless every matrix has one row per node of a known type."""
    named: dict[str, Mapping[NodeType, Tensor | ChunkedFeatures]] = {
        f"modality_x_dict['{modality}']": features
        for modality, features in modality_x_dict.items()
    }
    for name, tensors in {**named, 'prompt_start_dict': prompt_start_dict}.items():
        for node_type, x in tensors.items():
            if node_type not in num_nodes_dict:
                raise ValueError(
                    f"'{name}' must have node types of {sorted(num_nodes_dict)} "
                    f'(got {node_type!r})'
                )
            if x.dim() != 2 or x.size(0) != num_nodes_dict[node_type]:
                raise ValueError(
                    f"'{name}' must have one row per node, "
                    f'[{num_nodes_dict[node_type]}, F] for {node_type!r} '
                    f'(got {list(x.shape)})'
                )


def as_tensor(x: Tensor | ChunkedFeatures) -> Tensor:
    """All rows as a tensor, :class:`ChunkedFeatures` in single precision."""
    return x if isinstance(x, Tensor) else x.whole(torch.float, x.device)


def in_default_precision(x: Tensor) -> Tensor:
    """Features of any real type in the precision of parameters.

    Raises:
        TypeError: If they are complex.
    """
    if x.is_complex():
        raise TypeError(
            f'features must be real numbers (got {x.dtype}). Concatenate their real '
            f'and imaginary parts'
        )
    return x.detach().to(torch.get_default_dtype())


def check_finite(
    name: str, x: Tensor | ChunkedFeatures, mask: Tensor | None = None
) -> None:
    """Raises if a present row is not finite; reads some rows at a time.
    :class:`ChunkedFeatures` are not checked.
    """
    if isinstance(x, Tensor) and x.is_floating_point():
        blocks = ChunkedFeatures(x.detach(), mask).blocks(x.dtype, x.device)
        check_finite_features(name, (block for _, block in blocks))


def check_masks(modality_x_dict: Features, modality_mask_dict: FeatureDict) -> None:
    """Raises unless every mask is boolean and belongs to the rows of a feature."""
    for modality, masks in modality_mask_dict.items():
        features = modality_x_dict.get(modality, {})
        for node_type, mask in masks.items():
            name = f"modality_mask_dict['{modality}']['{node_type}']"
            if node_type not in features:
                raise ValueError(
                    f"'{name}' must be of a modality and node type with features "
                    f"(got none in 'modality_x_dict')"
                )
            num = features[node_type].size(0)
            if mask.dtype != torch.bool or tuple(mask.shape) != (num,):
                raise ValueError(
                    f"'{name}' must be a bool tensor [{num}], True where the row "
                    f'is present (got {mask.dtype} {list(mask.shape)})'
                )


class FeatureStore(torch.nn.Module):
    """Stores constant features by name: tensors as buffers that are not saved, those in
    half precision as :class:`ChunkedFeatures`, which are never moved.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunked: dict[str, ChunkedFeatures] = {}

    def store_features(
        self, key: str, x: Tensor | ChunkedFeatures, mask: Tensor | None = None
    ) -> None:
        """Stores features ``[N, F]``, with zeros in rows absent by ``mask``."""
        chunked = in_blocks(x, mask)
        if chunked is not None:
            self._chunked[key] = chunked
        elif isinstance(x, Tensor):
            x = in_default_precision(x)
            if mask is not None:
                x = x.masked_fill(~mask.to(x.device)[:, None], 0.0)
            self.register_buffer(f'x_{key}', x, persistent=False)

    def feature_rows(
        self, key: str, index: Tensor | None = None
    ) -> Tensor | ChunkedFeatures:
        """The features ``[N, F]`` of a name, or their rows ``index``."""
        if key in self._chunked:
            chunked = self._chunked[key]
            return chunked if index is None else chunked.rows(index)
        x = self.get_buffer(f'x_{key}')
        return x if index is None else x.index_select(0, index)
