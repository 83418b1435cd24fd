"""``promptmm recommend``: what to show to whom."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from promptmm_pyg.cli.data_source import read_ids
from promptmm_pyg.cli.large_rankings import (
    add_large,
    check_large,
    how_to_rank,
    tell_recall,
)
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.cli.tables import table
from promptmm_pyg.ranking import ApproximateItems
from promptmm_pyg.serving import Recommender

_DESCRIPTION = """\
Print the best items for each user, by your own ids. What a user has interacted with
in training is left out unless --include-seen is given. Somebody who was not there in
training is recommended to by the items they took: --history, once for each of them.

For many users or items: --memory ranks in blocks that fit in it, with the same lists;
--approximate looks at a part of the catalogue only, and --recall measures what it
misses."""
_EXAMPLE = """\
example:
  promptmm recommend runs/tiktok --users 7 42 -k 5
  promptmm recommend runs/tiktok --users 7 --deny sold_out.txt --json
  promptmm recommend runs/tiktok --history 31 8 205
  promptmm recommend runs/tiktok --users 7 42 --approximate --recall"""


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``recommend`` to the program."""
    parser = commands.add_parser(
        'recommend', **kwargs, description=_DESCRIPTION, epilog=_EXAMPLE
    )
    parser.add_argument(
        'folder', metavar='RUN', help='folder of a run with a student, or a recommender'
    )
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument('--users', nargs='+', metavar='ID', help='raw ids of users')
    whom.add_argument(
        '--history',
        nargs='+',
        action='append',
        metavar='ID',
        help='raw ids of the items a new user took, may be repeated for further users',
    )
    parser.add_argument(
        '-k', type=int, default=10, metavar='N', help='items a user (default: 10)'
    )
    parser.add_argument(
        '--include-seen', action='store_true', help='also what the user knows'
    )
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument(
        '--allow', metavar='FILE', help='only these items, one raw id a line'
    )
    lists.add_argument(
        '--deny', metavar='FILE', help='none of these items, one raw id a line'
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    add_large(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a table, or JSON."""
    check_large(args)
    recommender = load_recommender(args.folder)
    if not 1 <= args.k <= recommender.num_items:
        raise UserError(
            f'-k must lie between 1 and the {recommender.num_items} items there '
            f'are (got {args.k})'
        )
    options: dict[str, Any] = {
        'exclude_seen': not args.include_seen,
        'allow': _read('--allow', args.allow, recommender),
        'deny': _read('--deny', args.deny, recommender),
    }
    how = how_to_rank(args, recommender)
    if args.history is None:
        found = recommend(recommender, args.users, args.k, **options, **how)
    else:
        found = recommend_to_new(recommender, args.history, args.k, **options, **how)
    if args.recall:
        users = _typed('--users', args.users, recommender.user_ids)
        tell_recall(recommender, how['index'], users, args.k, **options)
    if args.json:
        print(json.dumps(found))
    else:
        print(recommendation_table(found))
    return 0


def load_recommender(folder: str | Path) -> Recommender:
    """The recommender of a run, or the one in the folder itself.

    Raises:
        UserError: If there is none.
    """
    if (Path(folder) / 'ids.json').is_file():
        return Recommender.load(folder)
    run = RunFolder(folder)
    run.read_config()
    if not run.recommender.is_dir():
        raise UserError(
            f"'{folder}' has no recommender yet. Make one with 'promptmm distill "
            f"{folder}'"
        )
    return Recommender.load(run.recommender)


def recommend(
    recommender: Recommender,
    users: list[str],
    k: int,
    *,
    exclude_seen: bool = True,
    allow: list[Any] | None = None,
    deny: list[Any] | None = None,
    memory: str | None = None,
    index: ApproximateItems | None = None,
) -> list[dict[str, Any]]:
    """For each user the items with rank, score and title, best first.

    Args:
        recommender: Knows users and items by raw id.
        users: Raw ids as text.
        k: How many items.
        exclude_seen: Whether to leave out what the user has seen.
        allow: Only these raw items. (default: all)
        deny: None of these raw items. (default: all are fine)
        memory: What the ranking fits in. (default: no bound)
        index: Looks at a part of the items. (default: all are looked at)
    """
    ids = _typed('--users', users, recommender.user_ids)
    lists = recommender.recommend(
        ids,
        k,
        exclude_seen=exclude_seen,
        allow=allow,
        deny=deny,
        memory_limit=memory,
        index=index,
    )
    return [
        {'user': user, 'items': _items(recommender, row, scores)}
        for user, row, scores in zip(ids, lists.ids, lists.scores, strict=True)
    ]


def recommend_to_new(
    recommender: Recommender,
    histories: list[list[str]],
    k: int,
    *,
    exclude_seen: bool = True,
    allow: list[Any] | None = None,
    deny: list[Any] | None = None,
    memory: str | None = None,
    index: ApproximateItems | None = None,
) -> list[dict[str, Any]]:
    """As :func:`recommend`, for users who were not there in training.

    Args:
        recommender: Knows items by raw id.
        histories: For each user the raw ids, as text, of the items they took.
        k: How many items.
        exclude_seen: Whether to leave these out.
        allow: Only these raw items. (default: all)
        deny: None of these raw items. (default: all are fine)
        memory: What the ranking fits in. (default: no bound)
        index: Looks at a part of the items. (default: all are looked at)
    """
    known = recommender.item_ids
    ids = [_typed('--history', history, known) for history in histories]
    lists = recommender.recommend_from_history(
        ids,
        k,
        exclude_seen=exclude_seen,
        allow=allow,
        deny=deny,
        memory_limit=memory,
        index=index,
    )
    return [
        {
            'user': f'new {number}',
            'history': history,
            'items': _items(recommender, row, scores),
        }
        for number, (history, row, scores) in enumerate(
            zip(ids, lists.ids, lists.scores, strict=True), start=1
        )
    ]


def _items(
    recommender: Recommender, row: 'np.ndarray[Any, Any]', scores: Any
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for item, score in zip(row.tolist(), scores.tolist(), strict=True):
        if item is None:
            break
        entry = {'rank': len(items) + 1, 'item': item, 'score': score}
        if item in recommender.titles:
            entry['title'] = recommender.titles[item]
        items.append(entry)
    return items


def recommendation_table(found: list[dict[str, Any]]) -> str:
    """One line an item; a column of titles where one is known."""
    entries = [(row['user'], entry) for row in found for entry in row['items']]
    titled = any('title' in entry for _, entry in entries)
    head = ['user', 'rank', 'item', 'score', *(['title'] if titled else [])]
    rows = []
    for user, entry in entries:
        line = [str(user), entry['rank'], str(entry['item']), entry['score']]
        rows.append([*line, entry.get('title', '')] if titled else line)
    return table(head, rows)


def _read(option: str, path: str | None, recommender: Recommender) -> list[Any] | None:
    if path is None:
        return None
    given = [str(raw) for raw in read_ids(path)]
    return _typed(option, given, recommender.item_ids)


def _typed(option: str, given: list[str], known: list[Any]) -> list[Any]:
    """Ids as they are in the data: a number there is a number here."""
    by_text = {str(raw): raw for raw in known}
    unknown = [text for text in given if text not in by_text]
    if unknown:
        some = ', '.join(str(raw) for raw in known[:3])
        raise UserError(
            f"{option} requires ids of the training data (got '{unknown[0]}', "
            f'{len(unknown)} unknown in all; known are {some}, ...)'
        )
    return [by_text[text] for text in given]
