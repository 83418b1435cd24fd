"""The schema of result files, which all kinds of benchmarks share.

A result has these keys:

* ``kind``, ``name``, ``dataset``, ``seeds``: what was run;
* ``protocol``: every setting;
* ``rows``: one per model or variant, below;
* ``test_reads``: how often the test positives were read per row and seed, at most;
* ``threads``, ``versions``; and further tables of a kind (``teachers``, ``costs``).

A row has a ``name``, the values of its factors (``width``, ``share``, ``start``,
``group``), and, where they apply:

* ``best_params``: the hyper-parameters chosen on validation;
* ``validation`` and, per metric, ``test`` (``test_cold`` among cold items alone), as
  ``{'mean', 'std', 'seeds'}``;
* ``epochs``: the best epoch per seed;
* ``retained_ratio``: its test value divided by the teacher's;
* ``diff_vs_REFERENCE``: ``{'difference', 'low', 'high'}`` on the same test users, with
  ``p`` and ``holm_p`` where many models are compared. ``diff_vs_baseline`` refers to
  the same student without distillation, or the first variant of its group.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch_geometric

import promptmm_pyg
from promptmm_pyg._files import replacing

RESULT_KEYS = ('kind', 'name', 'dataset', 'protocol', 'rows', 'versions')
# Measurements of time and memory have sections of their own.
TIMINGS = ('speed', 'scale')


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        'promptmm_pyg': promptmm_pyg.__version__,
        'torch': torch.__version__,
        'torch_geometric': torch_geometric.__version__,
        'python': platform.python_version(),
    }


def result_path(folder: Path, name: str, dataset: str) -> Path:
    """The file of a benchmark on a data set."""
    return folder / f'{name}-{dataset}.json'


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Checks a result and writes it as JSON, atomically."""
    check_result(result)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + '\n')


def load_result(path: str | Path) -> dict[str, Any]:
    """Reads a result and checks it.

    Raises:
        ValueError: If it does not follow the schema.
    """
    try:
        result: dict[str, Any] = json.loads(Path(path).read_text())
        check_result(result)
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}' must be a result file (got {error})") from error
    return result


def check_result(result: Mapping[str, Any]) -> None:
    """Raises unless a result follows the schema.

    Raises:
        ValueError: Naming the key that does not fit.
    """
    timing = result.get('kind') in TIMINGS
    required = ('kind', 'versions') if timing else RESULT_KEYS
    missing = [key for key in required if key not in result]
    if missing:
        raise ValueError(f"'result' must have the keys {missing} (got {list(result)})")
    for row in (*result.get('rows', ()), *result.get('teachers', ())):
        if 'name' not in row:
            raise ValueError(f"'rows' must have a 'name' each (got {list(row)})")
        for key, value in row.items():
            if not _fits(key, value):
                raise ValueError(
                    f"'rows' of '{row['name']}' must have a {key!r} of the schema (got "
                    f'{value})'
                )


def _fits(key: str, value: Any) -> bool:
    if key == 'validation':
        return _is_spread(value)
    if key in ('test', 'test_cold'):
        return all(_is_spread(values) for values in value.values())
    return not key.startswith('diff_vs_') or {'difference', 'low', 'high'} <= set(value)


def _is_spread(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        {'seeds'} <= set(value) <= {'mean', 'std', 'seeds'}
    )


def rows_by_name(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a result in which every name is unique."""
    return {row['name']: row for row in result['rows']}
