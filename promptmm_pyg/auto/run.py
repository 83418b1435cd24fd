"""The search: closed forms, trained models, their ensemble, its student, the proof."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.auto.budget import Budget, Screen, duration, leaders
from promptmm_pyg.auto.ensemble import (
    Choice,
    ScoreLists,
    Tables,
    choose_ensemble,
    ranks_items,
)
from promptmm_pyg.auto.student import distill_student, student_seconds
from promptmm_pyg.auto.trials import (
    ETA,
    MIN_SECONDS,
    REFERENCES,
    Trial,
    as_config,
    best_trials,
    draw_trial,
    is_closed_form,
    models_for,
    next_trial,
    setting,
)
from promptmm_pyg.auto.work import (
    TABLES,
    Source,
    fit_closed_form,
    load_tables,
    train_trial,
)
from promptmm_pyg.auto.workers import Task, Work, Workers, collect, processes
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.limits import available_memory, cores
from promptmm_pyg.models import MODELS
from promptmm_pyg.runs import Run, RunError, evaluate_run
from promptmm_pyg.runs.folder import exclusive, read_json, staged, write_json
from promptmm_pyg.runs.run import AUTO, FORMAT
from promptmm_pyg.training.validation import sample_users

CLOSED_FORM_TRIALS = 6
MAX_TEACHERS = 48
_FIRST = 0.5  # Of the search, for the first training of every model.
# Of the search: until when every model begins before one is continued, and until when
# new trials begin.
_BREADTH, _EXPLORE = 0.5, 0.7
_LEAST_EPOCHS = 3  # For which a trial is continued.
# How trials are weighted during the search: validation users, items of a list and the
# largest share of the time.
_USERS, _LIST, _WEIGHING = 1000, 20, 0.05


def auto_run(
    path: str | Path,
    data: Mapping[str, Any],
    *,
    minutes: float = 30.0,
    models: Sequence[str] | None = None,
    embedding_dim: int = 32,
    jobs: int | None = None,
    seed: int = 0,
    titles: Mapping[str, Any] | None = None,
    device: str = 'cpu',
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Trains and tunes many models within a budget of time, weights them to an ensemble
    on validation, distills it into a small student, and compares all on test, once.

    The result is a run like any other. ``members`` has a run of every teacher, the best
    of which is the run's own; its student is that of all of them.

    Args:
        path: The folder of the run.
        data: ``format`` and how to read the data, as in the ``config.json`` of a run.
        minutes: The budget of wall-clock time. (default: ``30.0``)
        models: Names of ``MODELS`` to try. (default: all that the data allow)
        embedding_dim: The width of the student. (default: ``32``)
        jobs: Models that are trained side by side. (default: by cores and memory)
        seed: Of trainings and of drawn hyper-parameters. (default: ``0``)
        titles: A table of titles, as in the ``config.json`` of a run. (default: none)
        device: Where to train. (default: ``'cpu'``)
        overwrite: Whether to replace a run in ``path``. (default: ``False``)
        resume: Whether to go on with an interrupted search, or with one whose
            ``minutes`` were raised. (default: ``False``)
        progress: Whether to show progress. (default: ``True``)

    Raises:
        RunError: If the folder holds something else, the data have errors, or no model
            can be trained within the budget.
        KeyboardInterrupt: After Ctrl-C, when the best so far is a run.
    """
    check_positive('embedding_dim', embedding_dim)
    if jobs is not None:
        check_positive('jobs', jobs)
    for model in models or ():
        check_choice('models', model, MODELS)
    path = Path(path)
    Budget(minutes)  # Errors are raised before any work.
    state = _state(path, resume=resume, overwrite=overwrite)
    budget = Budget(minutes, state.get('seconds', 0.0))
    settings = {
        'format': FORMAT,
        'data': dict(data),
        'titles': titles,
        'prompt': None,
        'train': {'seed': seed},
    }
    with exclusive(path):
        search = _Search(
            path, Source(settings, device), budget, Screen(budget, not progress)
        )
        search.restore(state)
        search.prepare(models, jobs, {'seed': seed, 'width': embedding_dim})
        try:
            search.run()
        finally:
            search.workers.close()
    return Run.open(path)


def _state(path: Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """The state of an interrupted search; an earlier run is removed."""
    file = path / AUTO
    if resume:
        if not file.is_file():
            raise RunError(
                f"'{path}' must be of 'promptmm auto' to be continued (got no {AUTO}). "
                f'Leave out --resume'
            )
        return read_json(file)
    if file.is_file() and not overwrite:
        raise RunError(
            f"'{path}' contains a run. Choose another --out, or pass --resume to "
            f'continue it or --overwrite to replace it'
        )
    if file.is_file():
        with exclusive(path):
            for entry in ('members', 'work', AUTO):
                target = path / entry
                shutil.rmtree(target) if target.is_dir() else target.unlink(True)
    Run(path).check_writable(overwrite=overwrite)
    return {}


class _Search:
    """One search in a folder."""

    workers: Workers

    def __init__(
        self, path: Path, source: Source, budget: Budget, screen: Screen
    ) -> None:
        self.path, self.source, self.budget, self.screen = path, source, budget, screen
        self.trials: list[Trial] = []
        self.choice: Choice | None = None
        self.interrupted = False
        self.seed, self.width = 0, 32
        self.evaluation = 1.0  # Seconds of one evaluation.
        self.first = ''
        self.students: list[dict[str, Any]] = []
        self._next_weighing = 0.0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the trials of an interrupted search."""
        for content in state.get('trials', ()):
            trial = Trial(**{**content, 'value': content['value'] or float('-inf')})
            if trial.status == 'running':
                trial.status = 'paused' if trial.is_usable else 'new'
            self.trials.append(trial)
        self.students = list(state.get('students', ()))
        self.evaluation = state.get('evaluation', self.evaluation)

    def save(self, **more: Any) -> None:
        """Writes the state of the search."""
        trials = [asdict(trial) for trial in self.trials]
        for content in trials:
            if content['value'] == float('-inf'):
                content['value'] = None
        references = {
            trial.model: f'members/{trial.name}'
            for trial in best_trials(self.trials).values()
            if trial.model in REFERENCES and self.tables_of(trial).is_file()
        }
        content = {
            'minutes': self.budget.total / 60,
            'seconds': self.budget.used,
            'evaluation': self.evaluation,
            'monitor': self.source.settings['train']['monitor'],
            'trials': trials,
            'ensemble': self.choice._asdict() if self.choice else None,
            'students': self.students,
            'references': references,
        }
        write_json(self.path / AUTO, {**content, **more})

    def prepare(
        self, models: Sequence[str] | None, jobs: int | None, options: Mapping[str, int]
    ) -> None:
        """Reads the data and plans the stages."""
        self.seed, self.width = options['seed'], options['width']
        data, settings = self.source.data, self.source.settings
        sizes = data.train.num_nodes_dict
        num_edges = data.train[INTERACTS].edge_index.size(1)
        self.k = min(20, sizes[ITEM])
        settings['train'] |= {
            'monitor': f'Recall@{self.k}',
            'epochs': 500,
            'patience': 8,
            'validate_every': 2,
            'checkpoint_seconds': 20.0,
        }
        has_features = self.source.has_features(data)
        self.models = models_for(models, has_features=has_features)
        num_bytes = 600_000_000 + 3000 * (sizes[USER] + sizes[ITEM])
        jobs, threads = processes(jobs, cores(), num_bytes, available_memory())
        self.workers = Workers(jobs, threads, self.source.device)
        line = self.screen.line
        line(
            f'{sizes[USER]} users, {sizes[ITEM]} items, {num_edges} training '
            f'interactions, {len(self.models)} models'
        )
        if not has_features:
            line('no item features: only models of ids are trained')
        line(
            f'{self.budget.total / 60:g} minutes, {jobs} trainings at a time, each '
            f'with {threads} thread{"s" * (threads > 1)}'
        )

    def run(self) -> None:
        """All stages."""
        with self.ended_by_interrupt(self._finish):
            self.fit_closed_forms()
            self.measure_reserve()
            self.train_models()
        best = best_trials(self.trials)
        if not best and self.interrupted:
            raise KeyboardInterrupt
        if not best:
            raise RunError(self._too_short())
        first = next(iter(best.values()))
        self.first = first.name
        self.screen.line(f'search done: {leaders(self.trials, 5)}')
        self.choose(first)
        self.place_teacher(first)
        distill_student(self)
        self.remove_others(first)
        self.save()
        if self.interrupted:
            raise KeyboardInterrupt
        self.screen.line('evaluating on test, once')
        run = Run.open(self.path)
        run.data = self.source.data
        evaluate_run(run, 'val')
        if run.data.test[INTERACTS].edge_label_index.size(1):
            evaluate_run(run, 'test')
        self.save(finished=True)
        self.screen.line(f'done, {self.budget.used / 60:.1f} minutes')

    @contextmanager
    def ended_by_interrupt(
        self, on_result: Callable[[str, Mapping[str, Any]], None]
    ) -> Iterator[None]:
        """On Ctrl-C, running tasks end with their best epoch, and the search goes on
        with what there is.
        """
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True
            self.screen.line('interrupted: a run is made of the best so far')
            self.workers.interrupt()
            while self.workers.running:
                for name, result in self.workers.finished(1.0):
                    on_result(name, result)

    def fit_closed_forms(self) -> None:
        """Tunes the closed forms, and makes a run of the best setting of each."""
        known = {trial.model for trial in self.trials}
        models = [m for m in self.models if is_closed_form(m) and m not in known]
        counts = {m: CLOSED_FORM_TRIALS if _is_tuned(m) else 1 for m in models}
        tasks = [
            self._task(
                f'{model}/{n}', fit_closed_form, model, setting(model, n, self.seed)
            )
            for n in range(CLOSED_FORM_TRIALS)
            for model in models
            if n < counts[model]
        ]
        until = self.budget.tuned_until
        results = collect(self.workers, tasks, self._show, until)
        for model in models:
            values = {
                n: results[f'{model}/{n}']['value']
                for n in range(counts[model])
                if 'value' in results.get(f'{model}/{n}', ())
            }
            trial = Trial(model, model, tried=len(values))
            self.trials.append(trial)
            if values:
                best = max(values, key=lambda n: values[n])
                trial.params = setting(model, best, self.seed)
            else:
                result = results.get(f'{model}/0', {'error': 'no time for it'})
                self._finish(model, result)
        times = [result.get('evaluation', 0.0) for result in results.values()]
        self.evaluation = max(times, default=self.evaluation)
        new = [trial for trial in self.trials if trial.model in models]
        tasks = [self._training(x, 0.0) for x in new if x.status == 'new']
        for name, result in collect(self.workers, tasks, self._show).items():
            self._finish(name, result)

    def measure_reserve(self) -> None:
        """Measures a student of the closed forms for one epoch, to know how long the
        last stages take.
        """
        closed = [x for x in self.trials if is_closed_form(x.model) and x.is_usable]
        if closed:
            seconds = student_seconds(self, [trial.name for trial in closed])
            self.budget.set_reserve(seconds + 2 * self.proof_seconds)
        end = duration(self.budget.search_end - self.budget.started)
        self.screen.line(f'models are trained until {end}, then ensemble and student')

    @property
    def proof_seconds(self) -> float:
        """The time of the evaluations at the end."""
        return 10 * self.evaluation

    def train_models(self) -> None:
        """Trains the other models by successive halving, until the time is over."""
        known = {trial.model for trial in self.trials}
        names = [m for m in self.models if not is_closed_form(m)]
        names.sort(
            key=lambda m: m not in REFERENCES
        )  # Else in order, cheap ones first.
        self.trials += [Trial(m, m) for m in names if m not in known]
        budget, workers = self.budget, self.workers
        start, end = budget.clock(), budget.search_end
        if not names or end <= start:
            return
        share = _FIRST * (end - start) * workers.jobs / len(names)
        while True:
            now = budget.clock()
            done = (now - start) / (end - start)
            while not workers.is_full and end - now > MIN_SECONDS:
                trial = self._next(done)
                if trial is None:
                    break
                if trial.epoch_seconds * _LEAST_EPOCHS > end - now:
                    trial.status = 'done'  # It keeps its best epoch.
                    continue
                seconds = max(share, MIN_SECONDS) * ETA ** (trial.rung + 1)
                task = self._training(trial, seconds)
                task.deadline = min(end, now + max(4 * seconds, 10.0))
                trial.status = 'running'
                workers.start(task)
            if not workers.running:
                return
            for name, result in workers.finished(0.5):
                self._finish(name, result)
                self.save()
            self.screen.status(self.trials, workers.running)

    def _next(self, done: float) -> Trial | None:
        """The next trial, by the share of the time that is over."""
        new = (trial for trial in self.trials if trial.status == 'new')
        if done < _BREADTH and (trial := next(new, None)) is not None:
            return trial
        self.weigh()
        trial = next_trial(self.trials, explore=done < _EXPLORE)
        if trial is None and done < 0.95:
            trial = draw_trial(self.trials, self.seed)
            if trial is not None:
                self.trials.append(trial)
        return trial or next_trial(self.trials, explore=False)

    def _training(self, trial: Trial, seconds: float) -> Task:
        config = as_config(trial, self.source.settings)
        member = self.path / 'members' / trial.name
        task = self._task(trial.name, train_trial, member, config)
        task.seconds = seconds
        return task

    def _task(self, key: str, work: Work, *arguments: Any) -> Task:
        """A task of the closed forms' time."""
        folder = self.path / 'work' / key
        end = self.budget.closed_forms_end
        return Task(key, work, folder, (self.source, *arguments), 0.0, end)

    def _show(self, name: str, result: Mapping[str, Any]) -> None:
        if 'value' in result:
            self.screen.line(f'{name:<20} {result["value"]:.4f}')
        self.screen.status(self.trials, self.workers.running)

    def _finish(self, name: str, result: Mapping[str, Any]) -> None:
        """Takes the result of a training into its trial, and prints a line."""
        trial = next((trial for trial in self.trials if trial.name == name), None)
        if trial is None:  # A setting of a closed form, when it was interrupted.
            return
        trial.seconds += result.get('wall', 0.0)
        trial.cpu_seconds += result.get('cpu', 0.0)
        if 'error' in result:
            kept = trial.is_usable  # Of its earlier training.
            trial.status = 'done' if kept else 'failed'
            trial.error = '' if kept else result['error']
            what = 'not continued' if kept else 'left out'
            self.screen.line(f'{name:<20} {what}: {result["error"]}')
            return
        trial.rung += 1
        trial.value, trial.epochs = result['value'], result['epochs']
        trial.weight = trial.weight or None  # Where it was zero, it is found anew.
        trial.status = 'paused' if result['stopped'] else 'done'
        if not is_closed_form(trial.model):
            note = '' if trial.status == 'paused' else ', converged'
            self.screen.line(
                f'{name:<20} {trial.value:.4f}  {trial.epochs} epochs, '
                f'{trial.seconds:.0f} s{note}; best {leaders(self.trials, 1)}'
            )

    def weigh(self) -> None:
        """Weights all trials so far in their ensemble, unless that would take too much
        of the time.
        """
        started = self.budget.clock()
        if started < self._next_weighing:
            return
        tables = self._tables()
        if len(tables) > 1:
            data = self.source.data
            val = sample_users(data.val, _USERS, self.seed)
            lists = ScoreLists(tables, data.train, val, self.k, _LIST)
            weights = dict(zip(tables, lists.most_likely().tolist(), strict=True))
            for trial in self.trials:
                if trial.weight is not None or trial.name in tables:
                    trial.weight = weights.get(trial.name, 0.0)
        now = self.budget.clock()
        self._next_weighing = now + (now - started) / _WEIGHING

    def _tables(self, first: Trial | None = None) -> dict[str, Tables]:
        """The embeddings of the trials that rank items, as far as memory allows: of
        the first one, of those that were never weighted, of those with most weight, and
        of the best.
        """
        usable = [x for x in self.trials if x.is_usable and self.tables_of(x).is_file()]
        usable.sort(
            key=lambda x: (
                x is not first,
                -math.inf if x.weight is None else -x.weight,
                -x.value,
            )
        )
        tables: dict[str, Tables] = {}
        for trial in usable[:MAX_TEACHERS]:
            loaded = load_tables(self.tables_of(trial))
            if ranks_items(trial.name, loaded):
                tables[trial.name] = loaded
            num_bytes = sum(x.nbytes for x in loaded.values())
            if available_memory() < 4 * num_bytes * self.workers.jobs:
                break
        return tables

    def tables_of(self, trial: Trial) -> Path:
        """The file of the embeddings of a trial."""
        return self.path / 'work' / trial.name / TABLES

    def choose(self, first: Trial) -> None:
        """Chooses the ensemble."""
        tables = self._tables(first)
        data = self.source.data
        self.choice = choose_ensemble(
            tables, data.train, data.val, k=self.k, seed=self.seed
        )
        weights = ', '.join(f'{n} {w:.2f}' for n, w in self.choice.weights.items())
        self.screen.line(
            f'ensemble {self.choice.fitted:.4f} where fitted, {self.choice.judged:.4f} '
            f'on other users, the best model {self.choice.single:.4f}: {weights}'
        )
        self.save()

    def place_teacher(self, first: Trial) -> None:
        """Makes the best trial the teacher of the run."""
        source = self.path / 'members' / first.name
        with staged(self.path, 'teacher', resume=False) as folder:
            folder.mkdir(exist_ok=True)
            shutil.copy2(source / 'config.json', folder / 'config.json')
            shutil.copytree(source / 'teacher', folder / 'teacher', dirs_exist_ok=True)

    def remove_others(self, first: Trial) -> None:
        """Removes the trials that are neither members nor references."""
        assert self.choice is not None
        best = best_trials(self.trials)
        names = {first.name, *self.choice.weights}
        names |= {best[m].name for m in REFERENCES if m in best}
        for trial in self.trials:
            if trial.name not in names and not self.interrupted:
                for folder in ('members', 'work'):
                    shutil.rmtree(self.path / folder / trial.name, ignore_errors=True)
                if trial.is_usable:
                    trial.status = 'removed'

    def _too_short(self) -> str:
        needed = [x for x in self.trials if x.error]
        reason = f'; {needed[0].name}: {needed[0].error}' if needed else ''
        return (
            f'--minutes must allow one training (got {self.budget.total / 60:g}, in '
            f'which no model was trained{reason}). Pass --minutes '
            f'{max(2, round(self.budget.total / 30))} or more, or other --models'
        )


def _is_tuned(model: str) -> bool:
    return bool(MODELS[model].search_space.space)
