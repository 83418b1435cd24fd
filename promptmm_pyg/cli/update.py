"""``promptmm update``: new interactions, users and items for the served model."""

import argparse
from typing import Any

from promptmm_pyg.cli.add_items import add_new_item_options, has_features, read_new
from promptmm_pyg.cli.parsing import Parser, UserError, add_flags, add_options
from promptmm_pyg.runs import Run, update_run

DESCRIPTION = """\
Continue the served model of RUN with the interactions of a table: a short training of
the rows of new interactions and of as many replayed old ones, which costs about a
percent of a full training. Rows of the table that are known are ignored.

New users start from their history. New items start from their users; with --features,
--text or --images, from their features (items without interactions, too).

The result is in RUN/final/ and served from then on; the evaluated models stay. The new
data are recorded in RUN/updates/, and 'promptmm refit RUN' trains on them, too: do so
from time to time, or when much has changed."""
EXAMPLE = """\
example:
  promptmm update runs/mine this_week.csv
  promptmm update runs/mine this_week.parquet --features text=new_text.csv
  promptmm recommend runs/mine --users 7 42"""
_UPDATE = {
    'epochs': 'passes over the new interactions',
    'l2': 'weight of the squared norms of the embeddings',
    'seed': 'seed of everything random',
}


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.usage = 'promptmm update RUN TABLE [options]'
    parser.add_argument('folder', metavar='RUN', help='folder of a run with a student')
    parser.add_argument('table', metavar='TABLE', help='table of new interactions')
    add_flags(
        parser,
        """
--user-column NAME  column of user ids (default: that of the run)
--item-column NAME  column of item ids, here and in tables of features (default: that of
  the run)""",
    )
    add_new_item_options(parser.add_argument_group('new items'))
    add_options(parser.add_argument_group('training'), update_run, _UPDATE)


def run(args: argparse.Namespace) -> int:
    """Updates the model and prints the counts."""
    run = Run.open(args.folder)
    options: dict[str, Any] = {}
    item = args.item_column or run.config['data'].get('item')
    if has_features(args):
        recommender = run.recommender()
        if recommender.feature_mapper is None:
            raise UserError(
                f"'{run.path}' cannot place items by features: its data have none. "
                f'Leave out --features, --text and --images'
            )
        args.item_column = item or 'item_id'
        new, options['titles'] = read_new(args, recommender)
        options |= {
            'item_ids': new.ids,
            'features': new.modality_x,
            'modality_mask': new.modality_mask,
        }
    counts = run.update(
        args.table,
        user=args.user_column,
        item=item,
        **{name: getattr(args, name) for name in _UPDATE},
        **options,
    )
    print(
        f'{counts.interactions} new interactions ({counts.known} known ones ignored), '
        f'{counts.users} new users, {counts.items} new items '
        f'({counts.items_with_features} with features)'
    )
    print(f'written: {run.served_dir}')
    print(f'next: promptmm recommend {run.path} --users ID')
    return 0
