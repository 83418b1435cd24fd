import copy

import pytest
import torch

from promptmm_pyg.models import VBPR, PromptMM
from promptmm_pyg.models._projected_features import ProjectedFeatures
from promptmm_pyg.nn import (
    BlockedLinear,
    ChunkedFeatures,
    PromptedModalityEncoder,
    prompt_statistics,
)
from promptmm_pyg.nn.blocked_linear import cross, in_blocks, project
from tests.nn.graphs import NUM_NODES, edges, features, weights

MASK = torch.tensor([True, False, True, True, False, True, True])


def matrix(num=7, width=5, seed=0, dtype=torch.double):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=g, dtype=dtype)


@pytest.mark.parametrize('block_rows', [1, 3, 7, 100, None])
@pytest.mark.parametrize('mask', [None, MASK])
def test_products_are_those_of_the_whole_matrix(block_rows, mask):
    x, weight, left = matrix(), matrix(2, seed=1), matrix(7, 3, seed=2)
    blocks = ChunkedFeatures(x, mask, block_rows)
    full = x if mask is None else x * mask[:, None]
    torch.testing.assert_close(project(blocks, weight), full @ weight.t())
    torch.testing.assert_close(cross(left, blocks), left.t() @ full)
    assert blocks.present().tolist() == (full != 0).any(dim=1).tolist()
    assert torch.equal(blocks.whole(torch.double, torch.device('cpu')), full)


def test_absent_rows_are_never_read():
    x = matrix()
    x[~MASK] = float('nan')
    blocks = ChunkedFeatures(x, MASK, block_rows=2)
    assert project(blocks, matrix(2, seed=1)).isfinite().all()
    assert cross(matrix(7, 3), blocks).isfinite().all()
    rows = blocks.rows(torch.tensor([4, 0]))
    assert rows.x.tolist() == [[0.0] * 5, x[0].tolist()]
    assert x[1].isnan().all()  # The features themselves are left alone.


def test_gradients_of_first_and_second_order():
    blocks = ChunkedFeatures(matrix(), MASK, block_rows=3)
    weight, left = matrix(2, seed=1), matrix(7, 3, seed=2)
    for function, value in (
        (lambda w: project(blocks, w), weight),
        (lambda a: cross(a, blocks), left),
    ):
        value.requires_grad_()
        assert torch.autograd.gradcheck(function, value)
        assert torch.autograd.gradgradcheck(function, value)


@pytest.mark.parametrize('block_rows', [1, 3, None])
def test_a_layer_equals_a_linear_layer_with_its_state(block_rows):
    x = matrix(dtype=torch.float)
    ours, theirs = BlockedLinear(5, 2, block_rows=block_rows), torch.nn.Linear(5, 2)
    ours.load_state_dict(theirs.state_dict())
    target = matrix(7, 2, seed=3, dtype=torch.float)
    for layer in (ours, theirs):
        (layer(x) * target).sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_a_layer_without_bias_and_one_row():
    layer = BlockedLinear(5, 2, bias=False)
    x = matrix(1, dtype=torch.float)
    torch.testing.assert_close(layer(x), x @ layer.weight.t())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_features_in_half_precision_are_multiplied_in_that_of_the_weight(dtype):
    # Exactly what the rounded features give: nothing is lost but their last bits.
    x, layer = matrix(dtype=torch.float).to(dtype), BlockedLinear(5, 2, block_rows=2)
    out = layer(x)
    assert out.dtype == torch.float
    torch.testing.assert_close(out, x.float() @ layer.weight.t() + layer.bias)
    out.sum().backward()
    torch.testing.assert_close(layer.weight.grad[0], x.float().sum(0))


def test_a_layer_in_half_precision_sums_its_gradient_in_single():
    # 4096 ones, one by one: a sum in half precision would stop at 2048.
    layer = BlockedLinear(1, 1, block_rows=1).half()
    layer(torch.ones(4096, 1).half()).sum().backward()
    assert layer.weight.grad.item() == 4096.0


@pytest.mark.parametrize('mask', [None, MASK])
def test_products_in_bfloat16_are_those_of_rounded_factors(mask):
    x = matrix(dtype=torch.float).bfloat16()
    blocks = ChunkedFeatures(x, mask, 3, products=torch.bfloat16)
    full = (x if mask is None else x * mask[:, None]).float()
    weight = matrix(2, seed=1, dtype=torch.float).requires_grad_()
    out = project(blocks, weight)
    assert out.dtype == torch.float
    rounded = full @ weight.detach().bfloat16().float().t()
    # Nothing but what comes out is rounded: to eight bits.
    torch.testing.assert_close(out.detach(), rounded, rtol=2**-8, atol=1e-6)
    assert torch.equal(out, out.bfloat16().float())
    grad = matrix(7, 2, seed=4, dtype=torch.float)
    out.backward(grad)
    expected = grad.bfloat16().float().t() @ full
    size = grad.abs().t() @ full.abs()  # Of what cancels in the sums of blocks.
    assert ((weight.grad - expected).abs() <= 2**-8 * size).all()


def test_sums_over_blocks_in_bfloat16_products_stay_in_single():
    ones = torch.ones(4096, 1, dtype=torch.bfloat16)
    blocks = ChunkedFeatures(ones, block_rows=1, products=torch.bfloat16)
    assert cross(torch.ones(4096, 1), blocks).item() == 4096.0


def test_what_a_prompt_recalls_is_computed_without_rounding():
    x = matrix(dtype=torch.float).bfloat16()
    start = matrix(7, 3, seed=2, dtype=torch.float)
    rounding, exact = ChunkedFeatures(x, products=torch.bfloat16), ChunkedFeatures(x)
    ours, exact = (prompt_statistics(blocks, start) for blocks in (rounding, exact))
    assert torch.equal(ours.cross, exact.cross)


def test_rows_and_masks_keep_the_precision_of_products():
    blocks = ChunkedFeatures(matrix().bfloat16(), products=torch.bfloat16)
    assert blocks.rows(torch.tensor([1])).products == torch.bfloat16
    assert in_blocks(blocks, MASK).products == torch.bfloat16
    assert repr(blocks).endswith('products=torch.bfloat16)')


def test_memory_that_is_not_contiguous_is_read_as_well():
    x, weight = matrix(5, 14).t()[::2], matrix(2, 5, seed=1)
    torch.testing.assert_close(
        project(ChunkedFeatures(x, None, 2), weight), x @ weight.t()
    )


def test_a_copy_shares_the_features_and_a_cast_leaves_them():
    blocks = ChunkedFeatures(matrix(dtype=torch.half))
    projected = ProjectedFeatures({'item': 7}, 'item', {'m': {'item': blocks}}, 2)
    other = copy.deepcopy(projected).double()
    assert other.feature_rows('m').x is blocks.x
    assert blocks.x.dtype == torch.half
    assert other()['m'].dtype == torch.double
    assert projected()['m'].dtype == torch.float


@pytest.mark.parametrize('index', [None, torch.tensor([3, 3, 0])])
def test_projections_of_half_features_are_those_of_their_values(index):
    x = matrix(dtype=torch.half)
    torch.manual_seed(0)
    ours = ProjectedFeatures({'item': 7}, 'item', {'m': {'item': x}}, 2)
    torch.manual_seed(0)
    theirs = ProjectedFeatures({'item': 7}, 'item', {'m': {'item': x.float()}}, 2)
    torch.testing.assert_close(ours(index), theirs(index))
    assert repr(ours) == repr(theirs)
    assert ours.present('m').equal(theirs.present('m'))
    assert not list(ours.buffers())


def test_a_baseline_accepts_half_precision_features():
    x = {'text': {'item': features(9, seed=3).half()}}
    model = VBPR(NUM_NODES, x, edge_type=('user', 'interacts', 'item'), embedding_dim=4)
    model(edges()).x_dict['item'].sum().backward()
    assert model.features.lins['lin_text'].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('recall', [False, True])
def test_an_encoder_of_blocks_equals_the_encoder_of_the_matrix(recall):
    x, prompt = matrix(), matrix(7, 3, seed=2)
    encoder = PromptedModalityEncoder(5, 4).double()
    known = prompt.t() @ x if recall else None
    results = []
    for given in (x, ChunkedFeatures(x, block_rows=2)):
        encoder.zero_grad()
        p = prompt.clone().requires_grad_()
        out = encoder(given, p, known)
        out.square().sum().backward()
        results.append((out, p.grad, encoder.lin.weight.grad, encoder.lin.bias.grad))
    torch.testing.assert_close(results[1], results[0])


def test_an_encoder_does_not_cut_the_gradient_of_its_input():
    x = matrix(dtype=torch.half).requires_grad_()
    PromptedModalityEncoder(5, 4).half()(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_statistics_of_blocks_are_those_of_the_matrix():
    x, start = matrix(), matrix(7, 3, seed=2)
    blocks = ChunkedFeatures(x, MASK, block_rows=2)
    expected = prompt_statistics(x * MASK[:, None], start)
    torch.testing.assert_close(prompt_statistics(blocks, start), expected)


def make_teacher(as_features, num_prompt_tokens=1, masked=False):
    torch.manual_seed(0)
    x = {
        'image': {'item': features(6, seed=2)},
        'text': {'item': features(9, seed=3), 'user': features(9, seed=5, num=5)},
    }
    return PromptMM(
        NUM_NODES,
        {m: {k: as_features(v) for k, v in named.items()} for m, named in x.items()},
        prompt_start_dict={
            'user': features(2, seed=6, num=5),
            'item': features(2, seed=7),
        },
        embedding_dim=4,
        num_prompt_tokens=num_prompt_tokens,
        modality_mask_dict={'image': {'item': MASK}} if masked else None,
        missing='token',
    )


def run(teacher, n_id_dict=None, index=None):
    torch.manual_seed(1)  # Dropout.
    edge_dict = edges() if index is None else index
    out = teacher(edge_dict, None if index else weights(), n_id_dict)
    sum(x.square().sum() for x in out.x_dict.values()).backward()
    return out, {name: p.grad for name, p in teacher.named_parameters()}


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('num_prompt_tokens', [1, 3])
def test_a_teacher_on_blocks_equals_the_teacher_in_memory(num_prompt_tokens, masked):
    options = {'num_prompt_tokens': num_prompt_tokens, 'masked': masked}
    full = make_teacher(lambda x: x, **options)
    blocks = make_teacher(lambda x: ChunkedFeatures(x, block_rows=2), **options)
    for a, b in zip(run(blocks), run(full), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5)
    assert set(blocks.state_dict()) == set(full.state_dict())
    assert not any(name.startswith('x_') for name, _ in blocks.named_buffers())
    result = blocks.inference(edges(), weights(), block_size=3)
    torch.testing.assert_close(result, full.inference(edges(), weights()))


@pytest.mark.parametrize('num_prompt_tokens', [1, 3])
def test_a_part_of_the_graph_is_the_same_on_blocks(num_prompt_tokens):
    # Users 0 and 2, items 1, 3 and 5, and one edge between them.
    part = {'user': torch.tensor([0, 2]), 'item': torch.tensor([1, 3, 5])}
    edge_index = torch.tensor([[1], [2]])
    index = {
        ('user', 'interacts', 'item'): edge_index,
        ('item', 'rev_interacts', 'user'): edge_index.flip([0]),
    }
    full = make_teacher(lambda x: x, num_prompt_tokens)
    blocks = make_teacher(lambda x: ChunkedFeatures(x, block_rows=2), num_prompt_tokens)
    ours, theirs = run(blocks, part, index), run(full, part, index)
    torch.testing.assert_close(ours, theirs)


def test_a_teacher_on_half_features_is_near_the_teacher_on_single_ones():
    # Features near one in size: 2 ** -11 each, a few thousandths after all sums.
    full, half = make_teacher(lambda x: x), make_teacher(lambda x: x.half())
    (ours, ours_grad), (theirs, theirs_grad) = run(half), run(full)
    torch.testing.assert_close(ours.x_dict, theirs.x_dict, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=2e-2, atol=2e-2)
    rounded = make_teacher(lambda x: x.half().float())
    torch.testing.assert_close(run(rounded)[0], ours)


def test_another_prompt_of_a_teacher_on_blocks_uses_the_features():
    outs = []
    for as_features in (lambda x: x, lambda x: ChunkedFeatures(x, block_rows=2)):
        teacher = make_teacher(as_features).eval()
        torch.manual_seed(5)
        teacher.add_prompt('other')
        teacher.set_prompt('other')
        outs.append(teacher(edges(), weights()).x_dict)
    torch.testing.assert_close(outs[1], outs[0])


def test_errors():
    with pytest.raises(ValueError, match=r"'x' must be a constant .* \(got torch.i"):
        ChunkedFeatures(torch.ones(2, 3, dtype=torch.int))
    with pytest.raises(ValueError, match='requires_grad=True'):
        BlockedLinear(5, 2)(matrix(dtype=torch.float).requires_grad_())
    with pytest.raises(ValueError, match=r"'mask' must be a bool tensor \[7\]"):
        ChunkedFeatures(matrix(), MASK[:5])
    with pytest.raises(ValueError, match="'block_rows' must be positive"):
        ChunkedFeatures(matrix(), block_rows=0)
    with pytest.raises(ValueError, match=r"'products' must .* \(got torch.int32\)"):
        ChunkedFeatures(matrix(), products=torch.int)
    with pytest.raises(ValueError, match="'block_rows' must be positive"):
        BlockedLinear(5, 2, block_rows=-1)
    with pytest.raises(ValueError, match="'out_features' must be positive"):
        BlockedLinear(5, 0)
    with pytest.raises(ValueError, match=r"'x' must have shape \[N, 5\]"):
        BlockedLinear(5, 2)(torch.ones(3, 4))
    with pytest.raises(ValueError, match="'dim' must be 0"):
        ChunkedFeatures(matrix()).index_select(1, torch.tensor([0]))
    few = {'image': {'item': ChunkedFeatures(matrix(3))}}
    with pytest.raises(ValueError, match='must have one row per node'):
        PromptMM(NUM_NODES, few)


def test_repr():
    assert repr(ChunkedFeatures(matrix(), block_rows=3)) == (
        'ChunkedFeatures([7, 5], torch.float64, block_rows=3)'
    )
    assert repr(BlockedLinear(5, 2)) == (
        'BlockedLinear(in_features=5, out_features=2, bias=True, block_rows=None)'
    )
