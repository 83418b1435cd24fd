"""Tables whose gradient holds the rows that were looked up, and no other."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training.optimizer import OptimizerKind

_INTEGERS = (torch.int32, torch.int64)


class RowTable(Tensor):
    """A view of a table, equal to it in all but one way: rows taken by
    ``index_select`` (what :func:`promptmm_pyg.functional.rows` does) or by an integer
    tensor in brackets have a sparse gradient. Whatever else is done with it gives a
    plain tensor and a dense gradient; both kinds add up.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Inside, this class is a plain tensor; its results are, too.
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ == 'index_select' and not kwargs and args[1] == 0:
                return F.embedding(args[2], args[0], sparse=True)
            if func.__name__ == '__getitem__' and _is_index(args[1]):
                x, index = args
                index = torch.where(index < 0, index + x.size(0), index)
                return F.embedding(index, x, sparse=True)
            return func(*args, **(kwargs or {}))


def row_tables(x_dict: Mapping[NodeType, Tensor]) -> dict[NodeType, Tensor]:
    """The same embeddings, those that are parameters themselves as a
    :class:`RowTable`: a loss that looks up rows leaves a sparse gradient in them
    (:class:`~promptmm_pyg.training.LazyAdamW` reads it), and no matrix as large as a
    table is made in the step.

    Args:
        x_dict: What a model returned, ``[N_t, D]`` per node type.

    Raises:
        ValueError: If none is a parameter, as in a model that propagates.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(1000, 2))
        >>> x = row_tables({'item': table})['item']
        >>> x.index_select(0, torch.tensor([7, 7])).sum().backward()
        >>> table.grad.coalesce().values()
        tensor([[2., 2.]])
    """
    if not any(_is_table(x) for x in x_dict.values()):
        raise ValueError(
            f"'x_dict' requires a table that is a parameter itself for sparse gradients "
            f'(got none among {sorted(x_dict)}). The gradient of a model that computes '
            f"its embeddings reaches every row: train it with optimizer='dense'"
        )
    return {
        key: x.as_subclass(RowTable) if _is_table(x) else x for key, x in x_dict.items()
    }


def looked_up(output: Any, optimizer: OptimizerKind) -> Any:
    """What a model returned; for a lazy optimizer its tables as :func:`row_tables`."""
    if optimizer == 'dense':
        return output
    if isinstance(output, TeacherOutput):
        return output._replace(x_dict=row_tables(output.x_dict))
    return row_tables(output)


def _is_table(x: Tensor) -> bool:
    return x.is_leaf and x.requires_grad and x.dim() == 2


def _is_index(key: Any) -> bool:
    return isinstance(key, Tensor) and key.dtype in _INTEGERS
