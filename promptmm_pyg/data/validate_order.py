"""Features whose rows are in another order than the items.

Items of one user have similar features, and so have items that are alike in another
modality. Both are compared with the same rows in a random order. Rows in another order
than the items show neither; where the data are too few to show either, nothing is
reported.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    is_encoded,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.data.validate_graph import Issue

_MAX_EDGES = 50_000  # Interactions that are compared.
_MAX_ITEMS = 4_000  # Items that are compared between modalities.
_MAX_PAIRS = 20_000  # Random pairs.
_WIDTH = 64  # Wider features are projected at random.
_ORDERS = 40  # Random orders.
_CLEAR = 2.5  # Standard deviations over random orders from which a link is clear,
_PRECISE = 0.02  # and twice as many below this standard deviation.
_WEAK = 0.15  # Of the standard deviation of similarities: an effect below is none.


class Modality(NamedTuple):
    """Unit rows of one modality."""

    x: Tensor
    """Centered rows of length one ``[num_items, F]``; zeros where missing."""
    present: Tensor
    """Whether an item has the modality ``[num_items]``."""


class Statistic(NamedTuple):
    """A mean similarity that is higher in the right order of the rows."""

    items: Tensor
    """The items whose rows it uses ``[N]``."""
    of: Callable[[Tensor], float]
    """Its value for rows ``[N, F]``."""


class Link(NamedTuple):
    """What a statistic of rows in the given order is, beside random orders."""

    effect: float
    """Difference to the mean over random orders."""
    std: float
    """Standard deviation over random orders."""

    @property
    def z(self) -> float:
        """The effect in standard deviations."""
        return self.effect / self.std if self.std > 0 else 0.0


def check_order(name: str, data: HeteroData) -> list[Issue]:
    """A warning for each modality that shows no link to the interactions and none to
    the other modalities, where the data are enough to show one.
    """
    modalities = dict(_modalities(data))
    user, item = _sampled_interactions(data[INTERACTS].edge_index)
    statistics = {
        key: _of_users(user, item, modality) for key, modality in modalities.items()
    }
    links = {key: _link(statistics[key], x) for key, (x, _) in modalities.items()}
    issues = []
    for key, modality in modalities.items():
        others = [
            _link(_between(modality, other), modality.x).z
            for other_key, other in modalities.items()
            if other_key != key and links[other_key].z > _CLEAR
        ]
        link = links[key]
        z = max(link.z, (link.z + sum(others)) / (1 + len(others)) ** 0.5)
        enough = link.std > 0 and link.effect + 2 * link.std < _WEAK
        if enough and z < (_CLEAR if link.std > _PRECISE else 2 * _CLEAR):
            where = f"{name}['{ITEM}'].x_{key}"
            problem = 'is no more alike for two items of one user than for any two'
            fix = _fix(data, statistics[key], modality, link)
            issues.append(Issue('warning', where, problem, fix))
    return issues


def _modalities(data: HeteroData) -> Iterator[tuple[str, Modality]]:
    for modality, x_of in modality_x_dict(data).items():
        # Encoded columns were joined by id.
        if ITEM in x_of and not is_encoded(data, ITEM, modality):
            x = x_of[ITEM].detach().cpu()
            mask = modality_mask_dict(data).get(modality, {}).get(ITEM)
            present = torch.ones(x.size(0)) if mask is None else mask.cpu()
            yield modality, Modality(_unit_rows(x, present.bool()), present.bool())


def _unit_rows(x: Tensor, present: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = x[present].float()
    rows = rows - rows.mean(dim=0)
    if rows.size(1) > _WIDTH:
        rows = rows @ torch.randn(rows.size(1), _WIDTH, generator=generator)
    out = rows.new_zeros(x.size(0), rows.size(1))
    out[present] = normalize(rows, dim=-1)
    return out


def _sampled_interactions(edges: Tensor) -> tuple[Tensor, Tensor]:
    """All interactions of some users."""
    user, item = edges.cpu()
    count = torch.bincount(user)
    users = torch.randperm(count.numel(), generator=torch.Generator().manual_seed(0))
    sampled = torch.zeros(count.numel(), dtype=torch.bool)
    sampled[users[count[users].cumsum(0) <= _MAX_EDGES]] = True
    chosen = sampled[user]
    return user[chosen], item[chosen]


def _of_users(user: Tensor, item: Tensor, modality: Modality) -> Statistic:
    """The mean similarity of two items of one user, over all such pairs; users count
    by their numbers of items.
    """
    has = modality.present[item]
    user, item = user[has], item[has]
    chosen = torch.bincount(user)[user] > 1
    _, user = user[chosen].unique(return_inverse=True)
    items, row = item[chosen].unique(return_inverse=True)
    count = torch.bincount(user).float()

    def mean(rows: Tensor) -> float:
        total = rows.new_zeros(count.numel(), rows.size(1))
        total.index_add_(0, user, rows[row])
        # A row has the length one, unless it is zero.
        own = total.new_zeros(count.numel()).index_add_(
            0, user, rows[row].any(1).float()
        )
        pairs = (total.square().sum(dim=1) - own) / (count - 1)
        return float(pairs.sum() / count.sum().clamp_min(1))

    return Statistic(items, mean)


def _between(modality: Modality, other: Modality) -> Statistic:
    """How much the similarities of pairs of items agree in two modalities."""
    items = (modality.present & other.present).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    items = items[torch.randperm(items.numel(), generator=generator)[:_MAX_ITEMS]]
    return Statistic(
        items, lambda rows: float((rows.t() @ other.x[items]).square().sum())
    )


def _link(statistic: Statistic, x: Tensor) -> Link:
    rows = x[statistic.items]
    scale = _scale(rows)
    if scale == 0:
        return Link(0.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    random = torch.tensor(
        [
            statistic.of(rows[torch.randperm(len(rows), generator=generator)])
            for _ in range(_ORDERS)
        ]
    )
    effect = statistic.of(rows) - float(random.mean())
    return Link(effect / scale, float(random.std()) / scale)


def _scale(rows: Tensor) -> float:
    """The standard deviation of the similarities of random pairs of rows."""
    if len(rows) < 2:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(len(rows), (2, _MAX_PAIRS), generator=generator)
    similarity = (rows[first] * rows[second]).sum(dim=1)[first != second]
    return float(similarity.std()) if similarity.numel() > 1 else 0.0


def _fix(data: HeteroData, statistic: Statistic, modality: Modality, link: Link) -> str:
    """Names the order that fits, if one of the usual ones does."""
    x, scale = modality.x, _scale(modality.x[statistic.items])
    given = statistic.of(x[statistic.items])
    best, fix = (
        2 * _CLEAR * link.std,
        (
            'Compare a few rows with their ids: they may be in another order, or be '
            'unrelated to what users interact with'
        ),
    )
    for order, order_fix in _usual_orders(data[ITEM].get('raw_id'), x.size(0)):
        gain = (statistic.of(x[order[statistic.items]]) - given) / scale
        if gain > best:
            best, fix = gain, order_fix
    return fix


def _usual_orders(raw_id: Any, num_items: int) -> Iterator[tuple[Tensor, str]]:
    rows = torch.arange(num_items)
    yield (
        rows.roll(-1),
        'They fit one row further down: the first row may be padding. Leave it out '
        'with padding_row=True (--padding-row)',
    )
    yield rows.roll(1), 'They fit one row further up: a first row may be missing'
    yield rows.flip(0), 'They fit in reverse order: reverse the rows'
    if raw_id is not None:
        texts = [str(raw) for raw in raw_id.tolist()]
        by_text = sorted(range(num_items), key=lambda node: texts[node])
        natural = sorted(by_text, key=lambda node: len(texts[node]))
        for order, name in ((by_text, "text ('10' before '9')"), (natural, 'numbers')):
            place = np.empty(num_items, dtype=np.int64)
            place[order] = np.arange(num_items)
            fix = f'They fit the ids sorted as {name}: sort the rows like the ids'
            yield torch.from_numpy(place), fix
