"""The student of the ensemble: the best of several on validation."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from promptmm_pyg.auto.work import TABLES, distill_trial, save_recommender
from promptmm_pyg.auto.workers import Task, collect
from promptmm_pyg.models import MODELS
from promptmm_pyg.runs import RunError
from promptmm_pyg.runs.folder import staged, write_json
from promptmm_pyg.runs.stages import student_weights
from promptmm_pyg.runs.teachers import TEACHERS

if TYPE_CHECKING:
    from promptmm_pyg.auto.run import _Search

Config = dict[str, Any]
_FUSED = {'list_views': ['fused'], 'embedding_views': ['fused']}
_EPOCHS = 6  # Expected of a student that starts from its teacher.
# What is tried, in this order: the model, its penalty for the interactions, and more.
_TRIED: tuple[tuple[str, dict[str, Any]], ...] = (
    ('MatrixFactorization', {}),
    ('LightGCN', {}),
    ('MatrixFactorization', {'bpr': 0.1}),
    ('LightGCN', {'bpr': 0.1}),
    ('MatrixFactorization', {'num_teacher_topk': 10}),
    ('MatrixFactorization', {'bpr': 0.1, 'num_teacher_topk': 10}),
    ('LightGCN', {'num_teacher_topk': 10}),
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
        rate = 3e-3 if start == 'random' else 1e-3
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
    task = _task(search, 'probe', 0, {name: 1 / len(names) for name in names})
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


def distill_student(search: '_Search') -> None:
    """Distills students until the time is over, and puts the best into the run."""
    assert search.choice is not None
    weights = search.choice.weights
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
    for task in tasks:
        shutil.rmtree(task.folder, ignore_errors=True)
    search.save()


def _task(
    search: '_Search', key: str, number: int, weights: Mapping[str, float]
) -> Task:
    teachers = [f'members/{name}' for name in weights if name != search.first]
    config = student_configs(search.source.settings, search.width, teachers)[number]
    work = search.path / 'work'
    tables = {name: work / name / TABLES for name in weights}
    arguments = (search.source, config, tables, dict(weights))
    seconds = 0.0 if key == 'probe' else math.inf
    end = search.budget.end - search.proof_seconds
    return Task(key, distill_trial, work / key, arguments, seconds, end)
