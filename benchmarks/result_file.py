"""Result files, which appear whole or not at all."""

import json
from pathlib import Path
from typing import Any

from promptmm_pyg._files import replacing


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON; what stood there stays until all of it is written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + '\n')
