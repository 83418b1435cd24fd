"""The folder of a run on disk: JSON and tensors, a lock, and parts that are replaced
as a whole.
"""

import datetime
import json
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from promptmm_pyg import _reading
from promptmm_pyg._files import (
    complete_replacement,
    is_temporary,
    remove,
    replace_entries,
    replacing,
    temporary_folder,
    write_safetensors,
)
from promptmm_pyg._reading import read_tensors
from promptmm_pyg.runs.data import RunError
from promptmm_pyg.training.loop import CHECKPOINT

LOCK = '.lock'
TUNING = 'tuning'
MODEL = 'model.safetensors'
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
        TUNING,
    ),
    'student': ('final', 'evaluation-val.json'),
    'final': (),
}
_EVALUATED = ('evaluation-val.json',)
# Marks a part that was trained and is continued: what was made from it stays.
_LONGER = '.longer'
_CONFIG = {
    'teacher': 'config.json',
    'student': 'student/config.json',
    'final': 'final/config.json',
}


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
        raise RunError(
            f"'{folder}' must not be in use (got {_holder(file)}). Wait until it ends, "
            f'or choose another folder'
        ) from error
    except OSError as error:
        error.filename = str(folder)
        raise
    try:
        with suppress(OSError):  # On Windows a locked file cannot be written.
            file.write_text(json.dumps(_this_process()), encoding='utf-8')
        recover(folder)
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()
        if is_new:
            with suppress(OSError):  # It is not empty.
                folder.rmdir()


def _this_process() -> dict[str, Any]:
    return {
        'pid': os.getpid(),
        'host': socket.gethostname(),
        'command': ' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
        'since': datetime.datetime.now().astimezone().isoformat(' ', 'seconds'),
    }


def _holder(file: Path) -> str:
    """The process that holds a lock, in words."""
    try:
        holder = read_json(file)
        return (
            f'process {holder["pid"]} on {holder["host"]!r} since {holder["since"]}: '
            f'{holder["command"]!r}'
        )
    except (OSError, RunError, KeyError):
        return 'an unknown process'


def recover(folder: Path) -> None:
    """Completes a replacement that was interrupted, and removes what killed processes
    have left.
    """
    complete_replacement(folder)
    for part, config in _CONFIG.items():
        stage = _stage(folder, part)
        if stage.is_dir() and not (stage / config).is_file():
            remove(stage)


def _stage(folder: Path, part: str) -> Path:
    return folder / f'.new-{part}'


def is_leftover(path: Path) -> bool:
    """Whether a file in a folder is only a lock, or left by a killed process."""
    return path.name == LOCK or is_temporary(path.name)


@contextmanager
def staged(
    folder: Path, part: str, *, resume: bool, keep: Collection[str] = ()
) -> Iterator[Path]:
    """Yields the folder to train a part in, and puts the part in place at the end.

    A part that exists is trained again in a folder inside, and replaced when the block
    ends well. Until then the old part is used. An error before the first checkpoint
    leaves everything as it was; after it, the checkpoints are left for ``resume``.

    Args:
        folder: The folder of the run.
        part: ``'teacher'``, ``'student'`` or ``'final'``.
        resume: Whether to continue the part.
        keep: Names that the new part does not make outdated. (default: none)
    """
    stage = _stage(folder, part)
    is_trained = (folder / part / MODEL).is_file()
    if not resume:
        _clear(stage, part)
        exists = any((folder / name).exists() for name in _MADE[part])
        target = stage if exists or part == 'final' else folder
    elif where(folder, part) == stage or not is_trained:
        target = where(folder, part)
    else:
        target = stage
        _copy_part(folder, part)
    try:
        yield target
    except Exception:
        if not resume and not any((target / part).rglob(CHECKPOINT)):
            _clear(target, part)
        raise
    stage.mkdir(exist_ok=True)
    reads = _test_reads(folder)
    if reads and part != 'final':
        write_json(stage / RECORD, {'test_reads': reads})
    is_longer = (stage / _LONGER).is_file()
    outdated = _EVALUATED if is_longer else _OUTDATED[part]
    replace_entries(folder, stage, set(outdated).difference(keep))


def where(folder: Path, part: str) -> Path:
    """The folder that holds an unfinished part, or the run itself."""
    stage = _stage(folder, part)
    return stage if (stage / _CONFIG[part]).is_file() else folder


def _copy_part(folder: Path, part: str) -> None:
    """Copies a part to be continued beside the one in use."""
    with temporary_folder(folder) as temporary:
        copy = temporary / part
        for name in _MADE[part]:
            source = folder / name
            if source.is_dir():
                shutil.copytree(source, copy / name)
            elif source.exists():
                copy.mkdir(exist_ok=True)
                shutil.copy2(source, copy)
        (copy / part / MODEL).unlink()  # Until it is trained.
        (copy / _LONGER).touch()
        copy.rename(_stage(folder, part))


def _test_reads(folder: Path) -> list[Any]:
    file = folder / RECORD
    reads: list[Any] = read_json(file).get('test_reads', []) if file.is_file() else []
    return reads


def _clear(target: Path, part: str) -> None:
    if target == _stage(target.parent, part):
        remove(target)
        return
    for name in _MADE[part]:
        remove(target / name)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if the file holds something else.

    Raises:
        RunError: If the file is not JSON.
    """
    try:
        content = _reading.read_json(path)
    except ValueError as error:
        raise RunError(f"'{path}' is damaged: {error}") from error
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically."""
    copies = {key: x.detach().cpu().clone() for key, x in tensors.items()}
    write_safetensors(path, {key: x.contiguous() for key, x in copies.items()})


def load_tensors(path: Path, fix: str) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` wrote.

    Raises:
        RunError: If the file is missing or damaged; the message ends with ``fix``.
        PermissionError: If it may not be read.
    """
    if not path.is_file():
        raise RunError(f"there is no '{path}'. {fix}")
    try:
        return read_tensors(path, None, 'tensors of a run', lambda _, tensors: tensors)
    except ValueError as error:
        raise RunError(f"'{path}' is damaged ({error}). {fix}") from error
