"""The folder of a run: what lies where, and how it is written."""

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_geometric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptmm_pyg import __version__
from promptmm_pyg._utils import replacing
from promptmm_pyg.cli.damage import check_settings
from promptmm_pyg.cli.parsing import UserError

FORMAT = 'promptmm_pyg.run.v1'
MODEL = 'model.safetensors'


class RunFolder:
    """Names the parts of a run and refuses folders that are none.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / 'config.json'
        self.teacher = self.path / 'teacher'
        self.student = self.path / 'student'
        self.control = self.student / 'baseline'
        self.recommender = self.path / 'recommender'

    def evaluation(self, part: str) -> Path:
        """Where the evaluation on ``'val'`` or ``'test'`` is kept."""
        return self.path / f'evaluation-{part}.json'

    def read_config(self) -> dict[str, Any]:
        """The configuration.

        Raises:
            UserError: If the folder is not a run.
        """
        config = read_json(self.config_file) if self.config_file.is_file() else {}
        if config.get('format') != FORMAT:
            raise UserError(
                f"'{self.path}' is not a run. Make one with 'promptmm train PATH --out "
                f"{self.path}'"
            )
        return config

    def read_whole_config(self) -> dict[str, Any]:
        """The configuration, with all that a training needs.

        Raises:
            UserError: If the folder is not a run, or a part is missing.
        """
        config = self.read_config()
        check_settings(self.config_file, config)
        return config

    def holds_run(self, *, overwrite: bool) -> bool:
        """Whether there is a run to overwrite.

        Raises:
            UserError: If the folder holds something else, or a run that is not to
                be overwritten.
        """
        if not self.path.exists() or (
            self.path.is_dir() and not any(self.path.iterdir())
        ):
            return False
        if not self.config_file.is_file():
            raise UserError(
                f"'{self.path}' holds something that is not a run. Choose another "
                f'folder'
            )
        self.read_config()
        if not overwrite:
            raise UserError(
                f"'{self.path}' holds a run. Choose another --out, or pass "
                f'--resume to go on with it or --overwrite to begin again'
            )
        return True

    def begin(self, *, overwrite: bool) -> None:
        """Makes the folder, or empties that of an old run.

        Raises:
            UserError: As :meth:`holds_run`.
        """
        if self.holds_run(overwrite=overwrite):
            self.forget_student()
            shutil.rmtree(self.teacher, ignore_errors=True)
            self.config_file.unlink()
        self.path.mkdir(parents=True, exist_ok=True)

    def forget_student(self) -> None:
        """Removes the student and what was made of it; that test was read stays on
        record, since whatever is trained next was chosen in the knowledge of it.
        """
        for folder in (self.student, self.recommender):
            shutil.rmtree(folder, ignore_errors=True)
        self.evaluation('val').unlink(missing_ok=True)
        test = self.evaluation('test')
        if test.is_file():
            write_json(test, {'readings': read_json(test).get('readings', [])})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        UserError: If the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged: {error}") from error
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors as safetensors, whole or not at all."""
    copies = {key: x.detach().cpu().clone() for key, x in tensors.items()}
    with replacing(path) as temporary:
        save_file({key: x.contiguous() for key, x in copies.items()}, temporary)


def load_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` wrote.

    Raises:
        UserError: If the file is not there or damaged; ``what`` says how to get it.
        PermissionError: If it may not be read.
    """
    if not path.is_file():
        raise UserError(f"there is no '{path}'. {what}")
    with path.open('rb'):  # The library says of a file it may not read: not found.
        pass
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"'{path}' is damaged ({error}). {what}") from error
    return tensors


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    return {
        'promptmm_pyg': __version__,
        'torch': torch.__version__,
        'torch_geometric': torch_geometric.__version__,
        'numpy': np.__version__,
        'python': platform.python_version(),
    }
