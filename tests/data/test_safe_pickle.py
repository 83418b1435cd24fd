import builtins
import os
import pickle

import numpy as np
import pytest

from promptmm_pyg.data import load_sparse_pickle

sparse = pytest.importorskip('scipy.sparse')

DENSE = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, -3.0], [0.0, 0.0, 0.0]])


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def to_dense(matrix):
    out = np.zeros(matrix.shape, dtype=bool)
    out[matrix.row, matrix.col] = True
    return out


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('kind', ['coo_matrix', 'csr_matrix', 'coo_array', 'csr_array'])
def test_every_kind_and_protocol_gives_the_dense_matrix_back(tmp_path, kind, protocol):
    path = write(tmp_path / 'm.pkl', getattr(sparse, kind)(DENSE), protocol)
    matrix = load_sparse_pickle(path)
    assert matrix.shape == (3, 3)
    assert (to_dense(matrix) == (DENSE != 0)).all()


def test_the_module_names_of_old_scipy_and_numpy_are_read(tmp_path):
    raw = pickle.dumps(sparse.coo_matrix(DENSE), protocol=2)
    raw = raw.replace(b'scipy.sparse._coo', b'scipy.sparse.coo')
    raw = raw.replace(b'numpy._core', b'numpy.core')
    (tmp_path / 'm.pkl').write_bytes(raw)
    matrix = load_sparse_pickle(tmp_path / 'm.pkl')
    assert (to_dense(matrix) == (DENSE != 0)).all()


def test_row_and_col_of_old_scipy_are_read(tmp_path):
    coo = sparse.coo_matrix(DENSE)
    row, col = coo.__dict__.pop('coords')
    coo.__dict__.update(row=row, col=col)
    matrix = load_sparse_pickle(write(tmp_path / 'm.pkl', coo))
    assert (to_dense(matrix) == (DENSE != 0)).all()


def test_stored_zeros_are_no_entries(tmp_path):
    coo = sparse.coo_matrix((np.array([1.0, 0.0]), ([0, 1], [2, 2])), shape=(3, 3))
    matrix = load_sparse_pickle(write(tmp_path / 'm.pkl', coo))
    assert (matrix.row.tolist(), matrix.col.tolist()) == ([0], [2])


class Command:
    def __reduce__(self):
        return os.mkdir, (self.target,)

    def __init__(self, target):
        self.target = target


def test_a_foreign_global_is_named_and_never_called(tmp_path):
    target = tmp_path / 'made_by_pickle'
    path = write(tmp_path / 'evil.pkl', Command(str(target)))
    with pytest.raises(ValueError, match=r"evil\.pkl' .*got '(posix|nt)\.mkdir'"):
        load_sparse_pickle(path)
    assert not target.exists()


class Evaluate:
    def __reduce__(self):
        return builtins.eval, ('1',)


def test_a_foreign_global_inside_the_matrix_is_found(tmp_path):
    coo = sparse.coo_matrix(DENSE)
    coo.extra = Evaluate()
    with pytest.raises(ValueError, match=r"got 'builtins\.eval'"):
        load_sparse_pickle(write(tmp_path / 'm.pkl', coo))


def test_bytes_are_decoded_as_latin1_only(tmp_path):
    raw = b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.'
    (tmp_path / 'm.pkl').write_bytes(raw)
    with pytest.raises(ValueError, match=r"got '_codecs\.encode with 'rot13'"):
        load_sparse_pickle(tmp_path / 'm.pkl')


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    raw = pickle.dumps(sparse.csr_matrix(DENSE))
    (tmp_path / 'short.pkl').write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match=r"short\.pkl' must be a whole pickle"):
        load_sparse_pickle(tmp_path / 'short.pkl')


def broken_csr(**changed):
    csr = sparse.csr_matrix(DENSE)
    csr.__dict__.update(changed)
    return csr


@pytest.mark.parametrize(
    'value',
    [
        [1, 2],
        np.ones(3),
        broken_csr(indptr=np.array([0, 1, 99, 100])),
        broken_csr(indptr=np.array([0, 4, 1, 3])),
        broken_csr(indptr=np.array([0, 2**60, 2**60, 2**60])),
        broken_csr(indptr=None),
        broken_csr(indices=np.array([0])),
        broken_csr(indices=np.array([0.5, 1.0, 2.0])),
        broken_csr(data=None),
        broken_csr(_shape=(3,)),
        broken_csr(_shape=('3', 3)),
        broken_csr(_shape=None),
    ],
)
def test_what_makes_no_matrix_is_refused(tmp_path, value):
    path = write(tmp_path / 'm.pkl', value)
    with pytest.raises(ValueError, match=r"m\.pkl' must contain one scipy COO or CSR"):
        load_sparse_pickle(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.pkl'):
        load_sparse_pickle(tmp_path / 'none.pkl')
