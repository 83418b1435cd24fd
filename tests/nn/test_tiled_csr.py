import pytest
import torch

from promptmm_pyg.nn import CSRPair
from promptmm_pyg.nn import csr as tiled_csr
from promptmm_pyg.nn.csr import TiledCSR, column_tiles, csr_matmul

SIZE = (30, 11)  # (num_src, num_dst)


@pytest.fixture
def dense():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SIZE[1], SIZE[0], generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < 0.6
    weight[:, 8:16] = 0  # A tile without any edge.
    weight[4] = 0  # A row without any edge.
    return weight


def features(dtype=torch.float, width=6):
    return torch.randn(SIZE[0], width, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )


def pair_of(dense):
    dst, src = dense.nonzero(as_tuple=True)
    return CSRPair.from_edge_index(torch.stack([src, dst]), dense[dst, src], size=SIZE)


@pytest.fixture
def small_cache(monkeypatch):
    """A row of six numbers and no more: as many tiles as the edges are worth."""
    monkeypatch.setattr(tiled_csr, 'TILE_BYTES', 24)


@pytest.mark.parametrize('num_tiles', [1, 2, 4, 7, 30])
def test_tiles_side_by_side_are_the_matrix(dense, num_tiles):
    matrix = dense.to_sparse_csr()
    tiles = column_tiles(matrix, num_tiles)
    assert len(tiles) == -(-SIZE[0] // -(-SIZE[0] // num_tiles))
    torch.testing.assert_close(torch.cat([t.to_dense() for t in tiles], 1), dense)


def test_tiles_are_valid_matrices_with_indices_of_the_same_width(dense):
    matrix, _ = pair_of(dense).matrices(torch.float)
    for tile in column_tiles(matrix, 4):
        assert tile.col_indices().dtype == matrix.col_indices().dtype == torch.int32
        torch.sparse_csr_tensor(  # Checks what the unchecked constructor did not.
            tile.crow_indices(),
            tile.col_indices(),
            tile.values(),
            tile.shape,
            check_invariants=True,
        )


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
@pytest.mark.usefixtures('small_cache')
def test_product_and_gradient_in_tiles_equal_the_dense_matrix(dense, dtype):
    pair = pair_of(dense)
    x = features(dtype).requires_grad_()
    out = pair @ x
    torch.testing.assert_close(out, dense.to(dtype) @ x)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    expected = torch.autograd.grad((dense.to(dtype) @ x).square().sum(), x)[0]
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(pair.t() @ out, dense.to(dtype).t() @ out)


@pytest.mark.usefixtures('small_cache')
def test_gradcheck_in_tiles(dense):
    pair, x = pair_of(dense), features(torch.double, width=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pair @ x, x)
    assert torch.autograd.gradgradcheck(lambda x: (pair @ x) ** 3, x)


@pytest.mark.usefixtures('small_cache')
def test_product_in_tiles_does_not_depend_on_memory_left_in_the_output(dense):
    # The first tile writes, the others add: fill the allocator with NaN.
    pair, x = pair_of(dense), features(width=64)
    for _ in range(20):
        junk = torch.full((SIZE[1], 64), float('nan'))
        del junk
        torch.testing.assert_close(pair @ x, dense @ x)


def test_number_of_tiles(dense, monkeypatch):
    matrix = dense.to_sparse_csr()
    num_edges = matrix.values().numel()
    assert 4 * 2 * SIZE[1] <= num_edges < 8 * 2 * SIZE[1]  # Worth four tiles.
    tiled, x = TiledCSR(matrix, tile=True), features()
    result = []
    for rows_held in (30, 29, 15, 14, 8, 4, 1):
        monkeypatch.setattr(tiled_csr, 'TILE_BYTES', 24 * rows_held)
        result.append(tiled._num_tiles(x))
    assert result == [1, 2, 2, 4, 4, 4, 4]
    monkeypatch.setattr(tiled_csr, 'TILE_BYTES', 24 * 30)
    assert tiled._num_tiles(x.double()) == 2
    # A matrix with less than four edges in a row is left as it is.
    sparse = TiledCSR(torch.eye(30).to_sparse_csr(), tile=True)
    assert sparse._num_tiles(x) == 1


@pytest.mark.usefixtures('small_cache')
def test_tiles_are_made_once_and_not_before_they_are_needed(dense, monkeypatch):
    made = []

    def counted(matrix, num_tiles):
        made.append(num_tiles)
        return column_tiles(matrix, num_tiles)

    monkeypatch.setattr(tiled_csr, 'column_tiles', counted)
    pair = pair_of(dense)
    assert made == []
    for _ in range(3):
        _ = pair @ features()
        _ = pair.t().t() @ features()
    assert len(made) == 1


@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.bfloat16])
@pytest.mark.usefixtures('small_cache')
def test_product_is_added_to_what_is_there(dense, dtype):
    x = features(dtype)
    for adj, matrix in ((pair_of(dense), dense), (pair_of(dense).t(), dense.t())):
        source = x if matrix is dense else x[: SIZE[1]]
        existing = torch.ones(matrix.size(0), x.size(1), dtype=dtype)
        assert adj.add_product_(existing, source) is existing
        torch.testing.assert_close(existing, matrix.to(dtype) @ source + 1)
    with pytest.raises(ValueError, match=r"'x' must have shape \[30, F\]"):
        pair_of(dense).add_product_(existing, x[1:])


@pytest.mark.usefixtures('small_cache')
def test_an_operator_of_one_step_makes_no_tiles(dense, monkeypatch):
    monkeypatch.setattr(tiled_csr, 'column_tiles', None)
    dst, src = dense.nonzero(as_tuple=True)
    edges = torch.stack([src, dst]), dense[dst, src]
    pair = CSRPair.from_edge_index(*edges, size=SIZE, reused=False)
    for kin in (pair, pair.t().t(), pair.to(torch.double)):
        x = features(kin._dtype)
        torch.testing.assert_close(kin @ x, dense.to(x.dtype) @ x)
        torch.testing.assert_close(kin @ x.double(), dense.double() @ x.double())


@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.bfloat16])
def test_product_in_one_piece(dense, dtype):
    matrix, x = dense.to(dtype).to_sparse_csr(), features(dtype)
    torch.testing.assert_close(csr_matmul(matrix, x), dense.to(dtype) @ x)
    empty = torch.zeros(3, SIZE[0], dtype=dtype).to_sparse_csr()
    assert (csr_matmul(empty, x) == 0).all()
