"""Outputs of teachers, and soft targets in memory and on disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_tensors
from promptmm_pyg._utils import check_non_negative
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, fingerprint
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items


class TeacherOutput(NamedTuple):
    """The output of a teacher."""

    x_dict: dict[str, Tensor]
    """The final embeddings ``[N_t, D]`` per node type."""
    modality_x_dict: dict[str, dict[str, Tensor]]
    """Modality vectors ``[N_t, D]`` per modality and node type."""
    prompt_dict: dict[str, Tensor] = {}  # noqa: RUF012
    """Prompts ``[N_t, P]`` per node type, for teachers that have them."""


class SoftTargets(NamedTuple):
    """The parts of a teacher's output that distillation uses, as constants."""

    x_dict: dict[str, Tensor]
    """The final embeddings ``[N_t, D]`` per node type."""
    modality_x_dict: dict[str, dict[str, Tensor]]
    """Modality vectors ``[N_t, D]`` per modality and node type."""
    top: Ranking | None = None
    """The best unseen items of every user. (optional)"""

    @classmethod
    def from_output(cls, output: TeacherOutput) -> 'SoftTargets':
        """Copies an output without gradients."""
        return cls(
            _constants(output.x_dict),
            {
                modality: _constants(x_dict)
                for modality, x_dict in output.modality_x_dict.items()
            },
        )

    def to(self, device: str | torch.device) -> 'SoftTargets':
        """Copies all tensors to a device."""

        def to(x_dict: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: x.to(device) for key, x in x_dict.items()}

        return SoftTargets(
            to(self.x_dict),
            {name: to(x_dict) for name, x_dict in self.modality_x_dict.items()},
            None if self.top is None else Ranking(*(x.to(device) for x in self.top)),
        )


def _constants(x_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.detach().clone() for key, x in x_dict.items()}


@contextmanager
def eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Sets ``module`` to eval mode, and restores the mode of each submodule, also after
    an error.

    Example:
        >>> layer = torch.nn.Dropout().train()
        >>> with eval_mode(layer):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def soft_targets(teacher: torch.nn.Module, *args: Any, **kwargs: Any) -> SoftTargets:
    """Calls a teacher once, in eval mode and without gradients.

    Args:
        teacher: Returns a :class:`TeacherOutput`, or embeddings by node type, for the
            further arguments.
        *args: Arguments of the teacher.
        **kwargs: Keyword arguments of the teacher.

    Raises:
        TypeError: If the teacher returns another type.
    """
    with eval_mode(teacher), torch.no_grad():
        output = teacher(*args, **kwargs)
    if isinstance(output, dict):
        output = TeacherOutput(output, {})
    if not isinstance(output, TeacherOutput):
        raise TypeError(
            f"'teacher' must return a 'TeacherOutput' (got "
            f"'{type(output).__name__}'). Wrap its embeddings: "
            f"'TeacherOutput(x_dict, modality_x_dict={{}})'"
        )
    return SoftTargets.from_output(output)


FORMAT = 'promptmm_pyg.targets.v1'
_FINAL, _MODALITY, _TOP = 'x', 'modality', 'top'


class _Entry(NamedTuple):
    """The description of a tensor, whose name in the file is a number."""

    part: str
    name: str
    node_type: str


def topk_targets(targets: SoftTargets, data: HeteroData, top_k: int) -> Ranking:
    """The teacher's best items of every user without training items.

    Args:
        targets: The output of the teacher.
        data: Graph whose message edges are the training interactions.
        top_k: How many items per user.

    Raises:
        ValueError: If ``top_k`` exceeds the catalogue.
    """
    sizes = data.num_nodes_dict
    edge_index = data[INTERACTS].edge_index
    seen = SeenItems.from_edge_index(edge_index, sizes[USER], sizes[ITEM])
    pair = targets.x_dict[USER], targets.x_dict[ITEM]
    return rank_items(pair, torch.arange(sizes[USER]), top_k, seen=seen)


def save_targets(
    path: str | Path, targets: SoftTargets, data: HeteroData, *, top_k: int = 100
) -> None:
    """Writes the output of a teacher, and the scores of its best items, to one
    safetensors file that can only be loaded with ``data``.

    Args:
        path: The file, written atomically.
        targets: The output of the teacher.
        data: Graph whose message edges are the training interactions.
        top_k: The number of best unseen items per user to save, at most the
            catalogue; ``0`` for none. (default: ``100``)

    Raises:
        ValueError: If the targets do not have one row per node.
    """
    check_non_negative('top_k', top_k)
    sizes = data.num_nodes_dict
    entries: dict[_Entry, Tensor] = {
        _Entry(_FINAL, '', key): x for key, x in targets.x_dict.items()
    }
    for modality, x_dict in targets.modality_x_dict.items():
        for key, x in x_dict.items():
            entries[_Entry(_MODALITY, modality, key)] = x
    for entry, x in entries.items():
        if x.size(0) != sizes[entry.node_type]:
            raise ValueError(
                f"'targets' must have one row per node, {sizes[entry.node_type]} for "
                f'{entry.node_type!r} (got {x.size(0)}). Use targets of the '
                f'same data set'
            )
    if top_k > 0:
        top = topk_targets(targets, data, min(int(top_k), sizes[ITEM]))
        # Half the bytes.
        entries[_Entry(_TOP, 'item_index', USER)] = top.item_index.to(torch.int32)
        entries[_Entry(_TOP, 'scores', USER)] = top.scores
    metadata = {
        'format': FORMAT,
        'data': fingerprint(data),
        'entries': json.dumps(list(entries)),
    }
    # Copies: safetensors does not support tensors that share memory.
    tensors = {
        str(i): x.detach().cpu().clone().contiguous()
        for i, x in enumerate(entries.values())
    }
    write_safetensors(path, tensors, metadata)


def load_targets(path: str | Path, data: HeteroData) -> SoftTargets:
    """The targets that :func:`save_targets` wrote, memory-mapped: rows are read from
    the file on use, and never written.

    Args:
        path: The file.
        data: The training graph that they were saved with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, of another format, or of other data.
    """
    saved, targets = read_tensors(path, FORMAT, 'saved targets', _parse)
    current = fingerprint(data)
    if saved != current:
        raise ValueError(
            f"'data' must be the graph of the targets in {str(path)!r} (got "
            f'data {current[:12]}, targets of {saved[:12]}). Run the teacher again and '
            f'save its targets'
        )
    return targets


def _parse(
    metadata: dict[str, str], tensors: dict[str, Tensor]
) -> tuple[str, SoftTargets]:
    """The fingerprint of the data, and the targets."""
    parts: dict[str, Any] = {_FINAL: {}, _MODALITY: {}, _TOP: {}}
    for i, values in enumerate(json.loads(metadata['entries'])):
        entry, x = _Entry(*values), tensors[str(i)]
        if entry.part == _MODALITY:
            parts[_MODALITY].setdefault(entry.name, {})[entry.node_type] = x
        else:
            key = entry.name if entry.part == _TOP else entry.node_type
            parts[entry.part][key] = x
    top = Ranking(**parts[_TOP]) if parts[_TOP] else None
    return metadata['data'], SoftTargets(parts[_FINAL], parts[_MODALITY], top)
