"""Features of several modalities on their way into a model, with a prompt's help."""

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg.nn._feature_checks import (
    FeatureDict,
    Features,
    check_finite,
    check_rows,
    in_default_precision,
)
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, cross, in_blocks
from promptmm_pyg.nn.layerwise import recall_in_blocks
from promptmm_pyg.nn.modality_encoder import (
    Missing,
    MissingRows,
    PromptedModalityEncoder,
)
from promptmm_pyg.nn.prompt import PromptStatistics, SoftPrompt, prompt_statistics
from promptmm_pyg.nn.prompt_holder import PromptHolder


class PromptedFeatures(PromptHolder[SoftPrompt]):
    """A module that holds the features of modalities, and a reduction layer for each
    that hears the prompt; the part of :class:`~promptmm_pyg.models.PromptMM` that
    knows nothing of edges.

    Features are buffers that are not saved; what a prompt with one token needs of them
    is computed once a prompt.
    """

    num_nodes_dict: dict[NodeType, int]
    modalities: dict[str, list[NodeType]]

    def _hold_features(
        self,
        modality_x_dict: Features,
        out_channels: int,
        *,
        prompt_feature_weight: float,
        dropout: float,
        modality_mask_dict: FeatureDict,
        missing: Missing,
        modality_dropout: float,
    ) -> None:
        """Takes the features in, after the prompt and once in a constructor."""
        self.modalities = {name: list(x) for name, x in modality_x_dict.items()}
        self.encoders = torch.nn.ModuleDict()
        self._row_blocks: dict[str, ChunkedFeatures] = {}
        self.missing_rows = torch.nn.ModuleDict()
        self._out_channels = out_channels
        for modality, node_type, key in self._features():
            x = modality_x_dict[modality][node_type]
            self.encoders[key] = PromptedModalityEncoder(
                x.size(1), out_channels, prompt_feature_weight, dropout
            )
            mask = modality_mask_dict.get(modality, {}).get(node_type)
            if mask is not None or modality_dropout > 0:
                self.missing_rows[key] = MissingRows(
                    out_channels, mask, missing, modality_dropout
                )
            check_finite(f"modality_x_dict['{modality}']['{node_type}']", x, mask)
            self._keep_features(key, x, mask)
        self._prompt_changed()

    def _features(self) -> list[tuple[str, NodeType, str]]:
        return [
            (modality, node_type, f'{modality}__{node_type}')
            for modality, node_types in self.modalities.items()
            for node_type in node_types
        ]

    def _keep_features(
        self, key: str, x: Tensor | ChunkedFeatures, mask: Tensor | None
    ) -> None:
        blocks = in_blocks(x, mask)
        if blocks is not None:
            self._row_blocks[key] = blocks
        elif isinstance(x, Tensor):
            x = in_default_precision(x)
            self._keep(f'x_{key}', x if mask is None else _present(x, mask))

    def feature_rows(self, key: str) -> Tensor | ChunkedFeatures:
        """The features ``[N_t, F_m]`` of ``'{modality}__{node_type}'``."""
        if key in self._row_blocks:
            return self._row_blocks[key]
        return self.get_buffer(f'x_{key}')

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach(), persistent=False)

    def _prompt_changed(self) -> None:
        """Computes anew what a prompt's starting point recalls of the features."""
        prompt = self.prompt
        if prompt is None or prompt.num_tokens > 1:
            return
        for _, node_type, key in self._features():
            if node_type in prompt.lins:
                x, start = self.feature_rows(key), prompt.start(node_type)
                stats = prompt_statistics(
                    x, start.to(x) if torch.is_tensor(x) else start
                )
                self._keep(f'cross_{key}', stats.cross)
                self._keep(f'total_{key}', stats.total)

    def _new_prompt(self) -> SoftPrompt:
        if self.prompt is None:
            raise ValueError(
                "'prompt' must be a 'SoftPrompt' as the teacher has none to go by "
                '(got None)'
            )
        start_dict = {key: self.prompt.start(key) for key in self.prompt.lins}
        return SoftPrompt(start_dict, self.prompt.out_channels, self.prompt.num_tokens)

    def _check_prompt(self, prompt: SoftPrompt) -> None:
        width = self._out_channels
        given = getattr(prompt, 'out_channels', None)
        if not isinstance(prompt, SoftPrompt) or given != width:
            raise ValueError(
                f"'prompt' must be a 'SoftPrompt' with out_channels={width}, the "
                f"teacher's width (got '{type(prompt).__name__}' with {given})"
            )
        starts = {node_type: prompt.start(node_type) for node_type in prompt.lins}
        check_rows(self.num_nodes_dict, {}, starts)

    def _prompt_of(self, node_type: NodeType) -> SoftPrompt | None:
        prompt = self.active_prompt
        return prompt if prompt is not None and node_type in prompt.lins else None

    def _recall(self, key: str, node_type: NodeType, *, whole: bool) -> Tensor | None:
        """What the prompts of all nodes recall of a modality, in the cheapest way."""
        prompt = self._prompt_of(node_type)
        if prompt is None:
            return None
        if prompt.num_tokens > 1:
            # The encoder computes it where it has the rows of all nodes.
            x = self.feature_rows(key)
            if isinstance(x, ChunkedFeatures):
                return cross(prompt.rows(node_type), x)
            return None if whole else recall_in_blocks(prompt, node_type, x)
        statistics = PromptStatistics(
            self.get_buffer(f'cross_{key}'), self.get_buffer(f'total_{key}')
        )
        return prompt.recall(node_type, statistics)

    def _encode(
        self,
        key: str,
        node_type: NodeType,
        prompt: Tensor | None,
        n_id: Tensor | None = None,
        recall: Tensor | None = None,
    ) -> Tensor:
        if prompt is not None and recall is None:
            recall = self._recall(key, node_type, whole=n_id is None)
        x = self.feature_rows(key)
        if n_id is not None:
            x = (
                x.rows(n_id)
                if isinstance(x, ChunkedFeatures)
                else x.index_select(0, n_id)
            )
        out: Tensor = self.encoders[key](x, prompt, recall)
        if key in self.missing_rows:
            out = self.missing_rows[key](out, n_id)
        return out


def _present(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask.to(x.device)[:, None], 0.0)
