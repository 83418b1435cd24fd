"""Features of several modalities, encoded with a prompt."""

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg.nn._features import (
    FeatureDict,
    Features,
    FeatureStore,
    check_finite,
    check_rows,
)
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, cross
from promptmm_pyg.nn.layerwise import recall_in_blocks
from promptmm_pyg.nn.modality_encoder import (
    Missing,
    MissingRows,
    PromptedModalityEncoder,
)
from promptmm_pyg.nn.prompt import PromptStatistics, SoftPrompt, prompt_statistics
from promptmm_pyg.nn.prompts import PromptHolder


class PromptedFeatures(FeatureStore, PromptHolder[SoftPrompt]):
    """Features of modalities with one prompted encoder for each, the part of
    :class:`~promptmm_pyg.models.PromptMM` without edges.

    The statistics of the features that a prompt with one token needs are computed once
    per prompt.
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
        """Stores the features; called in the constructor after ``_hold_prompt``."""
        self.modalities = {name: list(x) for name, x in modality_x_dict.items()}
        self.encoders = torch.nn.ModuleDict()
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
            self.store_features(key, x, mask)
        self._prompt_changed()

    def _features(self) -> list[tuple[str, NodeType, str]]:
        return [
            (modality, node_type, f'{modality}__{node_type}')
            for modality, node_types in self.modalities.items()
            for node_type in node_types
        ]

    def _prompt_changed(self) -> None:
        """Computes the statistics of the features for the prompt in use."""
        prompt = self.prompt
        if prompt is None or prompt.num_tokens > 1:
            return
        for _, node_type, key in self._features():
            if node_type in prompt.lins:
                x, start = self.feature_rows(key), prompt.start(node_type)
                start = start.to(x) if isinstance(x, Tensor) else start
                for name, value in prompt_statistics(x, start)._asdict().items():
                    self.register_buffer(f'{name}_{key}', value, persistent=False)

    def _new_prompt(self) -> SoftPrompt:
        if self.prompt is None:
            raise ValueError(
                "'prompt' must be a 'SoftPrompt' for a teacher without a prompt (got "
                'None)'
            )
        start_dict = {key: self.prompt.start(key) for key in self.prompt.lins}
        return SoftPrompt(start_dict, self.prompt.out_channels, self.prompt.num_tokens)

    def _check_prompt(self, prompt: SoftPrompt) -> None:
        channels = getattr(prompt, 'out_channels', None)
        if not isinstance(prompt, SoftPrompt) or channels != self._out_channels:
            raise ValueError(
                f"'prompt' must be a 'SoftPrompt' with out_channels="
                f"{self._out_channels}, the teacher's width (got "
                f"'{type(prompt).__name__}' with {channels})"
            )
        starts = {node_type: prompt.start(node_type) for node_type in prompt.lins}
        check_rows(self.num_nodes_dict, {}, starts)

    def _prompt_of(self, node_type: NodeType) -> SoftPrompt | None:
        prompt = self.active_prompt
        return prompt if prompt is not None and node_type in prompt.lins else None

    def _recall(
        self, key: str, node_type: NodeType, *, all_nodes: bool
    ) -> Tensor | None:
        r"""The recall :math:`\mathbf{Q}` of a modality by the prompts of all nodes."""
        prompt = self._prompt_of(node_type)
        if prompt is None:
            return None
        if prompt.num_tokens > 1:
            # With the rows of all nodes, the encoder computes it.
            x = self.feature_rows(key)
            if isinstance(x, ChunkedFeatures):
                return cross(prompt.rows(node_type), x)
            return None if all_nodes else recall_in_blocks(prompt, node_type, x)
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
            recall = self._recall(key, node_type, all_nodes=n_id is None)
        x = self.feature_rows(key, n_id)
        out: Tensor = self.encoders[key](x, prompt, recall)
        if key in self.missing_rows:
            out = self.missing_rows[key](out, n_id)
        return out
