"""The final model of a run, continued with new data."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch_geometric.data import HeteroData

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
    load_dataset,
)
from promptmm_pyg.runs.data import RunError
from promptmm_pyg.runs.folder import (
    exclusive,
    staged,
    write_json,
)
from promptmm_pyg.runs.record import record_update, updates_of
from promptmm_pyg.runs.run import Run
from promptmm_pyg.runs.update import EPOCHS, L2, NothingNewError, update_recommender
from promptmm_pyg.serving import Recommender


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
