"""The student of the ensemble: the best of several on validation."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from promptmm_pyg.auto.ensemble import as_targets
from promptmm_pyg.auto.work import (
    ENSEMBLE,
    TABLES,
    distill_trial,
    load_tables,
    save_recommender,
)
from promptmm_pyg.auto.workers import Task, collect
from promptmm_pyg.distillation import ensemble_targets, truncate_embeddings
from promptmm_pyg.models import MODELS
from promptmm_pyg.runs import RunError
from promptmm_pyg.runs.folder import save_tensors, staged, write_json
from promptmm_pyg.runs.stages import student_weights
from promptmm_pyg.runs.teachers import TEACHERS

if TYPE_CHECKING:
    from promptmm_pyg.auto.run import _Search

Config = dict[str, Any]
_FUSED = {'list_views': ['fused'], 'embedding_views': ['fused']}
TEACHER_WIDTH = 256
_EPOCHS = 6  # Expected of a student that starts from its teacher.
# What is tried, in this order: the model, its penalty for the interactions, and more.
_TRIED: tuple[tuple[str, dict[str, Any]], ...] = (
    ('MatrixFactorization', {}),
    ('LightGCN', {'learning_rate': 3e-3}),
    ('MatrixFactorization', {'bpr': 0.1}),
    ('LightGCN', {'bpr': 0.1}),
    ('MatrixFactorization', {'bpr': 0.1, 'num_teacher_topk': 10}),
    ('LightGCN', {'learning_rate': 3e-3, 'num_teacher_topk': 10}),
    ('LightGCN', {'learning_rate': 1e-2, 'bpr': 0.1}),
    ('LightGCN', {'start': 'random'}),
)


def student_configs(
    settings: Mapping[str, Any], width: int, teachers: Sequence[str]
) -> list[Config]:
    """The settings of the students, the first ones first."""
    train = {**settings['train'], 'validate_every': 1, 'patience': 4, 'epochs': 100}
    configs = []
    for model, options in _TRIED:
        start = options.get('start', 'truncated')
        rate = 3e-3 if start == 'random' else options.get('learning_rate', 1e-3)
        weights = {**student_weights(MODELS[model]), 'embedding': 0.0}
        weights['bpr'] *= options.get('bpr', 1.0)
        candidates = {'num_teacher_topk': options.get('num_teacher_topk', 0)}
        configs.append(
            {
                'teachers': list(teachers),
                'teacher_scale': 3.0,
                'model': model,
                'student': {'embedding_dim': width},
                'distill': {'start': start, 'baseline': False},
                'train': {**train, 'learning_rate': rate},
                'loss_weights': weights,
                'losses': dict(_FUSED),
                'candidates': candidates,
            }
        )
    return configs


def student_seconds(search: '_Search', names: Sequence[str]) -> float:
    """How long the students take: one epoch of the first one is measured, and its
    recommender.
    """
    weights = {name: 1 / len(names) for name in names}
    _write_teacher(search, weights)
    task = _task(search, 'probe', 0, weights)
    result = collect(search.workers, [task]).get('probe', {})
    started = time.time()
    if 'value' in result:
        save_recommender(task.folder / 'run', search.source)
    saving = time.time() - started
    shutil.rmtree(task.folder, ignore_errors=True)
    wall = float(result.get('wall', 0.0))
    epoch = float(result.get('longest_epoch', wall))
    rounds = math.ceil(len(_TRIED) / 2 / search.workers.jobs)
    return rounds * (wall + _EPOCHS * epoch) + saving


def _write_teacher(search: '_Search', weights: Mapping[str, float]) -> None:
    """Writes the embeddings of the ensemble, at most ``TEACHER_WIDTH`` wide: their
    scores cost a step of a student in proportion to the width, and those of 1,920
    columns and of 256 rank alike.
    """
    work = search.path / 'work'
    targets = {name: as_targets(load_tables(work / name / TABLES)) for name in weights}
    x_dict = ensemble_targets(targets, weights).x_dict
    x_dict = truncate_embeddings(x_dict, TEACHER_WIDTH)
    (work / ENSEMBLE).mkdir(parents=True, exist_ok=True)
    save_tensors(work / ENSEMBLE / TABLES, x_dict)


def distill_student(search: '_Search') -> None:
    """Distills students until the time is over, and puts the best into the run."""
    assert search.choice is not None
    weights = search.choice.weights
    _write_teacher(search, weights)
    tasks = [_task(search, f'student-{n}', n, weights) for n in range(len(_TRIED))]
    seconds = max(0.0, tasks[0].deadline - search.budget.clock())
    if search.interrupted:  # One epoch of the first: the start, or better.
        tasks, seconds = tasks[:1], 0.0
        search.workers.reset()
    # There must be one, so it is not ended before its first epoch.
    tasks[0] = replace(tasks[0], seconds=seconds, deadline=math.inf)
    search.students.clear()

    values: dict[str, float] = {}
    errors: list[str] = []

    def on_result(key: str, result: Mapping[str, Any]) -> None:
        model, options = _TRIED[int(key.removeprefix('student-'))]
        what = ', '.join([model, *(f'{k} {v}' for k, v in options.items())])
        if 'error' in result:
            errors.append(result['error'])
            search.screen.line(f'student ({what}) left out: {errors[-1]}')
            return
        values[key] = result['value']
        names = ('value', 'epochs', 'best_epoch')
        row = {'model': model, **options, **{name: result[name] for name in names}}
        search.students.append({**row, 'seconds': result['wall']})
        search.screen.line(
            f'student {result["value"]:.4f} at epoch {result["best_epoch"]} ({what})'
        )

    with search.ended_by_interrupt(on_result):
        collect(search.workers, tasks, on_result)
    if not values:
        why = errors[0] if errors else 'no time was left'
        raise RunError(f'no student was trained: {why}. Pass --resume to go on')
    best = max(values, key=lambda key: values[key])
    source = search.path / 'work' / best / 'run'
    save_recommender(source, search.source)
    teachers = {
        name: {'run': f'members/{name}', 'weight': weight}
        for name, weight in weights.items()
    }
    with staged(search.path, 'student', resume=False) as folder:
        for part in ('student', 'recommender'):
            shutil.copytree(source / part, folder / part)
        write_json(folder / 'student' / TEACHERS, teachers)
    for folder in (*(task.folder for task in tasks), search.path / 'work' / ENSEMBLE):
        shutil.rmtree(folder, ignore_errors=True)
    search.save()


def _task(
    search: '_Search', key: str, number: int, weights: Mapping[str, float]
) -> Task:
    teachers = [f'members/{name}' for name in weights if name != search.first]
    config = student_configs(search.source.settings, search.width, teachers)[number]
    work = search.path / 'work'
    arguments = (search.source, config, work / ENSEMBLE / TABLES)
    seconds = 0.0 if key == 'probe' else math.inf
    end = search.budget.end - search.proof_seconds
    return Task(key, distill_trial, work / key, arguments, seconds, end)
