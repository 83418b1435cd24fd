"""Settings that a run wrote and that are no longer whole, told as that."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.parsing import UserError

_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    'data': (dict,),
    'data_sha256': (str,),
    'titles': (dict, _NONE),
    'prompt': (dict, _NONE),
    'teacher': (dict,),
    'train': (dict,),
    'weights': (dict,),
    'schedule': (dict,),
    'versions': (dict,),
}
# What goes wrong where a setting is missing or of another kind.
_SYMPTOMS = (KeyError, AttributeError, TypeError, IndexError)


def check_settings(path: Path, config: dict[str, Any]) -> None:
    """Raises unless the configuration of a run has all of its sections.

    Raises:
        UserError: If one is missing or of another kind.
    """
    for key, kinds in _KINDS.items():
        if key not in config or not isinstance(config[key], kinds):
            got = repr(config[key])[:40] if key in config else 'none'
            raise UserError(
                f"'{path}' is damaged: '{key}' must be what 'promptmm train' "
                f'wrote (got {got}). Restore the file, or train again'
            )


@contextmanager
def settings_of(path: Path, *more: type[Exception]) -> Iterator[None]:
    """Tells what fails for want of sound settings as a damage of their file.

    Args:
        path: The file.
        more: What else is a symptom, such as the ``RuntimeError`` of parameters that
            have another shape. (default: missing settings, and other kinds)

    Raises:
        UserError: In place of the error.
    """
    symptoms: tuple[type[Exception], ...] = (*_SYMPTOMS, *more)
    try:
        yield
    except symptoms as error:
        what = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
        raise UserError(
            f"'{path}' is damaged, or of another version than what lies beside it "
            f'({what}). Restore the file, or train again'
        ) from error
