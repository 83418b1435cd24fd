"""How much each of several teachers counts, learned on validation."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._checks import check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, num_nodes_dict
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.outputs import SoftTargets
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.scoring import score_all, score_pairs
from promptmm_pyg.training.teacher_mix import check_teachers, score_std

_TOLERANCE = 1e-9  # Nats a positive; less is not worth a pass over the scores.
_INNER_STEPS = 500  # On a matrix of teachers by teachers: microseconds each.
_HALVINGS = 30


def learn_mix_weights(
    targets: Mapping[str, SoftTargets],
    train: HeteroData,
    val: HeteroData,
    *,
    steps: int = 50,
    batch_size: int = 128,
) -> dict[str, float]:
    r"""Returns the weights under which several teachers together best predict the
    validation positives: zero or more each, summing to one, for
    :func:`~promptmm_pyg.training.mix_targets`.

    .. math::
        \min_{\mathbf{a} \geq 0} \; - \frac{1}{|\mathcal{P}|} \sum_{(u, i) \in
        \mathcal{P}} \log \frac{\exp z_{\mathbf{a}}(u, i)}{\sum_{j \notin
        \mathcal{S}_u} \exp z_{\mathbf{a}}(u, j)}, \qquad z_{\mathbf{a}} = \sum_t a_t
        \frac{s_t}{\sigma_t}, \qquad w_t = \frac{a_t}{\sum_{t'} a_{t'}}

    with :math:`\mathcal{P}` the validation positives, :math:`\mathcal{S}_u` the
    training items of a user and :math:`\sigma_t` as there. The objective is convex:
    Newton steps from zero find its minimum, and nothing is drawn at random. The sum of
    :math:`\mathbf{a}`, an inverse temperature, is free, and is not returned: it grows
    without bound where the teachers make no mistake.

    There is one number a teacher to learn from all validation positives, so validation
    overfits no more here than by any other choice made on it. Test positives are never
    read: pass the graph of validation.

    Args:
        targets: What each teacher says, by name; all of the same nodes.
        train: Graph whose message edges are the training interactions. Positives among
            them cannot be recommended and take no part.
        val: Graph with validation positives as ``edge_label_index``.
        steps: Newton steps at most; ten or so are enough. (default: ``50``)
        batch_size: How many users are scored at once, in double precision; memory
            grows with ``batch_size * num_items * len(targets)``. (default: ``128``)

    Raises:
        ValueError: If there is no teacher or no positive, sizes do not fit each other,
            a teacher's scores are not finite or do not differ from item to item, or no
            teacher predicts better than chance.
    """
    check_positive('steps', steps)
    check_positive('batch_size', batch_size)
    problem = make_problem(targets, train, val)
    scale = torch.zeros_like(problem.positive)
    now = problem_at(problem, scale, batch_size)
    for _ in range(steps):
        step = newton_step(now, scale)
        slope = float(now.gradient @ step)
        if -(slope + float(step @ now.hessian @ step) / 2) < _TOLERANCE:
            break
        # A model of where all is decided knows no bounds; three times is far enough.
        furthest = min(1.0, float(2 * (1 + scale.sum()) / step.abs().sum()))
        for halving in range(_HALVINGS):
            share = furthest * 0.5**halving
            there = problem_at(problem, scale + share * step, batch_size)
            if there.value <= now.value + 1e-4 * share * slope:
                break
        else:
            break  # As low as double precision goes.
        scale, now = scale + share * step, there
    total = scale.sum()
    if not total > 0:  # Convex: where no first step is worth it, none is.
        raise ValueError(
            f"'targets' needs a teacher that scores validation positives above the "
            f'average unseen item (got none among {sorted(targets)})'
        )
    weights = (scale / total).tolist()
    return dict(zip(targets, weights, strict=True))


class Problem(NamedTuple):
    """What the likelihood of a mixture is computed from."""

    tables: list[tuple[Tensor, Tensor]]
    """Users and items of every teacher, with standardized scores."""
    users: Tensor
    """The users with positives ``[N]``."""
    share: Tensor
    """Their share of all positives ``[N]``."""
    positive: Tensor
    """The mean score of a positive, teacher by teacher ``[T]``."""
    seen: SeenItems


class Likelihood(NamedTuple):
    """The mean negative log-likelihood of a positive, and its derivatives."""

    value: float
    gradient: Tensor
    hessian: Tensor


def problem_at(problem: Problem, scale: Tensor, batch_size: int) -> Likelihood:
    """The likelihood where the teachers' scores count ``scale`` ``[T]``."""
    value = 0.0
    gradient = -problem.positive
    hessian = gradient.new_zeros(scale.numel(), scale.numel())
    for users, share in zip(
        problem.users.split(batch_size), problem.share.split(batch_size), strict=True
    ):
        scores = torch.stack([score_all(x[users], y) for x, y in problem.tables])
        logits = torch.einsum('t,tbi->bi', scale, scores)
        problem.seen.mask_(logits, users)
        normalizer = logits.logsumexp(dim=1, keepdim=True)
        value += float(share @ normalizer.squeeze(1))
        weight = (logits - normalizer).exp_() * share.unsqueeze(1)  # [B, I]
        mean = torch.einsum('bi,tbi->tb', weight, scores)
        gradient = gradient + mean.sum(dim=1)
        # Centered first: sums of squares, where a difference would lose its digits.
        flat = scores.sub_((mean / share).unsqueeze(2)).flatten(1)
        hessian += (flat * weight.flatten()) @ flat.t()
    return Likelihood(value - float(scale @ problem.positive), gradient, hessian)


def make_problem(
    targets: Mapping[str, SoftTargets], train: HeteroData, val: HeteroData
) -> Problem:
    """Standardizes the teachers, and finds what of ``val`` there is to predict."""
    sizes = num_nodes_dict(train)
    if num_nodes_dict(val) != sizes:
        raise ValueError(
            f"'train' and 'val' need the same nodes (got {sizes} and "
            f'{num_nodes_dict(val)})'
        )
    check_teachers(targets, sizes)
    edge_index = train[INTERACTS].edge_index
    user, item = _unseen(*positives(val), edge_index.cpu(), sizes[ITEM])
    if user.numel() == 0:
        raise ValueError(
            "'val' needs positives outside of the training interactions (got none)"
        )
    tables = []
    for name, target in targets.items():
        item_x = target.x_dict[ITEM].double()
        # Shifts a user's scores, not its softmax; the second moments keep their digits.
        item_x = (item_x - item_x.mean(dim=0)) / score_std(name, target.x_dict)
        tables.append((target.x_dict[USER].double(), item_x))
    device = tables[0][0].device
    user, item = user.to(device), item.to(device)
    users, count = user.unique(return_counts=True)
    return Problem(
        tables,
        users,
        count.double() / user.numel(),
        torch.stack([score_pairs(x, y, user, item).mean() for x, y in tables]),
        SeenItems.from_edge_index(edge_index, sizes[USER], sizes[ITEM]),
    )


def _unseen(
    user: Tensor, item: Tensor, edge_index: Tensor, num_items: int
) -> tuple[Tensor, Tensor]:
    seen = edge_index[0] * num_items + edge_index[1]
    unseen = ~torch.isin(user * num_items + item, seen)
    return user[unseen], item[unseen]


def newton_step(now: Likelihood, scale: Tensor) -> Tensor:
    """The step to the minimum of the second-order model among non-negative scales, by
    accelerated projected gradients: equal teachers stay equal, unused ones are
    exactly zero.
    """
    # In units of each teacher's own curvature, as it may be far from its spread.
    unit = now.hessian.diagonal().clamp(min=0).sqrt()
    unit = torch.where(unit > 0, unit, 1.0)
    gradient, hessian = now.gradient / unit, now.hessian / unit.outer(unit)
    curvature = torch.linalg.matrix_norm(hessian, 2)
    if not curvature > 0:
        return torch.zeros_like(scale)
    start = present = ahead = scale * unit
    for k in range(1, _INNER_STEPS + 1):
        slope = gradient + hessian @ (ahead - start)
        former, present = present, (ahead - slope / curvature).clamp(min=0)
        ahead = present + (k - 1) / (k + 2) * (present - former)
    return (present - start) / unit
