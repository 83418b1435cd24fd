import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from promptmm_pyg.content import ImageEncoder, encode_content, folder_contents

Image = pytest.importorskip('PIL.Image')


def pixels(picture):
    """The upper left pixel three times over, as a tensor [3, 1, 1]."""
    assert picture.mode == 'RGB'
    return torch.tensor(picture.getpixel((0, 0))).float()[:, None, None]


class Colour(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        assert not self.training
        return (x.flatten(1) * self.scale).half()


def encoder(**options):
    return ImageEncoder(Colour(), pixels, width=3, **options)


def test_every_mode_of_picture_becomes_rgb(tmp_path):
    red = (255, 0, 0)
    Image.new('RGB', (2, 2), red).save(tmp_path / 'rgb.png')
    Image.new('L', (2, 2), 7).save(tmp_path / 'grey.png')
    Image.new('RGBA', (2, 2), (*red, 0)).save(tmp_path / 'clear.png')
    Image.new('RGBA', (2, 2), (*red, 255)).save(tmp_path / 'opaque.png')
    Image.new('RGB', (2, 2), red).quantize().save(tmp_path / 'palette.gif')
    Image.new('CMYK', (2, 2), (0, 255, 255, 0)).save(tmp_path / 'print.tiff')
    deep = np.full((2, 2), 9 * 256 + 5, np.uint16)
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    rows = encode_content(
        folder_contents(tmp_path, 'images'), encoder(), progress=False
    )
    found = dict(zip(rows.ids, rows.x.tolist(), strict=True))
    assert found.pop('clear') == [255, 255, 255]
    assert found.pop('grey') == [7, 7, 7]
    assert found.pop('deep') == [9, 9, 9]
    assert set(found) == {'rgb', 'opaque', 'palette', 'print'}
    assert all(row == [255, 0, 0] for row in found.values())


def test_pictures_are_turned_as_their_note_says(tmp_path):
    picture = Image.new('RGB', (1, 2), 'black')
    picture.putpixel((0, 1), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    picture.save(tmp_path / '1.png', exif=exif)
    (row,) = encoder().encode([tmp_path / '1.png'])
    assert row.tolist() == [255, 255, 255]


def test_what_cannot_be_read_is_masked(tmp_path):
    Image.new('RGB', (40, 40), 'red').save(tmp_path / '1.png')
    whole = (tmp_path / '1.png').read_bytes()
    (tmp_path / '2.png').write_bytes(whole[:-30])
    (tmp_path / '3.png').write_bytes(b'no picture')
    rows = encode_content(
        folder_contents(tmp_path, 'images'), encoder(), progress=False
    )
    assert rows.mask.tolist() == [True, False, False]
    assert set(rows.problems.values()) == {'contains nothing that the encoder can read'}


def test_pictures_that_are_none_never_reach_the_model(tmp_path):
    (tmp_path / '1.png').write_bytes(b'no picture')

    def model(x):
        raise AssertionError

    rows = ImageEncoder(model, pixels, width=2, name='m').encode([tmp_path / '1.png'])
    assert np.isnan(rows).all()
    assert rows.shape == (1, 2)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_a_picture_that_claims_too_much_is_not_read(tmp_path, monkeypatch):
    Image.new('RGB', (40, 40), 'red').save(tmp_path / '1.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert np.isnan(encoder().encode([tmp_path / '1.png'])).all()


def test_rows_are_the_models_in_single_precision(tmp_path):
    Image.new('RGB', (2, 2), (2, 4, 6)).save(tmp_path / '1.png')
    model = Colour(0.5).train()
    rows = ImageEncoder(model, pixels, width=3).encode([tmp_path / '1.png'] * 2)
    assert rows.dtype == np.float32
    assert_allclose(rows, [[1, 2, 3]] * 2)


def test_the_fingerprint_tells_weights_names_and_cuts_apart():
    def other(picture):
        return pixels(picture)

    encoders = [
        encoder(),
        ImageEncoder(Colour(2.0), pixels, width=3),
        encoder(name='m'),
        ImageEncoder(Colour(), other, width=3),
    ]
    assert len({x.fingerprint for x in encoders}) == 4
    assert encoder().fingerprint == encoders[0].fingerprint
    assert ' at 0x' not in ''.join(x.fingerprint for x in encoders)


def test_a_function_needs_a_name():
    with pytest.raises(ValueError, match="'name' must identify the model"):
        ImageEncoder(lambda x: x, pixels, width=3)


def test_repr():
    assert repr(encoder()) == 'ImageEncoder(width=3)'


def test_pillow_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'PIL', None)
    with pytest.raises(ImportError, match=r"requires 'pillow'.*\[content\]"):
        encoder()
