"""What a run held before it is trained anew, kept until training has begun."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.training.loop import CHECKPOINT

_MISTAKES = (UserError, ValueError, TypeError, ImportError, OSError)
_ASIDE = '.old'


@contextmanager
def kept_on_mistake(run: RunFolder, training: Path) -> Iterator[None]:
    """Brings everything back as it was if a mistake shows before the first epoch is
    done, such as a width of zero: what it would have replaced is not lost.

    Args:
        run: Is emptied in the block, and trained.
        training: Where the checkpoints of this training go.
    """
    fresh = not run.path.exists()
    if not fresh and not _is_run(run):
        yield  # Somebody else's folder is not touched.
        return
    aside = run.path / _ASIDE
    _link_all(run, aside)
    try:
        yield
    except _MISTAKES:
        if not (training / CHECKPOINT).is_file():
            for part in _parts(run):
                _remove(part)
            for old in aside.iterdir() if aside.is_dir() else ():
                old.rename(run.path / old.name)
        raise
    finally:
        _remove(aside)
        if fresh and run.path.is_dir() and not any(run.path.iterdir()):
            run.path.rmdir()


def _parts(run: RunFolder) -> list[Path]:
    evaluations = [run.evaluation(part) for part in ('val', 'test')]
    return [run.config_file, run.teacher, run.student, run.recommender, *evaluations]


def _is_run(run: RunFolder) -> bool:
    try:
        run.read_config()
    except UserError:
        return False
    return True


def _link_all(run: RunFolder, aside: Path) -> None:
    """A second name for every file, which costs no space."""
    _remove(aside)
    for part in _parts(run):
        if part.is_dir():
            shutil.copytree(part, aside / part.name, copy_function=_link)
        elif part.is_file():
            aside.mkdir(exist_ok=True)
            _link(str(part), str(aside / part.name))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # Not every file system has links.
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
