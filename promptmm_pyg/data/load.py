"""One way in: from a folder or a table on disk to a split."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice, check_folder
from promptmm_pyg.data.build import Duplicates, Ids
from promptmm_pyg.data.features import Masks
from promptmm_pyg.data.frames import read_table
from promptmm_pyg.data.interactions import Where, read_id_order, recognize
from promptmm_pyg.data.readers import read_diffmm, read_mmrec, read_mmssl
from promptmm_pyg.data.recbole import (
    find_atomic_files,
    inter_header,
    is_atomic,
    read_recbole,
)
from promptmm_pyg.data.split import (
    Split,
    split_by_part,
    split_by_time,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
)
from promptmm_pyg.data.table_files import header_text
from promptmm_pyg.data.tables import (
    Table,
    as_table,
    header_hint,
    read_header,
    release_memory,
)

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
# The options that a format has, beside those of all.
_ALL = ('features', 'duplicates', 'padding_row')
_ROWS = ('rating', 'min_rating', 'weight', 'where')
_COLUMNS = ('user', 'item', 'time')
_NODES = ('item_columns', 'user_columns')
_TABLES = (
    *('split_column', 'val', 'test', 'user_features', 'item_table', 'user_table'),
    *('list_separator', 'drop_columns', 'item_ids', 'user_ids'),
    *('separator', 'encoding', 'split', 'masks'),
)
_OPTIONS: dict[str, tuple[str, ...]] = {
    'table': (*_COLUMNS, *_ROWS, *_NODES, *_TABLES),
    'recbole': (*_COLUMNS, *_ROWS, *_NODES, 'masks', 'split'),
    'mmrec': (*_ROWS, 'masks'),
    'mmssl': ('masks',),
    'diffmm': ('masks',),
}
_TEXTS = (
    *('user', 'item', 'time', 'rating', 'weight', 'split_column'),
    *('separator', 'encoding', 'list_separator', 'masks', 'duplicates'),
)
_FLAGS = {
    name: f'{name}-column' for name in ('user', 'item', 'time', 'rating', 'weight')
}
_FLAGS |= {'val': 'val-file', 'test': 'test-file'}
SPLIT_METHODS: dict[str, Callable[..., Split]] = {
    'per-user': split_per_user,
    'leave-one-out': split_leave_one_out,
    'time': split_by_time,
    'cold-items': split_cold_items,
}


def detect_format(folder: Path) -> str:
    """The name of the format of a folder, by its files."""
    formats = [
        name
        for name, signs in _SIGNS.items()
        if any(_fits(name, path) for sign in signs for path in folder.glob(sign))
    ]
    if len(formats) > 1:
        raise ValueError(
            f"'{folder}' must contain one format (got files of {formats}). Choose with "
            f"format='{formats[0]}'"
        )
    if not formats:
        wanted = '; '.join(f'{k}: {", ".join(v)}' for k, v in _SIGNS.items())
        names = sorted(path.name for path in folder.iterdir())
        if len(names) > 10:
            names = [*names[:10], f'and {len(names) - 10} more']
        raise FileNotFoundError(
            f"'{folder}' must contain a known format (looked for {wanted}; got "
            f'{names}). Name a table by its file'
        )
    return formats[0]


def _fits(name: str, path: Path) -> bool:
    # MMRec and RecBole share the end of the name; types in the header differ.
    return path.suffix != '.inter' or is_atomic(path) == (name == 'recbole')


def load_dataset(
    path: str | Path | Any,
    format: str = 'auto',  # noqa: A002
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    weight: str | None = None,
    where: Where | None = None,
    split_column: str | None = None,
    val: str | Path | Any = None,
    test: str | Path | Any = None,
    features: Mapping[str, Any] | None = None,
    user_features: Mapping[str, Any] | None = None,
    item_table: str | Path | Any = None,
    item_columns: Sequence[str] | None = None,
    user_table: str | Path | Any = None,
    user_columns: Sequence[str] | None = None,
    list_separator: str | None = None,
    drop_columns: Sequence[str] | None = None,
    padding_row: bool = False,
    item_ids: Ids | str | Path | None = None,
    user_ids: Ids | str | Path | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    separator: str | None = None,
    encoding: str | None = None,
    split: SplitMethod | Callable[[HeteroData], Split] | None = None,
    val_ratio: float = 0.1,
    test_ratio: float = 0.1,
    seed: int = 0,
) -> Split:
    """Returns the training, validation and test graphs of a data set on disk.

    A folder in a published layout is recognized by its files, and a split that came
    with it is kept. All have ``<modality>_feat.npy``:

    - DiffMM: ``trnMat.pkl``, ``valMat.pkl`` and ``tstMat.pkl``, scipy matrices, which
      are read without running the pickle. Raw ids are the numbers, as text.
    - MMSSL, LATTICE, PromptMM: ``train.json``, ``val.json`` and ``test.json``
      (``{user: [items]}``), else the pickled matrices ``train_mat``, ``val_mat`` and
      ``test_mat``; in the folder or in ``5-core`` under it. Raw ids likewise.
    - MMRec: one ``<name>.inter``, tab-separated, with ``userID``, ``itemID``,
      ``x_label`` (0, 1 or 2) and perhaps ``timestamp``. Raw ids are those of
      ``u_id_mapping.csv`` and ``i_id_mapping.csv``, else the numbers.
    - RecBole: atomic files. A split is ``<name>.train.inter``, ``.valid.inter`` (may be
      missing) and ``.test.inter``, or ``.part1.inter`` to ``.part3.inter``; a single
      ``<name>.inter`` is split by ``split``. Nodes are those of ``<name>.item`` and
      ``<name>.user``, in that order, then others as the interactions mention them.
      Features are in the order of ``.item``. Of columns, ``float_seq`` is a vector,
      ``float`` a number, ``token`` and ``token_seq`` a mark for each of their tokens;
      an empty cell is a missing row. Titles are better read by
      :func:`~promptmm_pyg.data.read_recbole_texts` and encoded.

    A table of
    interactions (``.csv``, ``.tsv``, ``.txt`` or ``.jsonl``, also with ``.gz`` or
    ``.zst``, or ``.parquet``; one row per interaction) is split by ``split``. Ids are
    text as written, or the integers of Parquet and JSON.

    Args:
        path: A folder or a table. This and other tables may also be frames, as in
            :func:`~promptmm_pyg.data.read_table`.
        format: ``'diffmm'``, ``'mmssl'``, ``'mmrec'``, ``'recbole'``, ``'table'``, or
            ``'auto'`` to recognize it. (default: ``'auto'``)
        user: The column of user ids, tables and RecBole. (default: recognized by its
            name, such as ``user_id``, ``userId`` or ``customer_id``)
        item: The column of item ids, in tables of interactions and of features.
            (default: recognized by its name, such as ``item_id`` or ``asin``)
        time: The column of times, tables and RecBole. (default: recognized by its
            name, such as ``timestamp``; none if there is no such column, or for ``''``)
        rating: The column of ratings, for ``min_rating``. (default: recognized by its
            name, such as ``rating`` or ``stars``)
        min_rating: The lowest rating that counts as an interaction; tables, RecBole
            and MMRec. (default: all count)
        weight: The column of weights, stored as ``weight`` on the interactions. No
            model uses them. (default: none)
        where: ``{column: value}`` or ``{column: [value, ...]}``: interactions with
            other values are left out. (default: all count)
        split_column: The column of the parts of a given split: ``train``, ``val`` (or
            ``valid``, ``validation``) and ``test``, tables only. (default: none)
        val: A table of interactions for validation; ``path`` then has those for
            training. (default: none)
        test: A table of interactions for test, likewise. (default: none)
        features: Item features ``{modality: file}``, relative to the folder; ``.npy``
            with one row per item or, for tables, also a table with the item column.
            For a folder these are added to every ``<modality>_feat.npy`` found, and
            ``None`` as a file leaves a modality out. (default: what the folder has)
        user_features: User features ``{modality: file}``, likewise; tables only.
        item_table: A table with the item column and ``item_columns``, tables only.
            (default: the table of interactions)
        item_columns: Columns of items that become a modality each, as in
            :func:`~promptmm_pyg.data.read_table`; of RecBole, those of the ``.item``
            file. (default: none; of RecBole, vectors)
        user_table: A table with the user column and ``user_columns``, tables only.
            (default: the table of interactions)
        user_columns: The same for users. (default: none)
        list_separator: The character between several categories of one cell, tables
            only. (default: a cell is one category)
        drop_columns: Columns of feature tables to leave out. (default: none)
        padding_row: Whether the first row of ``.npy`` features is padding, which is
            left out. (default: ``False``)
        item_ids: All items in the order of ``.npy`` rows: ids, or a file with one per
            line or a table with their column; tables only.
            (default: the sorted ids found)
        user_ids: The same for users.
        masks: ``'zero-rows'`` treats rows of zeros in ``.npy`` features as missing,
            ``None`` reads every row as it is. (default: ``'zero-rows'``)
        duplicates: What to do with repeated pairs: ``'error'``, ``'first'``,
            ``'last'`` or ``'sum'``, as in :func:`~promptmm_pyg.data.build_graph`.
            (default: ``'error'``)
        separator: The character between the cells of a table. (default: recognized
            among comma, tab, semicolon and ``|``)
        encoding: The encoding of tables, such as ``'cp1252'``. (default: ``'utf-8'``)
        split: How to hold interactions out of data without a split: ``'per-user'``,
            ``'leave-one-out'`` (the last ones where there are times, else at random
            with a warning),
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
    options: dict[str, Any] = dict(locals())
    del options['path'], options['format']
    options['padding_row'] = None if padding_row is False else padding_row
    ratios = {name: options.pop(name) for name in ('val_ratio', 'test_ratio', 'seed')}
    resolved = resolve(path, format, options, ratios)
    method = resolved.get('split')
    if isinstance(method, Mapping) and method.get('by') == 'random':
        warnings.warn(
            "split='leave-one-out' without times holds out random interactions, not "
            "the latest. Name the column of times with 'time'",
            stacklevel=2,
        )
    return read_resolved(resolved)


def resolve(
    path: str | Path | Any,
    format: str,  # noqa: A002
    options: Mapping[str, Any],
    ratios: Mapping[str, Any],
) -> dict[str, Any]:
    """All that is needed to read the same data again: the options that the format
    has, with what was recognized.

    Options and errors are those of :func:`load_dataset`; an option that is ``None`` is
    not given.
    """
    check_choice('format', format, FORMATS)
    _check_types(options)
    if not isinstance(path, str | Path):
        path, format = as_table(path, 'path'), 'table'  # noqa: A001
    else:
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"'path' must exist (got '{path}')")
        if format == 'auto':
            format = 'table' if path.is_file() else detect_format(path)  # noqa: A001
        elif format != 'table':
            _check_folder(path)
    known = _OPTIONS[format]
    for name, value in options.items():
        if value is not None and name not in (*known, *_ALL):
            what = 'a table' if format == 'table' else f"the layout '{format}'"
            what += ', which comes with a split' if name == 'split' else ''
            flag = _FLAGS.get(name, name.replace('_', '-'))
            raise ValueError(
                f"'{name}' (--{flag}) must be left out for {what} (got {value!r} for "
                f"'{_name(path)}')"
            )
    resolved: dict[str, Any] = {'path': path, 'format': format}
    resolved |= {name: options.get(name) for name in (*known, *_ALL)}
    if 'rating' in known:
        _resolve_columns(path, resolved)
    if 'split' in known:
        _resolve_split(path, resolved, ratios)
    return resolved


def _check_types(options: Mapping[str, Any]) -> None:
    for name in ('item_columns', 'user_columns', 'drop_columns'):
        value = options.get(name)
        if isinstance(value, str):
            raise TypeError(
                f"'{name}' must be a list of names (got {value!r}). Pass [{value!r}]"
            )
        if value is not None and any(not isinstance(x, str) for x in value):
            raise TypeError(f"'{name}' must be a list of names (got {value!r:.200})")
    for name in _TEXTS:
        if not isinstance(options.get(name), str | None):
            kind = type(options[name]).__name__
            raise TypeError(f"'{name}' must be text (got {kind})")
    split = options.get('split')
    if not (isinstance(split, str | Mapping | None) or callable(split)):
        kind = type(split).__name__
        raise TypeError(f"'split' must be a name or a function (got {kind})")
    if not isinstance(options.get('padding_row'), bool | None):
        kind = type(options['padding_row']).__name__
        raise TypeError(f"'padding_row' must be True or False (got {kind})")
    for name, example in (
        ('where', "{'behavior': 'purchase'}"),
        ('features', "{'text': 'text.csv'}"),
        ('user_features', "{'profile': 'users.csv'}"),
    ):
        value = options.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(
                f"'{name}' must be a dictionary like {example} (got "
                f'{type(value).__name__})'
            )


def _name(path: Path | Table) -> str:
    return path.name if isinstance(path, Table) else str(path)


def _resolve_columns(path: Path | Table, options: dict[str, Any]) -> None:
    """Replaces the columns that are not given by those recognized."""
    if options['rating'] is not None and options['min_rating'] is None:
        raise ValueError(
            f"'rating' (--rating-column) requires 'min_rating' (--min-rating) (got "
            f'{options["rating"]!r} alone)'
        )
    if isinstance(path, Table):
        header = list(path.header)
    elif options['format'] == 'table':
        header = read_header(path, options['separator'], options['encoding'])
    else:
        header = inter_header(path, options['format'])
    for name in _COLUMNS if 'user' in options else ():
        if options[name] is None:
            options[name] = recognize(header, name)
        if options[name] is None:
            if name != 'time':
                raise ValueError(
                    f"'{_name(path)}' must have a column of {name} ids with a usual "
                    f"name such as '{name}_id' (got {header_text(header)}). Name yours "
                    f"with '{name}' (--{name}-column){header_hint(header)}"
                )
            options[name] = ''
    if options['min_rating'] is not None and options['rating'] is None:
        options['rating'] = recognize(header, 'rating')
        if options['rating'] is None:
            raise ValueError(
                f"'min_rating' (--min-rating) requires a column of ratings with a "
                f"usual name such as 'rating' (got {header_text(header)} in "
                f"'{_name(path)}'). Name yours with 'rating' (--rating-column)"
            )


def _resolve_split(
    path: Path | Table, options: dict[str, Any], ratios: Mapping[str, Any]
) -> None:
    """Replaces the name of a split by its options; no split where one is given."""
    method = options['split']
    given = [x for x in ('split_column', 'val', 'test') if options.get(x) is not None]
    if given:
        if method is not None:
            flag = _FLAGS.get(given[0], 'split-column')
            raise ValueError(
                f"'split' (--split) must be left out with a given split, "
                f"'{given[0]}' (--{flag}) (got {method!r})"
            )
        return
    if (
        isinstance(path, Path)
        and options['format'] == 'recbole'
        and find_atomic_files(path).came_with_split
    ):
        if method is not None:
            raise ValueError(
                f"'split' (--split) must be left out for '{path}', which came with a "
                f'split (got {method!r})'
            )
        return
    if callable(method):
        return
    method = method or 'per-user'
    check_choice('split', method, SPLIT_METHODS)
    has_time = bool(options['time'])
    resolved = {'method': method, **ratios}
    if method == 'leave-one-out':
        by = 'time' if has_time else 'random'
        resolved = {'method': method, 'by': by, 'seed': ratios['seed']}
    if method == 'time':
        if not has_time:
            raise ValueError(
                "'split' must not be 'time' without times (got none). Name their "
                "column with 'time' (--time-column)"
            )
        del resolved['seed']
    options['split'] = resolved


def read_resolved(resolved: Mapping[str, Any]) -> Split:
    """Reads the data that :func:`resolve` described."""
    options = {
        key: value
        for key, value in resolved.items()
        if value is not None or key in ('masks', 'split', 'time')
    }
    path, name = options.pop('path'), options.pop('format')
    if 'time' in options:
        options['time'] = options['time'] or None
    if name != 'table':
        if name == 'recbole' and options['split'] is not None:
            options['split'] = partial(apply_split, options['split'])
        return _READERS[name](_check_folder(path), **options)
    split = options.pop('split')
    for name, node_type in (('item_ids', 'item'), ('user_ids', 'user')):
        if isinstance(options.get(name), str | Path):
            options[name] = read_id_order(
                _beside(path, options[name]),
                node_type,
                options[node_type],
                separator=options.get('separator'),
                encoding=options.get('encoding'),
            )
    graph = read_table(path, **options)
    release_memory()
    return apply_split(split, graph)


def _check_folder(path: str | Path) -> Path:
    folder = Path(path)
    check_folder('path', folder)
    return folder


def _beside(path: Any, file: str | Path) -> Path:
    """A file relative to the folder of a table."""
    return Path(path).parent / file if isinstance(path, str | Path) else Path(file)


def apply_split(
    split: Callable[[HeteroData], Split] | Mapping[str, Any] | None, graph: HeteroData
) -> Split:
    """The split of a graph by a function, by a method and its options, or as given."""
    if split is None:
        return split_by_part(graph)
    if callable(split):
        return split(graph)
    options = {key: value for key, value in split.items() if key != 'method'}
    return SPLIT_METHODS[split['method']](graph, **options)
