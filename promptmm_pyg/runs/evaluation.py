"""The evaluation of a run's models, and the record of test evaluations."""

import datetime
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._files import locked
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.data.interactions import id_column
from promptmm_pyg.data.tables import read_file
from promptmm_pyg.evaluation import (
    Evaluation,
    evaluate,
    largest_gap,
    paired_test,
    slice_by_cold_start,
    slice_by_user_group,
)
from promptmm_pyg.evaluation.metrics import ACCURACY
from promptmm_pyg.runs.data import RunError
from promptmm_pyg.runs.folder import read_json, write_json
from promptmm_pyg.runs.run import Run, XDict

KS = (10, 20, 50)
UNKNOWN = 'unknown'
REFERENCES = ('LightGCN', 'EASE')
PAIRS = (
    ('student', 'baseline'),
    ('student', 'truncated_teacher'),
    ('teacher', 'student'),
    ('ensemble', 'student'),
    ('served', 'student'),
    ('teacher', 'low_rank_teacher'),
    ('ensemble', 'teacher'),
    *((name, other) for name in ('student', 'ensemble') for other in REFERENCES),
)


def evaluate_run(
    run: Run,
    split: Literal['val', 'test'] = 'val',
    *,
    metrics: Sequence[str] = ACCURACY,
    groups: Sequence[str] | None = None,
) -> dict[str, Evaluation]:
    """Evaluates every model of a run and writes ``evaluation-<split>.json``.

    Args:
        run: The run.
        split: ``'val'`` or ``'test'``. (default: ``'val'``)
        metrics: As for :func:`~promptmm_pyg.evaluation.evaluate`; Recall and NDCG are
            always among them. (default: the metrics of accuracy)
        groups: The group of every user, such as from ``read_groups``; metrics per
            group are recorded, too. (default: none)

    Raises:
        RunError: If nothing is held out for ``split``.
        ValueError: If a metric is unknown.
    """
    graph = getattr(run.data, split)
    if graph[INTERACTS].edge_label_index.size(1) == 0:
        raise RunError(f"the data hold no interactions for '{split}'")
    version = run.version()
    x_dicts = evaluated_embeddings(run)
    names = list(dict.fromkeys(('Recall', 'NDCG', *metrics)))
    results = evaluate_embeddings(scorers_of(run, x_dicts), graph, names)
    more = {} if groups is None else {'groups': by_group(results, groups)}
    record_evaluation(run, split, x_dicts, results, graph, version, more)
    return results


def scorers_of(run: Run, x_dicts: Mapping[str, XDict]) -> dict[str, Any]:
    """What each model is evaluated by: its embeddings, and the exact scores of a
    teacher in closed form, whose embeddings are ``'low_rank_teacher'``.
    """
    scorers: dict[str, Any] = dict(x_dicts)
    for name, other in {'teacher': run, **run.references()}.items():
        if name in scorers and other.is_closed_form:
            teacher: Any = other.teacher()
            scorers[name] = teacher.scores
    return scorers


def evaluated_embeddings(run: Run) -> dict[str, XDict]:
    """The embeddings of a run's models, and of the references of a search."""
    others = run.references().items()
    return {
        **run.embeddings(),
        **{name: other.embeddings()['teacher'] for name, other in others},
    }


def evaluate_embeddings(
    scorers: Mapping[str, Any],
    graph: HeteroData,
    metrics: Sequence[str] = ACCURACY,
) -> dict[str, Evaluation]:
    """The evaluation of each model's embeddings or scores, by name."""
    num_items = int(graph[ITEM].num_nodes)
    ks = sorted({min(k, num_items) for k in KS})
    return {
        name: evaluate(x, graph, ks=ks, metrics=metrics) for name, x in scorers.items()
    }


def read_groups(
    path: str | Path, column: str, graph: HeteroData, user: str | None = None
) -> list[str]:
    """The group of every user, from a column of a table; ``'unknown'`` for users
    without one.

    Args:
        path: The table.
        column: The column of groups.
        graph: A graph of the run.
        user: The column of user ids. (default: recognized by its name)

    Raises:
        RunError: If the file is missing, or has none of the users.
        ValueError: If it is damaged, or a column is missing.
    """
    if not Path(path).is_file():
        raise RunError(
            f"'--groups' must be FILE:COLUMN (got no file '{path}'). Correct the path"
        )
    table = read_file(path, caller='--groups')
    table.check_column(column, '--groups')
    ids = table.ids(id_column(table, user, USER), '--groups')
    names = [str(raw) for raw in ids.values.to_pylist()]
    texts = table.texts(column).to_pylist()
    pairs = zip(ids.codes.tolist(), texts, strict=True)
    known = {names[code]: text for code, text in pairs if text}
    groups = [known.get(str(raw), UNKNOWN) for raw in graph[USER].raw_id.tolist()]
    if set(groups) == {UNKNOWN}:
        raise RunError(
            f"'--groups' must have the ids of users, such as "
            f"'{graph[USER].raw_id[0]}' (got none of them in '{path}'). Name a table "
            f'of these users'
        )
    return groups


def by_group(
    results: Mapping[str, Evaluation], groups: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By model: the number of users and, per metric, the mean with its 95 % interval of
    each group, and the largest gap between two groups.
    """
    out: dict[str, dict[str, Any]] = {}
    for model, result in results.items():
        slices = slice_by_user_group(result, groups)
        out[model] = {'groups': {}, 'largest_gap': {}}
        for name, part in slices.items():
            values: dict[str, Any] = {'num_users': part.users.numel()}
            for metric in compared_metrics(results):
                x = part.per_user[metric]
                test = paired_test(x, torch.zeros_like(x)).to_dict()
                values[metric] = {
                    'mean': test['difference'],
                    **{key: test[key] for key in ('low', 'high')},
                }
            out[model]['groups'][name] = values
        for metric in compared_metrics(results):
            gap = largest_gap({x: y.per_user[metric] for x, y in slices.items()})
            out[model]['largest_gap'][metric] = None if gap is None else gap._asdict()
    return out


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
    more: Mapping[str, Any] | None = None,
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
        **(more or {}),
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
