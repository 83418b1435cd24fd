"""The schema of result files, which all kinds of benchmarks share.

A result has these keys:

* ``kind``, ``name``, ``dataset``, ``seeds``: what was run;
* ``protocol``: every setting;
* ``rows``: one per model or variant, below;
* ``per_user``: the file beside it with the test values per seed and user of every row;
* ``test_reads``: how often the test positives were read per row and seed, at most;
* ``data_sha256``: a hash of interactions, their parts and features, in any order;
* ``commit``: that of the package, with ``-dirty`` if its code was changed; absent
  outside of git; ``date``: when the file was written;
* ``threads``, ``versions``; and further tables of a kind (``teachers``, ``costs``).

A row has a ``name``, the values of its factors (``width``, ``share``, ``start``,
``group``), and, where they apply:

* ``best_params``: the hyper-parameters chosen on validation, among ``num_trials``;
* ``validation`` and, per metric, ``test`` (``test_cold`` among cold items alone), as
  ``{'mean', 'std', 'seeds'}``;
* ``epochs``: the best epoch per seed, of at most ``max_epochs``;
* ``retained_ratio``: its test value divided by the teacher's;
* ``diff_vs_REFERENCE``: ``{'difference', 'low', 'high', 'p'}`` on the same test users,
  including training noise (:func:`~promptmm_pyg.evaluation.paired_test`), with
  ``holm_p`` where many models are compared. ``diff_vs_baseline`` refers to the same
  student without distillation, or the first variant of its group.
"""

import datetime
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import promptmm_pyg
from promptmm_pyg._files import replacing
from promptmm_pyg._reading import DAMAGE, read_json
from promptmm_pyg._utils import versions as installed
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
    modality_mask_dict,
    modality_x_dict,
)

RESULT_KEYS = ('kind', 'name', 'dataset', 'protocol', 'rows', 'versions')
# Measurements of time and memory have sections of their own.
TIMINGS = ('speed', 'epochs', 'scale', 'serving', 'sharded', 'stages', 'item_graphs')


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return installed('promptmm_pyg', 'torch', 'torch_geometric')


def commit(*folders: Path) -> str | None:
    """The commit of the package, with ``-dirty`` if it differs from it; ``None`` where
    its files are not tracked by git.

    Args:
        folders: Further folders of code whose changes count.
    """
    package = Path(promptmm_pyg.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ['git', *words], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git('ls-files', '--error-unmatch', '__init__.py')
        name = git('describe', '--always', '--tags')
        paths = [str(path) for path in (package, *folders)]
        dirty = git('status', '--porcelain', '--', *paths)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f'{name}-dirty' if dirty else name


def data_sha256(split: Split) -> str:
    """A hash of the interactions of each part, features and masks. It depends on raw
    ids and not on the order of interactions, users or items.
    """
    train = split.train
    digest, place = hashlib.sha256(), {}
    for node_type in (USER, ITEM):
        ids = [str(x) for x in train[node_type].raw_id.tolist()]
        order = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))
        digest.update(json.dumps(sorted(ids)).encode())
        place[node_type] = order
        for read in (modality_x_dict, modality_mask_dict):
            for name, x_dict in sorted(read(train).items()):
                if node_type in x_dict:
                    x = x_dict[node_type][order]
                    digest.update(f'{read.__name__} {name} {list(x.size())}'.encode())
                    digest.update(x.contiguous().numpy().tobytes())
    parts = [train[INTERACTS].edge_index]
    parts += [part[INTERACTS].edge_label_index for part in (split.val, split.test)]
    for index in parts:
        user, item = (
            place[key].argsort()[row]
            for key, row in zip((USER, ITEM), index, strict=True)
        )
        pairs = user * place[ITEM].numel() + item
        digest.update(pairs.sort().values.numpy().tobytes())
    return digest.hexdigest()


def result_path(folder: Path, name: str, dataset: str) -> Path:
    """The file of a benchmark on a data set."""
    return folder / f'{name}-{dataset}.json'


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Checks a result and writes it as JSON, atomically, with commit and date."""
    check_result(result)
    if 'commit' not in result:
        current = commit()
        result = {**result, **({'commit': current} if current else {})}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    result = {**result, 'date': date}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + '\n')


def load_result(path: str | Path) -> dict[str, Any]:
    """Reads a result and checks it.

    Raises:
        ValueError: If it does not follow the schema.
    """
    try:
        result: dict[str, Any] = read_json(Path(path))
        check_result(result)
    except DAMAGE as error:
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
