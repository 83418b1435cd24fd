"""Three graphs for training, validation and test over one set of features."""

import copy
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS

TRAIN, VAL, TEST = 0, 1, 2


class Split(NamedTuple):
    """Three graphs that share features and message edges (training edges
    only) and differ in ``edge_label_index``, the positives each asks about.
    """

    train: HeteroData
    val: HeteroData
    test: HeteroData

    def transform(self, *transforms: Callable[[HeteroData], HeteroData]) -> 'Split':
        """Returns the split with its graphs transformed, one transform after the other.

        The graphs share features and message edges, so these are transformed once, on
        the training graph, and stay shared. The graphs of this split are left as they
        are.

        Args:
            *transforms: Functions from graph to graph, such as those of
                ``promptmm_pyg.transforms``.

        Example:
            >>> from promptmm_pyg.data import make_synthetic_dataset, split_per_user
            >>> from promptmm_pyg.transforms import StandardizeModalities
            >>> data = split_per_user(make_synthetic_dataset(30, 20))
            >>> data = data.transform(StandardizeModalities())
            >>> data.val['item'].x_text is data.train['item'].x_text
            True
        """
        train = copy.copy(self.train)
        for transform in transforms:
            train = transform(train)
        return Split(train, *(_with_positives(train, g) for g in self[1:]))


def _with_positives(train: HeteroData, graph: HeteroData) -> HeteroData:
    """``train`` with the positives of ``graph`` in place of its own."""
    out = copy.copy(train)
    for key in [key for key in out[INTERACTS] if key.startswith('edge_label')]:
        del out[INTERACTS][key]
    for key, value in graph[INTERACTS].items():
        if key.startswith('edge_label'):
            out[INTERACTS][key] = value
    return out


def split_by_part(data: HeteroData, part: Tensor) -> Split:
    """Returns the split that a label per interaction spells out.

    The three graphs hold the very same feature tensors, ids and message edges.
    What else belongs to the interactions (``time``) is cut to the training
    edges; the positives' times are ``edge_label_time``. Edge types other than
    the interactions are left as they are.

    Args:
        data: A graph that is not split yet.
        part: Whole numbers ``[E]``: 0 for training, 1 for validation, 2 for
            test, in the order of the interactions.

    Raises:
        ValueError: If the graph is split already, if labels are not one per
            interaction or not 0, 1 or 2, or if none is 0.
    """
    store = data[INTERACTS]
    if 'edge_label_index' in store:
        raise ValueError(
            "'data' must be a graph before its split (it has an "
            "'edge_label_index'). Keep the split that came with the data, or build "
            'the graph again from all interactions'
        )
    edges = store.edge_index
    _check_part(part, edges.size(1))
    train = part == TRAIN
    base = copy.copy(data)
    for key, value in store.items():
        if key != 'edge_index' and isinstance(value, Tensor):
            base[INTERACTS][key] = value[train]
    base[INTERACTS].edge_index = edges[:, train]
    del base[REV_INTERACTS]
    base[REV_INTERACTS].edge_index = base[INTERACTS].edge_index.flip(0)

    graphs = []
    for code in (TRAIN, VAL, TEST):
        graph = copy.copy(base)
        chosen = part == code
        graph[INTERACTS].edge_label_index = edges[:, chosen]
        if 'time' in store:
            graph[INTERACTS].edge_label_time = store.time[chosen]
        graphs.append(graph)
    return Split(*graphs)


def _check_part(part: Tensor, num_edges: int) -> None:
    if part.size() != (num_edges,):
        raise ValueError(
            f"'part' must have one entry per interaction (got shape "
            f'{list(part.size())} for {num_edges} interactions)'
        )
    if bool(((part < TRAIN) | (part > TEST)).any()):
        raise ValueError(
            f"'part' must contain 0 (train), 1 (val) or 2 (test) (got "
            f'{int(part.min())} to {int(part.max())})'
        )
    if not bool((part == TRAIN).any()):
        raise ValueError(
            "'part' must leave at least one interaction for training (got none)"
        )
