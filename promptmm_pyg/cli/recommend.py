"""``promptmm recommend``: the best items for each user."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from promptmm_pyg._files import current
from promptmm_pyg.cli.evaluate import format_table
from promptmm_pyg.cli.lists import (
    MEMORY,
    add_output,
    arrow_table,
    block_size,
    check_output,
    columns_of,
    id_type,
    write_file,
)
from promptmm_pyg.cli.parsing import UserError, add_flags, printable
from promptmm_pyg.cli.selection import (
    Pairs,
    add_item_filters,
    add_strict,
    check_item_filters,
    find_ids,
    item_filters,
    known_ids,
    log,
    read_pair_texts,
    read_pairs,
)
from promptmm_pyg.ranking import ApproximateItems
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.data import read_ids
from promptmm_pyg.serving import Recommendations, Recommender

DESCRIPTION = """\
Print the best items for each user, by your own ids, or write them to a file with the
columns user, rank, item, score and, if titles are known, title. Items that a user has
interacted with, in any part of the data, are left out unless --include-seen is given.
For a user who was not in the data, pass the items of their history: --history, once per
user. --pairs scores given pairs instead; scores are comparable for one user only.

Files of pairs (--pairs, --candidates, --exclude) are tables with columns of user and
item ids. Ids are matched as they are written. Unknown ones are left out and counted on
stderr; it is an error if no id is known, or with --strict if one is not.

--out writes block by block, so memory does not grow with the number of users, and
replaces FILE once it is complete. In .csv, an apostrophe precedes titles and text ids
that a spreadsheet would run as a formula (they start with = + - @ or a tab, and are no
numbers) unless --verbatim is given; .jsonl and .parquet hold all text as it is.

--engine ray ranks all users with Ray Data, on the cluster that it finds or on this
machine, and writes a folder of Parquet files; all machines must see RUN and --out.

For many users or items: --memory-limit ranks in blocks within a limit, with the same
lists; --approximate compares with a part of the items only, and --recall measures what
it misses."""
EXAMPLE = """\
example:
  promptmm recommend runs/tiktok --users 7 42 -k 5
  promptmm recommend runs/tiktok --users 7 --deny sold_out.txt --json
  promptmm recommend runs/tiktok --history 31 8 205
  promptmm recommend runs/tiktok --all-users --out lists.parquet
  promptmm recommend runs/tiktok --users-file users.txt --exclude bought.csv \\
      --where stock=1 --where brand=a,b --item-table items.csv --out lists.csv
  promptmm recommend runs/tiktok --candidates shortlist.csv --out lists.jsonl
  promptmm recommend runs/tiktok --pairs pairs.csv --out scores.csv
  promptmm recommend runs/tiktok --users 7 42 --approximate --recall
  promptmm recommend runs/tiktok --all-users --engine ray --num-workers 8 --out lists"""
_NPROBE = 32
_PAIRS = 2**16  # Scored and written at once.
FOLDER = 'folder of a run with a student, or a recommender'


class _Request(NamedTuple):
    """For whom to rank, and what belongs to single users."""

    keys: Sequence[Any]
    """User ids, or names of new users."""
    histories: list[list[Any]] | None
    """The items of new users."""
    pairs: dict[str, Pairs]
    """Items of known users: ``exclude`` and ``candidates``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help=FOLDER)
    whom = parser.add_argument_group('for whom').add_mutually_exclusive_group()
    add_flags(
        whom,
        """
--users ID...  raw ids of users
--users-file FILE  raw ids of users, one per line
--all-users  every user; with --out
--pairs FILE  score these pairs of users and items""",
    )
    whom.add_argument(
        '--history',
        nargs='+',
        action='append',
        metavar='ID',
        help='raw ids of the items of a new user, may be repeated for further users',
    )
    add_flags(parser, '-k N  items per user (default: 10, or all if there are fewer)')
    add_strict(parser)
    add_item_filters(parser)
    add_flags(
        parser.add_argument_group('which items of a user'),
        """
--include-seen  also items that the user has interacted with
--exclude FILE  none of these pairs of users and items
--candidates FILE  only these pairs; without another option for whom, their users
--user-column NAME  column of user ids in files of pairs (default: user or user_id)""",
    )
    add_output(parser, 'the lists')
    _add_engine(parser)
    add_flags(
        parser.add_argument_group('many users or items'),
        f"""
--memory-limit SIZE  limit of the memory of the ranking, such as '2GiB' (default: none;
  32 MiB with --out)
--approximate  search an index for the best items; it is that of --save-index, or built
  first, and requires faiss
--save-index  build the index and save it beside the recommender, for later calls
--nprobe N  clusters of items that --approximate compares with a user; more find more
  (default: {_NPROBE})
--recall  also rank exactly and print on stderr the share of these items that
  --approximate finds; with --users""",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('a cluster')
    group.add_argument(
        '--engine',
        choices=('local', 'ray'),
        default='local',
        help='what ranks: this process, or workers of Ray (needs the extra ray)',
    )
    add_flags(
        group,
        '--num-workers N  workers of --engine ray, with one CPU each (default: 1)',
    )


def run(args: argparse.Namespace) -> int:
    """Prints a table, or JSON, or writes a file."""
    _check(args)
    recommender = load_recommender(args.folder)
    if args.pairs is not None:
        return _score(args, recommender)
    args.k = check_k(args.k, recommender)
    request = _read_request(args, recommender)
    options: dict[str, Any] = item_filters(args, recommender)
    options['exclude_seen'] = not args.include_seen
    if args.engine == 'ray':
        return _rank_on_ray(args, recommender, options)
    index = _index(args, recommender) if args.approximate else None
    blocks = _rank(args, recommender, request, {**options, 'index': index})
    titles = recommender.titles
    if args.out is not None:
        types = _types(recommender)
        types |= {'user': str} if request.histories else {}
        columns = ((len(keys), columns_of(keys, x, titles)) for keys, x in blocks)
        write_file(args, types, columns, len(request.keys), 'users')
    else:
        results = [x for block in blocks for x in entries(*block, titles, 'user')]
        for entry, history in zip(results, request.histories or (), strict=False):
            entry['history'] = history
        print(json.dumps(results) if args.json else recommendation_table(results))
    if args.recall and index is not None:
        recall = recommender.index_recall(index, request.keys, args.k, **options)
        log(
            f'{min(index.nprobe, index.num_lists)} of {index.num_lists} clusters '
            f'compared: {recall.mean():.2%} of the exact items found, at least '
            f'{recall.min():.2%} per user'
        )
    return 0


def _types(recommender: Recommender) -> dict[str, type]:
    """The type of each column of the lists of known users."""
    types = {'user': id_type(recommender.users), 'rank': int}
    types |= {'item': id_type(recommender.items), 'score': float}
    return types | ({'title': str} if recommender.titles else {})


def _rank_on_ray(
    args: argparse.Namespace, recommender: Recommender, options: dict[str, Any]
) -> int:
    """Writes the lists of all users to a folder, by workers of Ray."""
    from promptmm_pyg.cluster import recommend_all

    types, start = _types(recommender), time.perf_counter()

    def to_arrow(keys: list[Any], lists: Recommendations, titles: Any) -> Any:
        return arrow_table(types, columns_of(keys, lists, titles))

    number = recommend_all(
        recommender_folder(args.folder),
        args.out,
        args.k,
        to_arrow,
        num_workers=args.num_workers or 1,
        block_size=block_size(args.k),
        memory_limit=args.memory_limit or _block_memory(args.k, recommender),
        **options,
    )
    seconds = time.perf_counter() - start
    print(printable(f'written: {args.out} ({number:,} users, {seconds:.1f} s)'))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    whom = ('users', 'users_file', 'history', 'pairs', 'candidates')
    if not args.all_users and all(getattr(args, name) is None for name in whom):
        raise UserError(
            'one of --users, --users-file, --all-users, --history, --candidates and '
            '--pairs is required'
        )
    if args.engine == 'ray':
        _check_ray(args)
    elif args.num_workers is not None:
        raise UserError('--num-workers requires --engine ray')
    else:
        check_output(args)
    check_item_filters(args)
    if args.all_users and args.out is None:
        raise UserError('--all-users requires --out FILE')
    if args.memory_limit is not None and args.approximate:
        raise UserError('--memory-limit and --approximate exclude each other')
    if args.nprobe is not None and args.nprobe < 1:
        raise UserError(f'--nprobe must be positive (got {args.nprobe})')
    for name in ('nprobe', 'recall', 'save_index'):
        if getattr(args, name) not in (None, False) and not args.approximate:
            raise UserError(f'--{name.replace("_", "-")} requires --approximate')
    if args.recall and args.users is None:
        raise UserError('--recall requires --users')
    _check_pairs(args)


def _check_ray(args: argparse.Namespace) -> None:
    if not args.all_users or args.out is None:
        raise UserError('--engine ray requires --all-users and --out FOLDER')
    names = ('exclude', 'candidates', 'approximate', 'json', 'overwrite', 'verbatim')
    for name in names:
        if getattr(args, name):
            raise UserError(f'--{name} and --engine ray exclude each other')
    path = Path(args.out)
    if path.suffix or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(
            f'--out must be a folder that is new or empty with --engine ray (got '
            f"'{path}')"
        )
    if args.num_workers is not None and args.num_workers < 1:
        raise UserError(f'--num-workers must be positive (got {args.num_workers})')


def _check_pairs(args: argparse.Namespace) -> None:
    for name in ('candidates', 'exclude'):
        if getattr(args, name) is not None and args.history is not None:
            raise UserError(f'--{name} and --history exclude each other')
    if args.candidates is not None and (args.approximate or args.memory_limit):
        raise UserError(
            '--candidates must be given without --approximate and --memory-limit: '
            'only the candidates are scored'
        )
    if args.pairs is not None:
        for name in ('allow', 'deny', 'exclude', 'candidates', 'approximate'):
            if getattr(args, name):
                raise UserError(f'--{name} and --pairs exclude each other')


def check_k(k: int | None, recommender: Recommender) -> int:
    """The length of lists: at most the number of items.

    Args:
        k: The option ``-k``. (default: 10, or the number of items)
        recommender: Its catalogue is the limit.
    """
    most = recommender.num_items
    if k is not None and not 1 <= k <= most:
        raise UserError(
            f'-k must be between 1 and {most}, the number of items (got {k})'
        )
    return min(10, most) if k is None else k


def load_recommender(folder: str | Path) -> Recommender:
    """The recommender of a run, or the one in the folder itself."""
    if is_recommender(folder):
        return Recommender.load(folder)
    run = Run.open(folder)
    if run.final:
        log(run.describe_final())
    return run.recommender()


def _index(args: argparse.Namespace, recommender: Recommender) -> ApproximateItems:
    """The saved index, or a new one."""
    folder, nprobe = recommender_folder(args.folder), args.nprobe or _NPROBE
    if not args.save_index and current(folder, 'index.safetensors').is_file():
        return recommender.load_index(folder, nprobe=nprobe)
    index = recommender.index_items(nprobe=nprobe)
    if args.save_index:
        recommender.save_index(folder, index)
    return index


def recommender_folder(folder: str | Path) -> Path:
    """The folder of the recommender that is served: itself, or that of a run."""
    return Path(folder) if is_recommender(folder) else Run.open(folder).served_dir


def is_recommender(folder: str | Path) -> bool:
    """Whether a folder itself is that of a recommender."""
    return current(Path(folder), 'card.json').is_file()


def _read_request(args: argparse.Namespace, recommender: Recommender) -> _Request:
    if args.history is not None:
        return _read_histories(args, recommender)
    pairs = {
        name: read_pairs(f'--{name}', args, recommender)
        for name in ('exclude', 'candidates')
        if getattr(args, name) is not None
    }
    users = recommender.users
    keys: Sequence[Any]
    if args.all_users:
        keys = users
    elif args.users is not None:
        keys = known_ids('--users', args.users, users, strict=args.strict)
    elif args.users_file is not None:
        texts = read_ids(args.users_file, args.encoding)
        keys = known_ids('--users-file', texts, users, strict=args.strict)
    else:
        keys = list(pairs['candidates'])
    if not keys:
        raise UserError(f"there are no users in '{args.users_file or args.candidates}'")
    _note_average(keys, recommender)
    if args.candidates is not None:
        empty = sum(key not in pairs['candidates'] for key in keys)
        if empty:
            log(f'warning: --candidates: {empty} of {len(keys)} users have none')
    return _Request(keys, None, pairs)


def _note_average(keys: Sequence[Any], recommender: Recommender) -> None:
    """Names users whose list is not theirs."""
    empty = recommender.seen.num_seen == 0
    if keys is not recommender.users:
        empty = empty[torch.as_tensor(recommender.users.rows('users', keys))]
    if int(empty.sum()) > 0 and bool(recommender.seen.col.numel()):
        first = keys[int(empty.nonzero()[0])]
        log(
            f'note: {int(empty.sum())} of {len(keys)} users have no known interactions '
            f'(the first: {first!r}): they get the list of the average user, in which '
            f'popular items lead'
        )


def _read_histories(args: argparse.Namespace, recommender: Recommender) -> _Request:
    texts = [text for history in args.history for text in history]
    known = iter(find_ids('--history', texts, recommender.items, strict=args.strict))
    histories = {
        f'new {number}': [x for x in (next(known) for _ in history) if x is not None]
        for number, history in enumerate(args.history, start=1)
    }
    for name in [name for name, history in histories.items() if not history]:
        log(f"warning: --history: no item of user '{name}' is known, no list")
        del histories[name]
    return _Request(list(histories), list(histories.values()), {})


def _rank(
    args: argparse.Namespace,
    recommender: Recommender,
    request: _Request,
    options: dict[str, Any],
) -> Iterator[tuple[Sequence[Any], Recommendations]]:
    """The lists of some users at a time."""
    size = block_size(args.k)
    limit = args.memory_limit
    if limit is None and args.out and options['index'] is None:
        limit = _block_memory(args.k, recommender)
    for start in range(0, len(request.keys), size):
        keys = request.keys[start : start + size]
        if request.histories is not None:
            histories = request.histories[start : start + size]
            yield (
                keys,
                recommender.recommend_from_history(
                    histories, args.k, memory_limit=limit, **options
                ),
            )
            continue
        own: dict[str, Any] = {
            name: {key: pairs[key] for key in keys if key in pairs}
            for name, pairs in request.pairs.items()
        }
        own['memory_limit'] = None if 'candidates' in own else limit
        yield keys, recommender.recommend(keys, args.k, **options, **own)


def _block_memory(k: int, recommender: Recommender) -> int:
    """Bytes that suffice for the lists and the seen items of a block."""
    most = int(recommender.seen.num_seen.max()) if recommender.num_users else 0
    return MEMORY + 120 * block_size(k) * k + 48 * most


def _score(args: argparse.Namespace, recommender: Recommender) -> int:
    """Scores the pairs of a file; those with unknown ids have no score."""
    users, items = read_pair_texts('--pairs', args)
    find_ids('--pairs (users)', users, recommender.users, strict=args.strict)
    find_ids('--pairs (items)', items, recommender.items, strict=args.strict)
    total = len(users)

    def blocks() -> Iterator[tuple[int, list[list[Any]]]]:
        for start in range(0, total, _PAIRS):
            pair = [texts[start : start + _PAIRS] for texts in (users, items)]
            scores = recommender.score(*pair, unknown='ignore').tolist()
            yield len(scores), [*pair, scores]

    if args.out is not None:
        types = {'user': str, 'item': str, 'score': float}
        write_file(args, types, blocks(), total, 'pairs')
        return 0
    rows = [row for _, columns in blocks() for row in zip(*columns, strict=True)]
    if args.json:
        names = ('user', 'item', 'score')
        valid = [(u, i, None if score != score else score) for u, i, score in rows]
        print(json.dumps([dict(zip(names, row, strict=True)) for row in valid]))
    else:
        print(format_table(['user', 'item', 'score'], rows))
    return 0


def entries(
    keys: Sequence[Any], lists: Recommendations, titles: Mapping[Any, str], key: str
) -> list[dict[str, Any]]:
    """The items of each user (or item, by ``key``) with rank, score and title."""
    results: list[dict[str, Any]] = [{key: name, 'items': []} for name in keys]
    numbers, *columns = columns_of(range(len(keys)), lists, titles)
    for number, rank, item, score, *title in zip(numbers, *columns, strict=True):
        entry = {'rank': rank, 'item': item, 'score': score}
        if title and title[0] is not None:
            entry['title'] = title[0]
        results[number]['items'].append(entry)
    return results


def recommendation_table(
    results: list[dict[str, Any]], key: str = 'user', item: str = 'item'
) -> str:
    """One line per item, with a column of titles where one is known."""
    lines = [(result[key], entry) for result in results for entry in result['items']]
    has_titles = any('title' in entry for _, entry in lines)
    head = [key, 'rank', item, 'score', *(['title'] if has_titles else [])]
    rows = []
    for name, entry in lines:
        line = [str(name), entry['rank'], str(entry['item']), entry['score']]
        rows.append([*line, entry.get('title', '')] if has_titles else line)
    return format_table(head, rows)
