"""A file is there whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from promptmm_pyg._utils import replacing


def test_what_is_written_appears_under_the_name(tmp_path: Path) -> None:
    with replacing(tmp_path / 'deep' / 'file.txt') as temporary:
        temporary.write_text('new')
        assert not (tmp_path / 'deep' / 'file.txt').exists()
    assert (tmp_path / 'deep' / 'file.txt').read_text() == 'new'


def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / 'plain'
    plain.touch()
    with replacing(tmp_path / 'x') as temporary:
        save_file({'x': torch.ones(1)}, temporary)
        assert temporary.stat().st_mode != plain.stat().st_mode
    assert (tmp_path / 'x').stat().st_mode == plain.stat().st_mode


def test_an_error_leaves_the_former_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    path.write_text('old')

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text('ne')
            raise RuntimeError('half way')

    with pytest.raises(RuntimeError, match='half way'):
        write()
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / 'file.txt'):
        pass
