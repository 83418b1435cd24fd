import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from promptmm_pyg.content import encode_content
from promptmm_pyg.content import rows as rows_module
from tests.content.encoders import Lengths, Sizes


def encode(contents, encoder, cache, **options):
    return encode_content(contents, encoder, cache=cache, progress=False, **options)


def files(folder):
    return sorted(folder.rglob('*.safetensors'))


def test_a_second_run_encodes_nothing_and_returns_the_same(tmp_path):
    contents = {1: 'a', 2: 'bab', 3: None}
    first = encode(contents, Lengths(), tmp_path)
    again = Lengths()
    second = encode(contents, again, tmp_path)
    assert again.batches == []
    assert_array_equal(first.x, second.x)
    assert_array_equal(first.mask, second.mask)


def test_only_new_and_changed_contents_are_encoded(tmp_path):
    encode({1: 'a', 2: 'b', 3: 'c'}, Lengths(), tmp_path)
    encoder = Lengths()
    rows = encode({3: 'c', 1: 'aaa', 9: 'b', 4: 'dd'}, encoder, tmp_path)
    assert encoder.seen == ['aaa', 'dd']
    assert_array_equal(rows.x, [[1, 0], [3, 3], [1, 0], [2, 0]])


def test_renamed_files_are_found_and_changed_files_are_not(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'1')
    encode({1: path}, Sizes(), tmp_path / 'cache')
    moved = path.rename(tmp_path / 'b.png')
    encoder = Sizes()
    encode({2: moved}, encoder, tmp_path / 'cache')
    assert encoder.batches == []
    moved.write_bytes(b'22')
    rows = encode({2: moved}, encoder, tmp_path / 'cache')
    assert encoder.batches == [['b.png']]
    assert_array_equal(rows.x, [[2, 0]])


def test_another_model_has_rows_of_its_own(tmp_path):
    encode({1: 'a'}, Lengths('one'), tmp_path)
    other = Lengths('two')
    encode({1: 'a'}, other, tmp_path)
    assert other.seen == ['a']
    assert len({file.parent for file in files(tmp_path)}) == 2


def test_what_is_done_is_kept_when_the_encoder_fails(tmp_path):
    class Breaks(Lengths):
        def encode(self, batch):
            if 'a' in batch:
                raise KeyboardInterrupt
            return super().encode(batch)

    with pytest.raises(KeyboardInterrupt):
        encode({1: 'a', 2: 'bb', 3: 'ccc'}, Breaks(), tmp_path, batch_size=1)
    encoder = Lengths()
    encode({1: 'a', 2: 'bb', 3: 'ccc'}, encoder, tmp_path)
    assert encoder.seen == ['a']


def test_rows_are_written_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, '_NUMBERS_A_FILE', 4)  # Two rows of two.
    contents = {i: 'a' * (i + 1) for i in range(5)}
    rows = encode(contents, Lengths(), tmp_path, batch_size=1)
    assert len(files(tmp_path)) == 3
    assert_array_equal(rows.x, [[i + 1, i + 1] for i in range(5)])
    encoder = Lengths()
    again = encode(contents, encoder, tmp_path)
    assert encoder.batches == []
    assert_array_equal(again.x, rows.x)


def test_what_could_not_be_read_is_tried_again(tmp_path):
    class Blind(Lengths):
        def encode(self, batch):
            return np.full((len(batch), 2), np.nan)

    assert not encode({1: 'a'}, Blind(), tmp_path).mask.any()
    assert encode({1: 'a'}, Lengths(), tmp_path).mask.all()


def test_no_temporary_file_is_left(tmp_path):
    encode({1: 'a'}, Lengths(), tmp_path)
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == files(tmp_path)


def test_nothing_is_written_for_nothing(tmp_path):
    encode({1: None}, Lengths(), tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


def damaged(tmp_path):
    encode({1: 'a', 2: 'bb'}, Lengths(), tmp_path)
    (path,) = files(tmp_path)
    return path


def test_a_truncated_file_is_refused(tmp_path):
    path = damaged(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r'must be a whole cache .*Delete it'):
        encode({1: 'a'}, Lengths(), tmp_path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = damaged(tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match='got other bytes than were written'):
        encode({1: 'a'}, Lengths(), tmp_path)


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        ({'encoder': 'other'}, "got one of 'other'"),
        ({'format': 'v0'}, "got one of 'lengths'"),
        ({'sha256': ''}, 'got other bytes'),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, change, match):
    from safetensors import safe_open

    path = damaged(tmp_path)
    with safe_open(path, framework='numpy') as file:
        about = file.metadata()
    save_file(load_file(path), path, metadata=about | change)
    with pytest.raises(ValueError, match=match):
        encode({1: 'a'}, Lengths(), tmp_path)


def test_rows_of_another_width_are_refused(tmp_path):
    damaged(tmp_path)
    wide = Lengths()
    wide.width = 3
    with pytest.raises(ValueError, match=r'got shapes \(2, 32\) and \(2, 2\)'):
        encode({1: 'a'}, wide, tmp_path)
