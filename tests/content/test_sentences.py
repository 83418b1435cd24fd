import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from promptmm_pyg.content import SentenceTransformerEncoder, encode_content


class Stub(torch.nn.Module):
    """As much of a sentence transformer as the adapter asks for."""

    max_seq_length = 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, -2.0]))
        self.asked = []

    def get_sentence_embedding_dimension(self):
        return 3

    def encode(self, texts, **options):
        assert not self.training
        self.asked.append((texts, options))
        lengths = torch.tensor([[float(len(x))] for x in texts])
        return (lengths * self.weight).detach().numpy().astype(np.float16)


def test_rows_are_the_models_in_single_precision():
    model = Stub()
    encoder = SentenceTransformerEncoder(model, prompt='query: ', normalize=True)
    rows = encoder.encode(['ab', 'a'])
    assert rows.dtype == np.float32
    assert_allclose(rows, [[2, 4, -4], [1, 2, -2]])
    ((texts, options),) = model.asked
    assert texts == ['ab', 'a']
    assert options['prompt'] == 'query: '
    assert options['normalize_embeddings'] is True
    assert options['show_progress_bar'] is False


def test_the_newer_name_of_the_width_is_asked_first():
    class New(Stub):
        def get_embedding_dimension(self):
            return 5

    assert SentenceTransformerEncoder(New()).width == 5
    assert SentenceTransformerEncoder(Stub()).width == 3


def test_the_fingerprint_tells_weights_and_settings_apart():
    other = Stub()
    torch.nn.init.zeros_(other.weight)
    shorter = Stub()
    shorter.max_seq_length = 4
    encoders = [
        SentenceTransformerEncoder(Stub()),
        SentenceTransformerEncoder(other),
        SentenceTransformerEncoder(shorter),
        SentenceTransformerEncoder(Stub(), prompt='x'),
        SentenceTransformerEncoder(Stub(), normalize=True),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == 5
    assert SentenceTransformerEncoder(Stub()).fingerprint == encoders[0].fingerprint


def test_half_precision_weights_have_a_fingerprint():
    single = SentenceTransformerEncoder(Stub())
    half = SentenceTransformerEncoder(Stub().bfloat16())
    assert half.fingerprint != single.fingerprint


def test_repr():
    text = repr(SentenceTransformerEncoder(Stub()))
    assert text == 'SentenceTransformerEncoder(width=3)'


def test_a_name_needs_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    with pytest.raises(ImportError, match=r'pip install promptmm_pyg\[content\]'):
        SentenceTransformerEncoder('all-mpnet-base-v2')


def shipped_model():
    """A real model without a hub: the package wordllama has its weights inside."""
    tokenizers = pytest.importorskip('tokenizers')
    modules = pytest.importorskip(
        'sentence_transformers', reason='needs promptmm_pyg[content]'
    )
    spec = util.find_spec('wordllama')
    if spec is None or spec.origin is None:
        pytest.skip('needs the package wordllama, for the weights that it ships')
    from safetensors.torch import load_file

    folder = Path(spec.origin).parent
    (weights,) = load_file(folder / 'weights' / 'l2_supercat_256.safetensors').values()
    file = folder / 'tokenizers' / 'l2_supercat_tokenizer_config.json'
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    parts = modules.sentence_transformer.modules
    static = parts.StaticEmbedding(tokenizer, embedding_weights=weights.float().numpy())
    return modules.SentenceTransformer(modules=[static], device='cpu')


@pytest.mark.filterwarnings('ignore')
def test_a_real_model_finds_what_means_the_same(tmp_path):
    encoder = SentenceTransformerEncoder(shipped_model(), normalize=True)
    texts = {
        'shoe': 'a red running shoe',
        'sneaker': 'crimson sneakers',
        'film': 'a film about war in space',
        'empty': '',
    }
    rows = encode_content(texts, encoder, cache=tmp_path, progress=False)
    assert rows.x.shape == (4, 256)
    assert rows.mask.tolist() == [True, True, True, False]
    shoe, sneaker, film, _ = rows.x
    assert shoe @ sneaker > 0.2 > shoe @ film
    again = encode_content(texts, encoder, cache=tmp_path, progress=False)
    assert_allclose(again.x, rows.x)
