import math
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from promptmm_pyg.content import HashingTextEncoder

FULL = 2**64
CHAR, NEXT = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
KINDS = (0xA0761D6478BD642F, 0xE7037ED1A0B428DB)


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % FULL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % FULL
    return x ^ (x >> 31)


def hash_word(word):
    codes = [ord(c) * CHAR ** (i + 1) for i, c in enumerate(f' {word}')]
    return mix(sum(codes) % FULL)


def grams_of(words, lengths, letters):
    """Every n-gram as a tuple of its parts' hashes, one by one."""
    found = []
    for n in range(lengths[0], lengths[1] + 1):
        found += [
            tuple(map(hash_word, words[i : i + n])) for i in range(len(words) - n + 1)
        ]
    runs = []
    for n in range(letters[0], letters[1] + 1):
        for word in words:
            padded = f' {word} '
            runs += [
                tuple(mix(ord(c)) for c in padded[i : i + n])
                for i in range(len(padded) - n + 1)
                if padded[i : i + n] != ' '
            ]
    return found, runs


def naive(text, width, lengths=(1, 2), letters=(3, 5)):
    words = ''.join(
        c if c.isalnum() or c == '_' else ' '
        for c in unicodedata.normalize('NFKC', text).casefold()
    ).split()
    row = [0.0] * width
    found, runs = grams_of(words, lengths, letters)
    seen = 0
    for grams, kind in zip((found, runs), KINDS, strict=True):
        part = [0.0] * width
        for gram in set(grams):
            code = len(gram)
            for value in gram:
                code = (code * NEXT + value) % FULL
            code = mix(code ^ kind)
            sign = -1 if code >> 63 else 1
            part[code % width] += sign * (1 + math.log(grams.count(gram)))
        length = math.hypot(*part)
        if length:
            row = [a + b / length for a, b in zip(row, part, strict=True)]
        seen += len(set(grams))
    length = math.hypot(*row)
    return np.array(row) / length if length else np.array(row)


TEXTS = [
    'Red shoes, red SHOES and a lamp',
    'a',
    'Straße ﬁlm 日本 電影 naïve',
    "it's_42 - 42!",
    'a b a b a b ab',
]


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('width', [1, 7, 1024])
def test_rows_are_those_of_a_plain_loop(text, width):
    (row,) = HashingTextEncoder(width).encode([text])
    assert_allclose(row, naive(text, width), atol=1e-6)


@pytest.mark.parametrize(('words', 'letters'), [((2, 3), (1, 2)), ((1, 1), (4, 4))])
def test_other_lengths_are_those_of_a_plain_loop(words, letters):
    encoder = HashingTextEncoder(64, words=words, letters=letters)
    rows = encoder.encode(TEXTS)
    expected = [naive(text, 64, words, letters) for text in TEXTS]
    assert_allclose(rows, expected, atol=1e-6)


def test_a_row_has_length_one_and_both_signs():
    rows = HashingTextEncoder().encode(TEXTS)
    assert rows.dtype == np.float32
    assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert (rows < 0).any()
    assert (rows > 0).any()


def test_text_without_words_gives_zeros():
    rows = HashingTextEncoder(8).encode(['', ' \n', '?!', '💡'])
    assert_array_equal(rows, np.zeros((4, 8)))


def test_no_text_gives_no_rows():
    assert HashingTextEncoder(8).encode([]).shape == (0, 8)


def test_case_and_compatibility_forms_are_folded():
    a, b = HashingTextEncoder().encode(['ＦＩＬＭ Groß', 'film gross'])
    assert_array_equal(a, b)


def test_order_of_words_counts_in_pairs_only():
    both = ['red lamp shoe', 'shoe lamp red']
    alone = HashingTextEncoder(words=(1, 1)).encode(both)
    assert_allclose(alone[0], alone[1], atol=1e-6)
    pairs = HashingTextEncoder().encode(both)
    assert pairs[0] @ pairs[1] < 0.99


def test_inner_products_are_near_the_cosine_of_the_counts():
    # Fifty texts of twenty of two hundred words; no letters, so the exact counts
    # are a matrix.
    generator = np.random.default_rng(0)
    chosen = [generator.choice(200, 20, replace=False) for _ in range(50)]
    counts = np.zeros((50, 200))
    for row, words in zip(counts, chosen, strict=True):
        row[words] = 1 / math.sqrt(20)
    texts = [' '.join(f'w{x}' for x in words) for words in chosen]
    rows = HashingTextEncoder(4096, words=(1, 1), letters=None).encode(texts)
    pairs = np.triu_indices(50, 1)
    error = (rows @ rows.T - counts @ counts.T)[pairs]
    # A collision adds or takes alike, with a deviation of one over the root of 4096.
    assert np.sqrt(np.mean(error**2)) < 1.3 / 64
    assert abs(error.mean()) < 3 / 64 / math.sqrt(error.size)


def encoded():
    return hash('a'), HashingTextEncoder().encode(['red shoes', 'naïve']).tolist()


def test_rows_do_not_depend_on_the_process():
    with ProcessPoolExecutor(1, get_context('forkserver')) as pool:
        other_hash, other = pool.submit(encoded).result()
    own_hash, own = encoded()
    assert other_hash != own_hash  # Python's own hash has another seed there.
    assert other == own


def test_the_fingerprint_tells_all_settings_apart():
    encoders = [
        HashingTextEncoder(),
        HashingTextEncoder(512),
        HashingTextEncoder(words=(1, 1)),
        HashingTextEncoder(letters=None),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == 4
    assert HashingTextEncoder().fingerprint == encoders[0].fingerprint


def test_repr():
    expected = 'HashingTextEncoder(8, words=(1, 2), letters=(3, 5))'
    assert repr(HashingTextEncoder(8)) == expected


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'width': 0}, "'width' must be positive"),
        ({'words': (0, 1)}, "'words' must be a shortest and a longest"),
        ({'letters': (3, 2)}, "'letters' must be a shortest and a longest"),
    ],
)
def test_settings_are_checked(options, match):
    with pytest.raises(ValueError, match=match):
        HashingTextEncoder(**options)
