"""Embeddings and rankings for other programs."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg._files import replacing
from promptmm_pyg._utils import check_flag, check_positive, missing_extra
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.ranking.approximate import import_faiss
from promptmm_pyg.serving._ids import RawId

if TYPE_CHECKING:
    from promptmm_pyg.serving.recommender import Recommender

_CHUNK = 65_536  # Rows of a table written at once.
_MAX_TEXT = 2**32  # Bytes of an array of ids.


class TopItems(torch.nn.Module):
    r"""Exact top-K lists by row numbers, as tensor operations that
    :func:`torch.export.export` accepts with a dynamic batch size.

    Equal scores are ordered by item number, also at the end of the list.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        k: The length of the lists, at most ``num_items``.
        seen: Items to leave out per user. (default: none)
        candidates: Boolean ``[num_items]``, ``False`` where an item is never
            recommended. (default: everywhere ``True``)

    Shapes:
        - **input:** rows of users :math:`(B)`
        - **output:** item rows :math:`(B, k)`, padded with -1, and their scores
          :math:`(B, k)`, padded with ``-inf``

    Example:
        >>> module = TopItems(torch.eye(2), torch.eye(2), k=1)
        >>> module(torch.tensor([1]))
        (tensor([[1]]), tensor([[1.]]))
    """

    user_x: Tensor
    item_x: Tensor
    seen: Tensor
    candidates: Tensor

    def __init__(
        self,
        user_x: Tensor,
        item_x: Tensor,
        k: int,
        *,
        seen: SeenItems | None = None,
        candidates: Tensor | None = None,
    ) -> None:
        super().__init__()
        num_items = item_x.size(0)
        if not 1 <= k <= num_items:
            raise ValueError(f"'k' must be in [1, {num_items}] (got {k})")
        self.k = k
        device = item_x.device
        # Sorted keys `user * num_items + item`, and one above all of them.
        keys = torch.empty(0, dtype=torch.long, device=device)
        if seen is not None:
            user = torch.repeat_interleave(seen.num_seen)
            keys = (user * num_items + seen.col).sort().values.to(device)
        end = keys.new_full((1,), user_x.size(0) * num_items)
        if candidates is None:
            candidates = torch.ones(num_items, dtype=torch.bool)
        self.register_buffer('user_x', user_x.detach().clone())
        self.register_buffer('item_x', item_x.detach().clone())
        self.register_buffer('seen', torch.cat([keys, end]))
        self.register_buffer('candidates', candidates.to(device))

    @classmethod
    def from_recommender(
        cls,
        recommender: 'Recommender',
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
    ) -> 'TopItems':
        """The lists of :meth:`Recommender.recommend`, whose arguments these are, by
        row numbers; ``k`` must not exceed the catalogue.
        """
        check_flag('exclude_seen', exclude_seen)
        tables = recommender.tables
        return cls(
            tables.user_x,
            tables.item_x,
            k,
            seen=tables.seen if exclude_seen else None,
            candidates=tables.candidates(allow, deny),
        )

    def forward(self, users: Tensor) -> tuple[Tensor, Tensor]:
        # Unlike indexing, this refuses negative rows.
        scores = self.user_x.index_select(0, users) @ self.item_x.t()
        item = torch.arange(self.item_x.size(0), device=users.device)
        key = users[:, None] * item.numel() + item
        is_seen = self.seen[torch.searchsorted(self.seen, key)] == key
        scores = scores.masked_fill(is_seen | ~self.candidates, -torch.inf)

        # Exactly k columns: those above the k-th score, then the first of its equals.
        threshold = scores.topk(self.k, dim=1).values[:, -1:]
        above, equal = scores > threshold, scores == threshold
        places = self.k - above.sum(1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(1) <= places))
        first = torch.where(chosen, -item, -item.numel()).topk(self.k, dim=1).values
        index = -first  # Ascending, so that a stable sort keeps ties in order.
        values, order = scores.gather(1, index).sort(
            dim=1, descending=True, stable=True
        )
        return index.gather(1, order).masked_fill(values == -torch.inf, -1), values


def export_program(
    recommender: 'Recommender', path: str | Path, k: int = 10, **options: Any
) -> Path:
    """Writes :class:`TopItems` as a program of :mod:`torch.export` with a dynamic
    batch size; ``torch.export.load(path).module()`` runs it.

    The program uses row numbers; raw ids remain in the recommender.

    Args:
        recommender: What to export.
        path: A file name that ends in ``.pt2``.
        k: The length of the lists. (default: 10)
        **options: ``exclude_seen``, ``allow`` and ``deny`` of
            :meth:`TopItems.from_recommender`.

    Raises:
        ValueError: If the name ends otherwise, there are no users, or a list is
            invalid.
    """
    path, module = Path(path), TopItems.from_recommender(recommender, k, **options)
    if path.suffix != '.pt2':
        raise ValueError(f"'path' must end in '.pt2' (got '{path}')")
    check_positive('num_users', module.user_x.size(0))
    users = torch.zeros(2, dtype=torch.long, device=module.item_x.device)
    batch = torch.export.Dim('batch')
    program = torch.export.export(module, (users,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()
    torch.export.save(program, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return path


def export_embeddings(recommender: 'Recommender', path: str | Path) -> list[Path]:
    """Writes ids and embeddings (single precision) for other programs, and returns
    the paths.

    * ``name.npz``: one file with ``user_ids``, ``user_x``, ``item_ids`` and
      ``item_x``, for ``numpy.load`` without pickle;
    * ``name.parquet``: two files, ``name.users.parquet`` and ``name.items.parquet``,
      with the columns ``id``, ``embedding`` (lists of equal length) and, for items,
      ``title``. Requires pyarrow.

    Args:
        recommender: What to export.
        path: A file name that ends in ``.npz`` or ``.parquet``.

    Raises:
        ValueError: If the name ends otherwise, or the ids of one table mix numbers
            and text.
        ImportError: If pyarrow is required and not installed.
    """
    path, tables = Path(path), recommender.tables
    if path.suffix not in ('.npz', '.parquet'):
        raise ValueError(f"'path' must end in '.npz' or '.parquet' (got '{path}')")
    users, items = list(tables.users), list(tables.items)
    kinds = _id_kind('user_ids', users), _id_kind('item_ids', items)
    if path.suffix == '.npz':
        arrays = _id_array('user_ids', users), _id_array('item_ids', items)
        with replacing(path) as temporary, temporary.open('wb') as file:
            np.savez(
                file,
                user_ids=arrays[0],
                user_x=_array(tables.user_x),
                item_ids=arrays[1],
                item_x=_array(tables.item_x),
            )
        return [path]
    titles = [tables.titles.get(raw) for raw in items]
    paths = [path.with_suffix(f'.{name}.parquet') for name in ('users', 'items')]
    pa = _pyarrow('export_embeddings')
    title = (pa.string(), titles)
    for output, (schema, blocks) in zip(
        paths,
        (
            _arrow_blocks(users, kinds[0], tables.user_x),
            _arrow_blocks(items, kinds[1], tables.item_x, title=title),
        ),
        strict=True,
    ):
        with (
            replacing(output) as temporary,
            pa.parquet.ParquetWriter(temporary, schema) as writer,
        ):
            for block in blocks:
                writer.write_table(block)
    return paths


def export_lancedb(
    recommender: 'Recommender', folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Writes two tables to a database of LanceDB, which needs no server: ``items``
    (``id``, ``embedding``, ``title``) and ``users`` (``id``, ``embedding``, ``seen``,
    the items to leave out).

    The list of a user are the items with the largest inner product::

        user = users.search().where("id = 'u1'").to_list()[0]
        query = items.search(user['embedding']).distance_type('dot').limit(10)
        query.where(f'id NOT IN {tuple(user["seen"])}', prefilter=True).to_list()

    Equal scores are in any order there.

    Args:
        recommender: What to export.
        folder: The folder of the database; other tables in it are unchanged.
        overwrite: Whether to replace tables of these names. (default: ``False``)

    Raises:
        ImportError: If ``lancedb`` is not installed (the extra ``export``).
        ValueError: If there is a table of one of these names, or the ids of one kind
            mix numbers and text.
    """
    try:
        import lancedb
    except ImportError as error:
        raise missing_extra('export_lancedb', 'lancedb', 'export') from error
    pa, tables = _pyarrow('export_lancedb'), recommender.tables
    users, items = list(tables.users), list(tables.items)
    kinds = _id_kind('user_ids', users), _id_kind('item_ids', items)
    seen = tables.seen
    parts = seen.col.cpu().split(seen.num_seen.tolist())
    histories = [[items[row] for row in part.tolist()] for part in parts]
    titles = [tables.titles.get(raw) for raw in items]
    list_type = pa.list_(pa.string() if kinds[1] is str else pa.int64())
    contents = {
        'items': _arrow_blocks(
            items, kinds[1], tables.item_x, title=(pa.string(), titles)
        ),
        'users': _arrow_blocks(
            users, kinds[0], tables.user_x, seen=(list_type, histories)
        ),
    }
    folder = Path(folder)
    database = lancedb.connect(folder)
    known = set(database.list_tables().tables) & set(contents)
    if known and not overwrite:
        raise ValueError(
            f"'folder' must have no table '{min(known)}' (got '{folder}'). Choose "
            f'another one, or overwrite it'
        )
    for name, (schema, blocks) in contents.items():
        batches = (batch for block in blocks for batch in block.to_batches())
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        database.create_table(name, reader, mode='overwrite')
    return folder


def faiss_index(recommender: 'Recommender', factory: str = 'Flat') -> Any:
    """A faiss index of the items by inner product. Search results are positions in
    ``item_ids``, -1 for none.

    Args:
        recommender: What to export.
        factory: Index type, such as ``'HNSW32'`` or ``'IVF256,Flat'``; trained on the
            items if necessary. (default: ``'Flat'``, exact)

    Raises:
        ImportError: If faiss is not installed (the extra ``ann``).
    """
    faiss = import_faiss('faiss_index')
    x = _array(recommender.item_x)
    index = faiss.index_factory(x.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(x)
    index.add(x)
    return index


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.float().cpu().numpy())


def _id_kind(name: str, ids: list[RawId]) -> type:
    """Integers of 64 bits or text, which other programs read without pickle."""
    kinds: set[type] = set(map(type, ids))
    if len(kinds) > 1:
        raise ValueError(
            f"'{name}' must contain only numbers or only text to be exported (got "
            f'{next(raw for raw in ids if type(raw) is int)!r} and '
            f'{next(raw for raw in ids if type(raw) is str)!r})'
        )
    if kinds == {int}:
        largest = max(ids, key=lambda raw: abs(int(raw)))
        if not -(2**63) <= int(largest) < 2**63:
            raise ValueError(
                f"'{name}' must contain numbers of 64 bits to be exported "
                f'(got {largest})'
            )
    return kinds.pop() if kinds else int


def _id_array(name: str, ids: list[RawId]) -> np.ndarray:
    """An array of ids; text only if the array keeps it and does not fill memory."""
    texts = [raw for raw in ids if isinstance(raw, str)]
    # Each cell is as long as the longest one, and final NULs are lost.
    size = 4 * len(ids) * max(map(len, texts), default=0)
    if size > _MAX_TEXT or any(raw.endswith('\0') for raw in texts):
        raise ValueError(
            f"'{name}' must contain short ids without a final NUL for '.npz' (got "
            f"{len(ids)} ids, {size:,} bytes as an array). Export '.parquet'"
        )
    return np.array(ids, dtype=np.str_ if texts else np.int64)


def _arrow_blocks(
    ids: list[RawId],
    kind: type,
    x: Tensor,
    **columns: tuple[Any, Sequence[Any]],
) -> tuple[Any, Iterator[Any]]:
    """The schema and the tables of some rows at a time, of ids, embeddings and other
    columns, each a type of Arrow and its values.
    """
    import pyarrow as pa

    fields = [('id', pa.string() if kind is str else pa.int64())]
    fields.append(('embedding', pa.list_(pa.float32(), x.size(1))))
    schema = pa.schema([*fields, *((key, of) for key, (of, _) in columns.items())])

    def blocks() -> Iterator[Any]:
        for start in range(0, max(1, len(ids)), _CHUNK):
            rows = slice(start, start + _CHUNK)
            flat = pa.array(_array(x[rows]).reshape(-1))
            arrays = [
                pa.array(ids[rows], type=schema.field('id').type),
                pa.FixedSizeListArray.from_arrays(flat, x.size(1)),
                *(pa.array(values[rows], type=of) for of, values in columns.values()),
            ]
            yield pa.Table.from_arrays(arrays, schema=schema)

    return schema, blocks()


def _pyarrow(caller: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra(caller, 'pyarrow', 'frames') from error
    return pyarrow
