"""A short name of the data a teacher was trained on."""

import hashlib
import json

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, NODE_TYPES


def fingerprint(data: HeteroData) -> str:
    """The SHA-256 of what row numbers mean and of what a teacher may have seen: the
    numbers of nodes, their raw ids and the training interactions.

    The order of the interactions does not matter, repeats do. Features are not part
    of it, so that transforms which scale them leave the name as it is.

    Args:
        data: Graph whose message edges are the training interactions.

    Example:
        >>> from promptmm_pyg.data import make_synthetic_dataset
        >>> one = make_synthetic_dataset(60, 40, 4)
        >>> two = make_synthetic_dataset(60, 40, 4)
        >>> fingerprint(one) == fingerprint(two)
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
