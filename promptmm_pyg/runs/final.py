"""The final model of a run: trained on everything, or continued with new data."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
    load_dataset,
)
from promptmm_pyg.runs.data import RunError, hash_split, prepare
from promptmm_pyg.runs.folder import (
    exclusive,
    read_json,
    staged,
    where,
    write_json,
)
from promptmm_pyg.runs.record import merge_all, record_update, updates_of
from promptmm_pyg.runs.run import Run, settings_of
from promptmm_pyg.runs.stages import (
    CPU,
    check_resume,
    make_recommender,
    save_student,
    train_student,
    train_teacher,
    training_config,
)
from promptmm_pyg.runs.update import EPOCHS, L2, NothingNewError, update_recommender
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import TrainingConfig


class Update(NamedTuple):
    """The counts of an update."""

    interactions: int
    """New pairs of user and item."""
    known: int
    """Pairs of the table that were known before."""
    users: int
    """New users."""
    items: int
    """New items."""
    items_with_features: int
    """Those of the new items that have features."""


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
    interactions. Nothing is validated, and the evaluated models do not change.

    Args:
        run: A run with a trained model.
        resume: Whether to continue an interrupted one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train. (default: the CPU)

    Raises:
        RunError: If a model is not trained yet, or the data have changed.
    """
    run = Run.open(run)
    configs = {'teacher': run.config}
    if (run.student_dir / 'config.json').is_file():
        configs['student'] = run.student_config
    state: dict[str, Any] = {
        'made_by': 'refit',
        'epochs': {name: _best_epoch(run, name) for name in configs},
        'updates': len(updates_of(run)),
    }
    if 'student' in configs:
        if run.student_config.get('teachers'):
            raise RunError(
                f"'{run.path}' must have a student of one teacher for a refit (got "
                f'one of several runs). Refit these, then distill them'
            )
        with settings_of(run.student_dir / 'config.json'):  # Before training.
            weights, settings = _weights(run), _settings(run, 'student')
    with exclusive(run.path):
        split = run.read_split()
        num_trained = split.train[INTERACTS].edge_index.size(1)
        graph = merge_all(split, updates_of(run))
        everything = Split(graph, graph, graph)
        state |= {'data_sha256': hash_split(everything)}
        if resume:
            _check_same(run, state)
        data = prepare(everything, run.config['prompt'])
        with staged(run.path, 'final', resume=resume) as folder:
            target = Run(folder / 'final')
            _write_state(target, state, graph)

            def how(name: str) -> Any:
                folder = target.folders()[name]
                length = {'epochs': state['epochs'][name], 'validate_every': 0}
                settings = _numbers(_settings(run, name), name, num_trained)
                config = {**configs[name], 'train': settings}
                return training_config(config, folder, resume, progress, **length)

            titles = run.recommender().titles
            train_teacher(
                target,
                run.config,
                data,
                how('teacher'),
                device,
                recommender=None if 'student' in configs else target.recommender_dir,
                titles=titles,
            )
            if 'student' not in configs:
                return run
            config = {
                **run.student_config,
                'train': settings,
                'loss_weights': weights,
            }
            options: dict[str, Any] = {'baseline': False, 'tune': 0}
            teacher = target.teacher_of(run.config, data.train)
            result = train_student(
                config, teacher, data, how('student'), device, **options
            )
            made = make_recommender(data, result.student, titles)
            save_student(target, config, result, made)
    return run


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
    settings: Mapping[str, Any], name: str, num_interactions: int
) -> dict[str, Any]:
    """The settings with the numbers that 'auto' had when the model was evaluated."""
    config = TrainingConfig(**settings).resolve(
        num_interactions, shared_forward=name == 'teacher'
    )
    keys = 'batch_size', 'learning_rate', 'propagate_every'
    return {**settings, **{key: getattr(config, key) for key in keys}}


def _weights(run: Run) -> dict[str, float]:
    return {**run.student_config['loss_weights'], **_best_param(run, 'student', 'l2')}


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


def update_run(
    run: Run | str | Path,
    new: Any,
    *,
    item_ids: Sequence[Any] = (),
    features: Mapping[str, Any] | None = None,
    modality_mask: Mapping[str, Any] | None = None,
    titles: Mapping[Any, str] | None = None,
    user: str | None = None,
    item: str | None = None,
    epochs: int = EPOCHS,
    l2: float = L2,
    seed: int = 0,
) -> Update:
    """Continues the served model of a run with new interactions, users and items
    (:func:`~promptmm_pyg.runs.update_recommender`). The new data are recorded
    in the run, so that a later refit trains on them, too.

    Args:
        run: A run with a recommender.
        new: A table of interactions, as path or as frame, with the columns of the
            run's data. Known pairs are ignored.
        item_ids: Raw ids of new items with features. (default: none)
        features: Their features ``[N, F_m]`` by modality, as in
            :meth:`~promptmm_pyg.serving.Recommender.add_items`. (default: none)
        modality_mask: Boolean ``[N]`` by modality, ``True`` where an item has it.
            (default: everywhere)
        titles: Titles of new items by raw id. (default: none)
        user: The column of user ids. (default: that of the run)
        item: The column of item ids. (default: that of the run)
        epochs: Passes over the new interactions. (default: ``10``)
        l2: Weight of the squared norms. (default: ``0.001``)
        seed: Seed of replay, order and negatives. (default: ``0``)

    Raises:
        RunError: If the run has no recommender, or nothing is new.
        ValueError: If the table cannot be read, or features do not fit.
    """
    run = Run.open(run)
    graph = _read(run, new, user, item)
    with exclusive(run.path):
        before = run.recommender()
        pairs = _typed_pairs(graph, before)
        after = run.recommender()
        if features is not None:
            after.add_items(
                item_ids, features, modality_mask=modality_mask, titles=titles
            )
        after.titles.update(titles or {})
        try:
            after = update_recommender(after, pairs, epochs=epochs, l2=l2, seed=seed)
        except NothingNewError as error:
            raise RunError(
                f'the new table must have an interaction that is not known (got '
                f"{len(pairs)}, all known). '{run.path}' is up to date"
            ) from error
        num_new = after.seen.col.numel() - before.seen.col.numel()
        counts = Update(
            interactions=num_new,
            known=len(pairs) - num_new,
            users=after.num_users - before.num_users,
            items=after.num_items - before.num_items,
            items_with_features=len(item_ids),
        )
        # First: after a kill from here on, a refit has them, and another update.
        record_update(run, pairs, item_ids, features, modality_mask)
        state = {'epochs': {}, **run.final}
        with staged(run.path, 'final', resume=False) as folder:
            after.save(folder / 'final' / 'recommender')
            state |= {
                'made_by': 'update',
                'updates': len(updates_of(run)),
                'users': after.num_users,
                'items': after.num_items,
                'interactions': after.seen.col.numel(),
                'date': datetime.date.today().isoformat(),
            }
            write_json(folder / 'final' / 'config.json', state)
    return counts


def add_items_run(
    run: Run,
    ids: Sequence[Any],
    features: Mapping[str, Any],
    *,
    modality_mask: Mapping[str, Any] | None = None,
    titles: Mapping[Any, str] | None = None,
) -> Recommender:
    """Adds new items to the served recommender and records them."""
    run.check()
    with exclusive(run.path):
        recommender = run.recommender()
        recommender.add_items(ids, features, modality_mask=modality_mask, titles=titles)
        record_update(run, [], ids, features, modality_mask)
        recommender.save(run.served_dir)
    return recommender


def _read(run: Run, new: Any, user: str | None, item: str | None) -> HeteroData:
    """The graph of a table that is read as the run's data."""
    config = dict(run.config['data'])
    config |= {'user': user or config.get('user'), 'item': item or config.get('item')}
    names = ['user', 'item', 'rating', 'min_rating', 'where']
    if isinstance(new, str | Path):
        names += ['encoding', 'separator']
        if not Path(new).is_file():
            raise RunError(
                f"the new interactions must be a table (got no file '{new}'). Check "
                f'the path'
            )
    options: dict[str, Any] = {
        name: config[name] for name in names if config.get(name) is not None
    }
    options['duplicates'] = 'first'
    unsplit = load_dataset(
        new,
        format='table',
        time='',
        split=lambda graph: Split(graph, graph, graph),
        **options,
    )
    return unsplit.train


def _typed_pairs(graph: HeteroData, recommender: Recommender) -> list[tuple[Any, Any]]:
    """The pairs with ids of the type that the known ones have: text or integers."""
    columns = []
    known = {USER: recommender.users, ITEM: recommender.items}
    for row, (key, ids) in enumerate(known.items()):
        name = f'the {key} ids of the new table'
        try:
            raw = ids.typed(name, graph[key].raw_id.tolist())
        except ValueError as error:
            raise RunError(f'{error}. Correct them') from error
        rows = graph[INTERACTS].edge_index[row].tolist()
        columns.append([raw[number] for number in rows])
    return list(zip(*columns, strict=True))
