"""``promptmm add-items``: items that came after training, from their features."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promptmm_pyg.cli.data import content_folder, text_source
from promptmm_pyg.cli.parsing import UserError, add_flags
from promptmm_pyg.cli.recommend import FOLDER, is_recommender, load_recommender
from promptmm_pyg.data.columns import ColumnEncoding, encode_columns
from promptmm_pyg.data.interactions import id_column
from promptmm_pyg.data.nodes import feature_matrix, load_feature_file, unique_ids
from promptmm_pyg.data.tables import read_file
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.data import (
    contents_of,
    encode,
    read_ids,
    read_titles,
    warn_titles,
)
from promptmm_pyg.runs.folder import exclusive, is_leftover
from promptmm_pyg.serving import FeatureMapper, Recommender

Array = np.ndarray[Any, Any]
DESCRIPTION = """\
Add items that came after training to the recommender of RUN. Nothing is trained: the
distillation fitted maps from features to the student's item embeddings, and these place
a new item. Known items do not change.

Features must be of the same kind as in training: from the same model, of the same
width, not standardized. An item may lack a modality: leave it out of that table, or let
its row be zeros or NaN. Files with ids of their own (.csv, .parquet) may list the items
in any order. If texts or images were encoded in training, --text and --images encode
those of the new items in the same way.

'promptmm refit RUN' trains on these items, too. 'promptmm distill RUN --overwrite'
makes the recommender anew, without them."""
EXAMPLE = """\
example:
  promptmm add-items runs/mine --text texts/
  promptmm add-items runs/mine --features text=new_text.csv image=new_image.csv
  promptmm add-items runs/mine --features image=new.npy --ids new.txt --out served/
  promptmm recommend runs/mine --users 7 --allow new.txt"""
_MODALITIES = {'text': 'text', 'images': 'image'}  # By option.


class NewFeatures(NamedTuple):
    """The features of new items."""

    ids: list[Any]
    modality_x: dict[str, Array]
    """Features ``[N, F_m]`` in single precision, zeros where they are missing."""
    modality_mask: dict[str, Array]
    """Boolean ``[N]``, ``True`` where an item has the modality."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.usage = 'promptmm add-items RUN [--features NAME=FILE ...] [options]'
    parser.add_argument('folder', metavar='RUN', help=FOLDER)
    add_new_item_options(parser)
    add_flags(
        parser,
        """
--item-column NAME  column of item ids in tables (default: recognized by its name, such
  as item_id)
--out FOLDER  where to write the recommender (default: in place of RUN's)
--overwrite  replace the recommender in --out""",
    )


def add_new_item_options(group: Any) -> None:
    """Adds the sources of the features of new items."""
    add_flags(
        group,
        """
--features NAME=FILE...  features of the new items by modality: a table (.csv, .tsv,
  .txt, .jsonl, .parquet) with the item column, or .npy with one row per id of --ids
--text SOURCE  texts of the new items, for a run trained with --text: a folder of files
  <item id>.txt, or FILE:COLUMN with the item column; known items in it are ignored
--images FOLDER  images of the new items, for a run trained with --images: a folder of
  files <item id>.jpg, .png, ...; known items in it are ignored
--ids FILE  raw ids of the new items, one per line, in the order of .npy rows (default:
  those of the tables)
--item-table FILE  table of the new items with the --item-columns of training, which are
  encoded in the same way; known items in it are ignored
--padding-row  leave out the first row of .npy features
--titles FILE  table with the item column and titles
--title-column NAME [title]  column of titles""",
    )


def has_features(args: argparse.Namespace) -> bool:
    """Whether a source of features is given."""
    sources = (args.text, args.images, args.item_table)
    return bool(args.features or any(source is not None for source in sources))


def run(args: argparse.Namespace) -> int:
    """Adds the items and prints their number."""
    if not has_features(args):
        raise UserError(
            'features of the new items are required: --features NAME=FILE, '
            '--item-table FILE, --text SOURCE or --images FOLDER'
        )
    target = _target(args)
    in_place = args.out is None and is_recommender(args.folder)
    # Without a lock, items that another process adds meanwhile would be lost.
    with exclusive(target) if in_place else nullcontext():
        return _add(args, target)


def _add(args: argparse.Namespace, target: Path) -> int:
    recommender = load_recommender(args.folder)
    mapper = recommender.feature_mapper
    if mapper is None:
        raise UserError(
            f"'{args.folder}' cannot add items: its student was distilled from data "
            f'without features, or with fewer than ten items that have them'
        )
    new, titles = read_new(args, recommender)
    options: dict[str, Any] = {'modality_mask': new.modality_mask, 'titles': titles}
    if args.out is None and not is_recommender(args.folder):
        recommender = Run(args.folder).add_items(new.ids, new.modality_x, **options)
    else:
        recommender.add_items(new.ids, new.modality_x, **options)
        recommender.save(target)
    items = 'item' if len(new.ids) == 1 else 'items'
    print(f'{len(new.ids)} {items} added, {recommender.num_items} in total')
    for part in mapper.maps:
        print(
            f'by {" + ".join(part.modalities)}: NDCG of held-out items '
            f'{part.gain:.4f}, of the average item {part.baseline:.4f}'
        )
    print(f'written: {target}')
    return 0


def _target(args: argparse.Namespace) -> Path:
    """The folder to write; raises before any work is done."""
    if args.out is None:
        folder = Path(args.folder)
        return folder if is_recommender(folder) else Run(folder).served_dir
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder (got the file '{out}')")
    if is_recommender(out) and not args.overwrite:
        raise UserError(
            f"'{out}' contains a recommender. Choose another --out, or pass --overwrite"
        )
    others = out.exists() and not all(is_leftover(x) for x in out.iterdir())
    if others and not is_recommender(out):
        raise UserError(
            f"'{out}' contains something that is not a recommender. Choose another "
            f'folder'
        )
    return out


def read_new(
    args: argparse.Namespace, recommender: Recommender
) -> tuple[NewFeatures, dict[Any, str] | None]:
    """The features and titles of new items."""
    mapper = recommender.feature_mapper
    assert mapper is not None
    new = _read(args, recommender, mapper)
    if args.titles is None:
        return new, None
    by_text = read_titles(args.titles, args.item_column, args.title_column)
    warn_titles(args.titles, by_text, new.ids)
    return new, {raw: by_text[str(raw)] for raw in new.ids if str(raw) in by_text}


def _read(
    args: argparse.Namespace, recommender: Recommender, mapper: FeatureMapper
) -> NewFeatures:
    contents = {
        _MODALITIES[option]: _encode(option, args, recommender.item_ids)
        for option in _MODALITIES
        if getattr(args, option) is not None
    }
    encoded: dict[str, tuple[list[Any], Array]] = {}
    if args.item_table is not None:
        encoded = _encode_columns(args, recommender.item_ids)
    config = _run_config(args.folder)
    columns = config.get('feature_columns', {})
    drop = config.get('data', {}).get('drop_columns') or ()
    tables = {}
    for name, file in args.features:
        if name in contents or name in encoded:
            raise UserError(
                f"--features must not name '{name}', the name of encoded contents or "
                f'columns. Pass one of them'
            )
        if name not in mapper.channels:
            raise UserError(
                f'--features requires modalities of {sorted(mapper.channels)}, those '
                f"of training (got '{name}')"
            )
        tables[name] = _load(Path(file), args, columns.get(f'item.x_{name}'), drop)
    new = read_new_features(tables | contents, args.ids, encoded)
    try:
        ids = recommender.items.typed('ids', new.ids)
    except ValueError as error:
        raise UserError(str(error)) from error
    old = set(recommender.item_ids).intersection(ids)
    if old:
        first = next(raw for raw in ids if raw in old)
        raise UserError(
            f"item '{first}' exists already ({len(old)} such items in total). Leave "
            f'out known items'
        )
    return new._replace(ids=ids)


def _encode(
    option: str, args: argparse.Namespace, known: list[Any]
) -> tuple[list[Any], Array]:
    """Ids and rows of the items that are new, zeros where a content is not readable."""
    source, place = getattr(args, option), None
    if option == 'images':
        place = content_folder(option, source)
    else:
        place = text_source(source, args.item_column)
        if place is None:
            raise UserError(f"--text must be a folder or FILE:COLUMN (got '{source}')")
    config = {**_training_content(option, args.folder), **place}
    old = {str(raw) for raw in known}
    contents = {
        raw: content
        for raw, content in contents_of(config).items()
        if str(raw) not in old
    }
    if not contents:
        raise UserError(
            f"--{option} must contain new items (got '{source}', where all are known)"
        )
    rows = encode(config, contents)
    return rows.ids, rows.x


def _training_content(option: str, folder: str) -> dict[str, Any]:
    """How the contents were encoded in training."""
    if is_recommender(folder):
        raise UserError(
            f'--{option} requires the folder of a run, whose config.json names the '
            f"encoder (got '{Path(folder)}'). Encode the contents and pass --features"
        )
    configs = Run.open(folder).config['data'].get('content', [])
    for config in configs:
        if config['modality'] == _MODALITIES[option]:
            return dict(config)
    raise UserError(
        f"--{option} requires a run that was trained with --{option} (got '{folder}', "
        f'which was trained with {[x["modality"] for x in configs] or "none"}). Pass '
        f'--features'
    )


def _run_config(folder: str) -> dict[str, Any]:
    """The settings of a run; empty for a recommender on its own."""
    return {} if is_recommender(folder) else Run.open(folder).config


def _encode_columns(
    args: argparse.Namespace, known: list[Any]
) -> dict[str, tuple[list[Any], Array]]:
    """Ids and rows of the items that are new, by modality; NaN where a cell is empty
    or has no known category.
    """
    encodings = {
        key.removeprefix('item.x_'): ColumnEncoding.from_dict(values)
        for key, values in _run_config(args.folder).get('column_encodings', {}).items()
        if key.startswith('item.x_')
    }
    if not encodings:
        raise UserError(
            f'--item-table requires the folder of a run that was trained with '
            f"--item-columns (got '{args.folder}'). Pass --features"
        )
    table = read_file(args.item_table)
    column = id_column(table, args.item_column)
    old = {str(raw) for raw in known}
    encoded = encode_columns(table, column, encodings=encodings)
    rows = {}
    for name, x in encoded.x.items():
        ids = encoded.ids[name].to_pylist()
        new = np.array([str(raw) not in old for raw in ids], dtype=bool)
        rows[name] = ([raw for raw in ids if str(raw) not in old], x[new])
        unknown = int(np.isnan(rows[name][1]).any(axis=1).sum())
        if unknown:
            print(
                f'warning: {unknown} new items have no value in the column '
                f"'{encodings[name].column}' that training had: it is treated as "
                f'missing',
                file=sys.stderr,
            )
    if not any(ids for ids, _ in rows.values()):
        raise UserError(
            f"--item-table must contain new items (got '{args.item_table}', where all "
            f'are known)'
        )
    return rows


def read_new_features(
    tables: Mapping[str, tuple[list[Any], Array]],
    ids_file: str | None,
    encoded: Mapping[str, tuple[list[Any], Array]] | None = None,
) -> NewFeatures:
    """The features of new items, in one order.

    Args:
        tables: Ids and rows by modality; rows of zeros are missing.
        ids_file: A file of all ids. (``None``: those of the tables)
        encoded: Further ones, where only rows of NaN are missing. (default: none)
    """
    encoded = encoded or {}
    tables = {**tables, **encoded}
    if ids_file is not None:
        ids = read_ids(ids_file)
    else:
        ids = list({str(x): x for own, _ in tables.values() for x in own}.values())
    if not ids:
        raise UserError('there are no new items in these files')
    if len(set(ids)) < len(ids):
        twice = next(raw for raw in ids if ids.count(raw) > 1)
        raise UserError(f"item '{twice}' occurs twice in --ids")
    modality_x, masks = {}, {}
    for name, (own, x) in tables.items():
        modality_x[name], masks[name] = _in_order(name, own, x, ids, name in encoded)
    without = ~np.stack(list(masks.values())).any(axis=0)
    if without.any():
        raise UserError(
            f"item '{ids[int(without.argmax())]}' has no features in any file "
            f'({int(without.sum())} such items in total). Leave it out'
        )
    return NewFeatures(ids, modality_x, masks)


def _load(
    file: Path,
    args: argparse.Namespace,
    columns: list[str] | None = None,
    drop: Sequence[str] = (),
) -> tuple[list[Any], Array]:
    """The ids of a file and one row for each, with the columns of training."""
    if not file.is_file():
        raise UserError(f"--features names a file that does not exist: '{file}'")
    content = load_feature_file(file, padding_row=args.padding_row)
    if isinstance(content, np.ndarray):
        if args.ids is None:
            raise UserError(f"'{file}' has no ids of its own: pass --ids FILE")
        own, x = read_ids(args.ids), content
        if len(own) != len(x):
            raise UserError(
                f"'{file}' must have a row for each of the {len(own)} --ids (got "
                f'{len(x)})'
            )
        return own, x.astype(np.float32)
    column = id_column(content, args.item_column)
    ids = unique_ids(content, column).to_pylist()
    x, names = feature_matrix(content, column, drop, may_be_empty=True)
    if columns is not None and names is not None and list(names) != columns:
        missing = [name for name in columns if name not in names]
        if missing:
            raise UserError(
                f"'{file}' must have the columns of training (got {list(names)[:10]}, "
                f'without {missing[:10]})'
            )
        x = x[:, [names.index(name) for name in columns]]
    return ids, x


def _in_order(
    name: str, own: list[Any], x: Array, ids: list[Any], zeros: bool
) -> tuple[Array, Array]:
    """Rows and masks in the order of ``ids``; rows of zeros are missing, or values."""
    by_text = {str(raw): row for row, raw in enumerate(own)}
    unknown = set(by_text) - {str(raw) for raw in ids}
    if unknown:
        raise UserError(
            f"the features of '{name}' must be of items in --ids (got those of "
            f"'{min(unknown)}', {len(unknown)} unknown in total)"
        )
    out = np.full((len(ids), x.shape[1]), np.nan if zeros else 0, dtype=np.float32)
    rows = np.array([by_text.get(str(raw), -1) for raw in ids])
    out[rows >= 0] = x[rows[rows >= 0]]
    gaps = np.isnan(out)
    mask = ~gaps.all(axis=1) & (zeros | (out != 0).any(axis=1))
    broken = mask & gaps.any(axis=1)
    if broken.any():
        raise UserError(
            f"the features of '{name}' have a gap in item "
            f"'{ids[int(broken.argmax())]}' ({int(broken.sum())} such items in total). "
            f'Fill it, or leave the whole row empty'
        )
    out[~mask] = 0.0
    return out, mask
