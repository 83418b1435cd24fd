"""Strings and ids in arrays."""

import copy
import pickle
import random
from itertools import pairwise

import numpy as np
import pytest

from promptmm_pyg.serving import RawIds
from promptmm_pyg.serving import _texts as texts_module
from promptmm_pyg.serving._texts import Texts

STRINGS = ['', 'a', '\0', 'ü', '日本', '😀', '\ud800', 'x' * 40, '']


@pytest.mark.parametrize('chunk', [1, 3, 2**22])
def test_strings_come_back(monkeypatch, chunk):
    monkeypatch.setattr(texts_module, '_CHUNK', chunk)
    texts = Texts.pack(STRINGS)
    for again in (
        texts,
        Texts.checked(texts.data, texts.offsets),
        pickle.loads(pickle.dumps(texts)),
        Texts.pack(STRINGS[:4]).joined(Texts.pack(STRINGS[4:])),
    ):
        assert list(again) == STRINGS
        assert [again[row] for row in range(-1, 8)] == [STRINGS[-1], *STRINGS[:8]]
        assert again[2:5] == STRINGS[2:5]
    with pytest.raises(IndexError, match='row 9 of 9'):
        texts[9]


def random_ids(number):
    draw = random.Random(0)
    ids = {draw.choice([str, int])(draw.randrange(-60, 400)) for _ in range(number)}
    ids |= {''.join(draw.choices('aü日\0', k=3)) for _ in range(number)}
    return draw.sample(sorted(ids, key=repr), len(ids))


def naive_find(ids, raw):
    """The row of the id itself, or else that of the equal text."""
    if raw in ids:
        return ids.index(raw)
    texts = [str(x) for x in ids]
    return texts.index(str(raw)) if str(raw) in texts else -1


@pytest.mark.parametrize('step', [1, 2, 64])
def test_rows_equal_those_of_a_list(monkeypatch, step):
    monkeypatch.setattr('promptmm_pyg.serving._ids._STEP', step)
    monkeypatch.setattr('promptmm_pyg.serving._ids._CACHED', 9)
    ids = random_ids(300)
    queries = [*ids, *range(-80, 420), *map(str, range(-80, 420)), '', 'aa', '-', '07']
    expected = [naive_find(ids, raw) for raw in queries]
    cut = next(n for n in range(9, 999) if str(ids[n]) not in map(str, ids[:n]))
    known = RawIds('ids', ids[:cut], cut)
    texts = {str(raw) for raw in known}
    new = [raw for raw in ids[cut:] if str(raw) not in texts]
    for packed, items in (
        (RawIds('ids', ids, len(ids)), ids),
        (known.joined(RawIds('ids', new, len(new))), [*ids[:cut], *new]),
    ):
        expected = [naive_find(items, raw) for raw in queries]
        for again in (packed, pickle.loads(pickle.dumps(packed)), copy.copy(packed)):
            assert again.find(queries) == expected
            assert again.find(queries) == expected  # From the cache.
            assert list(again) == items


def test_names_of_rows_in_any_shape():
    ids = RawIds('ids', ['a', 7, 'c'], 3)
    rows = np.array([[2, -1], [1, 2]])
    for _ in range(2):
        assert ids.names(rows).tolist() == [['c', None], [7, 'c']]
    assert ids.names(rows[:0]).shape == (0, 2)


def test_an_integer_that_python_does_not_write_is_refused():
    with pytest.raises(ValueError, match="'ids' must contain integers of at most 4300"):
        RawIds('ids', [10**5000], 1)
    assert RawIds('ids', [1], 1).find([10**5000]) == [-1]


def test_many_texts_are_compared_as_python_compares_them():
    generator = random.Random(0)
    starts = ['', 'a', 'user-000', 'b' * 140, 'ü\x00']
    strings = [
        generator.choice(starts) + ''.join(generator.choices('ab\x00é', k=length % 12))
        for length in range(3000)
    ]
    texts = Texts.pack(strings)
    rows = np.random.default_rng(0).permutation(len(strings))
    rows[::7] = rows[1::7]  # Equal to the next.
    encoded = [texts.encoded(row) for row in rows]
    expected = [(a > b) - (a < b) for a, b in pairwise(encoded)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts_module, '_PAIRS', 1000)
        assert texts.compare_next(rows).tolist() == expected
    assert {-1, 0, 1} == set(expected)
    assert texts.compare_next(rows[:1]).tolist() == []
    assert Texts.pack([]).compare_next(rows[:0]).tolist() == []
