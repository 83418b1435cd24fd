"""Files and folders that are replaced as a whole, whatever happens meanwhile.

New content is written under a temporary name, synchronized with the disk and moved
into place by one rename. Kernel locks, which end with their process, mark what is in
use: the rest of killed processes is removed when the same place is written again.
"""

import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from promptmm_pyg._reading import CHECKSUM, checksum

if TYPE_CHECKING:
    from torch import Tensor

NEXT = '.next'
_TEMPORARY = '.promptmm-'
_STALE = f'{_TEMPORARY}*.tmp'
_OUTDATED = '.outdated.json'
_PAUSE = 0.005  # Seconds between two attempts to lock.


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path, and renames what is there to ``path`` when the block
    ends well. Otherwise the former file is as it was, and no other is left behind.

    Missing folders are made. Permissions, owner and a link to the file are kept; those
    of a new file are as for any new file, also where a library, as safetensors does,
    would keep it to its owner.

    Args:
        path: The file to write, or a folder that is new or empty.

    Raises:
        ValueError: If ``path`` is a device or a pipe.
        OSError: If it cannot be written.

    Example:
        >>> folder = getfixture('tmp_path')
        >>> with replacing(folder / 'answer.txt') as temporary:
        ...     _ = temporary.write_text('42')
        >>> [file.name for file in folder.iterdir()]
        ['answer.txt']
    """
    given, path = Path(path), Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"'path' must be a file (got the device or pipe '{given}')")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent) as folder:
        new = folder / path.name
        try:
            yield new
            synchronize(new)
        except OSError as error:
            name = error.filename or folder  # A full disk is reported without one.
            if error.errno is not None and Path(str(name)).is_relative_to(folder):
                error.filename = str(given)
            raise
        if new.is_file():
            _keep_access(path, new, folder.stat().st_mode & 0o666)
        new.replace(path)
    _synchronize_folder(path.parent)


def write_safetensors(
    path: str | Path,
    tensors: 'dict[str, Tensor]',
    metadata: dict[str, str] | None = None,
    *,
    has_checksum: bool = False,
) -> None:
    """Writes a safetensors file with :func:`replacing`, with a checksum for
    :func:`~promptmm_pyg._reading.read_tensors`.

    Args:
        path: The file.
        tensors: The tensors by name.
        metadata: Further texts. (default: none)
        has_checksum: Whether the caller stores a checksum. (default: ``False``)

    Raises:
        OSError: If it cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    about = dict(metadata or {})
    if not has_checksum:
        about[CHECKSUM] = checksum(tensors, about)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=about)
        except SafetensorError as error:
            raise OSError(
                f"'{path}' cannot be written ({error}). Check the free space of the "
                f'disk'
            ) from error


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder in ``parent`` and removes it afterwards, with those that
    killed processes have left there.
    """
    _remove_stale(parent.glob(_STALE))
    with ExitStack() as stack:
        while True:
            folder = parent / f'{_TEMPORARY}{uuid4().hex[:16]}.tmp'
            try:
                folder.mkdir()
            except OSError as error:
                error.filename = str(parent)
                raise
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(locked(folder))
            if folder.is_dir():  # Else it was removed before it was locked.
                break
        yield folder


def _remove_stale(folders: Iterable[Path]) -> None:
    for folder in folders:
        with locked(folder, timeout=0) as is_free:
            if is_free:
                shutil.rmtree(folder, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Whether a file name is of :func:`temporary_folder`."""
    return name.startswith(_TEMPORARY)


@contextmanager
def locked(
    folder: Path, *, shared: bool = False, timeout: float = 60.0
) -> Iterator[bool | None]:
    """Holds the kernel lock of a folder, which leaves no file and ends with the
    process. Yields whether it is held, or ``None`` where there are no such locks.

    Args:
        folder: The folder.
        shared: Whether others may share the lock, to read. (default: ``False``)
        timeout: Seconds to wait for others. (default: ``60.0``)
    """
    descriptor = None
    with suppress(OSError):  # Windows opens no folder.
        descriptor = os.open(folder, os.O_RDONLY)
    if descriptor is None:
        yield None
        return
    try:
        yield _lock(descriptor, shared, timeout)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, shared: bool, timeout: float) -> bool | None:
    try:
        import fcntl
    except ImportError:
        return None
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE)
        except OSError:
            return None
        else:
            return True


def replace_entries(path: Path, staged: Path, outdated: Iterable[str] = ()) -> None:
    """Replaces entries of a folder together.

    ``staged`` is renamed to ``.next``: from then on its entries are the current ones
    (:func:`current`), wherever the process ends. Then they are moved into place,
    except those whose names begin with a dot.

    Args:
        path: The folder.
        staged: A folder in it with the new entries.
        outdated: Names of further entries to remove. (default: none)
    """
    names = sorted(set(outdated) - {entry.name for entry in staged.iterdir()})
    if names:
        (staged / _OUTDATED).write_text(json.dumps(names), encoding='utf-8')
    synchronize(staged)
    with locked(path):
        _move_into_place(path)
        staged.rename(path / NEXT)
        _synchronize_folder(path)
        _move_into_place(path)


def complete_replacement(path: Path) -> None:
    """Completes a replacement of entries that was interrupted, and removes what killed
    processes have left in the folder.
    """
    if _is_folder(path / NEXT):
        with locked(path):
            _move_into_place(path)
    _remove_stale(list(path.rglob(_STALE)))


def current(path: Path, name: str) -> Path:
    """The place of an entry of a folder, also after an interrupted replacement. Nothing
    is there if the entry is outdated.
    """
    new = path / NEXT
    if _is_folder(new) and ((new / name).exists() or name in _outdated(new)):
        return new / name
    return path / name


def _move_into_place(path: Path) -> None:
    new = path / NEXT
    if not _is_folder(new):
        return
    for name in _outdated(new):
        remove(path / name)
    for entry in sorted(new.iterdir()):
        target = path / entry.name
        if entry.name.startswith('.'):
            continue
        if _is_folder(target):
            with temporary_folder(path) as folder:
                target.rename(folder / entry.name)
                entry.rename(target)
        else:
            _keep_access(target, entry, None)
            entry.replace(target)
    shutil.rmtree(new)
    _synchronize_folder(path)


def _outdated(new: Path) -> list[str]:
    try:
        names = json.loads((new / _OUTDATED).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return []
    names = [name for name in names if isinstance(name, str)]
    return [name for name in names if Path(name).name == name and name[0] != '.']


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _keep_access(old: Path, new: Path, default: int | None) -> None:
    """Gives a new file the permissions and the owner of the old one."""
    if old.is_file() and new.is_file():
        status = old.stat()
        new.chmod(stat.S_IMODE(status.st_mode))
        with suppress(OSError):  # Only root may.
            shutil.chown(new, status.st_uid, status.st_gid)
    elif default is not None:
        new.chmod(default)


def synchronize(path: Path) -> None:
    """Waits until a file, or a folder with all its content, is on the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            synchronize(entry)
        _synchronize_folder(path)
    else:
        _fsync(path, os.O_RDWR)


def _synchronize_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can."""
    with suppress(OSError):
        _fsync(path, os.O_RDONLY)


def _fsync(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
