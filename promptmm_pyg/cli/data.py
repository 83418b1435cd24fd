"""``promptmm data check``, and the options of every command that reads a data set."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptmm_pyg._utils import counted
from promptmm_pyg.cli.parsing import (
    DATA_FLAGS,
    Group,
    UserError,
    add_flags,
    add_options,
    selected_options,
)
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Issue,
    Split,
    modality_mask_dict,
    modality_x_dict,
    split_per_user,
)
from promptmm_pyg.data.build import DUPLICATES
from promptmm_pyg.data.features import read_npy
from promptmm_pyg.data.load import FORMATS, SPLIT_METHODS, resolve
from promptmm_pyg.data.problems import collect_errors
from promptmm_pyg.data.split import held_out
from promptmm_pyg.data.tables import is_table_name
from promptmm_pyg.runs.data import HASHING, data_issues, load_split

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
_FILES = '.csv, .tsv, .txt, .jsonl (also .gz, .zst) or .parquet'
# Options of `load_dataset` that are paths, and the destinations of the others.
_PATHS = ('val', 'test', 'item_table', 'user_table')
_NO_OPTIONS = ('path', 'format', 'item_ids', 'user_ids', *_PATHS)
_OPTIONS = {
    name: flag.replace('-', '_')
    for name, flag in [*DATA_FLAGS.items(), ('split', 'split')]
    if name not in _NO_OPTIONS
}
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
--json  print one JSON object
--item-graph FILE  also check a graph among items for leaks: .npy, integers [2, E], the
  items (counted from zero) of each edge""",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report; returns 1 if the data have errors, 2 if they are not read."""
    config = data_config(args)
    with collect_errors() as unread:
        try:
            split = load_split(config)
        except ValueError as error:
            return _report_unread(args, config, [*unread, str(error)])
    if args.item_graph is not None:
        split.train[ITEM, 'given', ITEM].edge_index = _read_edges(args.item_graph)
    issues = [_as_issue(message) for message in unread]
    issues += [*data_issues(split, config), *_issues_of_defaults(split)]
    issues.sort(key=lambda issue: issue.level)
    if args.json:
        print(json.dumps(_as_json(split, config, issues), indent=2))
    else:
        print(f"'{args.path}' read as {config['format']}")
        print(describe(split))
        for issue in issues:
            print(f'\n{issue.level}: {issue.where}: {issue.problem}')
            print(f'  fix: {issue.fix}')
        num_errors = sum(issue.level == 'error' for issue in issues)
        counts = (
            counted(num_errors, 'error'),
            counted(len(issues) - num_errors, 'warning'),
        )
        print('\n' + ', '.join(counts))
    if unread:
        return 2
    return 1 if any(issue.level == 'error' for issue in issues) else 0


def _report_unread(
    args: argparse.Namespace, config: Mapping[str, Any], errors: list[str]
) -> int:
    """Reports data that are not read; returns 2."""
    if not args.json:
        raise UserError('; '.join(errors))
    issues = [_as_issue(message)._asdict() for message in errors]
    about = {'path': config['path'], 'format': config['format'], 'issues': issues}
    print(json.dumps(about, indent=2))
    return 2


def _as_issue(message: str) -> Issue:
    """An error of reading; its last sentences are the fix."""
    problem, _, fix = message.partition('). ')
    return Issue('error', 'reading', f'{problem})' if fix else message, fix)


def _issues_of_defaults(split: Split) -> list[Issue]:
    """What the defaults of ``promptmm train`` require of the data."""
    from promptmm_pyg.training import TrainingConfig

    issues = []
    if not any(ITEM in x_of for x_of in modality_x_dict(split.train).values()):
        problem = 'no item has any, and the prompt of the teacher requires them'
        fix = (
            'Pass --features, --item-columns, --text or --images, or --no-prompt to '
            'train on ids alone'
        )
        issues.append(Issue('warning', 'features', problem, fix))
    num_items = int(split.train[ITEM].num_nodes)
    name, _, cutoff = TrainingConfig().monitor.partition('@')
    if num_items < int(cutoff):
        problem = (
            f'{num_items} are fewer than the cutoff of the default {name}@{cutoff}'
        )
        fix = f'Train with --monitor {name}@{num_items} or less'
        issues.append(Issue('warning', 'items', problem, fix))
    return issues


def _parts(split: Split) -> dict[str, int]:
    """The number of interactions in each part."""
    train, *others = split
    sizes = [train[INTERACTS].edge_index.size(1)]
    sizes += [graph[INTERACTS].edge_label_index.size(1) for graph in others]
    return dict(zip(Split._fields, sizes, strict=True))


def _modalities(split: Split) -> list[dict[str, Any]]:
    """Name, node type, width and missing share of each modality."""
    masks = modality_mask_dict(split.train)
    rows = []
    for modality, x_of in modality_x_dict(split.train).items():
        for node_type, x in x_of.items():
            mask = masks.get(modality, {}).get(node_type)
            missing = 0.0 if mask is None else 1 - float(mask.float().mean())
            row = {'name': modality, 'of': node_type, 'width': x.size(1)}
            rows.append({**row, 'missing': missing})
    return rows


def _as_json(
    split: Split, config: Mapping[str, Any], issues: Sequence[Issue]
) -> dict[str, Any]:
    counts = split.train.num_nodes_dict
    return {
        'path': config['path'],
        'format': config['format'],
        'counts': {f'{node_type}s': int(n) for node_type, n in counts.items()},
        'parts': _parts(split),
        'held_out': held_out(split)._asdict(),
        'modalities': _modalities(split),
        'issues': [issue._asdict() for issue in issues],
    }


def describe(split: Split) -> str:
    """The counts of a split and a table of its modalities."""
    counts = split.train.num_nodes_dict
    lines = [f'{count} {node_type}s' for node_type, count in counts.items()]
    parts = ', '.join(f'{size} {name}' for name, size in _parts(split).items())
    lines += [f'interactions: {parts}', str(held_out(split))]
    rows = [
        [row['name'], f'{row["of"]}s', row['width'], f'{row["missing"]:.1%}']
        for row in _modalities(split)
    ]
    if not rows:
        return '\n'.join([*lines, 'no modalities'])
    from promptmm_pyg.cli.evaluate import format_table

    head = ['modality', 'of', 'width', 'missing']
    return '\n'.join([*lines, format_table(head, rows)])


def _read_edges(path: str) -> torch.Tensor:
    if not Path(path).is_file():
        raise UserError(f"--item-graph names a file that does not exist: '{path}'")
    edges = read_npy(Path(path))
    if edges.dtype.kind not in 'iu' or edges.shape[:-1] != (2,):
        what = f'{edges.dtype} {list(edges.shape)[:10]}'
        raise UserError(f"'{path}' must contain integers of shape [2, E] (got {what})")
    return torch.from_numpy(edges.astype(np.int64))


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the path of the data and how to read it."""
    parser.add_argument(
        'path',
        metavar='PATH',
        help='folder in a published layout (DiffMM, MMSSL/LATTICE/PromptMM, MMRec, '
        f'RecBole), or a table of interactions with your own ids: {_FILES}',
    )
    group = parser.add_argument_group('reading the data')
    group.add_argument(
        '--format', choices=FORMATS, default='auto', help='(default: auto)'
    )
    add_flags(
        group,
        f"""
--features NAME=FILE...  item features by modality: .npy (one row per item), for tables
  also a table with the item column ({_FILES}). A folder also has its
  <NAME>_feat.npy; 'NAME=' leaves one out (default: none)
--padding-row  leave out the first row of .npy features""",
    )
    group.add_argument(
        '--duplicates',
        choices=DUPLICATES,
        default='error',
        help='what to do with repeated pairs: refuse them, use the first row, the last '
        '(by time, if there are times), or add their weights up (default: error)',
    )
    group.add_argument(
        '--masks',
        choices=('zero-rows', 'none'),
        default='zero-rows',
        help='treat rows of zeros in .npy features as missing, or use all rows '
        '(default: zero-rows)',
    )
    _add_content_options(parser.add_argument_group('texts and images'))
    _add_column_options(parser.add_argument_group('columns and features of tables'))
    _add_table_options(parser.add_argument_group('tables, RecBole and MMRec'))


def _add_table_options(group: Group) -> None:
    add_flags(
        group,
        """
--user-column NAME  column of user ids (default: recognized by its name, such as
  user_id)
--item-column NAME  column of item ids in tables of interactions, features, titles and
  texts (default: recognized by its name, such as item_id)
--time-column NAME  column of times: numbers, or dates like 2026-03-01 17:30 (default:
  recognized by its name, such as timestamp; '' for none)
--min-rating X  the lowest rating that counts as an interaction (default: all count)
--rating-column NAME  column of ratings for --min-rating (default: recognized by its
  name, such as rating)
--weight-column NAME  column of weights, stored with the interactions; models do not use
  them (default: none)
--where COLUMN=VALUE  only interactions with this value, or one of VALUE,VALUE,..., in a
  column; may be repeated for further columns (default: all)
--separator CHAR  character between the cells of the table, or 'tab' (default:
  recognized among comma, tab, semicolon and |)
--encoding NAME  of tables and lists of ids, such as cp1252 (default: utf-8)""",
    )
    group.add_argument(
        '--split',
        choices=tuple(SPLIT_METHODS),
        help='how to hold out interactions, also for a RecBole folder without a split; '
        'leave-one-out holds out the latest ones if there are times, else random ones '
        '(default: per-user)',
    )
    add_options(group, split_per_user, _SPLIT, _SPLIT_NAMES)
    add_flags(
        group,
        """
--split-column NAME  column of a given split: train, val (valid, validation) or test
--val-file FILE  interactions for validation; PATH then has those for training
--test-file FILE  interactions for test, likewise""",
    )


def _add_column_options(group: Group) -> None:
    add_flags(
        group,
        """
--item-columns NAME...  columns of items that become features: numbers, lists of
  numbers, and categories; 'NAME:category' where that is not recognized (RecBole:
  columns of the .item file)
--item-table FILE  table of items with the --item-columns (default: PATH)
--user-columns NAME...  columns of users that become features
--user-table FILE  table of users with the --user-columns (default: PATH)
--list-separator CHAR  character between several categories of one cell, such as '|'
--drop-columns NAME...  columns of feature tables to leave out
--user-features NAME=FILE...  user features by modality, as --features (default: none)
--item-ids FILE  raw ids of all items in the order of .npy rows: one per line, or a
  table with their column
--user-ids FILE  raw ids of all users, likewise""",
    )


def _add_content_options(group: Group) -> None:
    add_flags(
        group,
        f"""
--text SOURCE  texts: a folder of files <item id>.txt, a column of the table (RecBole:
  of the .item file), or FILE:COLUMN, a table with the item column
--images FOLDER  images: a folder of files <item id>.jpg, .png, ...
--user-text SOURCE  texts of users: a folder of files <user id>.txt, or FILE:COLUMN, a
  table with the user column
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
    features = {name: _path('features', file, base) for name, file in args.features}
    user_features = {
        name: _path('user-features', file, base) for name, file in args.user_features
    }
    empty = [name for name, file in features.items() if file is None]
    if empty and is_table:
        raise UserError(
            f"--features '{empty[0]}=' leaves out what a folder holds; for a table, "
            f'name a file'
        )
    options = selected_options(args, _OPTIONS, _OPTIONS)
    options |= {'features': features, 'where': _where(args.where)}
    options['masks'] = None if args.masks == 'none' else args.masks
    if args.separator in ('tab', r'\t'):
        options['separator'] = '\t'
    options['user_features'] = user_features or None
    options['padding_row'] = args.padding_row or None
    for name in _PATHS:
        flag = DATA_FLAGS[name]
        file = getattr(args, flag.replace('-', '_'))
        options[name] = file and _path(flag, file, base)
    for name in ('item_ids', 'user_ids'):
        file = getattr(args, name)
        options[name] = file and _path(name.replace('_', '-'), file, base)
    config = resolve(
        path.resolve(),
        args.format,
        options,
        selected_options(args, _SPLIT, _SPLIT_NAMES),
    )
    config['path'] = str(config['path'])
    config['content'] = _content_config(args, config)
    return config


def _where(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]] | None:
    """The values of ``--where`` by column."""
    where = {column: values.split(',') for column, values in pairs}
    if len(where) < len(pairs):
        raise UserError(
            f'--where must name each column once (got {[x for x, _ in pairs]}). List '
            f'the values of a column as COLUMN=VALUE,VALUE'
        )
    return where or None


def _path(option: str, file: str, base: Path) -> str | None:
    """The absolute path of a file of the current folder, or of that of the data."""
    if not file:
        return None
    path = Path(file) if Path(file).exists() else base / file
    if not path.is_file():
        raise UserError(f"--{option} names a file that does not exist: '{file}'")
    return str(path.resolve())


def _content_config(args: argparse.Namespace, data: Mapping[str, Any]) -> list[Any]:
    """What is needed to encode the same texts and images again."""
    configs: list[dict[str, Any]] = []
    if args.text is not None:
        config = {'modality': 'text', 'encoder': args.text_encoder}
        configs.append(config | _text_source(args.text, data))
    if args.user_text is not None:
        source = text_source(args.user_text, data.get('user'), data.get('encoding'))
        if source is None:
            raise UserError(
                f"--user-text must be a folder or FILE:COLUMN (got '{args.user_text}')"
            )
        config = {'modality': 'user_text', 'encoder': args.text_encoder}
        configs.append({**config, **source, 'node_type': USER})
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


def _text_source(text: str, data: Mapping[str, Any]) -> dict[str, str | None]:
    source = text_source(text, data.get('item'), data.get('encoding'))
    if source is not None:
        return source
    if '/' in text or os.sep in text:
        raise UserError(f"--text names a folder that does not exist: '{text}'")
    kind = data['format']
    if kind not in ('table', 'recbole'):
        raise UserError(
            f"--text must be a folder or FILE:COLUMN for '{data['path']}', which "
            f"has no columns of its own (got '{text}')"
        )
    names = ('path', 'item', 'separator', 'encoding')
    return {'kind': kind, 'column': text, **{name: data.get(name) for name in names}}


def text_source(
    text: str, item: str | None, encoding: str | None = None
) -> dict[str, str | None] | None:
    """The source of ``--text`` if it is a folder or ``FILE:COLUMN``."""
    if Path(text).is_dir():
        return content_folder('text', text)
    file, mark, column = text.rpartition(':')
    if not mark or not is_table_name(file):
        return None
    if not Path(file).is_file():
        raise UserError(f"--text names a file that does not exist: '{file}'")
    source = {'path': str(Path(file).resolve()), 'column': column, 'item': item}
    return {'kind': 'table', **source, 'encoding': encoding}


def content_folder(option: str, path: str) -> dict[str, str | None]:
    """The source of ``--text`` or ``--images`` in a folder."""
    if not Path(path).is_dir():
        raise UserError(f"--{option} must name a folder (got '{path}')")
    return {'kind': option, 'path': str(Path(path).resolve())}
