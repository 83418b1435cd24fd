"""The stages of a run: train the teacher, distill the student."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, versions
from promptmm_pyg.data import ITEM, Split
from promptmm_pyg.distillation import (
    CandidateSampling,
    DistillationResult,
    distill,
    promptmm_losses,
)
from promptmm_pyg.models import MODELS
from promptmm_pyg.models._resolve import ModelClass, file_hash, full_name, short_name
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.runs.data import (
    Prepared,
    RunError,
    check_data,
    hash_split,
    load_split,
    prepare,
    read_titles,
    warn_titles,
)
from promptmm_pyg.runs.folder import (
    MODEL,
    exclusive,
    save_tensors,
    staged,
    where,
    write_json,
)
from promptmm_pyg.runs.run import (
    FORMAT,
    Run,
    Trained,
    build_model,
    build_student,
    model_class,
    student_class,
)
from promptmm_pyg.runs.teachers import student_teacher
from promptmm_pyg.serving import Recommender
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import (
    Callback,
    History,
    LastEpochWarning,
    TrainingConfig,
    train,
)
from promptmm_pyg.training.loop import CHECKPOINT

CPU = torch.device('cpu')
_PACKAGES = ('promptmm_pyg', 'torch', 'torch_geometric', 'numpy')
_KD_WEIGHTS = {'pairwise': 1.0, 'listwise': 1.0, 'embedding': 1.0}
_TEACHER: dict[str, Any] = {
    'format': FORMAT,
    'data': {},
    'titles': None,
    'model': 'PromptMM',
    'prompt': {'start': 'pca', 'out_channels': 32, 'combine': 'concat'},
    'teacher': {},
    'train': {},
    'loss_weights': {},
}
_STUDENT: dict[str, Any] = {
    'teachers': [],
    'teacher_scale': 3.0,
    'model': 'LightGCN',
    'student': {},
    'distill': {},
    'train': {},
    'loss_weights': {},
    'losses': {},
    'candidates': {},
}


def student_weights(model: ModelClass) -> dict[str, float]:
    """The default weights of a student's own losses and of those of distillation."""
    return {**model.loss_weights, **_KD_WEIGHTS}


def trained_models() -> list[str]:
    """The models of the library that are trained in steps, which can be students."""
    return [name for name, cls in MODELS.items() if not issubclass(cls, ClosedForm)]


def with_file(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the absolute path of its model's file, if it has one, and
    the hash of the file as ``model_sha256``, unless it has one already.
    """
    name = full_name(config['model'])
    return {**file_hash(name), **config, 'model': name}


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of data and teacher with all sections."""
    config = with_file({**_TEACHER, **config})
    cls: Any = model_class(config)
    config['loss_weights'] = {**cls.loss_weights, **config['loss_weights']}
    if not cls.reads_prompt:
        config['prompt'] = None
    return config


def write_config(folder: Path, config: Mapping[str, Any], data: Prepared) -> None:
    """Writes the ``config.json`` of a run."""
    content = {**config, **_columns(data), 'versions': versions(*_PACKAGES)}
    write_json(folder / 'config.json', content)


def train_run(
    path: str | Path,
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = CPU,
    loaded: tuple[Prepared, str] | None = None,
    callbacks: tuple[Callback, ...] = (),
    on_trained: Callable[[Trained], None] | None = None,
) -> Run:
    """Trains a teacher, any model of the library, into the folder of a run.

    Args:
        path: The folder.
        config: ``data`` with ``format`` and how to read it, as in the ``config.json``
            of a run. Optional: ``titles``, ``model`` (a name of
            :func:`~promptmm_pyg.models.get_model`, to which a file must have been
            passed once; default: ``'PromptMM'``), ``prompt``, ``teacher`` (arguments of
            the model), ``train`` (arguments of
            :class:`~promptmm_pyg.training.TrainingConfig`) and ``loss_weights``.
        overwrite: Whether to replace a run in ``path``. (default: ``False``)
        resume: Whether to continue one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train; the run can be used anywhere. (default: the CPU)
        loaded: What ``load_data`` returned for the settings of the data, for several
            trainings on them. (default: the data are read)
        callbacks: As in :class:`~promptmm_pyg.training.TrainingConfig`.
            (default: none)
        on_trained: Called with the trained model, of which no recommender is made then.
            (default: ``None``)

    Raises:
        RunError: If the folder holds something else, or the data have errors.
        ValueError: If a setting is out of its range. An old run is left unchanged.
    """
    run = Run(path)
    config = complete_config(config)
    if not resume:
        run.check_writable(overwrite=overwrite)  # Before contents are encoded.
    elif not run.config_file.is_file():
        run.read_config()
    with exclusive(run.path):
        data, config['data_sha256'] = loaded or load_data(config)
        if resume:
            old = Run(where(run.path, 'teacher')).read_config()
            check_resume(config, old, subject='options and data of the run')
        with staged(run.path, 'teacher', resume=resume) as folder:
            write_config(folder, config, data)
            teacher_dir = folder / 'teacher'
            options: dict[str, Any] = {'callbacks': callbacks}
            how = training_config(config, teacher_dir, resume, progress, **options)
            target = Run(folder)
            served = None if on_trained else target.teacher_recommender_dir
            model = train_teacher(target, config, data, how, device, recommender=served)
            if on_trained is not None:
                on_trained(model)
    run.data = data
    run.check()
    return run


def train_teacher(
    target: Run,
    config: Mapping[str, Any],
    data: Prepared,
    how: TrainingConfig,
    device: str | torch.device = CPU,
    *,
    recommender: Path | None = None,
    titles: Mapping[Any, str] | None = None,
) -> Trained:
    """Trains a teacher and writes it to ``target``, and its recommender, with titles,
    to a folder, if one is given. Returns the trained model.
    """
    model = build_model(config, 'teacher', data.train)
    if isinstance(model, ClosedForm):
        history = train(model, data.split, config=how)
    else:
        model.to(device)
        on_device = data.to(torch.device(device))
        with _last_epoch_on_stderr('teacher'):
            history = train(
                model,
                on_device.split,
                loss_weights=config['loss_weights'],
                inputs=on_device.inputs,
                config=how,
            )
    save_teacher(
        target, config, data, model, history, recommender=recommender, titles=titles
    )
    return model


def save_teacher(
    target: Run,
    config: Mapping[str, Any],
    data: Prepared,
    model: Trained,
    history: History,
    *,
    recommender: Path | None = None,
    titles: Mapping[Any, str] | None = None,
    search: Mapping[str, Any] | None = None,
) -> None:
    """Writes a trained teacher; ``search`` is what its metrics contain about trials."""
    served: torch.nn.Module | dict[str, Tensor]
    if isinstance(model, ClosedForm):
        state = served = model.as_output().x_dict
    else:
        served = model.cpu()
        state = served.state_dict()
    metrics = {**best_epoch(history), **(search or {})}
    write_json(target.teacher_dir / 'metrics.json', metrics)
    if recommender is not None:
        card = {
            'name': f'Recommender: {short_name(config["model"])}',
            'metrics': {'teacher': metrics},
            'training': {
                'model': short_name(config['model']),
                **{key: config[key] for key in ('teacher', 'train')},
            },
        }
        made = make_recommender(data, served, titles_of(config, data, titles))
        made.save(recommender, card=card)
    # Last: a model counts as trained once this file exists.
    save_tensors(target.teacher_dir / MODEL, state)


def distill_run(
    run: Run | str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = CPU,
    titles: Mapping[Any, str] | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> Run:
    """Trains a student, its baseline and a recommender into the folder of a run.

    Args:
        run: A run with a trained teacher.
        config: As the ``student/config.json`` of a run, all of it optional:
            ``teachers`` (folders of further runs on the same data), ``teacher_scale``
            (the sum of their weights), ``model`` (as for :func:`train_run`; default:
            ``'LightGCN'``), ``student`` (its arguments), ``distill``, ``train``,
            ``loss_weights``, ``losses`` (arguments of
            :func:`~promptmm_pyg.distillation.promptmm_losses`) and ``candidates``.
            (default: the defaults of the library)
        overwrite: Whether to replace a student. (default: ``False``)
        resume: Whether to continue one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train; the run can be used anywhere. (default: the CPU)
        titles: Titles by raw item id, for the recommender. (default: those of the run)
        callbacks: As in :class:`~promptmm_pyg.training.TrainingConfig`.
            (default: none)

    Raises:
        RunError: If the run has no teacher, or already a student.
        ValueError: If a setting is out of its range. An old student is left unchanged.
    """
    run = Run.open(run)
    config = with_file({**_STUDENT, **(config or {})})
    weights = student_weights(student_class(config))
    config['loss_weights'] = {**weights, **config['loss_weights']}
    with exclusive(run.path):
        _check_student(run, config, resume=resume, overwrite=overwrite)
        with staged(run.path, 'student', resume=resume) as folder:
            target = Run(folder)
            teacher = student_teacher(run, config, target.student_dir)
            write_json(target.student_dir / 'config.json', config)
            options: dict[str, Any] = {'callbacks': callbacks}
            student_dir = target.student_dir
            how = training_config(config, student_dir, resume, progress, **options)
            result = train_student(config, teacher, run.data, how, device)
            titles = titles_of(run.config, run.data, titles)
            recommender = make_recommender(run.data, result.student, titles)
            save_student(target, config, result, recommender)
    return run


def train_student(
    config: Mapping[str, Any],
    teacher: Trained | SoftTargets,
    data: Prepared,
    how: TrainingConfig,
    device: str | torch.device = CPU,
    **options: Any,
) -> DistillationResult:
    """Distills a student; the result is on the CPU."""
    student = build_student(config, data.train).to(device)
    on_device = data.to(torch.device(device))
    if not isinstance(teacher, ClosedForm):
        teacher = teacher.to(device)
    with _last_epoch_on_stderr():
        result = distill(
            student,
            teacher,
            on_device.split,
            config=how,
            **{**distill_arguments(config, on_device), **options},
        )
    result.student.to(CPU)
    if result.baseline is not None:
        result.baseline.to(CPU)
    return result._replace(targets=result.targets.to(CPU))


def _check_student(
    run: Run, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    target = Run(where(run.path, 'student'))
    file = target.student_dir / 'config.json'
    if resume:
        if not file.is_file():
            raise RunError(f"'{run.path}' has no student to continue")
        fix = f". See '{file}', or pass --overwrite to train it again"
        old = target.student_config
        check_resume(config, old, subject='options of the student', fix=fix)
    elif file.is_file() and not overwrite:
        raise RunError(
            f"'{run.path}' has a student. Pass --resume to continue it or --overwrite "
            f'to replace it'
        )


def save_student(
    target: Run,
    config: Mapping[str, Any],
    result: DistillationResult,
    recommender: Recommender | None,
) -> None:
    """Writes a student, its baseline and its recommender, if there is one, to
    ``target``.
    """
    folder = target.student_dir
    save_tensors(folder / 'targets.safetensors', result.targets.x_dict)
    search = _search_of(result)
    own = {**best_epoch(result.history), 'start': result.start, **search['student']}
    metrics: dict[str, dict[str, Any]] = {'student': own}
    if result.baseline is not None and result.baseline_history is not None:
        save_tensors(target.baseline_dir / MODEL, result.baseline.state_dict())
        metrics['baseline'] = {
            **best_epoch(result.baseline_history),
            **search['baseline'],
        }
        write_json(target.baseline_dir / 'metrics.json', metrics['baseline'])
    write_json(folder / 'metrics.json', metrics['student'])
    if recommender is not None:
        recommender.save(target.recommender_dir, card=student_card(config, metrics))
    # Last: the student counts as trained once this file exists.
    save_tensors(folder / MODEL, result.student.state_dict())


def student_card(
    config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What a student's recommender records about its training."""
    name = short_name(config['model'])
    return {
        'name': f'Recommender: a {name} student',
        'metrics': metrics,
        'training': {**config, 'model': name},
    }


def _search_of(result: DistillationResult) -> dict[str, dict[str, Any]]:
    """What ``metrics.json`` records about the search of settings, by model."""
    search: dict[str, dict[str, Any]] = {}
    for name in ('student', 'baseline'):
        trials = [trial for trial in result.trials or () if name in trial]
        search[name] = {'tuned': bool(trials)}
        if trials:
            best = max(trials, key=lambda trial: trial[name])
            params = {key: best[key] for key in ('learning_rate', 'l2')}
            search[name] |= {'best_params': params, 'trials': trials}
    return search


@contextmanager
def _last_epoch_on_stderr(model: str | None = None) -> Iterator[None]:
    """Prints the warning in the words of the command line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', LastEpochWarning)
        yield
    for warning in caught:
        if isinstance(warning.message, LastEpochWarning):
            name, epochs = warning.message.args
            print(
                f'warning: {model or name}: the best epoch is the last ({epochs}): '
                f'raise --epochs; continue with --resume',
                file=sys.stderr,
            )
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def titles_of(
    config: Mapping[str, Any], data: Prepared, titles: Mapping[Any, str] | None
) -> Mapping[Any, str] | None:
    """The titles that the settings of a run name, else those given."""
    source = config['titles']
    if source is None:
        return titles
    by_text = read_titles(**source)
    item_ids = data.val[ITEM].raw_id.tolist()
    return {raw: by_text[str(raw)] for raw in item_ids if str(raw) in by_text}


_PLACED = {
    'items_by_features': 'items without training interactions are ranked by their '
    'features',
    'items_at_mean': 'items with neither training interactions nor features are ranked '
    'as the average item',
    'users_by_history': 'users without training interactions are ranked for by their '
    'held-out ones',
    'users_at_mean': 'users without any interaction get the list of the average user, '
    'in which popular items lead',
}


def make_recommender(
    data: Prepared,
    model: torch.nn.Module | Mapping[str, Tensor],
    titles: Mapping[Any, str] | None,
) -> Recommender:
    """The recommender of a model or its embeddings; warnings are shown on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        # The features of the training graph are standardized, those of new items not;
        # its interactions are the message edges of the others.
        known = Split(data.val, data.val, data.test)
        recommender = Recommender.from_model(
            model, known, inputs=data.inputs, titles=titles
        )
    for warning in caught:
        print(f'warning: {warning.message}', file=sys.stderr)
    for name, count in recommender.placed.items():
        if count:
            print(f'note: {count} {_PLACED[name]}', file=sys.stderr)
    return recommender


def load_data(config: Mapping[str, Any]) -> tuple[Prepared, str]:
    """The graphs of a configuration, and their hash; warnings are shown on stderr.

    Raises:
        RunError: If the data have errors, or nothing is held out for validation.
    """
    split = load_split(config['data'])
    if config['data']['format'] != 'synthetic':
        check_data(split, config['data'])
    if config.get('titles') is not None:
        source = config['titles']
        warn_titles(
            source['path'], read_titles(**source), split.train[ITEM].raw_id.tolist()
        )
    return prepare(split, config['prompt']), hash_split(split)


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
    config: Mapping[str, Any],
    folder: Path,
    resume: bool,
    progress: bool,
    **options: Any,
) -> TrainingConfig:
    """The training of a configuration; the run may have been interrupted before its
    first checkpoint. Options replace those of the configuration.
    """
    every = config['train'].get('validate_every', 'auto')
    if every != 'auto':
        check_positive('validate_every', every)
    resume = resume and any(folder.rglob(CHECKPOINT))
    options = training_options({**config['train'], **options})
    return TrainingConfig(**options, run_dir=folder, resume=resume, progress=progress)


def training_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`~promptmm_pyg.training.TrainingConfig`; a run has the word
    ``'none'`` for neighbors, since an option without a value is its default.
    """
    is_none = options.get('num_neighbors') == 'none'
    return {**options, **({'num_neighbors': None} if is_none else {})}


def best_epoch(history: History) -> dict[str, Any]:
    """The validation metrics of the best epoch, as in ``metrics.json``."""
    if not history.best_metrics:
        return {'num_epochs': history.num_epochs}
    return {
        'monitor': history.monitor,
        'best_value': history.best_value,
        'best_epoch': history.best_epoch,
        'num_epochs': history.num_epochs,
        'validation': history.best_metrics,
    }


def _columns(data: Prepared) -> dict[str, Any]:
    """How columns of tables became features, so that new items are encoded alike."""
    names = ('feature_columns', 'column_encodings')
    return {name: getattr(data.train, name, {}) for name in names}


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
