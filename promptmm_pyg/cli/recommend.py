"""``promptmm recommend``: the best items for each user."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.evaluate import format_table
from promptmm_pyg.cli.parsing import UserError, add_flags
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.data import read_ids
from promptmm_pyg.serving import Recommender

DESCRIPTION = """\
Print the best items for each user, by your own ids. Items that a user has interacted
with, in any part of the data, are left out unless --include-seen is given. For a user
who was not in the data, pass the items of their history: --history, once per user.

For many users or items: --memory-limit ranks in blocks within a limit, with the same
lists; --approximate compares with a part of the items only, and --recall measures what
it misses."""
EXAMPLE = """\
example:
  promptmm recommend runs/tiktok --users 7 42 -k 5
  promptmm recommend runs/tiktok --users 7 --deny sold_out.txt --json
  promptmm recommend runs/tiktok --history 31 8 205
  promptmm recommend runs/tiktok --users 7 42 --approximate --recall"""
_NPROBE = 32
FOLDER = 'folder of a run with a student, or a recommender'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help=FOLDER)
    whom = parser.add_mutually_exclusive_group(required=True)
    add_flags(whom, '--users ID...  raw ids of users')
    whom.add_argument(
        '--history',
        nargs='+',
        action='append',
        metavar='ID',
        help='raw ids of the items of a new user, may be repeated for further users',
    )
    add_flags(parser, '-k N [10]  items per user')
    add_flags(parser, '--include-seen  also items that the user has interacted with')
    add_flags(
        parser.add_mutually_exclusive_group(),
        """
--allow FILE  only these items, one raw id per line
--deny FILE  none of these items, one raw id per line""",
    )
    add_flags(parser, '--json  print JSON')
    add_flags(
        parser.add_argument_group('many users or items'),
        f"""
--memory-limit SIZE  limit of the memory of the ranking, such as '2GiB' (default: none)
--approximate  search an index for the best items; it is built first and needs faiss
--nprobe N  clusters of items that --approximate compares with a user; more find more
  (default: {_NPROBE})
--recall  also rank exactly and print on stderr the share of these items that
  --approximate finds; with --users""",
    )


def run(args: argparse.Namespace) -> int:
    """Prints a table, or JSON."""
    _check(args)
    recommender = load_recommender(args.folder)
    check_k(args.k, recommender)
    options: dict[str, Any] = {
        'exclude_seen': not args.include_seen,
        'allow': _read('--allow', args.allow, recommender),
        'deny': _read('--deny', args.deny, recommender),
    }
    index = None
    if args.approximate:
        index = recommender.index_items(nprobe=args.nprobe or _NPROBE)
    ranking: dict[str, Any] = {'memory_limit': args.memory_limit, 'index': index}
    users, histories = args.users, args.history
    results = recommend(recommender, users, histories, args.k, **options, **ranking)
    if args.recall and index is not None:
        ids = typed_ids('--users', args.users, recommender.user_ids)
        recall = recommender.index_recall(index, ids, args.k, **options)
        print(
            f'{min(index.nprobe, index.num_lists)} of {index.num_lists} clusters '
            f'compared: {recall.mean():.2%} of the exact items found, at least '
            f'{recall.min():.2%} per user',
            file=sys.stderr,
        )
    print(json.dumps(results) if args.json else recommendation_table(results))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    if args.memory_limit is not None and args.approximate:
        raise UserError('--memory-limit and --approximate exclude each other')
    if args.nprobe is not None and args.nprobe < 1:
        raise UserError(f'--nprobe must be positive (got {args.nprobe})')
    for name in ('nprobe', 'recall'):
        if getattr(args, name) not in (None, False) and not args.approximate:
            raise UserError(f'--{name} requires --approximate')
    if args.recall and args.users is None:
        raise UserError('--recall requires --users')


def check_k(k: int, recommender: Recommender) -> None:
    """Raises unless there are ``k`` items."""
    if not 1 <= k <= recommender.num_items:
        raise UserError(
            f'-k must be between 1 and {recommender.num_items}, the number of items '
            f'(got {k})'
        )


def load_recommender(folder: str | Path) -> Recommender:
    """The recommender of a run, or the one in the folder itself."""
    if is_recommender(folder):
        return Recommender.load(folder)
    run = Run.open(folder)
    if run.final:
        print(run.describe_final(), file=sys.stderr)
    return run.recommender()


def is_recommender(folder: str | Path) -> bool:
    """Whether a folder itself is that of a recommender."""
    return (Path(folder) / 'ids.json').is_file()


def recommend(
    recommender: Recommender,
    users: list[str] | None,
    histories: list[list[str]] | None,
    k: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """The items of each user with rank, score and title, best first."""
    entries: list[dict[str, Any]]
    if users is not None:
        ids = typed_ids('--users', users, recommender.user_ids)
        lists = recommender.recommend(ids, k, **options)
        entries = [{'user': user} for user in ids]
    else:
        items = recommender.item_ids
        ids = [typed_ids('--history', history, items) for history in histories or ()]
        lists = recommender.recommend_from_history(ids, k, **options)
        entries = [
            {'user': f'new {number}', 'history': history}
            for number, history in enumerate(ids, start=1)
        ]
    for entry, row, scores in zip(entries, lists.ids, lists.scores, strict=True):
        entry['items'] = _items(recommender, row.tolist(), scores.tolist())
    return entries


def _items(
    recommender: Recommender, ids: list[Any], scores: list[float]
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for item, score in zip(ids, scores, strict=True):
        if item is None:  # Fewer items than asked for.
            break
        entry = {'rank': len(items) + 1, 'item': item, 'score': score}
        if item in recommender.titles:
            entry['title'] = recommender.titles[item]
        items.append(entry)
    return items


def recommendation_table(results: list[dict[str, Any]]) -> str:
    """One line per item, with a column of titles where one is known."""
    entries = [
        (result['user'], entry) for result in results for entry in result['items']
    ]
    has_titles = any('title' in entry for _, entry in entries)
    head = ['user', 'rank', 'item', 'score', *(['title'] if has_titles else [])]
    rows = []
    for user, entry in entries:
        line = [str(user), entry['rank'], str(entry['item']), entry['score']]
        rows.append([*line, entry.get('title', '')] if has_titles else line)
    return format_table(head, rows)


def _read(option: str, path: str | None, recommender: Recommender) -> list[Any] | None:
    if path is None:
        return None
    ids = [str(raw) for raw in read_ids(path)]
    return typed_ids(option, ids, recommender.item_ids)


def typed_ids(option: str, ids: list[str], known: list[Any]) -> list[Any]:
    """Ids of text with the type that they have in the data."""
    by_text = {str(raw): raw for raw in known}
    unknown = [text for text in ids if text not in by_text]
    if unknown:
        examples = ', '.join(str(raw) for raw in known[:3])
        raise UserError(
            f"{option} requires ids of the training data (got '{unknown[0]}', "
            f'{len(unknown)} unknown in total; known are {examples}, ...)'
        )
    return [by_text[text] for text in ids]
