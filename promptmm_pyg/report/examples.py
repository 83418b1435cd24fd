"""What a few users took and are recommended."""

from typing import Any

from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import ITEM
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.report.content import Example, Item
from promptmm_pyg.serving import Recommender


def examples(
    recommender: Recommender, val: HeteroData | None, *, k: int = 5, shown: int = 8
) -> list[Example]:
    """The most active, the median and the least active user with a history, with the
    best ``k`` items for each; nobody is chosen by how well it went.

    Args:
        recommender: Knows users, items and titles.
        val: Says what was held out from them. (default: unknown)
        k: Items recommended.
        shown: Items of the history, at most.
    """
    counts = recommender.seen.rowptr.diff()
    order = counts.argsort(descending=True, stable=True).tolist()
    order = [row for row in order if counts[row] > 0]
    if not order:
        return []
    places = {
        0: 'most active',
        len(order) // 2: 'median',
        len(order) - 1: 'least active',
    }
    found = []
    for place, why in places.items():
        row = order[place]
        start, end = recommender.seen.rowptr[row : row + 2].tolist()
        taken = recommender.seen.col[start:end].tolist()
        user = recommender.user_ids[row]
        asked = _held_out(val, row)
        lists = recommender.recommend(user, min(k, recommender.num_items))
        items = [
            _item(recommender, raw, float(score), asked)
            for raw, score in zip(
                lists.ids.tolist(), lists.scores.tolist(), strict=True
            )
            if raw is not None
        ]
        history = [
            _item(recommender, recommender.item_ids[item], None, set())
            for item in taken[:shown]
        ]
        found.append(Example(str(user), why, history, len(taken), items))
    return found


def _held_out(val: HeteroData | None, row: int) -> set[Any]:
    if val is None:
        return set()
    user, item = positives(val)
    ids = val[ITEM].raw_id
    return {ids[place] for place in item[user == row].tolist()}


def _item(
    recommender: Recommender, raw: Any, score: float | None, asked: set[Any]
) -> Item:
    return Item(str(raw), recommender.titles.get(raw), score, raw in asked)
