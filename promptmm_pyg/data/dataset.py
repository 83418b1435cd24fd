"""A PyG data set around the readers, with a cache that knows its source."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData, InMemoryDataset

from promptmm_pyg.data.build import Duplicates
from promptmm_pyg.data.detect import Format, read_dataset
from promptmm_pyg.data.feature_files import FeaturePaths, Masks
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.store import FORMAT, load_split, save_split

_READ = (
    *('*Mat.pkl', '*_mat', '*_mat.pkl', '*.json'),
    *('*.inter', '*.item', '*.user', '*_feat.npy', '*_id_mapping.csv'),
)


class MultiModalDataset(InMemoryDataset):
    """The three graphs of a distributed data set: training, validation, test.

    The folder is read once by :func:`~promptmm_pyg.data.read_dataset`; after
    that a copy under ``root/processed`` is loaded. The copy's name is a hash of
    the source files and of all options, so that a changed source is read anew.
    It is stored as safetensors and json, because PyG's own cache is a pickle,
    and what a pickle holds is run when it is loaded; therefore there is no
    ``pre_transform``.

    Args:
        root: The folder for the copy.
        source: The data set's own folder, which is only read.
        format: ``'diffmm'``, ``'mmssl'``, ``'mmrec'``, ``'recbole'`` or
            ``'auto'``. (default: ``'auto'``)
        features: As in :func:`~promptmm_pyg.data.read_dataset`.
        masks: As in :func:`~promptmm_pyg.data.read_dataset`.
        duplicates: As in :func:`~promptmm_pyg.data.read_dataset`.
        transform: Called with a graph at each access. (default: none)
        force_reload: Whether to read the source in any case.
            (default: ``False``)

    Raises:
        FileNotFoundError: If the source is not there or lacks a file.
        ValueError: If the source or the copy is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        source: str | Path,
        format: Format = 'auto',  # noqa: A002
        *,
        features: FeaturePaths | None = None,
        masks: Masks = 'zero-rows',
        duplicates: Duplicates = 'error',
        transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
    ) -> None:
        self.source = Path(source)
        self.options: dict[str, Any] = {
            'format': format,
            'features': None if features is None else dict(features),
            'masks': masks,
            'duplicates': duplicates,
        }
        self.key = _hash_source(self.source, self.options)
        super().__init__(str(root), transform, force_reload=force_reload)
        self._graphs = load_split(Path(self.processed_dir) / self.key)

    @property
    def raw_file_names(self) -> list[str]:
        return []

    @property
    def processed_file_names(self) -> list[str]:
        return [f'{self.key}.safetensors', f'{self.key}.json']

    def process(self) -> None:
        """Reads the source and writes the copy."""
        split = read_dataset(self.source, **self.options)
        save_split(split, Path(self.processed_dir) / self.key)

    def _process(self) -> None:
        # PyG's own would unpickle 'pre_transform.pt' if it lay there.
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
    if not source.is_dir():
        raise FileNotFoundError(f"'source' must be a folder (got '{source}')")
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
