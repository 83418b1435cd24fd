"""Outcomes that are kept, so that an interrupted benchmark goes on where it was."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptmm_pyg.training import load_state, save_state


def cached(
    folder: Path, key: list[Any], make: Callable[[], dict[str, Any]], prefix: str = ''
) -> dict[str, Any]:
    """What ``make`` returns, made now or before.

    Args:
        folder: Where it is kept.
        key: Every number it depends on; the file is named after them.
        make: Called if there is no such file.
        prefix: What the file's name starts with. (default: nothing)
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = folder / f'{prefix}{digest}.safetensors'
    if not path.is_file():
        save_state(path, make())
    return load_state(path)
