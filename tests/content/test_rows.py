import numpy as np
import pytest
from numpy.testing import assert_array_equal

from promptmm_pyg.content import HashingTextEncoder, encode_content
from tests.content.encoders import Lengths, Sizes


def encode(contents, encoder=None, **options):
    return encode_content(contents, encoder or Lengths(), progress=False, **options)


def test_rows_stand_in_the_order_of_the_ids():
    rows = encode({'x': 'a', 7: 'banana', 'y': 'bb'}, batch_size=2)
    assert rows.ids == ['x', 7, 'y']
    assert_array_equal(rows.x, [[1, 1], [6, 3], [2, 0]])
    assert rows.x.dtype == np.float32
    assert rows.mask.all()
    assert rows.problems == {}


@pytest.mark.parametrize('batch_size', [1, 2, 3, 100])
def test_every_content_is_in_one_batch_of_at_most_that_size(batch_size):
    encoder = Lengths()
    encode({i: 'a' * (i + 1) for i in range(5)}, encoder, batch_size=batch_size)
    assert max(len(batch) for batch in encoder.batches) == min(batch_size, 5)
    assert encoder.seen == ['a' * (i + 1) for i in range(5)]


def test_the_longest_texts_come_first():
    encoder = Lengths()
    encode({0: 'a', 1: 'aaa', 2: 'aa'}, encoder, batch_size=1)
    assert encoder.batches == [['aaa'], ['aa'], ['a']]


def test_equal_contents_are_encoded_once(tmp_path):
    (tmp_path / 'f.txt').write_text('same')
    encoder = Lengths()
    rows = encode({1: 'same', 2: tmp_path / 'f.txt', 3: 'same'}, encoder)
    assert encoder.batches == [['same']]
    assert_array_equal(rows.x, [[4, 1]] * 3)


def test_what_is_missing_is_masked_and_named(tmp_path):
    (tmp_path / 'empty.txt').write_text(' \n')
    (tmp_path / 'mark.txt').write_text('\u00a0', encoding='utf-8-sig')
    (tmp_path / 'latin.txt').write_bytes('naïve'.encode('latin-1'))
    contents = {
        'none': None,
        'blank': '  ',
        'mark': tmp_path / 'mark.txt',
        'empty': tmp_path / 'empty.txt',
        'latin': tmp_path / 'latin.txt',
        'gone': tmp_path / 'gone.txt',
        'folder': tmp_path,
        'fine': 'a',
    }
    rows = encode(contents)
    assert rows.mask.tolist() == [False] * 7 + [True]
    assert_array_equal(rows.x[:7], np.zeros((7, 2)))
    assert list(rows.problems) == list(contents)[:7]
    assert rows.problems['none'] == 'is missing'
    assert {rows.problems[x] for x in ('blank', 'mark', 'empty')} == {'is empty'}
    assert 'is not text in UTF-8' in rows.problems['latin']
    assert 'cannot be read (No such file' in rows.problems['gone']
    assert 'cannot be read (Is a directory' in rows.problems['folder']


def test_nothing_but_missing_contents_never_ask_the_encoder():
    encoder = Lengths()
    rows = encode({1: None}, encoder)
    assert encoder.batches == []
    assert rows.x.shape == (1, 2)


def test_no_contents_give_no_rows():
    rows = encode({})
    assert rows.x.shape == (0, 2)
    assert rows.mask.shape == (0,)


@pytest.mark.parametrize('bad', [[np.nan, 1], [np.inf, 1], [0, 0]])
def test_rows_of_nan_infinity_or_zeros_are_taken_for_missing(bad):
    class Some(Lengths):
        def encode(self, batch):
            return np.array([bad if x == 'bad' else [1, 0] for x in batch])

    rows = encode({1: 'bad', 2: 'fine'}, Some())
    assert rows.mask.tolist() == [False, True]
    assert_array_equal(rows.x, [[0, 0], [1, 0]])
    assert rows.problems == {1: 'contains nothing that the encoder can read'}


def test_files_reach_an_encoder_of_files_as_paths(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'\xff\x00aa')
    encoder = Sizes()
    rows = encode({'a': tmp_path / 'a.png'}, encoder)
    assert encoder.batches == [['a.png']]
    assert_array_equal(rows.x, [[4, 2]])
    assert rows.x.dtype == np.float32


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / 'a.txt').write_text('aa', encoding='utf-8-sig')
    assert_array_equal(encode({1: tmp_path / 'a.txt'}).x, [[2, 2]])


def test_the_default_encoder_hashes():
    rows = encode_content({1: 'red shoes'}, progress=False)
    assert_array_equal(rows.x, HashingTextEncoder().encode(['red shoes']))


def test_progress_counts_what_is_not_encoded_yet(capsys, monkeypatch):
    monkeypatch.setattr('promptmm_pyg._progress.SECONDS', 0.0)
    encode_content({1: 'a', 2: 'b', 3: 'a', 4: None}, Lengths())
    assert 'encoding: 2 of 2 items' in capsys.readouterr().err
    encode({1: 'a'})
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('shape', [(1, 3), (2, 2), (2,)])
def test_an_encoder_has_to_return_a_row_for_each_content(shape):
    class Wrong(Lengths):
        def encode(self, batch):
            return np.ones(shape)

    with pytest.raises(ValueError, match=r"'encoder' must .* shape \[1, 2\] \(got"):
        encode({1: 'a'}, Wrong())


def test_an_encoder_has_to_return_numbers():
    class Wrong(Lengths):
        def encode(self, batch):
            return np.array([['1', '2']])

    with pytest.raises(ValueError, match="'encoder' must return numbers"):
        encode({1: 'a'}, Wrong())


def test_text_for_an_encoder_of_files_is_refused():
    with pytest.raises(TypeError, match=r'contain paths .*text for 1\)\. Wrap it'):
        encode({1: 'a.png'}, Sizes())


def test_other_contents_are_refused():
    with pytest.raises(TypeError, match=r'text, paths or None \(got float for 1\)'):
        encode({1: float('nan')})


def test_the_batch_size_is_checked():
    with pytest.raises(ValueError, match="'batch_size' must be positive"):
        encode({}, batch_size=0)


def test_empty_files_are_missing_and_files_of_spaces_are_not(tmp_path):
    (tmp_path / '1.bin').write_bytes(b'')
    (tmp_path / '2.bin').write_bytes(b'  ')
    rows = encode({i: tmp_path / f'{i}.bin' for i in (1, 2)}, Sizes())
    assert rows.mask.tolist() == [False, True]
    assert rows.problems == {1: 'is empty'}


def test_halves_of_characters_are_no_error():
    assert encode_content({1: 'a\ud800b'}, progress=False).mask.all()
