"""Top-K lists as a program of ONNX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from promptmm_pyg._files import replacing
from promptmm_pyg._utils import check_positive, missing_extra
from promptmm_pyg.serving.exports import TopItems

if TYPE_CHECKING:
    from promptmm_pyg.serving.recommender import Recommender

_OPSET, _IR_VERSION = 18, 9  # Of onnxruntime 1.15 and later.
_MAX_BYTES = 2**31 - 2**20  # Of one file of ONNX.
# The seen items of all users of a batch are one list: `row` and `item` of each. The
# marks are at the ends of rows, so that their cumulative sum numbers the rows. TopK
# orders equal scores by item number.
_GRAPH = """
top_items (int64[batch] users) => (int64[batch, {k}] items, float[batch, {k}] scores) {{
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  none = Constant <value_int = -1> ()
  first_axis = Constant <value_ints = [0]> ()
  second_axis = Constant <value_ints = [1]> ()
  length = Constant <value_ints = [{k}]> ()
  x = Gather (user_x, users)
  products = MatMul (x, item_x)
  allowed = Add (products, penalty)
  start = Gather (rowptr, users)
  next_user = Add (users, one)
  stop = Gather (rowptr, next_user)
  num_seen = Sub (stop, start)
  end = CumSum (num_seen, zero)
  begin = Sub (end, num_seen)
  total = ReduceSum <keepdims = 0> (num_seen)
  shape = Unsqueeze (total, first_axis)
  longer = Add (shape, one)
  empty = Expand (zero, longer)
  each = Shape (users)
  mark = Expand (one, each)
  marks = ScatterElements <reduction = "add"> (empty, end, mark)
  counts = CumSum (marks, zero)
  row = Slice (counts, first_axis, shape)
  shift = Sub (start, begin)
  row_shift = Gather (shift, row)
  position = Range (zero, total, one)
  entry = Add (position, row_shift)
  item = Gather (col, entry)
  row_column = Unsqueeze (row, second_axis)
  item_column = Unsqueeze (item, second_axis)
  places = Concat <axis = 1> (row_column, item_column)
  minus_infinity = Expand (lowest, shape)
  unseen = ScatterND (allowed, places, minus_infinity)
  scores, best = TopK <axis = 1, largest = 1, sorted = 1> (unseen, length)
  is_padding = IsInf (scores)
  items = Where (is_padding, none, best)
}}"""


def export_onnx(
    recommender: 'Recommender', path: str | Path, k: int = 10, **options: Any
) -> Path:
    """Writes the lists of :class:`TopItems` as a program of ONNX, for onnxruntime and
    other engines. It maps ``users`` ``[B]``, rows of any number of users, to ``items``
    ``[B, k]``, padded with -1, and ``scores`` ``[B, k]`` in single precision, padded
    with ``-inf``.

    Args:
        recommender: What to export.
        path: A file name that ends in ``.onnx``.
        k: The length of the lists. (default: 10)
        **options: ``exclude_seen``, ``allow`` and ``deny`` of
            :meth:`TopItems.from_recommender`.

    Raises:
        ImportError: If ``onnx`` is not installed (the extra ``export``).
        ValueError: If the name ends otherwise, there are no users, a list is invalid,
            or the tables exceed 2 GiB, the limit of the format.
    """
    try:
        from onnx import checker, helper, numpy_helper, parser
    except ImportError as error:
        raise missing_extra('export_onnx', 'onnx', 'export') from error
    path, tables = Path(path), recommender.tables
    if path.suffix != '.onnx':
        raise ValueError(f"'path' must end in '.onnx' (got '{path}')")
    check_positive('num_users', tables.user_x.size(0))
    module = TopItems.from_recommender(recommender, k, **options)
    num_users, num_items = module.user_x.size(0), module.item_x.size(0)
    keys = module.seen[:-1].cpu()
    bounds = torch.arange(num_users + 1) * num_items
    arrays = {
        'user_x': module.user_x.float().cpu().numpy(),
        'item_x': np.ascontiguousarray(module.item_x.float().cpu().numpy().T),
        'penalty': np.where(module.candidates.cpu(), 0, -np.inf).astype(np.float32),
        'rowptr': torch.searchsorted(keys, bounds).numpy(),
        'col': (keys % num_items).numpy(),
        'lowest': np.array(-np.inf, dtype=np.float32),
    }
    size = sum(array.nbytes for array in arrays.values())
    if size > _MAX_BYTES:
        raise ValueError(
            f"'recommender' must have at most {_MAX_BYTES:,} bytes of tables for ONNX "
            f"(got {size:,}). Use 'export_program'"
        )
    graph = parser.parse_graph(_GRAPH.format(k=k))
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    opset = helper.make_opsetid('', _OPSET)
    model = helper.make_model(
        graph,
        producer_name='promptmm_pyg',
        opset_imports=[opset],
        ir_version=_IR_VERSION,
    )
    checker.check_model(model)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path
