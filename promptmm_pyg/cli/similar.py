"""``promptmm similar``: the items closest to each item."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from promptmm_pyg.cli.lists import (
    MEMORY,
    add_output,
    block_size,
    check_output,
    columns_of,
    id_type,
    write_file,
)
from promptmm_pyg.cli.parsing import UserError, add_flags
from promptmm_pyg.cli.recommend import (
    FOLDER,
    check_k,
    entries,
    load_recommender,
    recommendation_table,
)
from promptmm_pyg.cli.selection import (
    add_item_filters,
    add_strict,
    check_item_filters,
    item_filters,
    known_ids,
)
from promptmm_pyg.runs.data import read_ids
from promptmm_pyg.serving import Recommendations, Recommender

DESCRIPTION = """\
Print the items whose embeddings are closest to those of each item by cosine, or write
them to a file with the columns item, rank, similar, score and, if titles are known,
title (of the similar item). Ids are matched as they are written; unknown ones are left
out and counted on stderr, or refused with --strict. Files are written as by
'promptmm recommend'."""
EXAMPLE = """\
example:
  promptmm similar runs/tiktok --items 31 8 -k 5
  promptmm similar runs/tiktok --items 31 --deny sold_out.txt --json
  promptmm similar runs/tiktok --all-items -k 20 --out similar.parquet"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help=FOLDER)
    add_flags(
        parser.add_mutually_exclusive_group(required=True),
        """
--items ID...  raw ids of items
--items-file FILE  raw ids of items, one per line
--all-items  every item; with --out""",
    )
    add_flags(parser, '-k N  items per item (default: 10, or all if there are fewer)')
    add_strict(parser)
    add_item_filters(parser)
    add_output(parser, 'the lists')


def run(args: argparse.Namespace) -> int:
    """Prints a table, or JSON, or writes a file."""
    check_output(args)
    check_item_filters(args)
    if args.all_items and args.out is None:
        raise UserError('--all-items requires --out FILE')
    recommender = load_recommender(args.folder)
    args.k = check_k(args.k, recommender)
    items, titles = recommender.items, recommender.titles
    if args.all_items:
        keys = recommender.item_ids
    else:
        texts = args.items or read_ids(args.items_file, args.encoding)
        option = '--items' if args.items else '--items-file'
        keys = known_ids(option, texts, items, strict=args.strict)
        if not keys:
            raise UserError(f"there are no items in '{args.items_file}'")
    blocks = _rank(args.k, recommender, keys, item_filters(args, recommender))
    if args.out is not None:
        types = {'item': id_type(items), 'rank': int}
        types |= {'similar': id_type(items), 'score': float}
        types |= {'title': str} if titles else {}
        columns = ((len(own), columns_of(own, x, titles)) for own, x in blocks)
        write_file(args, types, columns, len(keys), 'items')
        return 0
    results = [x for block in blocks for x in entries(*block, titles, 'item')]
    table = recommendation_table(results, 'item', 'similar')
    print(json.dumps(results) if args.json else table)
    return 0


def _rank(
    k: int, recommender: Recommender, keys: list[Any], options: dict[str, Any]
) -> Iterator[tuple[list[Any], Recommendations]]:
    """The lists of some items at a time."""
    size = block_size(k)
    limit = MEMORY + 120 * size * k
    for start in range(0, len(keys), size):
        own = keys[start : start + size]
        yield own, recommender.similar_items(own, k, memory_limit=limit, **options)
