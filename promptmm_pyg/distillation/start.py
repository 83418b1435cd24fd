"""The SVD-truncated teacher, and the start of a student."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.data.schema import ITEM, NODE_TYPES, USER
from promptmm_pyg.distillation.adapters import OnTopK
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.sharded_embeddings import sharded_parameters
from promptmm_pyg.targets import SoftTargets, TeacherOutput, eval_mode

Start = Literal['truncated', 'random', 'teacher tables']
STARTS: tuple[Start, ...] = ('truncated', 'random', 'teacher tables')

_STEPS = 20  # Of L-BFGS.
_EXACT = 1e-10  # A squared distance, relative to the squared length of the target.


def truncate_embeddings(x_dict: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    r"""Returns a teacher's embeddings at a smaller width, without training.

    These are the embeddings whose inner products are closest to the teacher's scores of
    all users and items in the least-squares sense: the truncated singular value
    decomposition of :math:`\mathbf{U} \mathbf{V}^{\top}` (`"The approximation of one
    matrix by another of lower rank" <https://doi.org/10.1007/BF02288367>`_), computed
    from two thin QR decompositions without the score matrix. At the teacher's width or
    above, they are unchanged.

    Distillation is only worth its cost if the student is better than this.

    Args:
        x_dict: Embeddings of users and items.
        width: The width of the result.

    Raises:
        ValueError: If ``width`` is not positive.
    """
    check_positive('width', width)
    user_x, item_x = x_dict[USER], x_dict[ITEM]
    if width >= user_x.size(-1):
        return {USER: user_x, ITEM: item_x}
    user_q, user_r = torch.linalg.qr(user_x.double())
    item_q, item_r = torch.linalg.qr(item_x.double())
    left, sizes, right = torch.linalg.svd(user_r @ item_r.t(), full_matrices=False)
    scale = sizes[:width].sqrt()
    return {
        USER: (user_q @ (left[:, :width] * scale)).to(user_x.dtype),
        ITEM: (item_q @ (right[:width].t() * scale)).to(item_x.dtype),
    }


def start_student(
    student: torch.nn.Module,
    targets: SoftTargets,
    *,
    start: Start = 'truncated',
    inputs: tuple[Any, ...] = (),
    teacher: Any = None,
) -> None:
    r"""Sets the tables of a student before its distillation, in place.

    With ``'truncated'`` the output of the student is that of the SVD-truncated teacher
    :math:`\mathbf{T}` (:func:`truncate_embeddings`). The tables of a student without
    propagation are :math:`\mathbf{T}`. Those of a student that propagates them,
    :math:`\mathbf{X} = f(\mathbf{E})`, are fitted to it,

    .. math::
        \min_{\mathbf{E}} \sum_t \frac{\|f(\mathbf{E})_t - \mathbf{T}_t\|_F^2}
        {\|\mathbf{T}_t\|_F^2}

    over the node types :math:`t`, by 20 iterations of L-BFGS from
    :math:`\mathbf{E} = \mathbf{T}`, in eval mode. For LightGCN this is a linear
    least-squares problem, solved by then up to a few thousandths: the truncation in its
    tables would be propagated once more, and be worse. Columns beyond the teacher's
    width remain as they are.

    Args:
        student: Its ``embeddings`` (:class:`~promptmm_pyg.nn.NodeEmbeddings`) are set;
            those of a module without are all its trained parameters.
        targets: The teacher's output.
        start: ``'truncated'``, ``'random'`` (no change), or ``'teacher tables'``, a
            copy of the id tables of ``teacher``. (default: ``'truncated'``)
        inputs: The arguments of the student.
        teacher: The model, for ``'teacher tables'``. (default: ``None``)

    Raises:
        ValueError: If ``start`` is unknown, or student or teacher have no id tables of
            the same width for ``'teacher tables'``.
    """
    check_choice('start', start, STARTS)
    if start == 'teacher tables':
        _copy_tables(student, teacher)
    elif start == 'truncated':
        _fit_truncated(student, targets, inputs)


def _copy_tables(student: torch.nn.Module, teacher: Any) -> None:
    own, other = (_embeddings(model) for model in (student, teacher))
    shapes = [
        {key: [num, x.embedding_dim] for key, num in x.num_nodes_dict.items()}
        if x is not None
        else {}
        for x in (own, other)
    ]
    if own is None or other is None or shapes[0] != shapes[1]:
        raise ValueError(
            f"'start' must be 'truncated' or 'random' for a student and a teacher "
            f"without id tables of the same shapes (got 'teacher tables', and tables "
            f'{shapes[0] or "none"} of {type(student).__name__} and '
            f'{shapes[1] or "none"} of {type(teacher).__name__})'
        )
    with torch.no_grad():
        own.load_tables(other())


def _embeddings(model: Any) -> NodeEmbeddings | None:
    embeddings = getattr(model, 'embeddings', None)
    return embeddings if isinstance(embeddings, NodeEmbeddings) else None


def check_sharded(student: torch.nn.Module, losses: Iterable[Any], start: str) -> None:
    """Raises if a student with sharded tables does not support an argument of
    ``distill``.
    """
    if not sharded_parameters(student):
        return
    if getattr(student, 'reads_edges', True):
        if start not in ('random', 'teacher tables'):
            raise ValueError(
                f"'start' must be 'random' or 'teacher tables' for a student that "
                f'propagates sharded tables (got {start!r}), as a truncated teacher '
                f'is fitted to whole tables'
            )
        return
    by_id = [x for x in losses if isinstance(x, OnTopK) or getattr(x, 'grouped', False)]
    if by_id:
        names = [type(x).__name__ for x in by_id]
        raise ValueError(
            f"'losses' must use the rows of the batch only with sharded tables (got "
            f"{names}). Leave out 'OnTopK' and 'group_dict', or use whole tables"
        )


def _fit_truncated(
    student: torch.nn.Module, targets: SoftTargets, inputs: tuple[Any, ...]
) -> None:
    target = {key: x.detach() for key, x in get_embeddings(student, inputs).items()}
    width = target[ITEM].size(1)
    for key, x in truncate_embeddings(targets.x_dict, width).items():
        # A narrower teacher leaves the last columns.
        target[key] = torch.cat([x.to(target[key]), target[key][:, x.size(1) :]], dim=1)
    embeddings = getattr(student, 'embeddings', None)
    fitted = student
    if isinstance(embeddings, NodeEmbeddings):
        fitted = embeddings
        with torch.no_grad():
            for key in NODE_TYPES:
                rows = target[key][embeddings.local_rows(key)]
                if embeddings.tables[key].shape == rows.shape:
                    embeddings.tables[key].copy_(rows)
    parameters = [p for p in fitted.parameters() if p.requires_grad]
    scale = {key: float(target[key].square().sum()) or 1.0 for key in NODE_TYPES}

    def distance() -> Tensor:
        output = student(*inputs)
        x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
        parts = [
            (x_dict[key] - target[key]).square().sum() / scale[key]
            for key in NODE_TYPES
        ]
        return torch.stack(parts).sum()

    with eval_mode(student):
        with torch.no_grad():
            exact = float(distance()) < _EXACT
        if parameters and not exact:
            _minimize(distance, parameters)


def _minimize(distance: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_STEPS,
        history_size=10,
        tolerance_grad=1e-10,
        line_search_fn='strong_wolfe',
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = distance()
        value.backward()
        return value

    optimizer.step(closure)
    optimizer.zero_grad()
