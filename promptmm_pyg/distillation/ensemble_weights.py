"""How much each of several teachers counts, learned on validation."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive
from promptmm_pyg.distillation._likelihood import Likelihood, make_problem, problem_at
from promptmm_pyg.targets import SoftTargets

_TOLERANCE = 1e-9  # Nats a positive; less is not worth a pass over the scores.
_INNER_STEPS = 500  # On a matrix of teachers by teachers: microseconds each.
_HALVINGS = 30


def fit_ensemble_weights(
    targets: Mapping[str, SoftTargets],
    train: HeteroData,
    val: HeteroData,
    *,
    depth: int | None = 20,
    steps: int = 50,
    batch_size: int = 128,
) -> dict[str, float]:
    r"""Returns the weights under which several teachers together best predict the
    validation positives: zero or more each, summing to one, for
    :func:`~promptmm_pyg.distillation.ensemble_targets`.

    .. math::
        \min_{\mathbf{a} \geq 0} \; - \frac{1}{|\mathcal{P}|} \sum_{(u, i) \in
        \mathcal{P}} \log \frac{\exp z_{\mathbf{a}}(u, i)}{\sum_{j \in
        \mathcal{C}_u} \exp z_{\mathbf{a}}(u, j)}, \qquad z_{\mathbf{a}} = \sum_t a_t
        \frac{s_t}{\sigma_t}, \qquad w_t = \frac{a_t}{\sum_{t'} a_{t'}}

    with :math:`\mathcal{C}_u` the ``depth`` best items of every teacher for user
    :math:`u` together, training items left out, :math:`\mathcal{P}` the validation
    positives among them and :math:`\sigma_t` as there. With ``depth=None``,
    :math:`\mathcal{C}_u` is the whole catalogue without training items: then most of
    the likelihood is about items that nobody would be shown, and teachers whose scores
    are good probabilities count more than those that rank well. The objective is
    convex: Newton steps from zero find its minimum, and nothing is drawn at random. The
    sum of :math:`\mathbf{a}`, an inverse temperature, is free, and is not returned: it
    grows without bound where the teachers make no mistake.

    There is one number a teacher to learn from all validation positives, so validation
    overfits no more here than by any other choice made on it. Test positives are never
    read: pass the graph of validation.

    Args:
        targets: What each teacher says, by name; all of the same nodes.
        train: Graph whose message edges are the training interactions. Positives among
            them cannot be recommended and take no part.
        val: Graph with validation positives as ``edge_label_index``.
        depth: How many items a teacher and user compete. (default: ``20``)
        steps: Newton steps at most; ten or so are enough. (default: ``50``)
        batch_size: How many users are scored at once, in double precision; without
            ``depth``, memory grows with ``batch_size * num_items * len(targets)``.
            (default: ``128``)

    Raises:
        ValueError: If there is no teacher or no positive, sizes do not fit each other,
            a teacher's scores are not finite or do not differ from item to item, no
            positive is among the best items of a teacher, or no teacher predicts
            better than chance.
    """
    check_positive('steps', steps)
    check_positive('batch_size', batch_size)
    if depth is not None:
        check_positive('depth', depth)
    problem = make_problem(targets, train, val, depth)
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
            f"'targets' requires a teacher that scores validation positives above the "
            f'average unseen item (got none among {sorted(targets)})'
        )
    weights = (scale / total).tolist()
    return dict(zip(targets, weights, strict=True))


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
