"""Result files, which appear whole or not at all."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
import torch_geometric

import promptmm_pyg
from promptmm_pyg._utils import replacing


def versions() -> dict[str, str]:
    """Of what a result came from."""
    return {
        'promptmm_pyg': promptmm_pyg.__version__,
        'torch': torch.__version__,
        'torch_geometric': torch_geometric.__version__,
        'python': platform.python_version(),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON; what stood there stays until all of it is written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + '\n')
