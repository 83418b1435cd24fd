"""Several teachers as one: what they say together, in one pair of tables."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import ITEM, NODE_TYPES, USER, num_nodes_dict
from promptmm_pyg.targets import SoftTargets, topk_targets


def ensemble_targets(
    targets: Mapping[str, SoftTargets],
    weights: Mapping[str, float],
    train: HeteroData | None = None,
    depth: int = 100,
) -> SoftTargets:
    r"""Returns several teachers as one, whose score of an item is their weighted sum,
    each in units of its own spread.

    .. math::
        s(u, i) = \sum_t w_t \frac{s_t(u, i)}{\sigma_t}, \qquad \sigma_t^2 =
        \frac{1}{U} \sum_u \mathrm{Var}_i \, s_t(u, i)

    The tables of the teachers are concatenated, so widths add up;
    :func:`~promptmm_pyg.distillation.truncate_embeddings` reduces them. The spread is
    that of items within a user, exact and over all pairs (:func:`score_std`). The users
    and items of each teacher get the same mean square, so the split of its scale
    between the two does not matter. Scores are not centered, which changes no ranking
    and no softmax over items. Twice the weights are twice the scores. With weights that
    sum to one, a softmax of the mixture is rather flat; a student may do better with a
    sum of three, to be chosen on validation as its other hyperparameters are.

    Modality vectors are carried as they are, named ``'teacher/modality'``. A teacher of
    weight zero is left out, with its modalities.

    Args:
        targets: What each teacher says, by name; all of the same nodes.
        weights: Zero or more for each teacher, not all zero, such as those of
            :func:`~promptmm_pyg.distillation.fit_ensemble_weights`.
        train: Graph whose message edges are the training interactions; with it, the
            best unseen items of every user are ranked now. (default: not ranked)
        depth: How many, at most the catalogue. (default: ``100``)

    Raises:
        ValueError: If there is no teacher, a name holds ``'/'`` or ``'.'``, names,
            nodes or weights do not fit, or a teacher's scores are not finite or do not
            differ from item to item.
    """
    check_positive('depth', depth)
    check_teachers(targets, None if train is None else num_nodes_dict(train))
    _check_weights(weights, targets)
    kept = {name: target for name, target in targets.items() if weights[name] > 0}
    parts = [_scaled(name, x.x_dict, weights[name]) for name, x in kept.items()]
    mixed = SoftTargets(
        {key: torch.cat([part[key] for part in parts], dim=1) for key in NODE_TYPES},
        {
            f'{name}/{modality}': x_dict
            for name, target in kept.items()
            for modality, x_dict in target.modality_x_dict.items()
        },
    )
    if train is None:
        return mixed
    k = min(depth, mixed.x_dict[ITEM].size(0))
    return mixed._replace(top=topk_targets(mixed, train, k))


def score_std(name: str, x_dict: Mapping[str, Tensor]) -> float:
    r"""Returns how far a teacher's scores of all items spread within a user, the root
    of the mean variance over users, from moments of its tables: the dense scores never
    exist.

    .. math::
        \sigma^2 = \frac{1}{U} \sum_u \mathrm{Var}_i (\mathbf{x}_u^{\top} \mathbf{x}_i)
        = \mathrm{tr} \Big( \frac{1}{U} \sum_u \mathbf{x}_u \mathbf{x}_u^{\top} \;
        \mathrm{Cov}_i (\mathbf{x}_i) \Big)

    A level of a user's own, which ranks nothing, has no part in it.

    Args:
        name: Of the teacher, for the error.
        x_dict: Embeddings of users and items.

    Raises:
        ValueError: If every user scores all items the same, as far as the precision of
            the tables goes.
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


def check_teachers(
    targets: Mapping[str, SoftTargets], sizes: Mapping[str, int] | None
) -> None:
    """Raises unless all teachers have finite tables of one width for the same nodes.

    Args:
        targets: What each teacher says, by name.
        sizes: The number of nodes per node type. (default: those of the first teacher)
    """
    if not targets:
        raise ValueError("'targets' requires at least one teacher (got none)")
    for name, target in targets.items():
        if not name or '/' in name or '.' in name:
            raise ValueError(
                f"'targets' requires names without '/' and '.' (got {name!r}), which "
                f'become part of the names of modalities'
            )
        shapes = {key: list(x.size()) for key, x in target.x_dict.items()}
        matrices = [shapes.get(key, []) for key in NODE_TYPES]
        if not all(len(x) == 2 for x in matrices) or matrices[0][1] != matrices[1][1]:
            raise ValueError(
                f"'targets' requires users and items of one width (got {shapes} of "
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
                    f"'targets' requires finite embeddings (got NaN or infinity for "
                    f'{key!r} of teacher {name!r})'
                )


def _scaled(
    name: str, x_dict: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """Tables of one mean square whose scores are ``weight`` of the standardized."""
    scale = weight / score_std(name, x_dict)
    norm = {key: float(x_dict[key].double().square().mean()) for key in NODE_TYPES}
    balance = (norm[ITEM] / norm[USER]) ** 0.25
    return {
        USER: x_dict[USER] * (math.sqrt(scale) * balance),
        ITEM: x_dict[ITEM] * (math.sqrt(scale) / balance),
    }


def _check_weights(
    weights: Mapping[str, float], targets: Mapping[str, SoftTargets]
) -> None:
    if set(weights) != set(targets):
        raise ValueError(
            f"'weights' requires one weight for each teacher of {sorted(targets)} (got "
            f'{sorted(weights)})'
        )
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"'weights' must be finite and zero or more (got {weight} for {name!r})"
            )
    if not sum(weights.values()) > 0:
        raise ValueError(
            f"'weights' requires at least one above zero (got {dict(weights)})"
        )
