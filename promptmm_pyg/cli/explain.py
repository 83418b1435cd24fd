"""``promptmm explain``: where a score comes from."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.cli.data_source import read_titles
from promptmm_pyg.cli.models import Prepared, load_student, load_teacher, reload
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.recommend import load_recommender
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.explain import Explainer, Explanation, Side

_DESCRIPTION = """\
Take the score of an item for a user apart, exactly: by the ids, each modality and the
prompt (of what two of them give together, each gets half), by the items that the user
took, and by the users who took the item. Each table adds up to the score. The further
columns of the last two say which part of the user's (the item's) embedding it is. A
neighbor also counts for what reached it from others on the way.

The teacher is explained unless --model says otherwise; a student has ids alone. With
--map, the items are drawn as each part of the model sees them, on two principal axes,
colored by how many users took them."""
_EXAMPLE = """\
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
        return raw if title is None else f'{raw}  {title}'

    def find(self, option: str, node_type: str, text: str) -> int:
        known = [str(raw) for raw in self.ids[node_type]]
        if text not in known:
            raise UserError(
                f"{option} requires an id of the training data (got '{text}'; known "
                f'are {", ".join(known[:3])}, ...)'
            )
        return known.index(text)


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``explain`` to the program."""
    parser = commands.add_parser(
        'explain',
        **kwargs,
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    parser.add_argument('--user', metavar='ID', help='raw id of a user')
    parser.add_argument(
        '--item',
        metavar='ID',
        help='raw id of an item (default: the best that the user has not seen)',
    )
    parser.add_argument(
        '--model',
        choices=('teacher', 'student', 'control'),
        default='teacher',
        help='whose score (default: teacher)',
    )
    parser.add_argument(
        '-k',
        type=int,
        default=5,
        metavar='N',
        help='neighbors of each end that are listed (default: 5)',
    )
    parser.add_argument('--out', metavar='FILE.png', help='draw the parts, too')
    parser.add_argument('--map', metavar='FILE.png', help='draw a map of the items')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints tables, or JSON, and draws what is asked for."""
    _check(args)
    run = RunFolder(args.folder)
    config = run.read_whole_config()
    data = reload(run, config)
    model = _model(run, config, data, args.model)
    explainer = Explainer(model, *data.inputs)
    if args.user is not None:
        _explain(args, explainer, data.train, _names(run, config, data.train))
    if args.map is not None:
        _draw_map(args.map, explainer, data.train, args.model)
        _written(args.map, args.json)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.user is None and args.map is None:
        raise UserError('--user or --map is needed, to say what to explain')
    if args.user is None:
        for option in ('item', 'out', 'json'):
            if getattr(args, option):
                raise UserError(f'--{option} requires --user, too')
    if args.k < 0:
        raise UserError(f'-k must be zero or more (got {args.k})')
    for option in ('out', 'map'):
        path = getattr(args, option)
        if path is not None and Path(path).suffix.lower() != '.png':
            raise UserError(
                f"--{option} requires a name that ends in .png (got '{path}')"
            )


def _model(run: RunFolder, config: dict[str, Any], data: Prepared, name: str) -> Any:
    if name == 'teacher':
        return load_teacher(run, config, data.train)
    return load_student(run, data.train, name)


def _names(run: RunFolder, config: dict[str, Any], train: HeteroData) -> _Names:
    ids = {key: train[key].raw_id.tolist() for key in (USER, ITEM)}
    where = config['titles']
    if where is not None:
        return _Names(ids, read_titles(where['path'], where['item'], where['title']))
    titles = {}
    if run.recommender.is_dir():
        known = load_recommender(run.path).titles
        titles = {str(raw): title for raw, title in known.items()}
    return _Names(ids, titles)


def _explain(
    args: argparse.Namespace, explainer: Explainer, train: HeteroData, names: _Names
) -> None:
    user = names.find('--user', USER, args.user)
    index = train[INTERACTS].edge_index
    seen = index[1][index[0] == user]
    scores = explainer.x_dict[ITEM].double() @ explainer.x_dict[USER][user].double()
    if args.item is None:
        item = int(scores.index_fill(0, seen, -torch.inf).argmax())
    else:
        item = names.find('--item', ITEM, args.item)
    explanation = explainer.explain(user, item)
    rank, unseen = _rank(scores, seen, item)
    taken = bool((seen == item).any())
    if args.json:
        print(json.dumps(_plain(explanation, names, args, rank, taken)))
    else:
        print(_head(explanation, names, args.model, rank, unseen, taken))
        print(explanation.summary(args.k, names))
    if args.out is not None:
        _draw(args.out, explanation, names, args.k)
        _written(args.out, args.json)


def _rank(scores: Tensor, seen: Tensor, item: int) -> tuple[int, int]:
    """The place of an item among those the user has not seen, and their number."""
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
    taken: bool,
) -> str:
    lines = [
        f'user   {names(USER, explanation.user)}',
        f'item   {names.full(ITEM, explanation.item)}',
        f'score  {explanation.score:.4f} by the {model}, rank {rank} of {unseen} '
        f'{"with" if taken else "among"} the items the user has not seen',
    ]
    if taken:
        lines.append('       (the user took it in training)')
    return '\n'.join([*lines, ''])


def _plain(
    explanation: Explanation,
    names: _Names,
    args: argparse.Namespace,
    rank: int,
    taken: bool,
) -> dict[str, Any]:
    sides = {'user_side': explanation.user_side, 'item_side': explanation.item_side}
    return {
        'model': args.model,
        'user': names.ids[USER][explanation.user],
        'item': names.ids[ITEM][explanation.item],
        'score': explanation.score,
        'rank': rank,
        'seen': taken,
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
    side: Side, explanation: Explanation, names: _Names, k: int
) -> dict[str, Any]:
    def parts(values: Tensor) -> dict[str, float]:
        return dict(zip(explanation.sources, values.tolist(), strict=True))

    return {
        'itself': parts(side.own),
        'num_neighbors': side.num_neighbors,
        'neighbors': [
            {
                'id': names.ids[kind][node],
                'score': float(values.sum()),
                'parts': parts(values),
            }
            for kind, node, values in side.top(k)
        ],
    }


def _draw(path: str, explanation: Explanation, names: _Names, k: int) -> None:
    from promptmm_pyg.viz import plot_explanation, save_figure

    panels = {'by part': list(explanation.by_source.items())}
    for side, head in (
        (explanation.user_side, 'by what the user took'),
        (explanation.item_side, 'by who took the item'),
    ):
        if side.n_id_dict:
            panels[head] = _bars(side, names, k)
    user, item = names(USER, explanation.user), names(ITEM, explanation.item)
    title = f'{item}  for  {user}:  {explanation.score:.3f}'
    save_figure(plot_explanation(panels, title), path)


def _bars(side: Side, names: _Names, k: int) -> list[tuple[str, float]]:
    top = [
        (names(kind, node), float(values.sum())) for kind, node, values in side.top(k)
    ]
    own = float(side.own.sum())
    left = side.num_neighbors - len(top)
    rest = side.total - own - sum(value for _, value in top)
    others = [(f'{left} other{"s" if left > 1 else ""}', rest)] if left else []
    return [*top, *others, (f'the {side.node_type} itself', own)]


def _draw_map(path: str, explainer: Explainer, train: HeteroData, model: str) -> None:
    from promptmm_pyg.viz import plot_embedding_map, save_figure

    parts = explainer.parts(ITEM)
    whole = explainer.x_dict[ITEM]
    panels = {**parts, 'all together': whole} if len(parts) > 1 else {'id': whole}
    # Items that a part says nothing about would all lie in one point.
    masks = {name: (x != 0).any(dim=1) for name, x in panels.items()}
    panels = {name: x for name, x in panels.items() if bool(masks[name].any())}
    degree = train[INTERACTS].edge_index[1].bincount(minlength=whole.size(0))
    figure = plot_embedding_map(
        panels,
        labels=degree.tolist(),
        label_name='users who took the item',
        mask_dict=masks,
        title=f'The items as the {model} sees them',
    )
    save_figure(figure, path)


def _written(path: str, quiet: bool) -> None:
    if not quiet:
        print(f'\nwritten to {path}')
