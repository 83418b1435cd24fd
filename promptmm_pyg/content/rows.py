"""From contents by id to rows by id, with a cache on disk."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from promptmm_pyg._files import write_safetensors
from promptmm_pyg._progress import Progress
from promptmm_pyg._reading import DAMAGE, check_file
from promptmm_pyg._utils import check_positive
from promptmm_pyg.content.encoder import ContentEncoder, Rows
from promptmm_pyg.content.hashing import HashingTextEncoder
from promptmm_pyg.limits import CONTENT_BYTES

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
            check_file(path)
            with safe_open(path, framework='numpy') as file:
                about = file.metadata() or {}
                keys, rows = file.get_tensor('keys'), file.get_tensor('rows')
        except (SafetensorError, OSError, RuntimeError, *DAMAGE) as error:
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
        tensors = {'keys': torch.from_numpy(keys), 'rows': torch.from_numpy(rows)}
        file = self.folder / f'{name}.safetensors'
        write_safetensors(file, tensors, about, has_checksum=True)


def _checksum(*arrays: Rows) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


Contents = Mapping[Any, str | Path | None]
_NUMBERS_A_FILE = 2**24  # 64 MiB; what is lost at most when a run is killed.


class ContentRows(NamedTuple):
    """What became of each content, in the order they were given in."""

    ids: list[Any]
    x: Rows  # [N, width], float32; zeros where there is nothing
    mask: np.ndarray[Any, np.dtype[np.bool_]]  # [N], true where there is a row
    problems: dict[Any, str]  # id -> why there is none


def encode_content(
    contents: Contents,
    encoder: ContentEncoder | None = None,
    *,
    cache: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> ContentRows:
    """Returns a row of numbers for each content, and a mask of those there are.

    Content that is missing is no error: ``None``, empty text, a file that is not
    there or cannot be read, and whatever the encoder finds nothing in, is marked
    as absent, and ``problems`` has the reason. Equal contents are encoded once.

    With a ``cache``, only contents that are new or changed are encoded. A row is
    found there by the SHA-256 of the content's bytes and by the encoder's
    fingerprint, whatever the file or the id is called. Rows are written in steps,
    and also on the way out after an error or Ctrl-C, so that a second run goes on
    where the first stopped. A damaged file in the cache is refused.

    Args:
        contents: ``{id: text}`` or ``{id: path}``; an encoder of text reads paths
            as files in UTF-8.
        encoder: Where the rows come from.
            (default: :class:`~promptmm_pyg.content.HashingTextEncoder`)
        cache: A folder, shared by any number of encoders and data sets.
            (default: no cache)
        batch_size: Contents to hand to the encoder at once. (default: ``64``)
        progress: Whether to show a bar with the time left, on stderr.
            (default: ``True``)

    Raises:
        TypeError: If a content is neither text, path nor ``None``, or text where
            the encoder takes files.
        ValueError: If the batch size is not positive, if the encoder does not
            return one row of its width for each content, or if a file in the
            cache is damaged.

    Example:
        >>> rows = encode_content({'a': 'red shoes', 'b': ''}, progress=False)
        >>> rows.x.shape, rows.mask.tolist(), rows.problems
        ((2, 1024), [True, False], {'b': 'is empty'})
    """
    check_positive('batch_size', batch_size)
    encoder = HashingTextEncoder() if encoder is None else encoder
    problems: dict[Any, str] = {}
    keys: dict[Any, bytes] = {}
    sources: dict[bytes, str | Path] = {}
    for name, content in contents.items():
        if content is None:
            problems[name] = 'is missing'
            continue
        data = _read(name, content, encoder)
        if isinstance(data, _Absent):
            problems[name] = data.why
            continue
        keys[name] = hashlib.sha256(data).digest()
        sources.setdefault(keys[name], content)
    store = None if cache is None else RowCache(cache, encoder)
    rows_of = {} if store is None else store.find(sources)
    todo = {key: source for key, source in sources.items() if key not in rows_of}
    rows_of |= _encode_all(todo, encoder, store, batch_size, progress)
    return _collect(contents, keys, rows_of, problems, encoder.width)


class _Absent(NamedTuple):
    why: str


def _read(name: Any, content: str | Path, encoder: ContentEncoder) -> bytes | _Absent:
    if isinstance(content, str):
        if encoder.takes == 'files':
            raise TypeError(
                f"'contents' must contain paths for an encoder of files (got text for "
                f'{name!r}). Wrap it in pathlib.Path if it names a file'
            )
        data = content.encode('utf-8', 'surrogatepass')
        empty = not content.strip()
    elif isinstance(content, Path):
        try:
            if not content.is_dir():
                check_file(content, CONTENT_BYTES)
            data = content.read_bytes()
            empty = not (_text(data).strip() if encoder.takes == 'text' else data)
        except UnicodeDecodeError:
            return _Absent(f"'{content}' is not text in UTF-8")
        except OSError as error:
            return _Absent(
                f"'{content}' cannot be read ({error.strerror or 'No such file'})"
            )
        except ValueError as error:
            return _Absent(f'is refused: {error}')
    else:
        raise TypeError(
            f"'contents' must contain text, paths or None (got "
            f'{type(content).__name__} for {name!r})'
        )
    return _Absent('is empty') if empty else data


def _encode_all(
    todo: dict[bytes, str | Path],
    encoder: ContentEncoder,
    store: RowCache | None,
    batch_size: int,
    progress: bool,
) -> dict[bytes, Rows]:
    done: dict[bytes, Rows] = {}
    fresh: dict[bytes, Rows] = {}  # Not yet on disk.
    bar = Progress(len(todo), 'encoding', unit='item', disable=not progress)
    try:
        with bar:
            for keys, batch in _batches(todo, encoder, batch_size):
                rows = _checked(encoder.encode(batch), len(batch), encoder.width)
                for key, row in zip(keys, rows, strict=True):
                    # What cannot be read today may be tomorrow: it is not kept.
                    (fresh if np.isfinite(row).all() else done)[key] = row
                bar.update(len(batch))
                if store is not None and len(fresh) * encoder.width >= _NUMBERS_A_FILE:
                    store.store(fresh)
                    done |= fresh
                    fresh = {}
    finally:
        if store is not None:
            store.store(fresh)
    return done | fresh


def _batches(
    todo: dict[bytes, str | Path], encoder: ContentEncoder, batch_size: int
) -> Iterator[tuple[list[bytes], list[Any]]]:
    keys = list(todo)
    if encoder.takes == 'text':
        # Texts of one length need no padding in a transformer; the longest come
        # first, so that memory runs out at once or never.
        keys.sort(key=lambda key: -_size(todo[key]))
    for start in range(0, len(keys), batch_size):
        chosen = keys[start : start + batch_size]
        batch: list[Any] = [todo[key] for key in chosen]
        if encoder.takes == 'text':
            batch = [x if isinstance(x, str) else _text(x.read_bytes()) for x in batch]
        yield chosen, batch


def _size(content: str | Path) -> int:
    return len(content) if isinstance(content, str) else content.stat().st_size


def _text(data: bytes) -> str:
    # The mark that Windows puts at the start of files is no part of the text.
    return data.decode('utf-8-sig')


def _checked(rows: Rows, count: int, width: int) -> Rows:
    array = np.asarray(rows)
    if array.shape != (count, width) or array.dtype.kind not in 'fiu':
        raise ValueError(
            f"'encoder' must return numbers of shape [{count}, {width}] (got "
            f'{array.dtype} of shape {list(array.shape)}). Compare its width and its '
            f'output'
        )
    return array.astype(np.float32)


def _collect(
    contents: Contents,
    keys: dict[Any, bytes],
    rows_of: dict[bytes, Rows],
    problems: dict[Any, str],
    width: int,
) -> ContentRows:
    ids = list(contents)
    x = np.zeros((len(ids), width), np.float32)
    mask = np.zeros(len(ids), np.bool_)
    for i, name in enumerate(ids):
        if name in keys:
            row = rows_of[keys[name]]
            if bool(np.isfinite(row).all()) and bool(row.any()):
                x[i], mask[i] = row, True
            else:
                problems[name] = 'contains nothing that the encoder can read'
    return ContentRows(ids, x, mask, {i: problems[i] for i in ids if i in problems})
