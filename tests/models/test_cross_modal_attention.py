import pytest
import torch

from promptmm_pyg.models.mmssl import CrossModalAttention


def make(num_heads=2, channels=4):
    torch.manual_seed(0)
    return CrossModalAttention(channels, num_heads)


def views(num=3, nodes=5, channels=4):
    return torch.randn(num, nodes, channels, generator=torch.Generator().manual_seed(1))


def test_it_is_the_attention_of_torch_with_values_as_they_are():
    layer, x = make(), views()
    other = torch.nn.MultiheadAttention(4, 2, bias=False)
    eye = torch.eye(4)
    with torch.no_grad():
        other.in_proj_weight.copy_(
            torch.cat([layer.query.weight, layer.key.weight, eye])
        )
        other.out_proj.weight.copy_(eye)
    # There, the first axis is the sequence and the second the batch.
    torch.testing.assert_close(layer(x), other(x, x, x)[0])


def test_one_view_stays_as_it_is():
    torch.testing.assert_close(make()(views(num=1)), views(num=1))


def test_nodes_do_not_see_each_other():
    layer, x = make(), views()
    torch.testing.assert_close(layer(x)[:, 2:3], layer(x[:, 2:3]))
    assert layer(x[:, :0]).shape == (3, 0, 4)


def test_the_order_of_the_views_does_not_matter():
    layer, x = make(), views()
    torch.testing.assert_close(layer(x.flip(0)), layer(x).flip(0))


def test_reset_errors_and_repr():
    layer = make()
    before = layer.key.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.key.weight, before)
    assert str(layer) == 'CrossModalAttention(num_heads=2)'
    with pytest.raises(ValueError, match=r"'num_heads' must divide the width 4"):
        make(3)
    with pytest.raises(ValueError, match="'num_heads' must be positive"):
        make(0)
