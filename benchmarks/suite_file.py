"""A suite's result files: written, and read where models are added."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import compare
from benchmarks.result_file import versions, write_result
from promptmm_pyg._utils import replacing

REFERENCE = 'LightGCN'


def summarize(protocol: dict[str, Any], outs: list[dict[str, Any]]) -> dict[str, Any]:
    """The result: every model's row, and all beside LightGCN and beside the best.

    Args:
        protocol: What all models have in common.
        outs: What :func:`~benchmarks.suite.run_model` returns, of every model.
    """
    models = {out['name']: out['row'] for out in outs}
    per_user = {out['name']: torch.from_numpy(out['per_user']) for out in outs}
    best = max(models, key=lambda name: models[name]['validation']['mean'])
    references = [name for name in dict.fromkeys((REFERENCE, best)) if name in models]
    return {
        'suite': protocol,
        'best': best,
        'models': models,
        'comparisons': {name: compare(per_user, name) for name in references},
        'per_user': _tables_name(protocol),
        'versions': versions(),
    }


def write_suite(
    folder: Path, protocol: dict[str, Any], outs: list[dict[str, Any]]
) -> None:
    """Writes the result, and before it every test user's values.

    Raises:
        ValueError: If not all models were tested on the same users.
    """
    for out in outs:
        if not np.array_equal(out['users'], outs[0]['users']):
            raise ValueError(
                f"'outs' requires models tested on the same users (got "
                f'{len(out["users"])} of {out["name"]}, {len(outs[0]["users"])} of '
                f'{outs[0]["name"]}, or others). Run the suite without --add'
            )
    result = summarize(protocol, outs)
    tables = {out['name']: out['per_user'] for out in outs}
    with replacing(folder / result['per_user']) as path, path.open('wb') as file:
        np.savez_compressed(file, users=outs[0]['users'], **tables)
    write_result(folder / _name(protocol), result)


def former_outs(
    folder: Path, protocol: dict[str, Any], but: set[str]
) -> list[dict[str, Any]]:
    """What a result holds of other models than those that are run now.

    Raises:
        ValueError: If there is none, or its models were run in another way.
    """
    path = folder / _name(protocol)
    if not path.is_file():
        raise ValueError(
            f"'--add' requires a result to add to (got no '{path}'). Leave it out"
        )
    result = json.loads(path.read_text())
    if result['suite'] != protocol:
        name = next(k for k, v in protocol.items() if result['suite'].get(k) != v)
        raise ValueError(
            f"'--add' requires a result of the same protocol (got {name!r} "
            f"{result['suite'].get(name)} in '{path}', {protocol[name]} now)"
        )
    with np.load(folder / result['per_user']) as tables:
        users = tables['users']
        return [
            {'name': name, 'row': row, 'users': users, 'per_user': tables[name]}
            for name, row in result['models'].items()
            if name not in but
        ]


def _name(protocol: dict[str, Any]) -> str:
    return f'suite-{protocol["dataset"]}.json'


def _tables_name(protocol: dict[str, Any]) -> str:
    return f'suite-{protocol["dataset"]}-per-user.npz'
