"""The folder of a run on disk: JSON and tensors, a lock, and parts that are replaced
as a whole.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from promptmm_pyg._utils import replacing
from promptmm_pyg.runs.data import RunError
from promptmm_pyg.training.checkpoint import write_tensors
from promptmm_pyg.training.loop import CHECKPOINT

LOCK = '.lock'
STAGE = '.new'
COMMIT = '.commit.json'
RECORD = 'evaluation-test.json'
# What a training makes, and what it makes outdated, by the folder of its checkpoints.
# The record of test evaluations stays: later choices were made with knowledge of it.
_MADE = {
    'teacher': ('config.json', 'teacher'),
    'student': ('student', 'recommender'),
    'final': ('final',),
}
_OUTDATED = {
    'teacher': (
        *('student', 'recommender', 'final', 'updates', 'lightgcn'),
        'evaluation-val.json',
    ),
    'student': ('final', 'evaluation-val.json'),
    'final': (),
}
_PARTS = {RECORD}.union(*_MADE.values(), *_OUTDATED.values())


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if there is none. An interrupted
    replacement is completed first. The lock of a process that was killed is free.

    Raises:
        RunError: If another process, or thread, holds the lock.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        process = ''
        with suppress(OSError):
            process = file.read_text(encoding='utf-8')
        raise RunError(
            f"'{folder}' must not be in use (process {process or 'unknown'} trains "
            f'in it). Wait until it ends, or choose another folder'
        ) from error
    try:
        with suppress(OSError):  # On Windows a locked file cannot be written.
            file.write_text(str(os.getpid()), encoding='utf-8')
        recover(folder)
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()
        if is_new:
            with suppress(OSError):  # It is not empty.
                folder.rmdir()


def recover(folder: Path) -> None:
    """Completes a replacement of parts that was interrupted."""
    for temporary in folder.rglob(f'.{CHECKPOINT}.*.tmp'):  # A process was killed.
        temporary.unlink(missing_ok=True)
    commit = folder / COMMIT
    if not commit.is_file():
        return
    plan = read_json(commit)
    for name in _PARTS & set(plan.get('made', [])):
        if (folder / STAGE / name).exists():  # Else it was moved before.
            remove(folder / name)
            (folder / STAGE / name).rename(folder / name)
    for name in _PARTS & set(plan.get('outdated', [])):
        remove(folder / name)
    commit.unlink()
    with suppress(OSError):  # Another part is in training.
        (folder / STAGE).rmdir()


@contextmanager
def staged(folder: Path, part: str, *, resume: bool) -> Iterator[Path]:
    """Yields the folder to train a part in, and puts the part in place at the end.

    A part that exists is trained again in a folder inside, and replaced when the block
    ends well. Until then the old part is used. An error before the first checkpoint
    leaves everything as it was; after it, the checkpoints are left for ``resume``.

    Args:
        folder: The folder of the run.
        part: ``'teacher'``, ``'student'`` or ``'final'``.
        resume: Whether to continue the part.
    """
    if resume:
        target = where(folder, part)
    else:
        exists = any((folder / name).exists() for name in _MADE[part])
        target = folder / STAGE if exists or part == 'final' else folder
        _clear(target, part)
    try:
        yield target
    except Exception:
        if not resume and not any((target / part).rglob(CHECKPOINT)):
            _clear(target, part)
        raise
    if resume and target == folder:
        return
    reads = _test_reads(folder)
    if reads and part != 'final':
        write_json(target / RECORD, {'test_reads': reads})
    plan = {'made': [*_MADE[part], RECORD], 'outdated': _OUTDATED[part]}
    write_json(folder / COMMIT, plan)
    recover(folder)


def where(folder: Path, part: str) -> Path:
    """The folder that holds an unfinished part, or the run itself."""
    return folder / STAGE if (folder / STAGE / part).is_dir() else folder


def _test_reads(folder: Path) -> list[Any]:
    file = folder / RECORD
    reads: list[Any] = read_json(file).get('test_reads', []) if file.is_file() else []
    return reads


def _clear(target: Path, part: str) -> None:
    for name in _MADE[part]:
        remove(target / name)
    if target.name == STAGE:
        with suppress(OSError):
            target.rmdir()


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if the file holds something else.

    Raises:
        RunError: If the file is not JSON.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise RunError(f"'{path}' is damaged: {error}") from error
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically."""
    copies = {key: x.detach().cpu().clone() for key, x in tensors.items()}
    write_tensors(path, {key: x.contiguous() for key, x in copies.items()})


def load_tensors(path: Path, fix: str) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` wrote.

    Raises:
        RunError: If the file is missing or damaged; the message ends with ``fix``.
        PermissionError: If it may not be read.
    """
    if not path.is_file():
        raise RunError(f"there is no '{path}'. {fix}")
    with path.open('rb'):  # safetensors reports a file without permission as missing.
        pass
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise RunError(f"'{path}' is damaged ({error}). {fix}") from error
    return tensors
