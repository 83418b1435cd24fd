"""Embeddings and rankings for other programs."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, replacing
from promptmm_pyg.serving._raw_ids import RawId
from promptmm_pyg.serving._tables import Tables
from promptmm_pyg.serving.top_items_module import TopItems

_CHUNK = 65_536  # Rows of a table written at once.


class Exports(Tables):
    """What a :class:`~promptmm_pyg.serving.Recommender` can be turned into."""

    def export_embeddings(self, path: str | Path) -> list[Path]:
        """Writes ids and embeddings (single precision) for other programs.

        * ``name.npz``: one file with ``user_ids``, ``user_x``, ``item_ids`` and
          ``item_x``, to be read by ``numpy.load`` without pickle;
        * ``name.parquet``: two files, ``name.users.parquet`` and
          ``name.items.parquet``, with the columns ``id``, ``embedding`` (lists of
          one length) and, for items, ``title``. Needs pyarrow.

        Args:
            path: Ends in ``.npz`` or ``.parquet``.

        Returns:
            The files that were written.

        Raises:
            ValueError: If the ending is another one, or the ids of one table are in
                part numbers and in part text.
            ImportError: If pyarrow is needed and not installed.
        """
        path = Path(path)
        if path.suffix not in ('.npz', '.parquet'):
            raise ValueError(f"'path' must end in '.npz' or '.parquet' (got '{path}')")
        users = _id_array('user_ids', self._users.ids)
        items = _id_array('item_ids', self._items.ids)
        if path.suffix == '.npz':
            with replacing(path) as temporary, temporary.open('wb') as file:
                np.savez(
                    file,
                    user_ids=users,
                    user_x=_array(self.user_x),
                    item_ids=items,
                    item_x=_array(self.item_x),
                )
            return [path]
        titles = [self.titles.get(raw) for raw in self._items.ids]
        found = [path.with_suffix(f'.{name}.parquet') for name in ('users', 'items')]
        _write_parquet(found[0], users, self.user_x, None)
        _write_parquet(found[1], items, self.item_x, titles)
        return found

    def to_faiss(self, factory: str = 'Flat') -> Any:
        """A faiss index of the items by inner product; needs faiss.

        What a search returns are positions in ``item_ids``; -1 stands for none.

        Args:
            factory: How faiss is to build it, such as ``'HNSW32'`` or
                ``'IVF256,Flat'``; trained on the items where it must be. (default:
                ``'Flat'``, exact)

        Raises:
            ImportError: If faiss is not installed.
        """
        try:
            import faiss
        except ImportError as error:
            raise ImportError(
                "'Recommender.to_faiss' requires 'faiss'. Install it with "
                "'pip install promptmm_pyg[ann]'"
            ) from error
        x = _array(self.item_x)
        index = faiss.index_factory(x.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(x)
        index.add(x)
        return index

    def as_module(
        self,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
    ) -> TopItems:
        """A module from rows of users ``[B]`` to rows and scores of their best items
        ``[B, k]``, the same as those of ``recommend``.

        Args:
            k: How many items, at most all. (default: 10)
            exclude_seen: Whether to leave out what the user has seen. (default:
                ``True``)
            allow: Recommend only these raw item ids. (default: every item)
            deny: Never recommend these raw item ids. (default: none)

        Raises:
            ValueError: If ``k`` exceeds the catalogue, an id is unknown or both lists
                are given.
        """
        return TopItems(
            self.user_x,
            self.item_x,
            k,
            seen=self.seen if exclude_seen else None,
            candidates=self._candidates(allow, deny),
        )

    def to_torch_export(
        self,
        path: str | Path,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
    ) -> Path:
        """Writes :meth:`as_module` as a program of :mod:`torch.export`, for batches of
        any size; ``torch.export.load(path).module()`` runs it.

        The program knows row numbers only; ids stay with the recommender. The file is
        in torch's own format, not part of what :meth:`Recommender.load` reads.

        Args:
            path: Ends in ``.pt2``.
            k: See :meth:`as_module`; so are the others. (default: 10)
            exclude_seen: (default: ``True``)
            allow: (default: every item)
            deny: (default: none)

        Raises:
            ValueError: If the ending is another one, or as :meth:`as_module`.
        """
        path = Path(path)
        if path.suffix != '.pt2':
            raise ValueError(f"'path' must end in '.pt2' (got '{path}')")
        check_positive('num_users', self.num_users)
        module = self.as_module(k, exclude_seen=exclude_seen, allow=allow, deny=deny)
        users = torch.zeros(2, dtype=torch.long, device=self.item_x.device)
        batch = torch.export.Dim('batch')
        program = torch.export.export(module, (users,), dynamic_shapes=({0: batch},))
        content = io.BytesIO()
        torch.export.save(program, content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())
        return path


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.float().cpu().numpy())


def _id_array(name: str, ids: list[RawId]) -> np.ndarray:
    """Numbers or text, never objects: reading these would take pickle."""
    kinds = {type(raw) for raw in ids}
    if len(kinds) > 1:
        raise ValueError(
            f"'{name}' must contain only numbers or only text to be exported (got "
            f'{next(raw for raw in ids if type(raw) is int)!r} and '
            f'{next(raw for raw in ids if type(raw) is str)!r})'
        )
    try:
        return np.array(ids, dtype=np.str_ if kinds == {str} else np.int64)
    except OverflowError as error:
        raise ValueError(
            f"'{name}' must contain numbers of 64 bits to be exported "
            f'(got {max(ids, key=lambda raw: abs(int(raw)))})'
        ) from error


def _write_parquet(
    path: Path, ids: np.ndarray, x: Tensor, titles: list[str | None] | None
) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "'Recommender.export_embeddings' requires 'pyarrow' for '.parquet'. Install "
            "it with 'pip install promptmm_pyg[frames]'"
        ) from error
    text = ids.dtype.kind == 'U'
    fields = [('id', pa.string() if text else pa.int64())]
    fields.append(('embedding', pa.list_(pa.float32(), x.size(1))))
    if titles is not None:
        fields.append(('title', pa.string()))
    schema = pa.schema(fields)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, max(1, len(ids)), _CHUNK):
            rows = slice(start, start + _CHUNK)
            flat = pa.array(_array(x[rows]).reshape(-1))
            columns = [
                pa.array(ids[rows].tolist(), type=schema.field('id').type),
                pa.FixedSizeListArray.from_arrays(flat, x.size(1)),
            ]
            if titles is not None:
                columns.append(pa.array(titles[rows], type=pa.string()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
