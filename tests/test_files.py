"""A file, or a folder, is there whole or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from promptmm_pyg._files import (
    complete_replacement,
    current,
    locked,
    replace_entries,
    replacing,
    temporary_folder,
)


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


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    file, link = tmp_path / 'file.txt', tmp_path / 'link.txt'
    file.write_text('old')
    file.chmod(0o640)
    link.symlink_to(file.name)
    with replacing(link) as temporary:
        temporary.write_text('new')
    assert link.is_symlink()
    assert file.read_text() == 'new'
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_device_is_not_replaced() -> None:
    with (
        pytest.raises(ValueError, match="device or pipe '/dev/null'"),
        replacing('/dev/null'),
    ):
        pass
    assert Path('/dev/null').is_char_device()


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    with pytest.raises(OSError, match='No space') as caught, replacing(path):
        raise OSError(28, 'No space left on device')
    assert caught.value.filename == str(path)
    (tmp_path / 'a').touch()
    with pytest.raises(FileExistsError), replacing(tmp_path / 'a' / 'b'):
        pass


def test_only_the_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    stale = tmp_path / '.promptmm-0.tmp'
    stale.mkdir()
    with temporary_folder(tmp_path) as first:
        assert not stale.exists()
        with temporary_folder(tmp_path) as second:
            assert first.is_dir()
        assert not second.exists()
    assert not list(tmp_path.iterdir())


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / 'x').write_text(text)


def read(folder: Path) -> dict[str, str]:
    """What a reader finds."""
    files = [current(folder, name) / 'x' for name in 'abc']
    return {file.parent.name: file.read_text() for file in files if file.is_file()}


def test_entries_are_replaced_together(tmp_path: Path) -> None:
    write(tmp_path, a='1', b='1', c='1')
    write(tmp_path / 'new', a='2', b='2')
    replace_entries(tmp_path, tmp_path / 'new', ['c'])
    assert read(tmp_path) == {'a': '2', 'b': '2'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'b']


@pytest.mark.parametrize('moved', range(3))
def test_an_interrupted_replacement_is_read_and_completed(
    tmp_path: Path, moved: int
) -> None:
    write(tmp_path, a='1', b='1', c='1')
    write(tmp_path / '.next', a='2', b='2')
    (tmp_path / '.next' / '.outdated.json').write_text('["c"]')
    for name in 'ab'[:moved]:
        shutil.rmtree(tmp_path / name)
        (tmp_path / '.next' / name).rename(tmp_path / name)
    assert read(tmp_path) == {'a': '2', 'b': '2'}
    complete_replacement(tmp_path)
    assert read(tmp_path) == {'a': '2', 'b': '2'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'b']


def test_readers_share_a_lock_and_writers_do_not(tmp_path: Path) -> None:
    with locked(tmp_path, shared=True) as first:
        with locked(tmp_path, shared=True, timeout=0) as second:
            assert first
            assert second
        with locked(tmp_path, timeout=0) as writer:
            assert not writer
    with locked(tmp_path, timeout=0) as writer:
        assert writer
    with locked(tmp_path / 'none') as missing:
        assert not missing


def test_whatever_ends_a_writer_the_old_or_the_new_state_is_there() -> None:
    # All calls of all commands: `make torture`.
    command = [sys.executable, '-m', 'tests.torture.kills', '--short']
    result = subprocess.run(
        [*command, '--only', 'targets', 'save', '--ends', 'killed', 'full disk'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'skipped' in result.stdout or 'UNREADABLE: 0, WRONG: 0' in result.stdout
