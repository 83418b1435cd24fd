"""The files of embedding tables whose rows are divided among processes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._files import replacing, write_safetensors
from promptmm_pyg._reading import read_json, read_tensors

_FORMAT = 'promptmm_pyg.shard.v1'
_INDEX = 'shards.json'


@dataclass(frozen=True)
class Shards:
    """The saved shards of embedding tables, read one at a time.

    Iterating yields ``(start_dict, x_dict)`` per shard: the id of its first row and its
    rows ``[n_t, D]`` per node type.
    """

    path: Path
    """The folder."""
    run: str
    """The call of ``save_shards`` that wrote all files."""
    files: list[str]
    """Their names, in the order of rows."""
    num_nodes_dict: dict[NodeType, int]
    """The number of rows of all shards, per node type."""
    embedding_dim: int
    """The width of every table."""

    @classmethod
    def open(cls, path: str | Path) -> 'Shards':
        """Checks that all shards are there and of one run, before any is read.

        Raises:
            FileNotFoundError: If the folder has no shards.
            ValueError: If a shard is missing, or one is of another run.
        """
        folder = Path(path)
        if not (folder / _INDEX).is_file():
            raise FileNotFoundError(
                f"'path' must be a folder of saved shards (got '{folder}' without "
                f"'{_INDEX}'). Write them with 'save_shards'"
            )
        shards = cls(folder, **read_json(folder / _INDEX))
        missing = [name for name in shards.files if not (folder / name).is_file()]
        if missing:
            total = len(shards.files)
            raise ValueError(
                f"'path' must have all {total} shards of run {shards.run} (got "
                f"{total - len(missing)} in '{folder}', without {missing}). Copy the "
                f'missing files, or save again'
            )
        runs = [_run_of(folder / name) for name in shards.files]
        if set(runs) != {shards.run}:
            others = {k: r for k, r in enumerate(runs) if r != shards.run}
            raise ValueError(
                f"'path' must have shards of one run, {shards.run} (got {others} by "
                f"number of shard in '{folder}'). Copy the right files, or save again"
            )
        return shards

    def write(
        self, number: int, start_dict: dict[NodeType, int], x_dict: dict[str, Tensor]
    ) -> None:
        """Writes one shard; it is not read before :meth:`commit`."""
        start = json.dumps(start_dict)
        metadata = {'format': _FORMAT, 'run': self.run, 'start': start}
        write_safetensors(self.path / self.files[number], x_dict, metadata)

    def commit(self) -> None:
        """Makes these the current shards of the folder and removes former ones."""
        content = {key: x for key, x in vars(self).items() if key != 'path'}
        with replacing(self.path / _INDEX) as temporary:
            temporary.write_text(json.dumps(content), encoding='utf-8')
        for file in self.path.glob('*-of-*.safetensors'):
            if file.name not in self.files:
                file.unlink()

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[dict[NodeType, int], dict[NodeType, Tensor]]]:
        for name in self.files:
            yield read_tensors(
                self.path / name,
                _FORMAT,
                'a saved shard',
                lambda metadata, tensors: (json.loads(metadata['start']), tensors),
            )


def _run_of(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            run: str | None = (file.metadata() or {}).get('run')
            return run
    except SafetensorError as error:
        raise ValueError(
            f"'path' must have complete shards (got '{path}': {error})"
        ) from error
