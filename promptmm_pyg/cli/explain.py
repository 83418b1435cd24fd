"""``promptmm explain``: where a score comes from."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.cli.parsing import UserError, add_flags, printable
from promptmm_pyg.cli.selection import known_ids, log
from promptmm_pyg.data import INTERACTS, ITEM, USER, Split
from promptmm_pyg.explain import Explainer, Explanation, Side
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.data import read_titles
from promptmm_pyg.serving import RawIds

DESCRIPTION = """\
Split the score of an item for a user exactly: by ids, each modality and the prompt
(interaction terms are split equally, as Shapley values are), by the user's items, and
by the item's users. Each table adds up to the score. The further columns of the last
two tables show the parts of the user's (the item's) embedding. The share of a neighbor
includes the earlier hops through it.

Neighbors are listed by name until they are 90% of the score, or 20; the others are
summed, with their mean.

The teacher is explained by default; a student has ids only. --map draws the items by
each part of the model on two principal axes, colored by their number of users."""
EXAMPLE = """\
example:
  promptmm explain runs/tiktok --user 7 --item 42
  promptmm explain runs/tiktok --user 7 --out why.png
  promptmm explain runs/tiktok --map map.png"""
_WIDTH = 48  # Of a title in a table.


@dataclass(frozen=True)
class _Names:
    """Raw ids, and titles where they are known."""

    ids: dict[str, list[Any]]
    titles: dict[str, str]

    def __call__(self, node_type: str, node: int) -> str:
        name = self.full(node_type, node)
        return name if len(name) <= _WIDTH else f'{name[: _WIDTH - 3].rstrip()}...'

    def full(self, node_type: str, node: int) -> str:
        raw = str(self.ids[node_type][node])
        title = self.titles.get(raw) if node_type == ITEM else None
        return printable(raw if title is None else f'{raw}  {title}')

    def short(self, node_type: str, node: int) -> str:
        """The title, or node type and id where there is none."""
        raw = str(self.ids[node_type][node])
        title = self.titles.get(raw) if node_type == ITEM else None
        return printable(title or f'{node_type} {raw}')

    def row(self, option: str, node_type: str, text: str) -> int:
        ids = RawIds(node_type, self.ids[node_type], len(self.ids[node_type]))
        return ids.find(known_ids(option, [text], ids, strict=False))[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    add_flags(
        parser,
        """
--user ID  raw id of a user
--item ID  raw id of an item (default: the best one that the user has not seen)""",
    )
    parser.add_argument(
        '--model',
        choices=('teacher', 'student', 'baseline'),
        default='teacher',
        help='the model of the score (default: teacher)',
    )
    add_flags(
        parser,
        """
-k N  neighbors to list for the user and for the item (default: 90%% of the score)
--out FILE.png  also draw the parts
--map FILE.png  draw a map of the items
--json  print JSON""",
    )


def run(args: argparse.Namespace) -> int:
    """Prints tables, or JSON, and draws figures."""
    _check(args)
    run = Run.open(args.folder)
    model = getattr(run, args.model)()
    explainer = Explainer(model, *run.data.inputs)
    if args.user is not None:
        _explain(args, explainer, run.data.split, _names(run))
    if args.map is not None:
        _draw_map(args.map, explainer, run.data.train, args.model)
        _log(args.map, args.json)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.user is None and args.map is None:
        raise UserError('--user or --map is required')
    if args.user is None:
        for option in ('item', 'out', 'json'):
            if getattr(args, option):
                raise UserError(f'--{option} requires --user')
    if args.k is not None and args.k < 0:
        raise UserError(f'-k must be zero or more (got {args.k})')
    for option in ('out', 'map'):
        path = getattr(args, option)
        if path is not None and Path(path).suffix.lower() != '.png':
            raise UserError(f"--{option} must end in .png (got '{path}')")


def _names(run: Run) -> _Names:
    train = run.data.train
    ids = {key: train[key].raw_id.tolist() for key in (USER, ITEM)}
    source = run.config['titles']
    if source is not None:
        return _Names(ids, read_titles(**source))
    if not run.recommender_dir.is_dir():
        return _Names(ids, {})
    titles = run.recommender().titles
    return _Names(ids, {str(raw): title for raw, title in titles.items()})


def _explain(
    args: argparse.Namespace, explainer: Explainer, split: Split, names: _Names
) -> None:
    user = names.row('--user', USER, args.user)
    train = split.train[INTERACTS].edge_index
    held_out = [graph[INTERACTS].edge_label_index for graph in split[1:]]
    known = torch.cat([train, *held_out], dim=1)
    seen = known[1][known[0] == user].unique()
    scores = explainer.x_dict[ITEM].double() @ explainer.x_dict[USER][user].double()
    if args.item is None:
        item = int(scores.index_fill(0, seen, -torch.inf).argmax())
    else:
        item = names.row('--item', ITEM, args.item)
    for row, kind, node in ((0, 'user', user), (1, 'item', item)):
        if not bool((train[row] == node).any()):
            log(
                f'note: --{kind} has no training interactions: the score is of the '
                f"evaluated {args.model}, not that of 'promptmm recommend'"
            )
    explanation = explainer.explain(user, item)
    rank, unseen = _rank(scores, seen, item)
    is_seen = bool((seen == item).any())
    if args.json:
        print(json.dumps(_plain(explanation, names, args, rank, is_seen)))
    else:
        print(_head(explanation, names, args.model, rank, unseen, is_seen))
        print(explanation.summary(args.k, names))
    if args.out is not None:
        _draw(args.out, explanation, names, args.k)
        _log(args.out, args.json)


def _rank(scores: Tensor, seen: Tensor, item: int) -> tuple[int, int]:
    """The rank of an item among those the user has not seen, and their number."""
    others = torch.ones_like(scores, dtype=torch.bool)
    others[seen] = False
    others[item] = False
    better = (scores[others] > scores[item]).sum()
    return int(better) + 1, int(others.sum()) + 1


def _head(
    explanation: Explanation,
    names: _Names,
    model: str,
    rank: int,
    unseen: int,
    is_seen: bool,
) -> str:
    lines = [
        f'user   {names(USER, explanation.user)}',
        f'item   {names.full(ITEM, explanation.item)}',
        f'score  {explanation.score:.4f} by the {model}, rank {rank} of {unseen} '
        f'{"with" if is_seen else "among"} the items the user has not seen',
    ]
    if is_seen:
        lines.append('       (a known interaction)')
    return '\n'.join([*lines, ''])


def _plain(
    explanation: Explanation,
    names: _Names,
    args: argparse.Namespace,
    rank: int,
    is_seen: bool,
) -> dict[str, Any]:
    sides = {'user_side': explanation.user_side, 'item_side': explanation.item_side}
    return {
        'model': args.model,
        'user': names.ids[USER][explanation.user],
        'item': names.ids[ITEM][explanation.item],
        'score': explanation.score,
        'rank': rank,
        'seen': is_seen,
        'parts': explanation.by_source,
        'pairs': {
            source: dict(zip(explanation.sources, row, strict=True))
            for source, row in zip(
                explanation.sources, explanation.pairs.tolist(), strict=True
            )
        },
        **{
            name: _plain_side(side, explanation, names, args.k)
            for name, side in sides.items()
        },
    }


def _plain_side(
    side: Side, explanation: Explanation, names: _Names, k: int | None
) -> dict[str, Any]:
    def parts(values: Tensor) -> dict[str, float]:
        return dict(zip(explanation.sources, values.tolist(), strict=True))

    return {
        'itself': parts(side.own),
        'num_neighbors': side.num_neighbors,
        'covered': side.covered(k),
        'neighbors': [
            {
                'id': names.ids[kind][node],
                'score': float(values.sum()),
                'parts': parts(values),
            }
            for kind, node, values in side.top(side.num_covering() if k is None else k)
        ],
    }


def _draw(path: str, explanation: Explanation, names: _Names, k: int | None) -> None:
    from promptmm_pyg.viz import plot_explanation, save_figure

    panels = {'by part': list(explanation.by_source.items())}
    for side, head in (
        (explanation.user_side, "by the user's items"),
        (explanation.item_side, "by the item's users"),
    ):
        if side.n_id_dict:
            rows = side.rows(k, names.short)
            panels[head] = [(name, float(values.sum())) for name, values in rows]
    user = names.short(USER, explanation.user)
    item = names.short(ITEM, explanation.item)
    title = f'{item} for {user}: score {explanation.score:.3f}'
    save_figure(plot_explanation(panels, title), path)


def _draw_map(path: str, explainer: Explainer, train: HeteroData, model: str) -> None:
    from promptmm_pyg.viz import plot_embedding_map, save_figure

    parts, final = explainer.parts(ITEM), explainer.x_dict[ITEM]
    panels = {**parts, 'all together': final} if len(parts) > 1 else {'id': final}
    # Items without a part would all be drawn at one point.
    masks = {name: (x != 0).any(dim=1) for name, x in panels.items()}
    panels = {name: x for name, x in panels.items() if bool(masks[name].any())}
    degree = train[INTERACTS].edge_index[1].bincount(minlength=final.size(0))
    figure = plot_embedding_map(
        panels,
        labels=degree.tolist(),
        label_name='users of the item',
        mask_dict=masks,
        title=f'The items in the embeddings of the {model}',
    )
    save_figure(figure, path)


def _log(path: str, quiet: bool) -> None:
    """Prints the path of a file."""
    if not quiet:
        print(f'\nwritten to {path}')
