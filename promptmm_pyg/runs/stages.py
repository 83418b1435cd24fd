"""The stages of a run: train the teacher, distill the student, evaluate both."""

import datetime
import math
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch_geometric
from torch_geometric.data import HeteroData

from promptmm_pyg import __version__
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    Split,
    validate,
)
from promptmm_pyg.distillation import (
    CandidateSampling,
    DistillationResult,
    distill,
    promptmm_losses,
)
from promptmm_pyg.evaluation import (
    Evaluation,
    evaluate,
    paired_bootstrap,
    slice_by_cold_start,
)
from promptmm_pyg.models import PromptMM
from promptmm_pyg.runs.data import (
    Prepared,
    RunError,
    hash_split,
    load_split,
    prepare,
    read_titles,
)
from promptmm_pyg.runs.run import (
    FORMAT,
    MODEL,
    Run,
    XDict,
    build_student,
    build_teacher,
    read_json,
    save_tensors,
    write_json,
)
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import History, TrainingConfig, train
from promptmm_pyg.training.loop import CHECKPOINT

CPU = torch.device('cpu')
KS = (10, 20, 50)
PAIRS = (
    ('student', 'baseline'),
    ('student', 'truncated_teacher'),
    ('teacher', 'student'),
)
STUDENT_WEIGHTS = {
    'bpr': 1.0,
    'l2': 1e-3,
    'pairwise': 1.0,
    'listwise': 1.0,
    'embedding': 1.0,
}
_TEACHER: dict[str, Any] = {
    'format': FORMAT,
    'data': {},
    'titles': None,
    'prompt': {'start': 'pca', 'out_channels': 32, 'combine': 'concat'},
    'teacher': {},
    'train': {},
    'loss_weights': {},
}
_STUDENT: dict[str, Any] = {
    'student': 'lightgcn',
    'embedding_dim': 64,
    'num_layers': 2,
    'distill': {},
    'train': {},
    'loss_weights': {},
    'losses': {},
    'candidates': {},
}
_MISTAKES = (ValueError, TypeError, ImportError, OSError)
_ASIDE = '.old'


def train_run(
    path: str | Path,
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = CPU,
) -> Run:
    """Trains a teacher into the folder of a run.

    Args:
        path: The folder.
        config: ``data`` with ``format`` and how to read it, as in the ``config.json``
            of a run. Optional: ``titles``, ``prompt``, ``teacher`` (arguments of
            :class:`~promptmm_pyg.models.PromptMM`), ``train`` (arguments of
            :class:`~promptmm_pyg.training.TrainingConfig`) and ``loss_weights``.
        overwrite: Whether to replace a run in ``path``. (default: ``False``)
        resume: Whether to continue one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train; the run can be used anywhere. (default: the CPU)

    Raises:
        RunError: If the folder holds something else, or the data have errors.
        ValueError: If a setting is out of its range. An old run is left unchanged.
    """
    run = Run(path)
    config = {**_TEACHER, **config}
    config['loss_weights'] = {**PromptMM.loss_weights, **config['loss_weights']}
    if not resume:
        run.check_writable(overwrite=overwrite)  # Before contents are encoded.
    data, config['data_sha256'] = load_data(config)
    if resume:
        check_resume(config, run.read_config(), subject='options and data of the run')
    with nullcontext() if resume else backup(run, run.teacher_dir):
        if not resume:
            run.begin(overwrite=overwrite)
        write_json(run.config_file, {**config, 'versions': versions()})
        run.data = data
        model = build_teacher(config, data.train).to(device)
        on_device = data.to(torch.device(device))
        history = train(
            model,
            on_device.split,
            loss_weights=config['loss_weights'],
            inputs=on_device.inputs,
            config=training_config(config, run.teacher_dir, resume, progress),
        )
        save_tensors(run.teacher_dir / MODEL, model.cpu().state_dict())
        write_json(run.teacher_dir / 'metrics.json', best_epoch(history))
    return run


def distill_run(
    run: Run | str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = CPU,
    titles: Mapping[Any, str] | None = None,
) -> Run:
    """Trains a student, its baseline and a recommender into the folder of a run.

    Args:
        run: A run with a trained teacher.
        config: As the ``student/config.json`` of a run, all of it optional:
            ``student`` (``'lightgcn'`` or ``'mf'``), ``embedding_dim``,
            ``num_layers``, ``distill``, ``train``, ``loss_weights``, ``losses``
            (arguments of :func:`~promptmm_pyg.distillation.promptmm_losses`) and
            ``candidates``. (default: the defaults of the library)
        overwrite: Whether to replace a student. (default: ``False``)
        resume: Whether to continue one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train; the run can be used anywhere. (default: the CPU)
        titles: Titles by raw item id, for the recommender. (default: those of the run)

    Raises:
        RunError: If the run has no teacher, or already a student.
        ValueError: If a setting is out of its range. An old student is left unchanged.
    """
    run = Run(run) if isinstance(run, str | Path) else run
    run.check()
    config = {**_STUDENT, **(config or {})}
    config['loss_weights'] = {**STUDENT_WEIGHTS, **config['loss_weights']}
    with nullcontext() if resume else backup(run, run.student_dir):
        _begin_student(run, config, resume=resume, overwrite=overwrite)
        teacher = run.teacher().to(device)
        write_json(run.student_dir / 'config.json', config)
        student = build_student(config, run.data.train).to(device)
        on_device = run.data.to(torch.device(device))
        result = distill(
            student,
            teacher,
            on_device.split,
            config=training_config(config, run.student_dir, resume, progress),
            **distill_arguments(config, on_device),
        )
        _save_student(run, config, result, titles)
    return run


def _begin_student(
    run: Run, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    file = run.student_dir / 'config.json'
    if resume:
        if not file.is_file():
            raise RunError(f"'{run.path}' has no student to continue")
        fix = f". See '{file}', or pass --overwrite to train it again"
        check_resume(config, read_json(file), subject='options of the student', fix=fix)
    elif file.is_file() and not overwrite:
        raise RunError(
            f"'{run.path}' has a student. Pass --resume to continue it or --overwrite "
            f'to replace it'
        )
    else:
        run.remove_student()


def _save_student(
    run: Run,
    config: dict[str, Any],
    result: DistillationResult,
    titles: Mapping[Any, str] | None,
) -> None:
    result = result._replace(targets=result.targets.to(CPU))
    result.student.to(CPU)
    save_tensors(run.student_dir / 'targets.safetensors', result.targets.x_dict)
    metrics = {'student': best_epoch(result.history)}
    if result.baseline is not None and result.baseline_history is not None:
        save_tensors(run.baseline_dir / MODEL, result.baseline.cpu().state_dict())
        metrics['baseline'] = best_epoch(result.baseline_history)
        write_json(run.baseline_dir / 'metrics.json', metrics['baseline'])
    write_json(run.student_dir / 'metrics.json', metrics['student'])
    card = {
        'name': f'Recommender: a {config["student"]} student of PromptMM',
        'metrics': metrics,
        'training': config,
    }
    _recommender(run, result, titles).save(run.recommender_dir, card=card)
    # Last: the student counts as trained once this file exists.
    save_tensors(run.student_dir / MODEL, result.student.state_dict())


def _recommender(
    run: Run, result: DistillationResult, titles: Mapping[Any, str] | None
) -> Recommender:
    data, source = run.data, run.config['titles']
    if source is not None:
        by_text = read_titles(source['path'], source['item'], source['title'])
        item_ids = data.val[ITEM].raw_id.tolist()
        titles = {raw: by_text[str(raw)] for raw in item_ids if str(raw) in by_text}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        # The features of the training graph are standardized, those of new items not;
        # its interactions are the message edges of the others.
        known = Split(data.val, data.val, data.test)
        recommender = Recommender.from_model(
            result.student, known, inputs=data.inputs, titles=titles
        )
    for warning in caught:
        print(f'warning: {warning.message}', file=sys.stderr)
    return recommender


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
    x_dicts = run.embeddings()
    results = evaluate_embeddings(x_dicts, graph)
    record_evaluation(run, split, x_dicts, results, graph)
    return results


def evaluate_embeddings(
    x_dicts: Mapping[str, XDict], graph: HeteroData
) -> dict[str, Evaluation]:
    """The evaluation of each model's embeddings, by name."""
    num_items = int(graph[ITEM].num_nodes)
    ks = sorted({min(k, num_items) for k in KS})
    return {name: evaluate(x, graph, ks=ks) for name, x in x_dicts.items()}


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
) -> None:
    """Writes an evaluation; that of test with the times of all earlier ones."""
    file = run.evaluation_file(split)
    content: dict[str, Any] = {
        'split': split,
        'num_users': int(next(iter(results.values())).users.numel()),
        'embedding_dim': {name: x[ITEM].size(1) for name, x in x_dicts.items()},
        'metrics': {name: _without_nan(x.metrics) for name, x in results.items()},
        'differences': {
            f'{a} - {b}': {
                metric: vars(
                    paired_bootstrap(
                        results[a].per_user[metric], results[b].per_user[metric]
                    )
                )
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
    if split == 'test':
        reads = read_json(file).get('test_reads', []) if file.is_file() else []
        print(
            'note: test should be read once, after all choices are made; it was read '
            f'{len(reads)} times before',
            file=sys.stderr,
        )
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        reads = [*reads, {'time': time, 'models': sorted(results)}]
        content['test_reads'] = reads
    write_json(file, content)


def _without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(x) else x for key, x in metrics.items()}


def load_data(config: Mapping[str, Any]) -> tuple[Prepared, str]:
    """The graphs of a configuration, and their hash; warnings are shown on stderr.

    Raises:
        RunError: If the data have errors, or nothing is held out for validation.
    """
    split = load_split(config['data'])
    if config['data']['format'] != 'synthetic':
        check_split(split, config['data']['path'])
    return prepare(split, config['prompt']), hash_split(split)


def check_split(split: Split, path: str) -> None:
    """Shows the warnings about a split on stderr.

    Raises:
        RunError: If the data have errors, or nothing is held out for validation.
    """
    issues = validate(split, raise_on_error=False)
    errors = [issue for issue in issues if issue.level == 'error']
    if errors:
        raise RunError(
            f'the data have {len(errors)} errors; the first: {errors[0]}. List all '
            f"with 'promptmm data check {path}'"
        )
    for issue in issues:
        print(f'warning: {issue}', file=sys.stderr)
    if split.val[INTERACTS].edge_label_index.size(1) == 0:
        raise RunError(
            'the data must hold out interactions for validation, which chooses the '
            'epoch (got none). Hold some out with --val-ratio'
        )


def distill_arguments(config: Mapping[str, Any], data: Prepared) -> dict[str, Any]:
    """The arguments of :func:`~promptmm_pyg.distillation.distill` for a student."""
    weights = dict(config['loss_weights'])
    names = ('pairwise', 'listwise', 'embedding')
    losses = promptmm_losses(
        **{f'{name}_weight': weights.pop(name) for name in names}, **config['losses']
    )
    return {
        'losses': losses,
        'loss_weights': weights,
        'candidates': CandidateSampling(**config['candidates']),
        'inputs': data.inputs,
        'teacher_inputs': data.inputs,
        **config['distill'],
    }


def training_config(
    config: Mapping[str, Any], folder: Path, resume: bool, progress: bool
) -> TrainingConfig:
    """The training of a configuration; the run may have been interrupted before its
    first checkpoint.
    """
    resume = resume and (folder / CHECKPOINT).is_file()
    return TrainingConfig(
        **config['train'], run_dir=folder, resume=resume, progress=progress
    )


def best_epoch(history: History) -> dict[str, Any]:
    """The validation metrics of the best epoch, as in ``metrics.json``."""
    record = history.records[history.best_epoch - 1]
    return {
        'monitor': history.monitor,
        'best_value': history.best_value,
        'best_epoch': history.best_epoch,
        'num_epochs': history.num_epochs,
        'validation': record['validation'],
    }


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    return {
        'promptmm_pyg': __version__,
        'torch': torch.__version__,
        'torch_geometric': torch_geometric.__version__,
        'numpy': np.__version__,
        'python': platform.python_version(),
    }


def check_resume(
    new: Mapping[str, Any], old: Mapping[str, Any], *, subject: str, fix: str = ''
) -> None:
    """Checks that a run is resumed with its own settings; ``epochs`` may grow.

    Raises:
        RunError: If a setting differs; the message names the first one.
    """
    epochs = [config['train'].get('epochs') for config in (new, old)]
    if None not in epochs and epochs[0] < epochs[1]:
        raise RunError(
            f'--resume may raise --epochs, not lower it (was {epochs[1]}, is '
            f'{epochs[0]})'
        )
    difference = _first_difference(old, new)
    if difference is not None:
        name, before, now = difference
        raise RunError(
            f"--resume requires the {subject} ('{name}' was {before}, is {now}){fix}"
        )


def _first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ''
) -> tuple[str, Any, Any] | None:
    # The file of a run also holds what is not an option, such as versions.
    keys = [*new, *(key for key in old if prefix and key not in new)]
    for key in keys:
        before, value, name = old.get(key), new.get(key), f'{prefix}{key}'
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = _first_difference(before, value, f'{name}.')
            if inner is not None:
                return inner
        elif before != value and name != 'train.epochs':
            return name, before, value
    return None


@contextmanager
def backup(run: Run, training: Path) -> Iterator[None]:
    """Restores the run if an error is raised before the first epoch is done.

    Args:
        run: Is emptied in the block, and trained.
        training: The folder of the checkpoints of this training.
    """
    is_new = not run.path.exists()
    if not is_new and not _is_run(run):
        yield  # A folder of something else is not touched.
        return
    aside = run.path / _ASIDE
    _link_all(run, aside)
    try:
        yield
    except _MISTAKES:
        if not (training / CHECKPOINT).is_file():
            for part in _parts(run):
                _remove(part)
            for old in aside.iterdir() if aside.is_dir() else ():
                old.rename(run.path / old.name)
        raise
    finally:
        _remove(aside)
        if is_new and run.path.is_dir() and not any(run.path.iterdir()):
            run.path.rmdir()


def _parts(run: Run) -> list[Path]:
    evaluations = [run.evaluation_file(split) for split in ('val', 'test')]
    folders = [run.teacher_dir, run.student_dir, run.recommender_dir]
    return [run.config_file, *folders, *evaluations]


def _is_run(run: Run) -> bool:
    try:
        run.read_config()
    except RunError:
        return False
    return True


def _link_all(run: Run, aside: Path) -> None:
    """Adds a second name for every file, which costs no space."""
    _remove(aside)
    for part in _parts(run):
        if part.is_dir():
            shutil.copytree(part, aside / part.name, copy_function=_link)
        elif part.is_file():
            aside.mkdir(exist_ok=True)
            _link(str(part), str(aside / part.name))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # Not every file system has links.
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
