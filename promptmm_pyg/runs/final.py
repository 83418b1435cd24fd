"""The final model of a run: trained on everything, or continued with new data."""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
    build_graph,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.data.frames import from_frame
from promptmm_pyg.runs.data import RunError, hash_split, load_split, prepare
from promptmm_pyg.runs.folder import (
    exclusive,
    load_tensors,
    read_json,
    remove,
    save_tensors,
    staged,
    where,
    write_json,
)
from promptmm_pyg.runs.run import Run
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

_INTEGER = r'0|-?[1-9]\d*'
_TENSORS = 'interactions.safetensors'


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
    """Trains teacher and student on all interactions, those of validation, test and
    updates, and makes the result the recommender that is served.

    Settings are those of the run; with a search, those it chose. Each model is trained
    for the number of epochs that was best on validation: as many passes over more
    interactions. Nothing is validated, and the evaluated models do not change.

    Args:
        run: A run with teacher and student.
        resume: Whether to continue an interrupted one. (default: ``False``)
        progress: Whether to show a progress bar. (default: ``True``)
        device: Where to train. (default: the CPU)

    Raises:
        RunError: If a model is not trained yet, or the data have changed.
    """
    run = Run(run) if isinstance(run, str | Path) else run
    run.check()
    configs = {'teacher': run.config, 'student': run.student_config}
    state: dict[str, Any] = {
        'made_by': 'refit',
        'epochs': {name: _best_epoch(run, name) for name in configs},
        'updates': len(_updates(run)),
    }
    with exclusive(run.path):
        graph = _everything(run.read_split(), _updates(run))
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
                config = {**configs[name], 'train': _settings(run, name)}
                return training_config(config, folder, resume, progress, **length)

            train_teacher(target, run.config, data, how('teacher'), device)
            config = {
                **run.student_config,
                'train': _settings(run, 'student'),
                'loss_weights': _weights(run),
            }
            options: dict[str, Any] = {'baseline': False, 'tune': 0}
            teacher = target.teacher_of(run.config, data.train)
            result = train_student(
                config, teacher, data, how('student'), device, **options
            )
            titles = run.recommender().titles
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
    return int(run.metrics(name)['best_epoch'])


def _settings(run: Run, name: str) -> dict[str, Any]:
    """The options of training, with the learning rate that a search chose."""
    config = run.config if name == 'teacher' else run.student_config
    best = run.metrics(name).get('best_params', {})
    rate = {key: best[key] for key in ('learning_rate',) if key in best}
    return {**config['train'], **rate}


def _weights(run: Run) -> dict[str, float]:
    best = run.metrics('student').get('best_params', {})
    penalty = {key: best[key] for key in ('l2',) if key in best}
    return {**run.student_config['loss_weights'], **penalty}


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
    run = Run(run) if isinstance(run, str | Path) else run
    run.check()
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
                f"'new' must contain an interaction that '{run.path}' does not know "
                f'(got {len(pairs)}, all known)'
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
        _record(run, pairs, item_ids, features, modality_mask)
        state = {'epochs': {}, **run.final}
        with staged(run.path, 'final', resume=False) as folder:
            after.save(folder / 'final' / 'recommender')
            state |= {
                'made_by': 'update',
                'updates': len(_updates(run)),
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
        _record(run, [], ids, features, modality_mask)
        recommender.save(run.served_dir)
    return recommender


def _read(run: Run, new: Any, user: str | None, item: str | None) -> HeteroData:
    """The graph of a table that is read as the run's data."""
    config = run.config['data']
    given = config if config['format'] == 'table' else {}
    columns: dict[str, Any] = {
        'user': user or given.get('user', 'user_id'),
        'item': item or given.get('item', 'item_id'),
    }
    if not isinstance(new, str | Path):
        names = ('rating', 'min_rating', 'where')
        options = {name: given[name] for name in names if name in given}
        return from_frame(new, **columns, **options, duplicates='first')
    if not Path(new).is_file():
        raise RunError(f"'new' must be a table of interactions (got no file '{new}')")
    nothing = {'method': 'per-user', 'val_ratio': 0.0, 'test_ratio': 0.0}
    plain: dict[str, Any] = {
        'features': {},
        'content': [],
        'item_ids': None,
        'time': None,
    }
    config = {**given, **plain, **columns, 'format': 'table', 'path': str(new)}
    return load_split({**config, 'duplicates': 'first', 'split': nothing}).train


def _typed_pairs(graph: HeteroData, recommender: Recommender) -> list[tuple[Any, Any]]:
    """The pairs with ids of the type that the known ones have: text or integers."""
    columns = []
    known = {USER: recommender.user_ids, ITEM: recommender.item_ids}
    for row, key in enumerate((USER, ITEM)):
        raw: list[Any] = graph[key].raw_id.tolist()
        if {type(other) for other in known[key]} != {int}:
            raw = [str(x) for x in raw]
        else:
            raw = [int(x) if re.fullmatch(_INTEGER, str(x)) else x for x in raw]
        text = next((x for x in raw if type(x) is not type(known[key][0])), None)
        if text is not None:
            raise RunError(
                f"'new' must contain {key} ids that are integers, as '{known[key][0]}' "
                f"and others are (got '{text}')"
            )
        rows = graph[INTERACTS].edge_index[row].tolist()
        columns.append([raw[number] for number in rows])
    return list(zip(*columns, strict=True))


def _updates(run: Run) -> list[Path]:
    """The folders of the recorded updates, the oldest first."""
    return sorted((run.path / 'updates').glob('[0-9]*'))


def _record(
    run: Run,
    pairs: Sequence[tuple[Any, Any]],
    item_ids: Iterable[Any],
    features: Mapping[str, Any] | None,
    modality_mask: Mapping[str, Any] | None,
) -> None:
    """Writes the new data of an update."""
    items = list(dict.fromkeys([*item_ids, *(item for _, item in pairs)]))
    users = list(dict.fromkeys(user for user, _ in pairs))
    rows = [{raw: row for row, raw in enumerate(ids)} for ids in (users, items)]
    index = [[rows[0][user], rows[1][item]] for user, item in pairs]
    tensors = {'edge_index': torch.tensor(index, dtype=torch.long).view(-1, 2).t()}
    for name, x in (features or {}).items():
        tensors[f'x_{name}'] = torch.as_tensor(x).float()
    for name, mask in (modality_mask or {}).items():
        tensors[f'mask_{name}'] = torch.as_tensor(mask)
    folder = run.path / 'updates' / f'{len(_updates(run)) + 1:06d}'
    unfinished = folder.with_name(f'.{folder.name}')
    remove(unfinished)
    save_tensors(unfinished / _TENSORS, tensors)
    write_json(unfinished / 'ids.json', {'user_ids': users, 'item_ids': items})
    unfinished.rename(folder)


def _tensors_of(folder: Path) -> dict[str, Tensor]:
    fix = f"Remove '{folder}' and update with its interactions again"
    return load_tensors(folder / _TENSORS, fix)


def _everything(split: Split, updates: Sequence[Path]) -> HeteroData:
    """One graph of all interactions and features."""
    train = split.train
    rows = {
        key: {raw: row for row, raw in enumerate(train[key].raw_id.tolist())}
        for key in (USER, ITEM)
    }
    edges = [train[INTERACTS].edge_index]
    edges += [graph[INTERACTS].edge_label_index for graph in split[1:]]
    added: list[tuple[list[int], dict[str, Tensor]]] = []
    for folder in updates:
        ids, tensors = read_json(folder / 'ids.json'), _tensors_of(folder)
        new = []
        for key in (USER, ITEM):
            of = rows[key]
            new.append([of.setdefault(raw, len(of)) for raw in ids[f'{key}_ids']])
        index = tensors.pop('edge_index')
        edges.append(
            torch.stack(
                [torch.tensor(new[k], dtype=torch.long)[index[k]] for k in (0, 1)]
            )
        )
        added.append((new[1], tensors))
    features, masks = _grown_features(train, {key: len(of) for key, of in rows.items()})
    for items, tensors in added:
        _fill(features[ITEM], masks[ITEM], items, tensors)
    graph = build_graph(
        torch.cat(edges, 1),
        item_features=features[ITEM],
        user_features=features[USER],
        item_masks=masks[ITEM],
        user_masks=masks[USER],
        user_ids=list(rows[USER]),
        item_ids=list(rows[ITEM]),
        duplicates='first',
    )
    graph[INTERACTS].edge_label_index = graph[INTERACTS].edge_index[:, :0]
    return graph


_ByType = dict[str, dict[str, Tensor]]  # Node type, modality.


def _grown_features(
    train: HeteroData, sizes: Mapping[str, int]
) -> tuple[_ByType, _ByType]:
    """Features and masks with rows of zeros, which are missing, for new nodes."""
    features: _ByType = {USER: {}, ITEM: {}}
    masks: _ByType = {USER: {}, ITEM: {}}
    present = modality_mask_dict(train)
    for name, x_of in modality_x_dict(train).items():
        for key, x in x_of.items():
            features[key][name] = _grow(x, sizes[key])
            full = torch.ones(x.size(0), dtype=torch.bool)
            mask = present.get(name, {}).get(key, full)
            if mask is not full or sizes[key] > x.size(0):
                masks[key][name] = _grow(mask, sizes[key])
    return features, masks


def _fill(
    features: dict[str, Tensor],
    masks: dict[str, Tensor],
    items: Sequence[int],
    tensors: Mapping[str, Tensor],
) -> None:
    """Writes the features of an update into the rows of its first items."""
    for name in features.keys() & {key.removeprefix('x_') for key in tensors}:
        x = tensors[f'x_{name}']
        rows = torch.tensor(items[: x.size(0)])
        features[name][rows] = x
        if name in masks:
            full = torch.ones(rows.numel(), dtype=torch.bool)
            masks[name][rows] = tensors.get(f'mask_{name}', full)


def _grow(x: Tensor, size: int) -> Tensor:
    """A copy with rows of zeros at the end."""
    return torch.cat([x, x.new_zeros(size - x.size(0), *x.shape[1:])])
