"""The final model of a run, trained on all interactions."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
)
from promptmm_pyg.distillation import ensemble_targets
from promptmm_pyg.runs.data import Prepared, RunError, hash_split, prepare
from promptmm_pyg.runs.folder import (
    exclusive,
    read_json,
    staged,
    where,
    write_json,
)
from promptmm_pyg.runs.record import merge_all, updates_of
from promptmm_pyg.runs.run import Run, Trained, build_model, settings_of
from promptmm_pyg.runs.stages import (
    CPU,
    check_resume,
    make_recommender,
    save_student,
    train_student,
    train_teacher,
    training_config,
    training_options,
)
from promptmm_pyg.runs.teachers import (
    check_same_interactions,
    recorded_teachers,
    targets_of,
)
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.training.neighborhood import with_neighbors


def refit_run(
    run: Run | str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = CPU,
) -> Run:
    """Trains teacher and student, if there is one, on all interactions, those of
    validation, test and updates, and makes the result the recommender that is served.

    Settings are those of the run; with a search, those it chose. Each model is trained
    for the number of epochs that was best on validation: as many passes over more
    interactions. All teachers of a student of several runs are trained again, with the
    weights of its distillation. Nothing is validated, and the evaluated models do not
    change.

    Args:
        run: A run with a trained model.
        resume: Whether to continue an interrupted one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train. (default: the CPU)

    Raises:
        RunError: If a model is not trained yet, or the data have changed, also of a
            further teacher.
    """
    run = Run.open(run)
    ensemble = recorded_teachers(run)
    teachers = {name: other for name, (other, _) in ensemble.items()}
    teachers = teachers or {'teacher': run}
    has_student = (run.student_dir / 'config.json').is_file()
    epochs = {name: _best_epoch(other, 'teacher') for name, other in teachers.items()}
    if has_student:
        epochs['student'] = _best_epoch(run, 'student')
        with settings_of(run.student_dir / 'config.json'):  # Before training.
            _student_config(run)
    state: dict[str, Any] = {
        'made_by': 'refit',
        'epochs': epochs,
        'updates': len(updates_of(run)),
        'teachers': {name: weight for name, (_, weight) in ensemble.items()},
    }
    with exclusive(run.path):
        split = run.read_split()
        graph = merge_all(split, updates_of(run))
        graphs = _graphs(run, teachers, graph)
        state |= {'data_sha256': hash_split(_everything(graph))}
        if resume:
            _check_same(run, state)
        data = prepare(_everything(graph), run.config['prompt'])
        with staged(run.path, 'final', resume=resume) as folder:
            target = Run(folder / 'final')
            _write_state(target, state, graph)
            num_trained = split.train[INTERACTS].edge_index.size(1)
            refit = _Refit(run, target, epochs, num_trained, resume, progress, device)
            if ensemble:
                refit.student(refit.ensemble(ensemble, graphs, data.train), data)
            elif has_student:
                refit.student(refit.teacher('teacher', run, data, target), data)
            else:
                served = target.recommender_dir
                refit.teacher('teacher', run, data, target, served)
    return run


def _everything(graph: HeteroData) -> Split:
    return Split(graph, graph, graph)


def _graphs(
    run: Run, teachers: Mapping[str, Run], graph: HeteroData
) -> dict[str, HeteroData]:
    """All interactions, with the features that each teacher reads.

    Raises:
        RunError: If a teacher's data have changed, or have other interactions.
    """
    graphs = dict.fromkeys(teachers, graph)
    for name, other in teachers.items():
        if any(other.config[key] != run.config[key] for key in ('data', 'data_sha256')):
            graphs[name] = merge_all(other.read_split(), updates_of(run))
            check_same_interactions(run, other, graph, graphs[name])
    return graphs


@dataclass
class _Refit:
    """Trains the models of a refit."""

    run: Run
    target: Run
    epochs: dict[str, int]
    num_trained: int
    """The interactions of which the evaluated models were trained."""
    resume: bool
    progress: bool
    device: str | torch.device

    def teacher(
        self,
        name: str,
        other: Run,
        data: Prepared,
        target: Run,
        recommender: Path | None = None,
    ) -> Trained:
        """The teacher of a run, trained again."""
        settings = training_options(_settings(other, 'teacher'))
        model = build_model(other.config, 'teacher', data.train)
        how = with_neighbors(model, data.train, TrainingConfig(**settings))
        settings |= {'num_neighbors': how.num_neighbors, 'optimizer': how.optimizer}
        return train_teacher(
            target,
            other.config,
            data,
            self._config(name, 'teacher', settings, target.teacher_dir),
            self.device,
            recommender=recommender,
            titles=self.run.recommender().titles,
        )

    def ensemble(
        self,
        teachers: Mapping[str, tuple[Run, float]],
        graphs: Mapping[str, HeteroData],
        train: HeteroData,
    ) -> SoftTargets:
        """The teachers of several runs, trained again, as one with their weights."""
        targets = {}
        for name, (other, _) in teachers.items():
            data = prepare(_everything(graphs[name]), other.config['prompt'])
            target = Run(self.target.path / 'teachers' / name)
            model = self.teacher(name, other, data, target)
            targets[name] = targets_of(model, data)
        scale = self.run.student_config['teacher_scale']
        weights = {name: scale * weight for name, (_, weight) in teachers.items()}
        return ensemble_targets(targets, weights, train)

    def student(self, teacher: Trained | SoftTargets, data: Prepared) -> None:
        """Distills the student again, and makes its recommender."""
        config = _student_config(self.run)
        folder = self.target.student_dir
        how = self._config('student', 'student', config['train'], folder)
        # What 'best' was when the student was evaluated.
        start = self.run.metrics('student')['start']
        options: dict[str, Any] = {'baseline': False, 'tune': 0, 'start': start}
        result = train_student(config, teacher, data, how, self.device, **options)
        titles = self.run.recommender().titles
        made = make_recommender(data, result.student, titles)
        save_student(self.target, config, result, made)

    def _config(
        self, name: str, part: str, settings: Mapping[str, Any], folder: Path
    ) -> TrainingConfig:
        is_started = name == 'student' and (
            self.run.metrics('student')['start'] != 'random'
        )
        numbers = _numbers(settings, part, self.num_trained, is_started)
        config = {'train': numbers}
        length: dict[str, Any] = {'epochs': self.epochs[name], 'validate_every': 0}
        return training_config(config, folder, self.resume, self.progress, **length)


def _best_epoch(run: Run, name: str) -> int:
    if not run.has(name):
        command = {'teacher': 'train PATH --out', 'student': 'distill'}[name]
        raise RunError(
            f"'{run.path}' must have a trained {name} (got none). Train it with "
            f"'promptmm {command} {run.path}'"
        )
    with settings_of(run.folders()[name] / 'metrics.json'):
        # A student may be best before its first epoch.
        return max(1, int(run.metrics(name)['best_epoch']))


def _settings(run: Run, name: str) -> dict[str, Any]:
    """The options of training, with the learning rate that a search chose."""
    config = run.config if name == 'teacher' else run.student_config
    return {**config['train'], **_best_param(run, name, 'learning_rate')}


def _numbers(
    settings: Mapping[str, Any], name: str, num_interactions: int, is_started: bool
) -> dict[str, Any]:
    """The settings with the numbers that 'auto' had when the model was evaluated."""
    config = TrainingConfig(**settings).resolve(
        num_interactions, shared_forward=name == 'teacher', is_started=is_started
    )
    keys = 'batch_size', 'learning_rate', 'propagate_every'
    return {**settings, **{key: getattr(config, key) for key in keys}}


def _student_config(run: Run) -> dict[str, Any]:
    """The settings of the student, with those that a search chose."""
    config = run.student_config
    weights = {**config['loss_weights'], **_best_param(run, 'student', 'l2')}
    train = _settings(run, 'student')
    return {**config, 'train': train, 'loss_weights': weights}


def _best_param(run: Run, name: str, key: str) -> dict[str, Any]:
    """What a search chose; empty if there was none."""
    best = run.metrics(name).get('best_params', {})
    return {key: best[key]} if key in best else {}


def _check_same(run: Run, state: Mapping[str, Any]) -> None:
    folder = where(run.path, 'final') / 'final'
    if folder.parent == run.path:
        raise RunError(f"'{run.path}' has no interrupted refit to continue")
    old = {'train': {}, **read_json(folder / 'config.json')}
    check_resume({'train': {}, **state}, old, subject='models and data of the refit')


def _write_state(target: Run, state: Mapping[str, Any], graph: HeteroData) -> None:
    counts = {f'{key}s': int(graph[key].num_nodes) for key in (USER, ITEM)}
    counts['interactions'] = graph[INTERACTS].edge_index.size(1)
    date = datetime.date.today().isoformat()
    write_json(target.config_file, {**state, **counts, 'date': date})
