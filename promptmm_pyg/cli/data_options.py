"""The options that name a data set, and the configuration made of them."""

import argparse
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.content_source import add_content_options, content_config
from promptmm_pyg.cli.parsing import Group, UserError, add_options, chosen, named
from promptmm_pyg.data import read_dataset, read_table, split_per_user
from promptmm_pyg.data.load import FORMATS, SPLIT_METHODS, detect_format
from promptmm_pyg.data.recbole_files import find_atomic_files, read_header

_TABLE = {
    'user': 'column of user ids, in a table',
    'item': 'column of item ids, in tables of interactions and of features',
}
_TABLE_NAMES = {'user': 'user_column', 'item': 'item_column'}
_SPLIT = {
    'val_ratio': 'share of the interactions (cold-items: of the items) held out for '
    'validation, 0 to 1',
    'test_ratio': 'share held out for test, 0 to 1',
    'seed': 'which random split',
}
_SPLIT_NAMES = {'seed': 'split_seed'}


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the path of the data and everything on how to read it."""
    parser.add_argument(
        'path',
        metavar='PATH',
        help='folder in a published layout (DiffMM, MMSSL/LATTICE/PromptMM, MMRec, '
        'RecBole), or a table of interactions (.csv, .parquet) with your own ids',
    )
    group = parser.add_argument_group('reading the data')
    group.add_argument(
        '--format', choices=FORMATS, default='auto', help='(default: auto)'
    )
    group.add_argument(
        '--features',
        action='extend',
        nargs='+',
        default=[],
        type=named,
        metavar='NAME=FILE',
        help='item features by modality: .npy (one row an item), for tables also .csv '
        'or .parquet with the item column. For a folder these are added to every '
        "<NAME>_feat.npy found; 'NAME=' leaves one out (default: none)",
    )
    add_options(group, read_dataset, {'duplicates': 'what to do with repeated pairs'})
    group.add_argument(
        '--masks',
        choices=('zero-rows', 'none'),
        default='zero-rows',
        help='folders only: take feature rows of zeros for missing, or take all rows '
        'as they are (default: zero-rows)',
    )
    group.add_argument(
        '--min-rating',
        type=float,
        metavar='X',
        help='RecBole only: the least rating that counts as an interaction '
        '(default: all count)',
    )
    add_content_options(parser.add_argument_group("the items' own contents"))
    _add_table_options(parser.add_argument_group('tables only'))


def _add_table_options(group: Group) -> None:
    add_options(group, read_table, _TABLE, _TABLE_NAMES)
    group.add_argument('--time-column', metavar='NAME', help='column of times')
    group.add_argument(
        '--item-ids',
        metavar='FILE',
        help='the raw ids of all items, one a line, in the order of .npy rows',
    )
    group.add_argument(
        '--split',
        choices=tuple(SPLIT_METHODS),
        help='how to hold interactions out, also of a RecBole folder that came without '
        'a split; leave-one-out takes the last ones where '
        'there is a --time-column, else any (default: per-user)',
    )
    add_options(group, split_per_user, _SPLIT, _SPLIT_NAMES)


def data_config(args: argparse.Namespace) -> dict[str, Any]:
    """What is needed to read the same data again, as plain values.

    Raises:
        UserError: If the path is not there or an option does not fit it.
    """
    path = Path(args.path)
    if not path.exists():
        raise UserError(f"there is no file or folder '{path}'")
    is_table = args.format == 'table' or (args.format == 'auto' and path.is_file())
    base = path.parent if is_table else path
    features = {name: _feature_path(file, base) for name, file in args.features}
    config: dict[str, Any] = {
        'path': str(path.resolve()),
        'format': 'table',
        'features': features,
        'duplicates': args.duplicates,
    }
    if args.min_rating is not None and is_table:
        raise UserError('--min-rating is for RecBole folders')
    empty = [name for name, file in features.items() if file is None]
    if empty and is_table:
        raise UserError(
            f"--features '{empty[0]}=' leaves out what a folder holds; for a table, "
            f'name a file'
        )
    if is_table:
        config |= chosen(args, _TABLE, _TABLE_NAMES)
        config['time'] = args.time_column
        config['item_ids'] = args.item_ids and str(Path(args.item_ids).resolve())
        config['split'] = _split_config(args, has_time=args.time_column is not None)
    else:
        config |= _folder_config(args, path)
    config['content'] = content_config(args, config)
    return config


def _folder_config(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    config: dict[str, Any] = {
        'format': detect_format(path) if args.format == 'auto' else args.format,
        'masks': None if args.masks == 'none' else args.masks,
    }
    if config['format'] == 'recbole':
        config['min_rating'] = args.min_rating
        files = find_atomic_files(path)
        if not files.came_with_split:
            timed = all('timestamp' in read_header(x) for x in files.inter.values())
            return config | {'split': _split_config(args, has_time=timed)}
    elif args.min_rating is not None:
        raise UserError('--min-rating is for RecBole folders')
    if args.split is not None:
        raise UserError(
            f"--split is for tables: '{path}' came with a split, which is kept"
        )
    return config


def _feature_path(file: str, base: Path) -> str | None:
    if not file:
        return None
    here = Path(file)
    found = here if here.exists() else base / file
    if not found.is_file():
        raise UserError(f"--features names a file that is not there: '{file}'")
    return str(found.resolve())


def _split_config(args: argparse.Namespace, *, has_time: bool) -> dict[str, Any]:
    method = args.split or 'per-user'
    if method == 'time' and not has_time:
        raise UserError('--split time requires --time-column NAME')
    config = {'method': method, **chosen(args, _SPLIT, _SPLIT_NAMES)}
    if method == 'time':
        del config['seed']
    if method == 'leave-one-out':
        by = 'time' if has_time else 'random'
        config = {'method': method, 'by': by, 'seed': args.split_seed}
    return config
