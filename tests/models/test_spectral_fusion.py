import torch

from promptmm_pyg.models.smore import SpectralFusion


def make(num=2, width=6):
    torch.manual_seed(0)
    layer = SpectralFusion([f'm{i}' for i in range(num)], width)
    x = torch.randn(num, 3, width, generator=torch.Generator().manual_seed(1))
    return layer, x


def all_pass(layer):
    with torch.no_grad():
        for weight in layer.parameters():
            weight[:, 0], weight[:, 1] = 1.0, 0.0


def test_filters_of_one_pass_everything():
    layer, x = make()
    all_pass(layer)
    torch.testing.assert_close(layer(x)[0], x)


def test_filters_start_from_the_standard_normal_distribution():
    layer, _ = make(width=10_000)
    for weight in layer.parameters():
        assert float(weight.detach().mean().abs()) < 0.05
        assert abs(float(weight.detach().std()) - 1) < 0.05


def test_fusion_of_two_is_a_circular_convolution():
    layer, x = make()
    all_pass(layer)
    expected = torch.zeros(3, 6)
    for row in range(3):
        for place in range(6):
            for shift in range(6):
                expected[row, place] += x[0, row, shift] * x[1, row, place - shift]
    torch.testing.assert_close(layer(x)[1], expected / 6**0.5)


def test_a_filter_belongs_to_its_modality():
    layer, x = make()
    all_pass(layer)
    with torch.no_grad():
        layer.filters['filter_m1'].zero_()
    single, joint = layer(x)
    torch.testing.assert_close(single[0], x[0])
    assert (single[1] == 0).all()
    assert joint.abs().sum() > 0  # Spectra are joined as they came.


def test_one_modality_is_fused_with_nothing():
    layer, x = make(num=1, width=5)
    all_pass(layer)
    torch.testing.assert_close(layer(x)[1], x[0])


def test_reset_and_repr():
    layer, _ = make()
    before = layer.fusion_filter.clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.fusion_filter)
    assert str(layer) == "SpectralFusion(modalities=['m0', 'm1'])"


def test_half_precision_is_filtered_in_single():
    layer, x = make()
    expected = layer(x.bfloat16().float())
    result = layer.bfloat16()(x.bfloat16())
    for half, single in zip(result, expected, strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), single, atol=0.02, rtol=0.02)
