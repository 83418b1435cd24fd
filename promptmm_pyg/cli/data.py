"""``promptmm data check``, and the options of every command that reads a data set."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptmm_pyg.cli.evaluate import format_table
from promptmm_pyg.cli.parsing import (
    Group,
    UserError,
    add_flags,
    add_options,
    named,
    selected_options,
)
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    Split,
    modality_mask_dict,
    modality_x_dict,
    read_dataset,
    read_table,
    split_per_user,
    validate,
)
from promptmm_pyg.data.load import FORMATS, SPLIT_METHODS, detect_format
from promptmm_pyg.data.recbole_files import find_atomic_files, read_header
from promptmm_pyg.runs.data import HASHING, load_split

DESCRIPTION = EXAMPLE = None
_DESCRIPTION = """\
Read a data set, describe it, and list every error and oddity with its fix: leaks
between training and held-out interactions, also through a graph among items; repeated
pairs; ids without any data; broken, missing or constant features, or features that seem
to be in another order than the items.

The exit status is 1 if there is an error; warnings alone give 0."""
_EXAMPLE = """\
example:
  promptmm data check data/tiktok
  promptmm data check clicks.csv --user-column user --item-column movie \\
      --features text=plots.csv --split leave-one-out
  promptmm data check data/tiktok --item-graph bought_together.npy"""
_TABLE = {
    'user': 'column of user ids in a table',
    'item': 'column of item ids in tables of interactions and of features',
}
_TABLE_NAMES = {'user': 'user_column', 'item': 'item_column'}
_SPLIT = {
    'val_ratio': 'share of the interactions (cold-items: of the items) held out for '
    'validation, 0 to 1',
    'test_ratio': 'share held out for test, 0 to 1',
    'seed': 'seed of a random split',
}
_SPLIT_NAMES = {'seed': 'split_seed'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``check``."""
    inner = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    check = inner.add_parser(
        'check',
        help='find errors in a data set',
        usage='promptmm data check PATH [options]',
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    add_data_options(check)
    add_flags(
        check,
        """
--item-graph FILE  also check a graph among items for leaks: .npy, integers [2, E], the
  items (counted from zero) of each edge""",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report; returns 1 if the data have errors."""
    config = data_config(args)
    split = load_split(config)
    if args.item_graph is not None:
        split.train[ITEM, 'given', ITEM].edge_index = _read_edges(args.item_graph)
    print(f"'{args.path}' read as {config['format']}")
    print(describe(split))
    issues = validate(split, raise_on_error=False)
    for issue in issues:
        print(f'\n{issue.level}: {issue.where}: {issue.problem}')
        print(f'  fix: {issue.fix}')
    num_errors = sum(issue.level == 'error' for issue in issues)
    print(f'\n{num_errors} errors, {len(issues) - num_errors} warnings')
    return 1 if num_errors else 0


def describe(split: Split) -> str:
    """The counts of a split and a table of its modalities."""
    counts = split.train.num_nodes_dict
    parts = {'train': split.train[INTERACTS].edge_index}
    for name in ('val', 'test'):
        parts[name] = getattr(split, name)[INTERACTS].edge_label_index
    lines = [f'{count} {node_type}s' for node_type, count in counts.items()]
    lines.append(
        'interactions: ' + ', '.join(f'{x.size(1)} {name}' for name, x in parts.items())
    )
    masks = modality_mask_dict(split.train)
    rows = []
    for modality, x_of in modality_x_dict(split.train).items():
        for node_type, x in x_of.items():
            mask = masks.get(modality, {}).get(node_type)
            missing = 0.0 if mask is None else 1 - float(mask.float().mean())
            rows.append([modality, f'{node_type}s', x.size(1), f'{missing:.1%}'])
    head = ['modality', 'of', 'width', 'missing']
    return '\n'.join([*lines, format_table(head, rows) if rows else 'no modalities'])


def _read_edges(path: str) -> torch.Tensor:
    if not Path(path).is_file():
        raise UserError(f"--item-graph names a file that does not exist: '{path}'")
    try:
        edges = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(
            f"--item-graph must be a whole .npy file of numbers (got '{path}', which "
            f'cannot be read). Objects are never loaded: write it again'
        ) from error
    is_array = isinstance(edges, np.ndarray)
    if not is_array or edges.dtype.kind not in 'iu' or edges.shape[:-1] != (2,):
        what = f'{edges.dtype} {list(edges.shape)}' if is_array else 'several arrays'
        raise UserError(f"'{path}' must hold integers of shape [2, E] (got {what})")
    return torch.from_numpy(edges.astype(np.int64))


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the path of the data and how to read it."""
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
        help='item features by modality: .npy (one row per item), for tables also '
        '.csv or .parquet with the item column. A folder also has its '
        "<NAME>_feat.npy; 'NAME=' leaves one out (default: none)",
    )
    add_options(group, read_dataset, {'duplicates': 'what to do with repeated pairs'})
    group.add_argument(
        '--masks',
        choices=('zero-rows', 'none'),
        default='zero-rows',
        help='folders only: treat feature rows of zeros as missing, or use all rows '
        '(default: zero-rows)',
    )
    add_flags(
        group,
        """
--min-rating X  RecBole only: the lowest rating that counts as an interaction (default:
  all count)""",
    )
    _add_content_options(parser.add_argument_group('texts and images of the items'))
    _add_table_options(parser.add_argument_group('tables only'))


def _add_table_options(group: Group) -> None:
    add_options(group, read_table, _TABLE, _TABLE_NAMES)
    add_flags(
        group,
        """
--time-column NAME  column of times
--item-ids FILE  raw ids of all items, one per line, in the order of .npy rows""",
    )
    group.add_argument(
        '--split',
        choices=tuple(SPLIT_METHODS),
        help='how to hold out interactions, also for a RecBole folder without a split; '
        'leave-one-out holds out the latest ones with --time-column, else random ones '
        '(default: per-user)',
    )
    add_options(group, split_per_user, _SPLIT, _SPLIT_NAMES)


def _add_content_options(group: Group) -> None:
    add_flags(
        group,
        f"""
--text SOURCE  texts: a folder of files <item id>.txt, a column of the table (RecBole:
  of the .item file), or FILE.csv:COLUMN with the item column
--images FOLDER  images: a folder of files <item id>.jpg, .png, ...
--text-encoder NAME [{HASHING}]  'hashing', which needs no package, or a model or folder
  of sentence-transformers
--image-encoder NAME [vgg16]  a classifier of torchvision, or 'timm:NAME'
--content-cache FOLDER  where encoded texts and images are cached, for all runs
  (default: promptmm_pyg/content in your cache folder; '{HASHING}' is not cached)""",
    )


def data_config(args: argparse.Namespace) -> dict[str, Any]:
    """What is needed to read the same data again, as plain values."""
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
    empty = [name for name, file in features.items() if file is None]
    if empty and is_table:
        raise UserError(
            f"--features '{empty[0]}=' leaves out what a folder holds; for a table, "
            f'name a file'
        )
    if is_table:
        _check_min_rating(args)
        config |= selected_options(args, _TABLE, _TABLE_NAMES)
        config['time'] = args.time_column
        config['item_ids'] = args.item_ids and str(Path(args.item_ids).resolve())
        config['split'] = _split_config(args, has_time=args.time_column is not None)
    else:
        config |= _folder_config(args, path)
    config['content'] = _content_config(args, config)
    return config


def _check_min_rating(args: argparse.Namespace) -> None:
    if args.min_rating is not None:
        raise UserError('--min-rating is for RecBole folders')


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
    else:
        _check_min_rating(args)
    if args.split is not None:
        raise UserError(f"--split is for tables: '{path}' already has a split")
    return config


def _feature_path(file: str, base: Path) -> str | None:
    if not file:
        return None
    path = Path(file) if Path(file).exists() else base / file
    if not path.is_file():
        raise UserError(f"--features names a file that does not exist: '{file}'")
    return str(path.resolve())


def _split_config(args: argparse.Namespace, *, has_time: bool) -> dict[str, Any]:
    method = args.split or 'per-user'
    if method == 'time' and not has_time:
        raise UserError('--split time requires --time-column NAME')
    config = {'method': method, **selected_options(args, _SPLIT, _SPLIT_NAMES)}
    if method == 'time':
        del config['seed']
    if method == 'leave-one-out':
        by = 'time' if has_time else 'random'
        config = {'method': method, 'by': by, 'seed': args.split_seed}
    return config


def _content_config(args: argparse.Namespace, data: Mapping[str, Any]) -> list[Any]:
    """What is needed to encode the same texts and images again."""
    configs: list[dict[str, Any]] = []
    if args.text is not None:
        config = {'modality': 'text', 'encoder': args.text_encoder}
        configs.append(config | _text_source(args.text, data, args.item_column))
    if args.images is not None:
        config = {'modality': 'image', 'encoder': args.image_encoder}
        configs.append(config | content_folder('images', args.images))
    for config in configs:
        if data['features'].get(config['modality']) is not None:
            raise UserError(
                f"--features must not name '{config['modality']}', the name of the "
                f'encoded contents. Choose another name'
            )
        cache = args.content_cache
        if cache is None and config['encoder'] != HASHING:
            home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
            cache = Path(home) / 'promptmm_pyg' / 'content'
        config['cache'] = cache and str(Path(cache).resolve())
    return configs


def _text_source(
    text: str, data: Mapping[str, Any], item: str
) -> dict[str, str | None]:
    source = text_source(text, item)
    if source is not None:
        return source
    if '/' in text or os.sep in text:
        raise UserError(f"--text names a folder that does not exist: '{text}'")
    kind = data['format']
    if kind not in ('table', 'recbole'):
        raise UserError(
            f"--text must be a folder or FILE.csv:COLUMN for '{data['path']}', which "
            f"has no columns of its own (got '{text}')"
        )
    return {'kind': kind, 'path': data['path'], 'column': text, 'item': item}


def text_source(text: str, item: str) -> dict[str, str | None] | None:
    """The source of ``--text`` if it is a folder or ``FILE.csv:COLUMN``."""
    if Path(text).is_dir():
        return content_folder('text', text)
    file, mark, column = text.rpartition(':')
    if not mark or Path(file).suffix not in ('.csv', '.parquet'):
        return None
    if not Path(file).is_file():
        raise UserError(f"--text names a file that does not exist: '{file}'")
    path = str(Path(file).resolve())
    return {'kind': 'table', 'path': path, 'column': column, 'item': item}


def content_folder(option: str, path: str) -> dict[str, str | None]:
    """The source of ``--text`` or ``--images`` in a folder."""
    if not Path(path).is_dir():
        raise UserError(f"--{option} must name a folder (got '{path}')")
    return {'kind': option, 'path': str(Path(path).resolve())}
