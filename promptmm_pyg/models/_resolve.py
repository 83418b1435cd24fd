"""Models by name: those of the library, of installed packages, and of files."""

import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch

from promptmm_pyg.models.base import GraphRecommender
from promptmm_pyg.models.closed_form import ClosedForm

ModelClass = type[GraphRecommender] | type[ClosedForm[Any]]
GROUP = 'promptmm_pyg.models'
"""The entry points of an installed package that name its models."""
_HELP = "A model may also be 'path/to/file.py:Class'"
LOADED: dict[str, dict[str, Any]] = {}  # The names of loaded files, by hash.


def find_model(
    name: str,
    library: Mapping[str, ModelClass],
    *,
    option: str = 'model',
    sha256: str | None = None,
    allow: bool = False,
) -> ModelClass:
    """The class of a model; see :func:`~promptmm_pyg.models.get_model`."""
    if name in library:
        return library[name]
    file = model_file(name)
    if file is not None:
        cls = _class_of_file(name, file, option, sha256, allow)
    else:
        cls = _class_of_package(name, library, option)
    return _checked(cls, name, option)


def model_file(name: str) -> Path | None:
    """The file of a model ``'path/to/file.py:Class'``, absolute; ``None`` for one of
    the library or of an installed package.
    """
    path = name.rpartition(':')[0]
    return Path(path).resolve() if path.endswith('.py') else None


def full_name(name: str) -> str:
    """The name of a model with the absolute path of its file, if it has one."""
    file = model_file(name)
    return name if file is None else f'{file}:{short_name(name)}'


def short_name(name: str) -> str:
    """The name of a model without its file, for tables."""
    return name if model_file(name) is None else name.rpartition(':')[2]


def file_hash(name: str) -> dict[str, str]:
    """``{'model_sha256': ...}`` of a model of a file, to be recorded beside its name;
    empty for other models.
    """
    file = model_file(name)
    if file is None or not file.is_file():
        return {}
    return {'model_sha256': hashlib.sha256(file.read_bytes()).hexdigest()}


def installed_models() -> list[str]:
    """The names of the models of installed packages."""
    return sorted(entry_points(group=GROUP).names)


def constructors(cls: type) -> Iterator[type]:
    """The class, and those that take its further keyword arguments."""
    further = getattr(cls, 'further_arguments_of', None)
    owners = [x for x in cls.__mro__[1:-1] if '__init__' in vars(x)]
    for owner in (cls, *(owners if further is None else [further])):
        yield owner
        parameters = inspect.signature(owner).parameters.values()
        if not any(x.kind is x.VAR_KEYWORD for x in parameters):
            return


def _class_of_package(name: str, library: Mapping[str, Any], option: str) -> Any:
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:
            raise ValueError(
                f"'{option}' must be importable (got {name!r} of the entry point "
                f"'{point.value}', {_one_line(error)}). Repair or reinstall its package"
            ) from error
    names = ', '.join(map(repr, [*library, *installed_models()]))
    raise ValueError(f"'{option}' must be one of {names} (got {name!r}). {_HELP}")


def _class_of_file(
    name: str, file: Path, option: str, sha256: str | None, allow: bool
) -> Any:
    if not file.is_file():
        raise ValueError(
            f"'{option}' must name an existing file (got {name!r}, but there is no "
            f"'{file}'). Correct the path, or restore the file"
        )
    code = file.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    if sha256 not in (None, digest):
        raise ValueError(
            f"'{option}' must be the file of the training (got '{file}', which was "
            f'altered since: SHA-256 {digest[:12]} instead of {sha256:.12}). Restore '
            f'it, or train again'
        )
    if allow:
        _allow(digest)
    elif not _is_allowed(digest):
        raise ValueError(
            f"'{option}' must be code that you allowed (got '{file}', which you have "
            f'not named before). Read it; if you trust it, run '
            f"'promptmm train --model {full_name(name)} --help' once"
        )
    attributes, cls_name = _run_file(file, code, digest, option), short_name(name)
    if cls_name not in attributes:
        classes = [
            key
            for key, value in attributes.items()
            if isinstance(value, type) and value.__module__ == attributes['__name__']
        ]
        raise ValueError(
            f"'{option}' must name a class of '{file}', one of {classes} (got "
            f'{cls_name!r}). Correct the name after the colon'
        )
    return attributes[cls_name]


def _run_file(file: Path, code: bytes, digest: str, option: str) -> dict[str, Any]:
    """The names that a file defines; it is run once per process."""
    if digest not in LOADED:
        name = f'promptmm_model_{digest[:16]}'
        spec = spec_from_file_location(name, file)
        assert spec is not None
        module = sys.modules[name] = module_from_spec(spec)  # As dataclasses require.
        try:
            exec(compile(code, str(file), 'exec'), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            raise ValueError(
                f"'{option}' must be a file that runs (got '{file}', "
                f'{_one_line(error, file)}). Correct the file'
            ) from error
        LOADED[digest] = module.__dict__
    return LOADED[digest]


def _checked(cls: Any, name: str, option: str) -> ModelClass:
    if not (isinstance(cls, type) and issubclass(cls, GraphRecommender | ClosedForm)):
        raise ValueError(
            f"'{option}' must be a subclass of GraphRecommender or ClosedForm in "
            f'promptmm_pyg.models, so that it has from_data, losses and loss_weights '
            f'(got {name!r}). Derive it from one of these'
        )
    missing = sorted(getattr(cls, '__abstractmethods__', ()))
    if issubclass(cls, torch.nn.Module) and cls.forward is torch.nn.Module.forward:
        missing = ['forward']
    if missing:
        raise ValueError(
            f"'{option}' must define {missing} (got {name!r} without). Add it to the "
            f'class'
        )
    parameters = inspect.signature(cls).parameters
    if 'edge_type' not in parameters and not any(
        x.kind is x.VAR_KEYWORD for x in parameters.values()
    ):
        raise ValueError(
            f"'{option}' must have the arguments (num_nodes_dict, modality_x_dict=None"
            f', *, edge_type=..., ...) (got {name!r} with {list(parameters)}). Add '
            f"'**kwargs' and pass it to super().__init__"
        )
    model: ModelClass = cls
    return model


def _one_line(error: Exception, file: Path | None = None) -> str:
    """An error of imported code, with its line in ``file``."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    lines += [error.lineno] if isinstance(error, SyntaxError) else []
    where = f' in line {lines[-1]}' if lines else ''
    return f'{type(error).__name__}{where}: {" ".join(str(error).split())}'


def _allowed_files() -> Path:
    config = os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config'
    return Path(config) / 'promptmm_pyg' / 'allowed_models'


def _is_allowed(digest: str) -> bool:
    if digest in LOADED:
        return True
    with suppress(OSError):
        return digest in _allowed_files().read_text().split()
    return False


def _allow(digest: str) -> None:
    """Records a file that the user named. Where that is impossible, the permission ends
    with this process.
    """
    if not _is_allowed(digest):
        path = _allowed_files()
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('a') as file:
                file.write(f'{digest}\n')
