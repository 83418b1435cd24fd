"""Sparse matrices out of pickles, without running what a pickle may carry."""

import codecs
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from promptmm_pyg._reading import check_file
from promptmm_pyg.limits import check_memory

_MATRIX_CLASSES = ('coo_matrix', 'csr_matrix', 'coo_array', 'csr_array')
_MATRIX_MODULES = (
    'scipy.sparse',
    'scipy.sparse.coo',
    'scipy.sparse.csr',
    'scipy.sparse._coo',
    'scipy.sparse._csr',
)
_CORRUPT = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    UnicodeError,
    ValueError,
)


class SparseMatrix(NamedTuple):
    """The places of a sparse matrix's entries that are not zero."""

    row: np.ndarray[Any, Any]
    col: np.ndarray[Any, Any]
    shape: tuple[int, int]


class _ForeignGlobalError(Exception):
    pass


def _encode(text: str, encoding: str) -> bytes:
    # Old protocols spell bytes this way; other codecs can do more than that.
    if encoding not in ('latin1', 'latin-1'):
        raise _ForeignGlobalError(f'_codecs.encode with {encoding!r}')
    return codecs.encode(text, 'latin1')


def _empty_array(*_: object) -> np.ndarray[Any, Any]:
    # NumPy writes arrays as an empty one and their state; other sizes only allocate.
    return np.ndarray((0,), 'b')


class _Array:
    """The class in a pickle of an array; never made."""

    def __init__(self, *_: object) -> None:
        raise _ForeignGlobalError('numpy.ndarray')


def _allowed(holder: type) -> dict[tuple[str, str], Any]:
    # From numpy itself: the private module's name changed with numpy 2.
    example = np.arange(2)
    table: dict[tuple[str, str], Any] = {
        ('numpy', 'ndarray'): _Array,
        ('numpy', 'dtype'): np.dtype,
        ('_codecs', 'encode'): _encode,
    }
    for core in ('numpy.core', 'numpy._core'):
        table[f'{core}.multiarray', '_reconstruct'] = _empty_array
        table[f'{core}.multiarray', 'scalar'] = np.float64(0).__reduce__()[0]
        table[f'{core}.numeric', '_frombuffer'] = example.__reduce_ex__(5)[0]
    for module in _MATRIX_MODULES:
        for name in _MATRIX_CLASSES:
            table[module, name] = holder
    return table


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        # Python 2 wrote arrays as text that only latin1 gives back.
        super().__init__(file, encoding='latin1')
        # In place of scipy's classes: has their state, no behaviour. New for every
        # file, which may set attributes of the class itself.
        self.holder = type('Holder', (), {})
        self.allowed = _allowed(self.holder)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self.allowed[module_name, global_name]
        except KeyError:
            raise _ForeignGlobalError(f'{module_name}.{global_name}') from None


def load_sparse_pickle(path: str | Path) -> SparseMatrix:
    """Returns the matrix in a pickle of one scipy COO or CSR matrix.

    Nothing but numpy arrays and the matrix's own state is ever made from the
    file, and scipy is not needed. Entries stored as zero are left out.

    Args:
        path: The pickle, of any protocol, from any scipy or numpy version.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file names any other class or function, ends early,
            or holds something else than such a matrix.
    """
    path = Path(path)
    size = check_file(path)
    check_memory(f"'{path}'", 3 * size, 'Use a machine with more memory')
    content = path.read_bytes()
    try:
        _check_numbers(content)
        unpickler = _Unpickler(io.BytesIO(content))
        loaded = unpickler.load()
    except _ForeignGlobalError as error:
        raise ValueError(
            f"'{path}' must contain a scipy COO or CSR matrix only (got "
            f"'{error}'). Do not unpickle it; save the matrix again from a source "
            f'you trust'
        ) from None
    except _CORRUPT as error:
        raise ValueError(
            f"'{path}' must be a whole pickle (got {error}). It may be "
            f'truncated: fetch the file again'
        ) from error
    matrix = _read_state(loaded.__dict__) if type(loaded) is unpickler.holder else None
    if matrix is None:
        raise ValueError(
            f"'{path}' must contain one scipy COO or CSR matrix whose parts fit "
            f'together (got something else). Save it as such a matrix'
        )
    return matrix


def _check_numbers(content: bytes) -> None:
    """Raises if a place in the memo is beyond the size of the file: Python allocates
    up to it.
    """
    for code, value, _ in pickletools.genops(content):
        if 'PUT' in code.name and isinstance(value, int) and value > len(content):
            raise ValueError(f'the place {value} in a file of {len(content)} bytes')


def _read_state(state: dict[str, Any]) -> SparseMatrix | None:
    """The entries, or ``None`` where the parts do not make a matrix."""
    value, shape = state.get('data'), state.get('_shape')
    # 'coords' since scipy 1.13, 'row' and 'col' before.
    row, col = state.get('coords', (state.get('row'), state.get('col')))
    if 'indptr' in state:
        col = state.get('indices')
        row = _expand(state['indptr'], col)
    parts = [x for x in (row, col, value) if isinstance(x, np.ndarray) and x.ndim == 1]
    if len(parts) < 3 or len({len(x) for x in parts}) > 1:
        return None
    if not isinstance(shape, tuple) or [type(x) for x in shape] != [int, int]:
        return None
    row, col, value = parts
    if row.dtype.kind not in 'iu' or col.dtype.kind not in 'iu':
        return None
    kept = value != 0
    return SparseMatrix(row[kept].astype(np.int64), col[kept].astype(np.int64), shape)


def _expand(indptr: object, col: object) -> np.ndarray[Any, Any] | None:
    """Row numbers of the entries; ``None`` for counts that make no sense."""
    if not isinstance(indptr, np.ndarray) or not isinstance(col, np.ndarray):
        return None
    counts: np.ndarray[Any, Any] = np.diff(indptr.astype(np.int64))
    if (counts < 0).any() or (counts > col.size).any() or counts.sum() != col.size:
        return None
    return np.repeat(np.arange(len(counts)), counts.tolist())
