"""Options of ``promptmm recommend`` for many users or items."""

import argparse
import sys
from typing import Any

from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.ranking import ApproximateItems
from promptmm_pyg.serving import Recommender

_PROBES = 32


def add_large(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    large = parser.add_argument_group('many users or items')
    large.add_argument(
        '--memory',
        metavar='SIZE',
        help="what everything made in ranking fits in together, such as '2GiB' "
        '(default: no bound)',
    )
    large.add_argument(
        '--approximate',
        action='store_true',
        help='look up most of the best items in an index, which is built first; needs '
        'faiss',
    )
    large.add_argument(
        '--probes',
        type=int,
        metavar='N',
        help='clusters of items that --approximate compares a user with; more find '
        f'more (default: {_PROBES})',
    )
    large.add_argument(
        '--recall',
        action='store_true',
        help='also rank exactly and tell on stderr what part of these items '
        '--approximate finds; with --users',
    )


def check_large(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    if args.memory is not None and args.approximate:
        raise UserError('--memory and --approximate cannot be given together')
    if args.probes is not None and args.probes < 1:
        raise UserError(f'--probes must be positive (got {args.probes})')
    for name in ('probes', 'recall'):
        if getattr(args, name) not in (None, False) and not args.approximate:
            raise UserError(f'--{name} requires --approximate')
    if args.recall and args.users is None:
        raise UserError('--recall requires --users')


def how_to_rank(args: argparse.Namespace, recommender: Recommender) -> dict[str, Any]:
    """What the recommender is told."""
    if args.approximate:
        index = recommender.index_items(nprobe=args.probes or _PROBES)
        return {'index': index}
    return {'memory': args.memory}


def tell_recall(
    recommender: Recommender,
    index: ApproximateItems,
    users: list[Any],
    k: int,
    **options: Any,
) -> None:
    """Tells on stderr what part of the exact items the index finds."""
    shares = recommender.index_recall(index, users, k, **options)
    print(
        f'{min(index.nprobe, index.num_lists)} of {index.num_lists} clusters '
        f'compared: {shares.mean():.2%} of the exact items found, at worst '
        f'{shares.min():.2%} of a user',
        file=sys.stderr,
    )
