import pytest
import torch

from promptmm_pyg.nn import CSRPair, csr_pair_dict
from promptmm_pyg.nn.propagation import mean_of_hops
from tests.nn.graphs import (
    EDGE_INDEX,
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    edges,
    features,
    weights,
)

LIKES = ('user', 'likes', 'item')
ALIKE = ('item', 'alike', 'item')


def operators(dtype=torch.float):
    """Two edge types into items from users, and one within items."""
    generator = torch.Generator().manual_seed(0)
    adj_dict = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    weight = torch.rand(EDGE_INDEX.size(1), generator=generator)
    size = (NUM_NODES['user'], NUM_NODES['item'])
    adj_dict[LIKES] = CSRPair.from_edge_index(EDGE_INDEX, weight, size=size)
    pairs = torch.randint(NUM_NODES['item'], (2, 9), generator=generator)
    size = (NUM_NODES['item'],) * 2
    adj_dict[ALIKE] = CSRPair.from_edge_index(
        pairs, torch.rand(9, generator=generator), size=size
    )
    return {key: adj.to(dtype) for key, adj in adj_dict.items()}


def make_x(dtype=torch.float, width=3):
    x_dict = {
        'user': features(width, num=NUM_NODES['user']),
        'item': features(width, num=NUM_NODES['item'], seed=1),
    }
    return {key: x.to(dtype) for key, x in x_dict.items()}


def layer_by_layer(x_dict, adj_dict, num_hops):
    """The left-hand form of the formula, in dense matrices."""
    layers = [x_dict]
    for _ in range(num_hops):
        out = {key: torch.zeros_like(x) for key, x in x_dict.items()}
        for (src, _, dst), adj in adj_dict.items():
            matrix = adj.matrices(x_dict[src].dtype)[0].to_dense()
            out[dst] = out[dst] + matrix @ layers[-1][src]
        layers.append(out)
    return {key: torch.stack([x[key] for x in layers]).mean(0) for key in x_dict}


@pytest.mark.parametrize('num_hops', [1, 2, 5])
def test_equals_the_layers_added_up_and_so_does_the_gradient(num_hops):
    outs = []
    for form in (mean_of_hops, layer_by_layer):
        x_dict = {k: x.requires_grad_() for k, x in make_x(torch.double).items()}
        out = form(x_dict, operators(torch.double), num_hops)
        # One type weighs more, so that a mistaken direction is seen.
        loss = out['user'].square().sum() + 3 * out['item'].exp().sum()
        grads = torch.autograd.grad(loss, list(x_dict.values()))
        outs.append([*out.values(), *grads])
    for ours, expected in zip(*outs, strict=True):
        torch.testing.assert_close(ours, expected)


def test_gradcheck_to_the_second_order():
    adj_dict = operators(torch.double)
    xs = [x.requires_grad_() for x in make_x(torch.double, width=2).values()]

    def run(user, item):
        return tuple(mean_of_hops({'user': user, 'item': item}, adj_dict, 2).values())

    assert torch.autograd.gradcheck(run, xs)
    cubed = lambda *xs: tuple(x**3 for x in run(*xs))  # noqa: E731
    assert torch.autograd.gradgradcheck(cubed, xs)


def test_an_output_that_no_loss_reads_gets_no_gradient_of_its_own():
    x_dict = {key: x.requires_grad_() for key, x in make_x().items()}
    adj_dict = {USER_ITEM: operators()[USER_ITEM], ITEM_USER: operators()[ITEM_USER]}
    mean_of_hops(x_dict, adj_dict, 1)['user'].sum().backward()
    matrix = adj_dict[ITEM_USER].matrices(torch.float)[0].to_dense()
    expected = matrix.t() @ torch.ones(NUM_NODES['user'], 3) / 2
    torch.testing.assert_close(x_dict['item'].grad, expected)
    torch.testing.assert_close(x_dict['user'].grad, torch.full((5, 3), 0.5))


def test_inputs_stay_as_they_are_and_may_be_transposed_views():
    x_dict = {key: x.t().contiguous().t() for key, x in make_x().items()}
    before = {key: x.clone() for key, x in x_dict.items()}
    out = mean_of_hops(x_dict, operators(), 2)
    expected = mean_of_hops(make_x(), operators(), 2)
    for key, x in x_dict.items():
        assert torch.equal(x, before[key])
        torch.testing.assert_close(out[key], expected[key])


def test_half_precision():
    out = mean_of_hops(make_x(torch.bfloat16), operators(), 2)
    expected = mean_of_hops(make_x(), operators(), 2)
    for key, x in out.items():
        assert x.dtype == torch.bfloat16
        torch.testing.assert_close(x.float(), expected[key], atol=0.05, rtol=0.05)
