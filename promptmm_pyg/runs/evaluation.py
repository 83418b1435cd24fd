"""The evaluation of a run's models, and the record of test evaluations."""

import datetime
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch_geometric.data import HeteroData

from promptmm_pyg._files import locked
from promptmm_pyg.data import INTERACTS, ITEM
from promptmm_pyg.evaluation import (
    Evaluation,
    evaluate,
    paired_test,
    slice_by_cold_start,
)
from promptmm_pyg.runs.data import RunError
from promptmm_pyg.runs.folder import read_json, write_json
from promptmm_pyg.runs.run import Run, XDict

KS = (10, 20, 50)
PAIRS = (
    ('student', 'baseline'),
    ('student', 'truncated_teacher'),
    ('teacher', 'student'),
    ('ensemble', 'student'),
    ('served', 'student'),
    ('teacher', 'low_rank_teacher'),
)


def evaluate_run(
    run: Run, split: Literal['val', 'test'] = 'val'
) -> dict[str, Evaluation]:
    """Evaluates every model of a run and writes ``evaluation-<split>.json``.

    Args:
        run: The run.
        split: ``'val'`` or ``'test'``. (default: ``'val'``)

    Raises:
        RunError: If nothing is held out for ``split``.
    """
    graph = getattr(run.data, split)
    if graph[INTERACTS].edge_label_index.size(1) == 0:
        raise RunError(f"the data hold no interactions for '{split}'")
    version = run.version()
    x_dicts = run.embeddings()
    results = evaluate_embeddings(scorers_of(run, x_dicts), graph)
    record_evaluation(run, split, x_dicts, results, graph, version)
    return results


def scorers_of(run: Run, x_dicts: Mapping[str, XDict]) -> dict[str, Any]:
    """What each model is evaluated by: its embeddings, and the exact scores of a
    teacher in closed form, whose embeddings are ``'low_rank_teacher'``.
    """
    if not run.is_closed_form:
        return dict(x_dicts)
    teacher: Any = run.teacher()
    return {**x_dicts, 'teacher': teacher.scores}


def evaluate_embeddings(
    scorers: Mapping[str, Any], graph: HeteroData
) -> dict[str, Evaluation]:
    """The evaluation of each model's embeddings or scores, by name."""
    num_items = int(graph[ITEM].num_nodes)
    ks = sorted({min(k, num_items) for k in KS})
    return {name: evaluate(x, graph, ks=ks) for name, x in scorers.items()}


def compared_metrics(results: Mapping[str, Evaluation]) -> list[str]:
    """Recall and NDCG at 20, or at the whole catalogue where that is smaller."""
    ks = next(iter(results.values())).ks
    return [f'{name}@{ks[min(1, len(ks) - 1)]}' for name in ('Recall', 'NDCG')]


def record_evaluation(
    run: Run,
    split: str,
    x_dicts: Mapping[str, XDict],
    results: Mapping[str, Evaluation],
    graph: HeteroData,
    version: object = None,
) -> None:
    """Writes an evaluation; that of test with the times of all earlier ones.

    Raises:
        RunError: If a model was replaced since ``version``.
    """
    content: dict[str, Any] = {
        'split': split,
        'num_users': int(next(iter(results.values())).users.numel()),
        'embedding_dim': {name: x[ITEM].size(1) for name, x in x_dicts.items()},
        'metrics': {name: _without_nan(x.metrics) for name, x in results.items()},
        'differences': {
            f'{a} - {b}': {
                metric: paired_test(
                    results[a].per_user[metric], results[b].per_user[metric]
                ).to_dict()
                for metric in compared_metrics(results)
            }
            for a, b in PAIRS
            if {a, b} <= set(results)
        },
        'slices': {
            name: {
                key: {'num_users': part.users.numel(), **_without_nan(part.metrics)}
                for key, part in slice_by_cold_start(result, graph).items()
            }
            for name, result in results.items()
        },
    }
    with locked(run.path):
        if version not in (None, run.version()):
            raise RunError(
                f"'{run.path}' must not be trained while it is evaluated (got other "
                f'models than at the start). Evaluate it again'
            )
        _write(run.evaluation_file(split), content, sorted(results))


def _write(file: Path, content: dict[str, Any], models: list[str]) -> None:
    if content['split'] == 'test':
        reads = read_json(file).get('test_reads', []) if file.is_file() else []
        print(
            'note: test should be read once, after all choices are made; it was read '
            f'{len(reads)} times before',
            file=sys.stderr,
        )
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        reads = [*reads, {'time': time, 'models': models}]
        content['test_reads'] = reads
    write_json(file, content)


def _without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(x) else x for key, x in metrics.items()}
