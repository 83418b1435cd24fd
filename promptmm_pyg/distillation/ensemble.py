"""Weighted sums of several teachers, and fitted weights."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, NODE_TYPES, USER
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.functional import score_all, score_lists, score_pairs
from promptmm_pyg.losses.weights import check_weights
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets, topk_targets

_NEGLIGIBLE = 1e-6  # Smaller weights are set to zero.


def ensemble_targets(
    targets: Mapping[str, SoftTargets],
    weights: Mapping[str, float],
    train: HeteroData | None = None,
    top_k: int = 100,
) -> SoftTargets:
    r"""Returns the weighted sum of the scores of several teachers, each divided by its
    standard deviation.

    .. math::
        s(u, i) = \sum_t w_t \frac{s_t(u, i)}{\sigma_t}, \qquad \sigma_t^2 =
        \frac{1}{U} \sum_u \mathrm{Var}_i \, s_t(u, i)

    The embeddings of the teachers are concatenated, so widths add up;
    :func:`~promptmm_pyg.distillation.truncate_embeddings` reduces them. The users and
    items of each teacher are scaled to the same mean square. Scores are not centered,
    which does not change rankings or a softmax over items. The sum of the weights is an
    inverse temperature: with a sum of one, the softmax is rather flat, and a student
    may do better with a sum of three. Tune it on validation.

    Modality vectors are unchanged, named ``'teacher/modality'``. A teacher of weight
    zero is left out, with its modalities.

    Args:
        targets: The output of each teacher by name; all of the same nodes.
        weights: Zero or more for each teacher, not all zero, such as those of
            :func:`~promptmm_pyg.distillation.fit_ensemble_weights`.
        train: Graph whose message edges are the training interactions, to rank the best
            unseen items of every user. (default: not ranked)
        top_k: The number of these items, at most the catalogue. (default: ``100``)

    Raises:
        ValueError: If there is no teacher, a name contains ``'/'`` or ``'.'``, names,
            nodes or weights do not fit, or a teacher's scores are not finite or do not
            differ between items.
    """
    check_positive('top_k', top_k)
    _check_teachers(targets, None if train is None else train.num_nodes_dict)
    _check_weights(weights, targets)
    used = {name: target for name, target in targets.items() if weights[name] > 0}
    parts = [_scaled(name, x.x_dict, weights[name]) for name, x in used.items()]
    ensemble = SoftTargets(
        {key: torch.cat([part[key] for part in parts], dim=1) for key in NODE_TYPES},
        {
            f'{name}/{modality}': x_dict
            for name, target in used.items()
            for modality, x_dict in target.modality_x_dict.items()
        },
    )
    if train is None:
        return ensemble
    k = min(top_k, ensemble.x_dict[ITEM].size(0))
    return ensemble._replace(top=topk_targets(ensemble, train, k))


def fit_ensemble_weights(
    targets: Mapping[str, SoftTargets],
    train: HeteroData,
    val: HeteroData,
    *,
    top_k: int | None = 20,
    steps: int = 100,
    batch_size: int = 128,
) -> dict[str, float]:
    r"""Returns the weights for :func:`~promptmm_pyg.distillation.ensemble_targets` that
    maximize the likelihood of the validation positives, zero or more and with sum one.

    .. math::
        \min_{\mathbf{a} \geq 0} \; - \frac{1}{|\mathcal{P}|} \sum_{(u, i) \in
        \mathcal{P}} \log \frac{\exp z_{\mathbf{a}}(u, i)}{\sum_{j \in
        \mathcal{C}_u} \exp z_{\mathbf{a}}(u, j)}, \qquad z_{\mathbf{a}} = \sum_t a_t
        \frac{s_t}{\sigma_t}, \qquad w_t = \frac{a_t}{\sum_{t'} a_{t'}}

    with :math:`\mathcal{C}_u` the union of the ``top_k`` best items of every teacher
    for user :math:`u` without training items, and :math:`\mathcal{P}` the validation
    positives among them. With ``top_k=None``, :math:`\mathcal{C}_u` is the whole
    catalogue without training items: the likelihood then depends mostly on items that
    are never recommended, and prefers calibrated teachers over those that rank well.
    The objective is convex; it is minimized by :class:`torch.optim.LBFGS` over
    :math:`\sqrt{a_t}`, without randomness. The sum of :math:`\mathbf{a}`, an inverse
    temperature, is not returned: it has no finite optimum for teachers without errors.

    Pass the validation graph, not the test graph. With one weight per teacher,
    overfitting to validation is as small as for any other hyperparameter.

    Args:
        targets: The output of each teacher by name; all of the same nodes.
        train: Graph whose message edges are the training interactions. Positives among
            them are left out.
        val: Graph with validation positives as ``edge_label_index``.
        top_k: Items per teacher and user. (default: ``20``)
        steps: LBFGS steps at most. (default: ``100``)
        batch_size: Users per batch, in double precision; without ``top_k``, memory
            grows with ``batch_size * num_items * len(targets)``. (default: ``128``)

    Raises:
        ValueError: If there is no teacher or no positive, sizes do not match, the
            scores of a teacher are not finite or equal for all items, no positive is
            among the best items of a teacher, or no teacher is better than chance.
    """
    check_positive('steps', steps)
    check_positive('batch_size', batch_size)
    if top_k is not None:
        check_positive('top_k', top_k)
    problem = _make_problem(targets, train, val, top_k)
    origin = torch.zeros_like(problem.positive, requires_grad=True)
    negative_log_likelihood(problem, origin, batch_size)
    assert origin.grad is not None
    # Convex: without an improvement over chance at zero, there is none anywhere.
    if not bool((origin.grad < -1e-12).any()):
        raise ValueError(
            f"'targets' must include a teacher that scores validation positives above "
            f'the average unseen item (got none among {sorted(targets)})'
        )
    root = torch.full_like(problem.positive, 0.5).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [root],
        max_iter=steps,
        max_eval=4 * steps,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn='strong_wolfe',
    )

    def closure() -> float:
        optimizer.zero_grad()
        scale = root.detach().square().requires_grad_()
        value = negative_log_likelihood(problem, scale, batch_size)
        assert scale.grad is not None
        root.grad = 2 * root.detach() * scale.grad
        return value

    optimizer.step(closure)
    weights = root.detach().square()
    weights = weights / weights.sum()
    weights = torch.where(weights < _NEGLIGIBLE, 0.0, weights)
    return dict(zip(targets, (weights / weights.sum()).tolist(), strict=True))


class Problem(NamedTuple):
    """The data of the likelihood of an ensemble."""

    tables: list[tuple[Tensor, Tensor]]
    """Users and items of every teacher, with standardized scores."""
    users: Tensor
    """The users with positives ``[N]``."""
    fraction: Tensor
    """Their fraction of all positives ``[N]``."""
    positive: Tensor
    """The mean score of a positive per teacher ``[T]``."""
    seen: SeenItems
    lists: Tensor | None
    """The items per user ``[N, L]``, ascending, padded with -1; ``None`` for all unseen
    items."""


def negative_log_likelihood(problem: Problem, scale: Tensor, batch_size: int) -> float:
    """The mean over positives at the scales ``[T]`` of the teachers' scores, whose
    gradient is added to ``scale.grad``.
    """
    total = 0.0
    for batch in torch.arange(problem.users.numel()).split(batch_size):
        users = problem.users[batch]
        if problem.lists is None:
            scores = torch.stack([score_all(x[users], y) for x, y in problem.tables])
            logits = torch.einsum('t,tbi->bi', scale, scores)
            mask = torch.zeros_like(logits)
            problem.seen.mask_(mask, users)
            logits = logits + mask
        else:
            items = problem.lists[batch]
            index = items.clamp(min=0)
            scores = torch.stack(
                [score_lists(x, y, users, index) for x, y in problem.tables]
            )
            logits = torch.einsum('t,tbi->bi', scale, scores)
            logits = logits.masked_fill(items < 0, -torch.inf)
        part = problem.fraction[batch] @ logits.logsumexp(dim=1)
        part.backward()
        total += float(part.detach())
    part = -(scale @ problem.positive)
    part.backward()
    return total + float(part.detach())


def _make_problem(
    targets: Mapping[str, SoftTargets],
    train: HeteroData,
    val: HeteroData,
    top_k: int | None,
) -> Problem:
    sizes = train.num_nodes_dict
    if val.num_nodes_dict != sizes:
        raise ValueError(
            f"'train' and 'val' must have the same nodes (got {sizes} and "
            f'{val.num_nodes_dict})'
        )
    _check_teachers(targets, sizes)
    edge_index = train[INTERACTS].edge_index
    user, item = _unseen(*positives(val), edge_index.cpu(), sizes[ITEM])
    if user.numel() == 0:
        raise ValueError(
            "'val' must have positives outside of the training interactions (got none)"
        )
    tables = []
    for name, target in targets.items():
        item_x = target.x_dict[ITEM].double()
        # Centering changes no softmax over items and keeps the moments precise.
        item_x = (item_x - item_x.mean(dim=0)) / score_std(name, target.x_dict)
        tables.append((target.x_dict[USER].double(), item_x))
    device = tables[0][0].device
    user, item = user.to(device), item.to(device)
    seen = SeenItems.from_edge_index(edge_index, sizes[USER], sizes[ITEM])
    users, place, count = user.unique(return_inverse=True, return_counts=True)
    lists = None
    if top_k is not None:
        lists = best_items(tables, users, seen, min(top_k, sizes[ITEM]))
        listed = (lists[place] == item[:, None]).any(dim=1)
        if not listed.any():
            raise ValueError(
                f"'top_k' must include a validation positive (got {top_k}, and no "
                f'positive is among the best {top_k} unseen items of a teacher). '
                f'Raise it'
            )
        user, item, place = user[listed], item[listed], place[listed]
        count = torch.bincount(place, minlength=users.numel())
        users, count, lists = users[count > 0], count[count > 0], lists[count > 0]
    return Problem(
        tables,
        users,
        count.double() / user.numel(),
        torch.stack([score_pairs(x, y, user, item).mean() for x, y in tables]),
        seen,
        lists,
    )


def best_items(
    tables: Sequence[tuple[Tensor, Tensor]], users: Tensor, seen: SeenItems, k: int
) -> Tensor:
    """The union of the ``k`` best items of all teachers ``[N, L]``, ascending and with
    -1 in place of repeated ones.
    """
    best = [rank_items(pair, users, k, seen=seen).item_index for pair in tables]
    items = torch.cat(best, dim=1).sort(dim=1).values
    repeated = items[:, 1:] == items[:, :-1]
    items[:, 1:] = items[:, 1:].masked_fill(repeated, -1)
    return items


def _unseen(
    user: Tensor, item: Tensor, edge_index: Tensor, num_items: int
) -> tuple[Tensor, Tensor]:
    seen = edge_index[0] * num_items + edge_index[1]
    unseen = ~torch.isin(user * num_items + item, seen)
    return user[unseen], item[unseen]


def score_std(name: str, x_dict: Mapping[str, Tensor]) -> float:
    r"""Returns the standard deviation of a teacher's scores of all items, with the mean
    variance over users, from moments of its embeddings; the dense scores are never
    computed.

    .. math::
        \sigma^2 = \frac{1}{U} \sum_u \mathrm{Var}_i (\mathbf{x}_u^{\top} \mathbf{x}_i)
        = \mathrm{tr} \Big( \frac{1}{U} \sum_u \mathbf{x}_u \mathbf{x}_u^{\top} \;
        \mathrm{Cov}_i (\mathbf{x}_i) \Big)

    Args:
        name: The name of the teacher, for the error.
        x_dict: Embeddings of users and items.

    Raises:
        ValueError: If the scores of each user are equal, up to the precision of the
            embeddings.
    """
    user_x, item_x = x_dict[USER].double(), x_dict[ITEM].double()
    mean = item_x.mean(dim=0)
    item_x = item_x - mean
    moment = user_x.t() @ user_x / user_x.size(0)
    covariance = item_x.t() @ item_x / item_x.size(0)
    std = math.sqrt(max(float((moment * covariance).sum()), 0.0))
    level = math.sqrt(max(float(mean @ moment @ mean), 0.0))
    if not std > torch.finfo(x_dict[ITEM].dtype).eps * level:
        raise ValueError(
            f"'targets' must have scores that differ between items (got the same for "
            f'all items, of teacher {name!r}). Leave it out: it ranks nothing'
        )
    return std


def _scaled(
    name: str, x_dict: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """Embeddings of equal mean square with ``weight`` times the standardized scores."""
    scale = weight / score_std(name, x_dict)
    norm = {key: float(x_dict[key].double().square().mean()) for key in NODE_TYPES}
    balance = (norm[ITEM] / norm[USER]) ** 0.25
    return {
        USER: x_dict[USER] * (math.sqrt(scale) * balance),
        ITEM: x_dict[ITEM] * (math.sqrt(scale) / balance),
    }


def _check_teachers(
    targets: Mapping[str, SoftTargets], sizes: Mapping[str, int] | None
) -> None:
    if not targets:
        raise ValueError("'targets' must have at least one teacher (got none)")
    for name, target in targets.items():
        if not name or '/' in name or '.' in name:
            raise ValueError(
                f"'targets' must have names without '/' and '.' (got {name!r}). They "
                f'become part of the names of modalities'
            )
        shapes = {key: list(x.size()) for key, x in target.x_dict.items()}
        matrices = [shapes.get(key, []) for key in NODE_TYPES]
        if not all(len(x) == 2 for x in matrices) or matrices[0][1] != matrices[1][1]:
            raise ValueError(
                f"'targets' must have users and items of one width (got {shapes} of "
                f'teacher {name!r})'
            )
        if sizes is None:
            sizes = {key: shapes[key][0] for key in NODE_TYPES}
        for key in NODE_TYPES:
            if shapes[key][0] != sizes[key]:
                raise ValueError(
                    f"'targets' must have one row per node, {sizes[key]} for {key!r} "
                    f'(got {shapes[key][0]} of teacher {name!r}). Use targets of the '
                    f'same data set'
                )
            if not bool(target.x_dict[key].isfinite().all()):
                raise ValueError(
                    f"'targets' must have finite embeddings (got NaN or infinity for "
                    f'{key!r} of teacher {name!r})'
                )


def _check_weights(
    weights: Mapping[str, float], targets: Mapping[str, SoftTargets]
) -> None:
    if set(weights) != set(targets):
        raise ValueError(
            f"'weights' must have one weight for each teacher of {sorted(targets)} "
            f'(got {sorted(weights)})'
        )
    check_weights('weights', weights)
