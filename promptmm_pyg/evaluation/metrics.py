"""Full-ranking metrics on the held-out positives of a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

from promptmm_pyg._distributed import map_sharded
from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.evaluation.lists import OVERALL, PER_USER, ListMetrics
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.ranking import Ranking, ScoreFn, SeenItems, rank_items

METRICS = {
    'Recall': LinkPredRecall,
    'NDCG': LinkPredNDCG,
    'Precision': LinkPredPrecision,
    'HitRatio': LinkPredHitRatio,
    'MRR': LinkPredMRR,
    'MAP': LinkPredMAP,
}
ACCURACY = tuple(METRICS)
ALL_METRICS = (*ACCURACY, *PER_USER, *OVERALL)
"""The names of all metrics of :func:`evaluate`."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics per user and on average."""

    per_user: dict[str, Tensor]
    """Values ``[N]`` by metric and cutoff, such as ``'Recall@20'``."""
    users: Tensor
    """The users with positives, ascending, ``[N]``."""
    num_items: int
    """The number of ranked items."""
    ranking: Ranking
    """Their lists, up to the longest cutoff."""
    overall: dict[str, float] = field(default_factory=dict)
    """Metrics of all lists together, such as ``'Coverage@20'``."""

    @property
    def metrics(self) -> dict[str, float]:
        """The mean over users by metric and cutoff, NaN if there is no user; and those
        of all lists together.
        """
        means = {key: float(x.double().mean()) for key, x in self.per_user.items()}
        return {**means, **self.overall}

    @property
    def ks(self) -> tuple[int, ...]:
        """The cutoffs, ascending."""
        keys = (*self.per_user, *self.overall)
        return tuple(sorted({int(key.partition('@')[2]) for key in keys}))

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """A table of the metrics with one column per cutoff."""
        metrics = self.metrics
        head = f'{self.users.numel()} users x {self.num_items} items'
        names = list(dict.fromkeys(key.partition('@')[0] for key in metrics))
        width = max(9, *map(len, names)) + 1
        lines = [head, ' ' * width + ''.join(f'{f"@{k}":>9}' for k in self.ks)]
        for name in names:
            values = ''.join(f'{metrics[f"{name}@{k}"]:>9.4f}' for k in self.ks)
            lines.append(f'{name:<{width}}{values}')
        return '\n'.join(lines)


def evaluate(
    model: torch.nn.Module | ClosedForm[Any] | Mapping[str, Tensor] | ScoreFn,
    data: HeteroData,
    *,
    ks: Sequence[int] = (10, 20, 50),
    metrics: Sequence[str] = ACCURACY,
    extra_seen_edge_index: Tensor | None = None,
    batch_size: int = 1024,
    candidates: Tensor | None = None,
    memory_limit: int | str | None = None,
) -> Evaluation:
    r"""Metrics of the rankings of the whole catalogue: recall, NDCG, precision, hit
    ratio, MRR and MAP, averaged over the users with at least one held-out positive, and
    metrics beyond accuracy of the same lists.

    Items of the message edges of ``data`` (its training interactions) are never
    recommended. With :math:`\mathrm{rel}_j` the relevance of the item at rank
    :math:`j` and :math:`n` the number of positives of a user,

    .. math::
        \mathrm{Recall@}K = \frac{1}{n} \sum_{j=1}^{K} \mathrm{rel}_j, \qquad
        \mathrm{NDCG@}K = \frac{\sum_{j=1}^{K} \mathrm{rel}_j / \log_2(j + 1)}
        {\sum_{j=1}^{\min(n, K)} 1 / \log_2(j + 1)}

    Precision divides by :math:`K`, average precision by :math:`\min(n, K)`. Equal
    scores are ordered by item, see :func:`~promptmm_pyg.ranking.rank_items`.

    With :math:`c_i` the number of training interactions of item :math:`i`, :math:`U`
    the number of users with training interactions, :math:`N` that of items, :math:`n_i`
    the number of lists that contain item :math:`i`, and :math:`i_j` the item at rank
    :math:`j`,

    .. math::
        \mathrm{AveragePopularity} = \frac{1}{K} \sum_j c_{i_j}, \qquad
        \mathrm{Novelty} = -\frac{1}{K} \sum_j \log_2 \frac{\max(c_{i_j}, 1)}{U},
        \qquad
        \mathrm{Diversity} = 1 - \frac{1}{K (K - 1)} \sum_{j \neq l}
        \cos(\mathbf{x}_{i_j}, \mathbf{x}_{i_l})

    .. math::
        \mathrm{Serendipity} = \frac{1}{K} \sum_j \mathrm{rel}_j \max \Big( 0,
        \frac{N + 1 - j}{N} - p_{i_j} \Big), \qquad
        p_i = \frac{N + 1 - \mathrm{rank}(c_i)}{N}, \quad p_i = 0
        \text{ without interactions}

    .. math::
        \mathrm{Gini} = \frac{\sum_m (2m - N - 1) \, n_{(m)}}{N \sum_i n_i}, \qquad
        \mathrm{Personalization} = 1 - \frac{\sum_i n_i (n_i - 1)}{K L (L - 1)}

    with :math:`n_{(m)}` ascending and :math:`L` lists. Coverage is the fraction of the
    catalogue in at least one list. Popularity lift is the mean popularity of the lists
    relative to that of the training items of the same users, minus one (`"The
    Connection Between Popularity Bias, Calibration, and Fairness in Recommendation"
    <https://arxiv.org/abs/2008.09273>`_). Diversity is that of the item features of
    ``data``, averaged over modalities. Coverage, average popularity, personalization
    (of all users) and, with one-hot features, diversity are those of PyG; novelty
    (``MeanInvUserFreq``) and serendipity those of RecTools. These are compared on lists
    of equal length: a shorter list is averaged over its items.

    If ``torch.distributed`` is initialized, users are divided among the processes in
    batches of ``batch_size``. Every process must call this with the same arguments,
    and gets the result of a single process.

    Args:
        model: A model, called with the message edges of ``data``; a fitted closed form;
            embeddings ``{'user': [num_users, D], 'item': [num_items, D]}``, with inner
            products as scores; or a function from users ``[B]`` to scores
            ``[B, num_items]``.
        data: The graph of a split: training interactions as message edges, the
            positives to find as ``edge_label_index``. Where ``edge_label`` is
            present, positives are the edges with labels above zero.
        ks: The cutoffs. (default: 10, 20 and 50)
        metrics: Names among ``'Recall'``, ``'NDCG'``, ``'Precision'``, ``'HitRatio'``,
            ``'MRR'``, ``'MAP'``, ``'Diversity'``, ``'Novelty'``, ``'Serendipity'``,
            ``'AveragePopularity'``, ``'Coverage'``, ``'Gini'``, ``'Personalization'``
            and ``'PopularityLift'``. (default: the first six)
        extra_seen_edge_index: More (user, item) edges ``[2, E]`` to leave out, such
            as the validation positives when testing. Results with and without are not
            comparable. (default: none)
        batch_size: Users per batch. (default: 1024)
        candidates: Boolean ``[num_items]``; where false, the item is not ranked.
            (default: every item)
        memory_limit: Bytes, or text such as ``'2GiB'``, for the ranking of embeddings
            in each process, see :func:`~promptmm_pyg.ranking.rank_items`; the graph
            and the metrics are not counted. (default: no limit)

    Raises:
        ValueError: If there are no positives, sizes do not match, ``memory_limit`` is
            too small, a metric is unknown, or diversity has no features.
    """
    for name in metrics:
        check_choice('metrics', name, ALL_METRICS)
    accuracy = [name for name in METRICS if name in metrics]
    ks = sorted(set(ks))
    check_positive('ks', min(ks, default=0))
    check_positive('batch_size', batch_size)
    sizes = data.num_nodes_dict
    if ks[-1] > sizes[ITEM]:
        fits = tuple(k for k in ks if k < sizes[ITEM])
        raise ValueError(
            f"'ks' must be at most the catalogue size of {sizes[ITEM]} (got "
            f'{ks[-1]}). Pass ks={(*fits, sizes[ITEM])}'
        )
    user, item = positives(data)
    if user.numel() == 0:
        raise ValueError(
            "'data' must contain positives to find (got an empty edge_label_index). "
            'Hold interactions out for this part'
        )
    users, row = torch.unique(user, return_inverse=True)
    seen_edge_index = data[INTERACTS].edge_index.cpu()
    if extra_seen_edge_index is not None:
        seen_edge_index = torch.cat([seen_edge_index, extra_seen_edge_index.cpu()], 1)

    scorer = _scorer(model, data, sizes)
    seen = SeenItems.from_edge_index(seen_edge_index, sizes[USER], sizes[ITEM])

    def part(local: slice) -> list[Tensor]:
        ranking = rank_items(
            scorer,
            users[local],
            ks[-1],
            seen=seen,
            batch_size=batch_size,
            candidates=candidates,
            memory_limit=memory_limit,
        )
        index = ranking.item_index.cpu()
        inside = (row >= local.start) & (row < local.stop)
        pairs = row[inside] - local.start, item[inside]
        per_user = metrics_per_user(index, *pairs, sizes[ITEM], ks, accuracy)
        return [index, ranking.scores.cpu(), *per_user.values()]

    index, scores, *values = map_sharded(part, users.numel(), batch_size)
    names = [f'{name}@{k}' for name in accuracy for k in ks]
    per_user = dict(zip(names, values, strict=True))
    overall: dict[str, float] = {}
    if len(accuracy) < len(metrics):
        lists = ListMetrics(index, users, (row, item), data)
        for name in (x for x in PER_USER if x in metrics):
            per_user |= lists.per_user(name, ks)
        for name in (x for x in OVERALL if x in metrics):
            overall |= lists.overall(name, ks)
    ranking = Ranking(index, scores)
    return Evaluation(per_user, users, sizes[ITEM], ranking, overall)


def _scorer(
    model: Any, data: HeteroData, sizes: dict[str, int]
) -> ScoreFn | tuple[Tensor, Tensor]:
    """The scores or embeddings for :func:`~promptmm_pyg.ranking.rank_items`."""
    if isinstance(model, ClosedForm):
        return model.scores
    if isinstance(model, torch.nn.Module):
        model = get_embeddings(model, data)
    return model if callable(model) else _pair(model, sizes)


def metrics_per_user(
    item_index: Tensor,
    row: Tensor,
    item: Tensor,
    num_items: int,
    ks: Sequence[int],
    names: Sequence[str] = ACCURACY,
) -> dict[str, Tensor]:
    """Accuracy metrics at every cutoff, one value per row.

    Args:
        item_index: Ranked items ``[N, K]``, padded with -1.
        row: The row of each positive, ``[P]``.
        item: The item of each positive, ``[P]``.
        num_items: The size of the catalogue.
        ks: The cutoffs.
        names: Of the metrics. (default: all)
    """
    # PyG compares flat indices, where -1 would be the last item of the previous row.
    # An index beyond the catalogue is no item.
    padded = item_index.masked_fill(item_index < 0, num_items)
    data = LinkPredMetricData(padded, (row, item))
    per_user = {}
    for name in names:
        for k in ks:
            value: Tensor = METRICS[name](k=k)._compute(data)
            per_user[f'{name}@{k}'] = value.float()
    return per_user


def positives(data: HeteroData) -> tuple[Tensor, Tensor]:
    """The unique (user, item) pairs of the held-out positives."""
    store = data[INTERACTS]
    if 'edge_label_index' not in store:
        raise ValueError(
            "'data' must contain 'edge_label_index', the positives to find "
            f'(got {sorted(store.keys())}). Pass the graph of a split'
        )
    index: Tensor = store.edge_label_index.cpu()
    if 'edge_label' in store:
        index = index[:, store.edge_label.cpu() > 0]
    sizes = data.num_nodes_dict
    # Repeated pairs would be positives that no list can contain.
    pairs = SeenItems.from_edge_index(index, sizes[USER], sizes[ITEM])
    users = torch.arange(sizes[USER])
    return users.repeat_interleave(pairs.num_seen), pairs.col


def _pair(x_dict: Mapping[str, Tensor], sizes: dict[str, int]) -> tuple[Tensor, Tensor]:
    for key, size in sizes.items():
        if key not in x_dict or x_dict[key].size(0) != size:
            got = {name: list(x.size()) for name, x in x_dict.items()}
            raise ValueError(
                f"'model' must have {size} embeddings of {key!r} (got {got})"
            )
    return x_dict[USER], x_dict[ITEM]
