"""The one place that knows how a recommendation graph is named.

A graph is a :class:`~torch_geometric.data.HeteroData` with

* node types ``user`` and ``item``, each with an explicit ``num_nodes`` and,
  when the data came with ids of their own, ``raw_id`` (a NumPy array, one entry per
  node);
* modality features ``x_<modality>`` (float, ``[num_nodes, width]``; any number
  of them, any width, on either node type) with an optional presence mask
  ``mask_<modality>`` (bool, ``[num_nodes]``; absent means all present);
* message edges ``('user', 'interacts', 'item')`` and their mirror image
  ``('item', 'rev_interacts', 'user')``; the former may have ``time`` (one number per
  edge) and ``order`` (from which random splits draw, in place of the raw ids);
* on the graph of a split, its positives as ``edge_label_index`` of ``('user',
  'interacts', 'item')``;
* where features were read from named columns, their names in ``feature_columns``
  (``{'item.x_text': ('price', 'size')}``), and where columns were encoded, how, in
  ``column_encodings``.
"""

import copy
import hashlib
import json

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

USER = 'user'
ITEM = 'item'
INTERACTS = (USER, 'interacts', ITEM)
REV_INTERACTS = (ITEM, 'rev_interacts', USER)
NODE_TYPES = (USER, ITEM)

FeatureDict = dict[str, dict[str, Tensor]]  # modality -> node type -> tensor


def modality_x_dict(data: HeteroData) -> FeatureDict:
    """Features as ``{modality: {node_type: [num_nodes, width]}}``, sorted."""
    return _collect(data, 'x_')


def modality_mask_dict(data: HeteroData) -> FeatureDict:
    """Presence masks as ``{modality: {node_type: [num_nodes]}}``; where one is
    missing, every row is present.
    """
    return _collect(data, 'mask_')


def feature_columns(
    data: HeteroData, node_type: str, modality: str
) -> tuple[str, ...] | None:
    """The names of the columns of a modality, if they are known.

    Args:
        data: A graph with features.
        node_type: The node type that has the modality.
        modality: The name of the modality.
    """
    names = getattr(data, 'feature_columns', {}).get(f'{node_type}.x_{modality}')
    width = data[node_type][f'x_{modality}'].size(-1)
    return names if names is not None and len(names) == width else None


def is_encoded(data: HeteroData, node_type: str, modality: str) -> bool:
    """Whether a modality is one encoded column of a table, such as a category.

    Args:
        data: A graph with features.
        node_type: The node type that has the modality.
        modality: The name of the modality.
    """
    return f'{node_type}.x_{modality}' in getattr(data, 'column_encodings', {})


def without_raw_ids(data: HeteroData) -> HeteroData:
    """The same graph (tensors shared) without ``raw_id``, for PyG's neighbor
    loaders, which cannot index arrays of strings. The ``n_id`` of a batch are positions
    in the ``raw_id`` of the graph given here.

    Args:
        data: A graph; it is left unchanged.
    """
    data = copy.copy(data)
    for node_type in NODE_TYPES:
        data[node_type].pop('raw_id', None)
    return data


def _collect(data: HeteroData, prefix: str) -> FeatureDict:
    features: FeatureDict = {}
    for node_type in NODE_TYPES:
        for key, value in data[node_type].items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                features.setdefault(name, {})[node_type] = value
    return dict(sorted(features.items()))


def fingerprint(data: HeteroData) -> str:
    """The SHA-256 of the numbers of nodes, their raw ids and the training interactions,
    which determines the meaning of row numbers.

    The order of the interactions does not matter, repeats do. Features are not part
    of it, so transforms that scale them do not change it.

    Args:
        data: Graph whose message edges are the training interactions.

    Example:
        >>> from promptmm_pyg.data import make_synthetic_dataset
        >>> first = make_synthetic_dataset(60, 40, 4)
        >>> second = make_synthetic_dataset(60, 40, 4)
        >>> fingerprint(first) == fingerprint(second)
        True
    """
    sizes = data.num_nodes_dict
    digest = hashlib.sha256(json.dumps([sizes[key] for key in NODE_TYPES]).encode())
    for key in NODE_TYPES:
        if 'raw_id' in data[key]:
            digest.update(json.dumps(data[key].raw_id.tolist()).encode())
        digest.update(b'\0')
    user, item = data[INTERACTS].edge_index.cpu()
    flat = (user * sizes[NODE_TYPES[1]] + item).to(torch.int64).sort().values
    digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


def node_features(
    data: HeteroData, node_type: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features and masks of one node type, by modality."""
    features, masks = (
        {
            name: x_dict[node_type]
            for name, x_dict in kind.items()
            if node_type in x_dict
        }
        for kind in (modality_x_dict(data), modality_mask_dict(data))
    )
    return features, masks
