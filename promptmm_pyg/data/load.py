"""One way in: from a folder or a table on disk to a split."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.build import Duplicates, Ids
from promptmm_pyg.data.features import FeaturePaths, Masks
from promptmm_pyg.data.frames import read_table
from promptmm_pyg.data.readers import read_diffmm, read_mmrec, read_mmssl
from promptmm_pyg.data.recbole import read_recbole
from promptmm_pyg.data.recbole_files import find_atomic_files, is_atomic
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import (
    Split,
    split_by_time,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
)
from promptmm_pyg.data.tables import read_header

Format = Literal['auto', 'diffmm', 'mmssl', 'mmrec', 'recbole']

_READERS: dict[str, Callable[..., Split]] = {
    'diffmm': read_diffmm,
    'mmssl': read_mmssl,
    'mmrec': read_mmrec,
    'recbole': read_recbole,
}
_SIGNS = {
    'diffmm': ('trnMat.pkl',),
    'mmssl': (
        'train.json',
        'train_mat',
        'train_mat.pkl',
        '5-core/train.json',
        '5-core/train_mat',
        '5-core/train_mat.pkl',
    ),
    'mmrec': ('*.inter',),
    'recbole': ('*.inter',),
}
SplitMethod = Literal['per-user', 'leave-one-out', 'time', 'cold-items']
FORMATS = ('auto', 'diffmm', 'mmssl', 'mmrec', 'recbole', 'table')
SPLIT_METHODS: dict[str, Callable[..., Split]] = {
    'per-user': split_per_user,
    'leave-one-out': split_leave_one_out,
    'time': split_by_time,
    'cold-items': split_cold_items,
}
# Names of columns without case, spaces, '_' and '-', the most common one first.
_USER = ('userid', 'user', 'uid', 'customerid', 'customer', 'visitorid', 'reviewerid')
_ITEM = (
    *('itemid', 'item', 'iid', 'productid', 'product', 'articleid', 'movieid'),
    *('songid', 'bookid', 'asin', 'parentasin', 'sku'),
)
_TIME = ('timestamp', 'time', 'datetime', 'date', 'ts', 'unixtimestamp', 'eventtime')


def read_dataset(
    path: str | Path,
    format: Format = 'auto',  # noqa: A002
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
) -> Split:
    """Returns the split that a folder came with, whichever format it is in.

    A distributed split is never split again. See
    :func:`~promptmm_pyg.data.read_diffmm`,
    :func:`~promptmm_pyg.data.read_mmssl`,
    :func:`~promptmm_pyg.data.read_mmrec` and
    :func:`~promptmm_pyg.data.read_recbole`; the last also splits a folder that
    came without one.

    Args:
        path: The folder.
        format: ``'diffmm'``, ``'mmssl'``, ``'mmrec'``, ``'recbole'``, or
            ``'auto'`` to recognize it by its files.
            (default: ``'auto'``)
        features: ``{modality: file}`` to add or replace, ``{modality: None}``
            to leave out. (default: all ``<modality>_feat.npy``)
        masks: ``'zero-rows'`` takes rows of nothing but zeros for missing;
            ``None`` takes every row as it is. (default: ``'zero-rows'``)
        duplicates: As in :func:`~promptmm_pyg.data.build_graph`; ``'first'`` keeps a
            pair in the first part that has it. (default: ``'error'``)

    Raises:
        FileNotFoundError: If the folder or a file is missing, or no format
            fits.
        ValueError: If two formats fit, a file is damaged, or there is no split.
    """
    check_choice('format', format, ('auto', *_READERS))
    chosen = detect_format(Path(path)) if format == 'auto' else format
    reader = _READERS[chosen]
    return reader(path, features=features, masks=masks, duplicates=duplicates)


def detect_format(folder: Path) -> str:
    """The name of the format of a folder, by its files."""
    if not folder.is_dir():
        raise FileNotFoundError(f"'path' must be a folder (got '{folder}')")
    found = [
        name
        for name, signs in _SIGNS.items()
        if any(_fits(name, path) for sign in signs for path in folder.glob(sign))
    ]
    if len(found) > 1:
        raise ValueError(
            f"'{folder}' must contain one format (got files of {found}). Choose with "
            f"format='{found[0]}'"
        )
    if not found:
        wanted = '; '.join(f'{k}: {", ".join(v)}' for k, v in _SIGNS.items())
        names = sorted(path.name for path in folder.iterdir())
        if len(names) > 10:
            names = [*names[:10], f'and {len(names) - 10} more']
        raise FileNotFoundError(
            f"'{folder}' must contain a known format (looked for {wanted}; got "
            f"{names}). Single tables are read by 'read_table' and named by their file"
        )
    return found[0]


def _fits(name: str, path: Path) -> bool:
    # MMRec and RecBole share the end of the name; types in the header differ.
    return path.suffix != '.inter' or is_atomic(path) == (name == 'recbole')


def load_dataset(
    path: str | Path,
    format: str = 'auto',  # noqa: A002
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    features: Mapping[str, str | Path | None] | None = None,
    item_ids: Ids | None = None,
    min_rating: float | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    split: SplitMethod | Callable[[HeteroData], Split] | None = None,
    val_ratio: float = 0.1,
    test_ratio: float = 0.1,
    seed: int = 0,
) -> Split:
    """Returns the training, validation and test graphs of a data set on disk.

    A folder in a published layout (DiffMM, MMSSL/LATTICE/PromptMM, MMRec, RecBole) is
    recognized by its files, and a split that came with it is kept. A table of
    interactions (``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl``, one row per
    interaction) is split by ``split``.

    Args:
        path: A folder or a table.
        format: ``'diffmm'``, ``'mmssl'``, ``'mmrec'``, ``'recbole'``, ``'table'``, or
            ``'auto'`` to recognize it. (default: ``'auto'``)
        user: The column of user ids, tables only. (default: recognized by its name,
            such as ``user_id``, ``userId`` or ``customer_id``)
        item: The column of item ids, in tables of interactions and of features.
            (default: recognized by its name, such as ``item_id`` or ``asin``)
        time: The column of times, tables only. (default: recognized by its name, such
            as ``timestamp``; none if there is no such column, or for ``''``)
        features: Item features ``{modality: file}``, relative to the folder; ``.npy``
            with one row per item or, for tables, also a table with the item column.
            For a folder these are added to every ``<modality>_feat.npy`` found, and
            ``None`` as a file leaves a modality out. (default: what the folder has)
        item_ids: All items in the order of ``.npy`` rows, tables only.
            (default: the sorted ids found)
        min_rating: The lowest rating that counts as an interaction, RecBole only.
            (default: all count)
        masks: Folders only: ``'zero-rows'`` treats feature rows of zeros as missing,
            ``None`` reads every row as it is. (default: ``'zero-rows'``)
        duplicates: What to do with repeated pairs: ``'error'``, ``'first'``,
            ``'last'`` or ``'sum'``, as in :func:`~promptmm_pyg.data.build_graph`.
            (default: ``'error'``)
        split: How to hold interactions out of data without a split: ``'per-user'``,
            ``'leave-one-out'`` (the last ones where there are times, else at random),
            ``'time'``, ``'cold-items'``, or a function from the graph to a
            :class:`Split`. (default: ``'per-user'``)
        val_ratio: Share held out for validation. (default: ``0.1``)
        test_ratio: Share held out for test. (default: ``0.1``)
        seed: Seed of a random split. (default: ``0``)

    Raises:
        FileNotFoundError: If a file is missing or no layout fits.
        ValueError: If a column is not recognized, an option does not fit the data, or
            a file is damaged.

    Example:
        >>> path = getfixture('tmp_path') / 'clicks.csv'
        >>> rows = [f'u{n % 4},i{n % 7}' for n in range(28)]
        >>> _ = path.write_text('userId,itemId' + chr(10) + chr(10).join(rows))
        >>> data = load_dataset(path)
        >>> data.train['item'].num_nodes
        7
    """
    path = Path(path)
    check_choice('format', format, FORMATS)
    if not path.exists():
        raise FileNotFoundError(f"'path' must exist (got '{path}')")
    if format == 'auto':
        format = 'table' if path.is_file() else detect_format(path)  # noqa: A001
    divide = _divider(split, val_ratio, test_ratio, seed)
    options: dict[str, Any] = {'features': features, 'duplicates': duplicates}
    if format == 'table':
        _refuse(path, 'a table', min_rating=min_rating)
        options |= _columns(path, user=user, item=item, time=time)
        return divide(read_table(path, item_ids=item_ids, **options))
    _refuse(path, 'a folder', user=user, item=item, time=time, item_ids=item_ids)
    options['masks'] = masks
    if format != 'recbole':
        _refuse(path, f"the layout '{format}'", min_rating=min_rating, split=split)
        return read_dataset(path, format, **options)  # type: ignore[arg-type]
    if not find_atomic_files(path).came_with_split:
        options['split'] = divide
    else:
        _refuse(path, 'data that came with a split', split=split)
    return read_recbole(path, min_rating=min_rating, **options)


def _refuse(path: Path, what: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"'{name}' must be left out for {what} (got {value!r} for '{path}')"
            )


def _divider(
    split: str | Callable[[HeteroData], Split] | None,
    val_ratio: float,
    test_ratio: float,
    seed: int,
) -> Callable[[HeteroData], Split]:
    if callable(split):
        return split
    method = split or 'per-user'
    check_choice('split', method, SPLIT_METHODS)

    def divide(graph: HeteroData) -> Split:
        has_time = 'time' in graph[INTERACTS]
        options: dict[str, Any] = {'seed': seed}
        if method == 'leave-one-out':
            options['by'] = 'time' if has_time else 'random'
        else:
            options |= {'val_ratio': val_ratio, 'test_ratio': test_ratio}
        if method == 'time':
            if not has_time:
                raise ValueError(
                    "'split' must not be 'time' without times (got none). Name their "
                    "column with 'time' (--time-column)"
                )
            del options['seed']
        return SPLIT_METHODS[method](graph, **options)

    return divide


def _columns(path: Path, **given: str | None) -> dict[str, str]:
    """The columns of users, items and times: those given, or recognized by name."""
    known: dict[str, Sequence[str]] = {'user': _USER, 'item': _ITEM, 'time': _TIME}
    columns = {name: value for name, value in given.items() if value is not None}
    if len(columns) == len(known):
        return {name: value for name, value in columns.items() if value}
    header = read_header(path)
    by_name = {
        ''.join(c for c in str(column).lower() if c.isalnum()): column
        for column in reversed(header)
    }
    for name, candidates in known.items():
        if name not in columns:
            match = next((by_name[c] for c in candidates if c in by_name), None)
            if match is not None:
                columns[name] = match
            elif name != 'time':
                raise ValueError(
                    f"'{path}' must have a column of {name} ids with a usual name such "
                    f"as '{name}_id' (got {header}). Name yours with '{name}' "
                    f'(--{name}-column)'
                )
    return {name: value for name, value in columns.items() if value}
