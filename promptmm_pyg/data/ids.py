"""Raw ids as Arrow values: distinct, in order, compared across tables."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

NumpyArray = np.ndarray[Any, Any]
_MAX_BYTES = 2**31 - 1  # Of the texts of an Arrow array with 32-bit offsets.
_INTEGER = r'^(0|-?[1-9][0-9]*)$'


class IdColumn(NamedTuple):
    """A column of ids."""

    codes: NumpyArray  # [N], int32; -1 where the cell is null
    values: 'pa.Array'  # Distinct ids: int64 or large_string

    @classmethod
    def encode(cls, values: 'pa.Array | pa.ChunkedArray') -> 'IdColumn | None':
        """The ids of a column; ``None`` unless they are integers or text."""
        import pyarrow as pa

        if isinstance(values, pa.Array):
            values = pa.chunked_array([values])
        kind = values.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            try:  # Text of writers that do not mark it as such.
                values = values.cast(pa.large_string())
            except pa.ArrowInvalid:
                return None
            kind = values.type
        if pa.types.is_dictionary(kind):
            if is_text(kind.value_type) or pa.types.is_integer(kind.value_type):
                return _from_dictionary(_reencode(values))
            return None
        if not pa.types.is_integer(kind):
            is_whole = pa.types.is_decimal(kind) and kind.scale == 0
            if not (is_text(kind) or is_whole or pa.types.is_null(kind)):
                return None
            if not pa.types.is_string(kind) or values.nbytes >= _MAX_BYTES:
                values = values.cast(pa.large_string())
        return _from_dictionary(values.dictionary_encode())

    def joined(self, other: 'IdColumn') -> 'IdColumn':
        """The rows of both columns, of one type."""
        import pyarrow as pa
        import pyarrow.compute as pc

        # The own ids are first, so their codes stay.
        values = pc.unique(pa.chunked_array([self.values, other.values]))
        places = np.append(positions(other.values, values), np.int32(-1))
        return IdColumn(np.concatenate([self.codes, places[other.codes]]), values)

    def as_dictionary(self) -> 'pa.Array':
        """The column in Arrow."""
        import pyarrow as pa

        empty = self.codes < 0
        codes = pa.array(self.codes, mask=empty if empty.any() else None)
        return pa.DictionaryArray.from_arrays(codes, self.values)

    def missing(self) -> NumpyArray:
        """Boolean ``[N]``: where there is no id."""
        empty = self.codes < 0
        if is_text(self.values.type):
            import pyarrow.compute as pc

            blank = pc.index(self.values, value='').as_py()
            if blank >= 0:
                empty |= self.codes == blank
        return empty

    def longer_than(self, length: int) -> int | None:
        """The first distinct id of more characters, if there is one."""
        if not is_text(self.values.type):
            return None
        import pyarrow as pa
        import pyarrow.compute as pc

        mask = pc.greater(pc.utf8_length(self.values), length)
        place = int(pc.index(mask, pa.scalar(True)).as_py())
        return None if place < 0 else place


def _from_dictionary(values: 'pa.ChunkedArray') -> IdColumn:
    """The ids of a column whose chunks have one dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.num_chunks == 0:
        return IdColumn(np.zeros(0, np.int32), pa.array([], pa.large_string()))
    distinct = values.chunk(0).dictionary
    codes = np.empty(len(values), np.int32)
    start = 0
    for chunk in values.chunks:
        indices = pc.fill_null(chunk.indices.cast(pa.int32()), -1)
        codes[start : start + len(indices)] = indices.to_numpy()
        start += len(indices)
    if pa.types.is_uint64(distinct.type) and (pc.max(distinct).as_py() or 0) >= 2**63:
        distinct = distinct.cast(pa.large_string())
    target = pa.large_string() if is_text(distinct.type) else pa.int64()
    distinct = distinct.cast(target)
    return IdColumn(codes, distinct)


def _reencode(values: 'pa.ChunkedArray') -> 'pa.ChunkedArray':
    """A dictionary without unused values, nulls and repeats."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = values.unify_dictionaries()
    if values.num_chunks == 0:
        return values
    codes = pa.chunked_array([chunk.indices for chunk in values.chunks])
    used = pc.unique(codes.drop_null())
    distinct = values.chunk(0).dictionary.take(used).dictionary_encode()
    place = pc.index_in(codes, value_set=used)
    return pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(
                distinct.indices.take(x), distinct.dictionary
            )
            for x in place.chunks
        ]
    )


def is_text(kind: 'pa.DataType') -> bool:
    """Whether a type of Arrow is text."""
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def from_ids(name: str, ids: Sequence[Any] | NumpyArray) -> 'pa.Array':
    """Ids in Python as Arrow values: integers if all are, else text.

    Raises:
        ValueError: If an id is neither integer nor text, or empty.
    """
    import pyarrow as pa

    plain = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    plain = [x.item() if isinstance(x, np.generic) else x for x in plain]
    wrong = [x for x in plain if type(x) not in (int, str) or x == '']
    if wrong:
        raise ValueError(
            f"'{name}' must contain integers or text (got {wrong[0]!r}). Write the "
            f'ids as text'
        )
    if all(type(x) is int and -(2**63) <= x < 2**63 for x in plain):
        return pa.array(plain, pa.int64())
    return pa.array([str(x) for x in plain], pa.large_string())


def unify(first: 'pa.Array', others: Iterable['pa.Array']) -> list['pa.Array']:
    """All ids in one type: integers where the first are, and the others are written
    like integers; else text.
    """
    import pyarrow as pa

    arrays = [first, *others]
    if pa.types.is_int64(first.type):
        integers = [_as_integers(array) for array in arrays]
        if not any(array is None for array in integers):
            return integers
    return [array.cast(pa.large_string()) for array in arrays]


def _as_integers(values: 'pa.Array') -> 'pa.Array | None':
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_int64(values.type):
        return values
    if not pc.all(pc.match_substring_regex(values, _INTEGER), min_count=0).as_py():
        return None
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def sorted_union(arrays: Sequence['pa.Array']) -> 'pa.Array':
    """The distinct ids of arrays of one type, sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.unique(pa.chunked_array(arrays))
    return values.take(pc.sort_indices(values))


def join_columns(
    columns: Sequence[IdColumn], known: 'pa.Array | None' = None
) -> tuple['pa.Array', NumpyArray]:
    """The distinct ids of several columns, after those known, and all codes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = [] if known is None else [known]
    arrays += [column.values for column in columns]
    arrays = unify(arrays[0], arrays[1:])
    index = pc.unique(pa.chunked_array(arrays, arrays[0].type))
    codes = [positions(column.values, index)[column.codes] for column in columns]
    return index, np.concatenate(codes)


def positions(values: 'pa.Array', index: 'pa.Array') -> NumpyArray:
    """The place of each id in ``index``, int32, -1 where there is none."""
    import pyarrow.compute as pc

    kind = index.type
    places = pc.index_in(values.cast(kind), value_set=index)
    return pc.fill_null(places, -1).to_numpy()  # type: ignore[no-any-return]


def to_raw_ids(values: 'pa.Array') -> NumpyArray:
    """Ids as they are stored in a graph: int64, or Python's strings."""
    import pyarrow as pa

    if pa.types.is_int64(values.type):
        return values.to_numpy()  # type: ignore[no-any-return]
    return np.array(values.to_pylist(), dtype=object)
