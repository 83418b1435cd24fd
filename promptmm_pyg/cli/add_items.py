"""``promptmm add-items``: items that came after training, from their features."""

import argparse
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.data_source import read_titles
from promptmm_pyg.cli.new_contents import add_new_contents, encode_new
from promptmm_pyg.cli.new_features import NewFeatures, read_new_features
from promptmm_pyg.cli.parsing import UserError, named
from promptmm_pyg.cli.recommend import load_recommender
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.serving import FeatureMapper, Recommender

_DESCRIPTION = """\
Put items that came after training into what RUN serves. Nothing is trained: the
student's items were distilled into maps from features to embeddings, and these say
where a new item stands. Known items stay as they are.

Features have to be of the same kind as those of training: from the same model, of the
same width, not standardized. An item may lack a modality: leave it out of that table,
or let its row be zeros or NaN. Files with ids of their own (.csv, .parquet) may name
the items in any order. Where training encoded texts or pictures, --text and --images
encode those of the new items in the same way.

'promptmm distill RUN --overwrite' makes the recommender anew, without these items."""
_EXAMPLE = """\
example:
  promptmm add-items runs/mine --text texts/
  promptmm add-items runs/mine --features text=new_text.csv image=new_image.csv
  promptmm add-items runs/mine --features image=new.npy --ids new.txt --out served/
  promptmm recommend runs/mine --users 7 --allow new.txt"""


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``add-items`` to the program."""
    parser = commands.add_parser(
        'add-items',
        **kwargs,
        usage='promptmm add-items RUN [--features NAME=FILE ...] [options]',
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    parser.add_argument(
        'folder', metavar='RUN', help='folder of a run with a student, or a recommender'
    )
    parser.add_argument(
        '--features',
        nargs='+',
        action='extend',
        default=[],
        type=named,
        metavar='NAME=FILE',
        help='features of the new items by modality: .csv or .parquet with the item '
        'column, or .npy with a row for each of --ids',
    )
    add_new_contents(parser)
    parser.add_argument(
        '--ids',
        metavar='FILE',
        help='raw ids of the new items, one a line, in the order of .npy rows '
        '(default: those of the tables)',
    )
    parser.add_argument(
        '--titles', metavar='FILE', help='.csv with the item column and titles'
    )
    parser.add_argument(
        '--item-column',
        default='item_id',
        metavar='NAME',
        help='column of item ids in tables (default: item_id)',
    )
    parser.add_argument(
        '--title-column',
        default='title',
        metavar='NAME',
        help='column of titles (default: title)',
    )
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help="where to write the recommender (default: in place of RUN's)",
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the recommender in --out'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Adds the items and says how many there are now."""
    if not args.features and args.text is None and args.images is None:
        raise UserError(
            'what is known of the new items is needed: --features NAME=FILE, --text '
            'SOURCE or --images FOLDER'
        )
    target = _target(args)
    recommender = load_recommender(args.folder)
    path = recommender.feature_mapper
    if path is None:
        raise UserError(
            f"'{args.folder}' cannot place new items: its student was distilled from "
            f'data without features, or with fewer than ten items that have them'
        )
    new = _read(args, recommender, path)
    titles = None
    if args.titles is not None:
        by_text = read_titles(args.titles, args.item_column, args.title_column)
        titles = {raw: by_text[str(raw)] for raw in new.ids if str(raw) in by_text}
    recommender.add_items(
        new.ids, new.modality_x, modality_mask=new.modality_mask, titles=titles
    )
    recommender.save(target)
    items = 'item' if len(new.ids) == 1 else 'items'
    print(f'{len(new.ids)} {items} added, {recommender.num_items} in all')
    for part in path.maps:
        print(
            f'by {" + ".join(part.modalities)}: held-out items ranked with NDCG '
            f'{part.gain:.4f}, the average item with {part.baseline:.4f}'
        )
    print(f'written: {target}')
    return 0


def _read(
    args: argparse.Namespace, recommender: Recommender, path: FeatureMapper
) -> NewFeatures:
    contents = encode_new(args, recommender.item_ids)
    files: dict[str, Path] = {}
    for name, file in args.features:
        if name in contents:
            raise UserError(
                f"--features names '{name}', which is what the contents are called. "
                f'Pass one of them'
            )
        if name not in path.channels:
            raise UserError(
                f'--features requires modalities of {sorted(path.channels)}, those of '
                f"training (got '{name}')"
            )
        files[name] = Path(file)
    new = read_new_features(files, args.ids, args.item_column, contents)
    ids = _typed(new.ids, recommender)
    known = set(recommender.item_ids)
    old = [raw for raw in ids if raw in known]
    if old:
        raise UserError(
            f"item '{old[0]}' is there already ({len(old)} such items in all). Leave "
            f'out what is known'
        )
    return new._replace(ids=ids)


def _typed(ids: list[Any], recommender: Recommender) -> list[Any]:
    """Ids as those of the recommender are: text, or numbers."""
    kinds = {type(raw) for raw in recommender.item_ids}
    if kinds == {str}:
        return [str(raw) for raw in ids]
    wrong = [raw for raw in ids if type(raw) is not int]
    if kinds == {int} and wrong:
        raise UserError(
            f"ids must be whole numbers, as those of '{recommender.item_ids[0]}' "
            f"and others are (got '{wrong[0]}')"
        )
    return ids


def _target(args: argparse.Namespace) -> Path:
    """Where to write; raises before any work is done."""
    if args.out is None:
        if (Path(args.folder) / 'ids.json').is_file():
            return Path(args.folder)
        return RunFolder(args.folder).recommender
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out requires a folder (got the file '{out}')")
    there = (out / 'ids.json').is_file()
    if there and not args.overwrite:
        raise UserError(
            f"'{out}' holds a recommender. Choose another --out, or pass --overwrite"
        )
    if not there and out.exists() and any(out.iterdir()):
        raise UserError(
            f"'{out}' holds something that is no recommender. Choose another folder"
        )
    return out
