"""A PyG data set around the readers, with a cache in safetensors."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData, InMemoryDataset

from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_tensors
from promptmm_pyg._utils import check_folder
from promptmm_pyg.data.features import FeaturePaths
from promptmm_pyg.data.load import load_dataset
from promptmm_pyg.data.schema import INTERACTS, NODE_TYPES, REV_INTERACTS
from promptmm_pyg.data.split import Split

FORMAT = 2
_LABELS = ('edge_label_index', 'edge_label_time')


def save_split(split: Split, stem: Path) -> None:
    """Writes ``<stem>.safetensors``, with shared tensors once."""
    raw_ids = {
        key: _describe_ids(split.train[key].raw_id)
        for key in NODE_TYPES
        if 'raw_id' in split.train[key]
    }
    about = {
        'format': FORMAT,
        'num_nodes': {key: int(split.train[key].num_nodes) for key in NODE_TYPES},
        'raw_id': raw_ids,
    }
    # Copies: safetensors refuses views of one storage.
    tensors = {key: x.contiguous().clone() for key, x in _tensors(split).items()}
    # Not as metadata, whose size is limited.
    tensors['about'] = torch.frombuffer(
        bytearray(json.dumps(about).encode()), dtype=torch.uint8
    )
    write_safetensors(_path(stem), tensors)


def _tensors(split: Split) -> dict[str, Tensor]:
    train = split.train
    values = {
        f'node/{node_type}/{key}': value
        for node_type in NODE_TYPES
        for key, value in train[node_type].items()
    }
    for key, value in train[INTERACTS].items():
        if key not in _LABELS:
            values[f'edge/{key}'] = value
    for part, graph in split._asdict().items():
        for key in _LABELS:
            if key in graph[INTERACTS]:
                values[f'{part}/{key}'] = graph[INTERACTS][key]
    return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def _describe_ids(ids: np.ndarray[Any, Any]) -> dict[str, Any]:
    kind = 'str' if ids.dtype.kind == 'O' else str(ids.dtype)
    return {'dtype': kind, 'values': ids.tolist()}


def load_split(stem: Path) -> Split:
    """The split that :func:`save_split` wrote.

    Raises:
        ValueError: If the files are damaged or of another format.
    """
    return read_tensors(
        _path(stem), None, f'a cache of format {FORMAT}', lambda _, x: _parse(x)
    )


def _parse(tensors: dict[str, Tensor]) -> Split:
    about = json.loads(tensors.pop('about').numpy().tobytes())
    if about['format'] != FORMAT:
        raise ValueError(f'format {about["format"]}')
    return _rebuild(about, tensors)


def _path(stem: Path) -> Path:
    return stem.with_name(f'{stem.name}.safetensors')


def _rebuild(about: dict[str, Any], tensors: dict[str, Tensor]) -> Split:
    graphs = []
    for part in Split._fields:
        data = HeteroData()
        for node_type in NODE_TYPES:
            data[node_type].num_nodes = about['num_nodes'][node_type]
            if node_type in about['raw_id']:
                stored = about['raw_id'][node_type]
                dtype = object if stored['dtype'] == 'str' else stored['dtype']
                data[node_type].raw_id = np.array(stored['values'], dtype=dtype)
        for name, value in tensors.items():
            kind, *rest = name.split('/')
            if kind == 'node':
                data[rest[0]][rest[1]] = value
            elif kind in ('edge', part):
                data[INTERACTS][rest[0]] = value
        graphs.append(data)
    reverse = torch.flip(graphs[0][INTERACTS].edge_index, (0,))
    for data in graphs:
        data[REV_INTERACTS].edge_index = reverse
    return Split(*graphs)


_READ = (
    *('*Mat.pkl', '*_mat', '*_mat.pkl', '*.json'),
    *('*.inter', '*.item', '*.user', '*_feat.npy', '*_id_mapping.csv'),
)


class MultiModalDataset(InMemoryDataset):
    """The three graphs of a distributed data set: training, validation, test.

    The folder is read once by :func:`~promptmm_pyg.data.load_dataset`, then loaded from
    a copy under ``root/processed``. The name of the copy is a hash of the source files
    and of all options, so a changed source is read again. The copy is safetensors:
    PyG's own cache is a pickle, which can execute code when it is loaded; therefore
    there is no ``pre_transform``.

    Args:
        root: The folder for the copy.
        source: The data set's own folder, which is only read.
        format: ``'diffmm'``, ``'mmssl'``, ``'mmrec'``, ``'recbole'`` or
            ``'auto'``. (default: ``'auto'``)
        features: As in :func:`~promptmm_pyg.data.load_dataset`.
        transform: Called with a graph at each access. (default: none)
        force_reload: Whether to read the source in any case.
            (default: ``False``)
        **options: Further options of :func:`~promptmm_pyg.data.load_dataset`, such as
            ``masks`` and ``duplicates``.

    Raises:
        FileNotFoundError: If the source or one of its files is missing.
        ValueError: If the source or the copy is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        source: str | Path,
        format: str = 'auto',  # noqa: A002
        *,
        features: FeaturePaths | None = None,
        transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
        **options: Any,
    ) -> None:
        self.source = Path(source)
        self.options: dict[str, Any] = {
            'format': format,
            'features': None if features is None else dict(features),
            **options,
        }
        self.key = _hash_source(self.source, self.options)
        super().__init__(str(root), transform, force_reload=force_reload)
        self._graphs = load_split(Path(self.processed_dir) / self.key)

    @property
    def raw_file_names(self) -> list[str]:
        return []

    @property
    def processed_file_names(self) -> list[str]:
        return [f'{self.key}.safetensors']

    def process(self) -> None:
        """Reads the source and writes the copy."""
        split = load_dataset(self.source, **self.options)
        save_split(split, Path(self.processed_dir) / self.key)

    def _process(self) -> None:
        # PyG's own would unpickle a file 'pre_transform.pt'.
        if self.force_reload or not all(
            Path(p).is_file() for p in self.processed_paths
        ):
            self.process()

    def len(self) -> int:
        return len(self._graphs)

    def get(self, idx: int) -> HeteroData:
        return copy.copy(self._graphs[idx])

    @property
    def split(self) -> Split:
        """The graphs by name, ``transform`` applied."""
        return Split(*(self[index] for index in range(3)))


def _hash_source(source: Path, options: dict[str, Any]) -> str:
    check_folder('source', source)
    files = {
        path
        for place in (source, source / '5-core')
        for pattern in _READ
        for path in place.glob(pattern)
    }
    given = (options['features'] or {}).values()
    files |= {source / path for path in given if path is not None}
    digest = hashlib.sha256()
    digest.update(json.dumps([FORMAT, options], sort_keys=True, default=str).encode())
    for path in sorted(path for path in files if path.is_file()):
        with path.open('rb') as file:
            content = hashlib.file_digest(file, 'sha256').hexdigest()
        digest.update(f'\n{path.name}:{path.parent.name}:{content}'.encode())
    return digest.hexdigest()[:32]
