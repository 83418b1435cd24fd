"""Rows on disk, found by the hash of what they were made of."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from promptmm_pyg._utils import replacing
from promptmm_pyg.content.encoder import ContentEncoder, Rows

FORMAT = 'promptmm_pyg.content.v1'


class RowCache:
    """The rows of one encoder in a folder of safetensors files.

    Each file appears whole or not at all and is never changed; its name is the
    hash of its keys, so that several processes may write to one folder. A file
    that is damaged, or of another encoder, is refused and not written anew: that
    may be hours of work, and whoever owns the folder should know.

    Args:
        folder: Where the files are; made when something is stored.
        encoder: Whose rows they are.
    """

    def __init__(self, folder: str | Path, encoder: ContentEncoder) -> None:
        self.fingerprint = encoder.fingerprint
        self.width = encoder.width
        name = hashlib.sha256(self.fingerprint.encode()).hexdigest()[:32]
        self.folder = Path(folder) / name

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Rows]:
        """The rows of those keys that are there.

        Raises:
            ValueError: If a file is damaged or of another encoder.
        """
        wanted = set(keys)
        found: dict[bytes, Rows] = {}
        for path in sorted(self.folder.glob('*.safetensors')):
            if len(found) < len(wanted):
                found |= self._read(path, wanted)
        return found

    def _read(self, path: Path, wanted: set[bytes]) -> dict[bytes, Rows]:
        try:
            with safe_open(path, framework='numpy') as file:
                about = file.metadata() or {}
                keys, rows = file.get_tensor('keys'), file.get_tensor('rows')
        except (SafetensorError, OSError) as error:
            raise self._damaged(path, error) from error
        if (about.get('format'), about.get('encoder')) != (FORMAT, self.fingerprint):
            raise self._damaged(path, f'one of {about.get("encoder")!r}')
        if keys.shape != (len(rows), 32) or rows.shape[1:] != (self.width,):
            raise self._damaged(path, f'shapes {keys.shape} and {rows.shape}')
        if about.get('sha256') != _checksum(keys, rows):
            raise self._damaged(path, 'other bytes than were written')
        names = (bytes(key) for key in keys)
        return {key: rows[i] for i, key in enumerate(names) if key in wanted}

    def _damaged(self, path: Path, got: object) -> ValueError:
        return ValueError(
            f"'{path}' must be a whole cache of the encoder "
            f'{self.fingerprint[:80]!r} (got {got}). Delete it: its rows are then made '
            f'again'
        )

    def store(self, rows_of: dict[bytes, Rows]) -> None:
        """Writes rows, in one new file; nothing if there are none."""
        if not rows_of:
            return
        keys = np.frombuffer(b''.join(rows_of), np.uint8).reshape(-1, 32).copy()
        rows = np.stack([*rows_of.values()])
        about = {
            'format': FORMAT,
            'encoder': self.fingerprint,
            'sha256': _checksum(keys, rows),
        }
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        with replacing(self.folder / f'{name}.safetensors') as temporary:
            save_file({'keys': keys, 'rows': rows}, temporary, metadata=about)


def _checksum(*arrays: Rows) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
