import sys

import numpy as np
import pytest
import torch

from promptmm_pyg.content import timm_encoder, torchvision_encoder
from promptmm_pyg.content.images import _cut_last_linear

Image = pytest.importorskip('PIL.Image')


def load(name):
    try:
        return __import__(name)
    # A build for another torch fails with whatever it stumbles over.
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f'requires {name} ({type(error).__name__})')


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / '1.png')
    return tmp_path / '1.png'


@pytest.mark.filterwarnings('ignore')
def test_rows_of_torchvision_enter_the_last_layer(picture):
    torchvision = load('torchvision')
    torch.manual_seed(0)
    encoder = torchvision_encoder('alexnet', weights=None)
    assert encoder.width == 4096
    torch.manual_seed(0)
    model = torchvision.models.alexnet(weights=None).eval()
    caught = []
    model.classifier[-1].register_forward_pre_hook(lambda _, x: caught.append(x[0]))
    cut = torchvision.models.AlexNet_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        model(cut(Image.open(picture))[None])
    np.testing.assert_allclose(encoder.encode([picture]), caught[0], rtol=1e-5)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('name', 'options', 'match'),
    [
        ('alexnett', {}, "'name' must be a classifier in torchvision"),
        ('alexnet', {'weights': 'X'}, r"'weights' must be .*\['IMAGENET1K_V1'\]"),
        ('squeezenet1_0', {'weights': None}, 'ends in a linear layer'),
    ],
)
def test_names_in_torchvision_are_checked(name, options, match):
    load('torchvision')
    with pytest.raises(ValueError, match=match):
        torchvision_encoder(name, **options)


@pytest.mark.filterwarnings('ignore')
def test_rows_of_timm_are_its_pooled_features(picture):
    load('torchvision')
    timm = load('timm')
    encoder = timm_encoder('test_resnet', pretrained=False)
    assert encoder.width == timm.create_model('test_resnet').num_features
    assert np.isfinite(encoder.encode([picture])).all()


def test_the_last_linear_layer_is_cut_wherever_it_is():
    inner = torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.Dropout())
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), inner)
    first = model[0]
    assert _cut_last_linear(model) == 5
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.eval()(x), first(x).relu())


@pytest.mark.parametrize(
    ('package', 'make'),
    [('torchvision', torchvision_encoder), ('timm', lambda: timm_encoder('resnet'))],
)
def test_the_packages_are_optional(monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"requires '{package}'.*\[content\]"):
        make()


@pytest.mark.parametrize(
    ('package', 'make'),
    [('torchvision', torchvision_encoder), ('timm', lambda: timm_encoder('resnet'))],
)
def test_a_package_for_another_torch_is_one_message(
    monkeypatch, tmp_path, package, make
):
    folder = tmp_path / package
    folder.mkdir()
    (folder / '__init__.py').write_text("raise RuntimeError('no operator x::nms')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ImportError, match=r'loads .got: no operator x::nms.*one index'):
        make()
