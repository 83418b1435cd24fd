from types import SimpleNamespace

import psutil
import pytest

from promptmm_pyg.cli.system import (
    available_memory,
    bytes_text,
    peak_memory,
    seconds_text,
)
from promptmm_pyg.limits import cores


@pytest.fixture
def limited(tmp_path, monkeypatch):
    """The free memory with the files of a control group, of 5,000 bytes in all."""
    free = SimpleNamespace(available=5000)
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: free)

    def write(**group):
        for name, text in group.items():
            (tmp_path / f'memory.{name}').write_text(text)
        return available_memory(tmp_path)

    return write


def test_free_memory_is_that_of_the_system_without_a_limit(limited):
    assert limited() == 5000
    assert limited(max='max\n', current='2000\n') == 5000
    assert limited(max='', current='2000\n') == 5000


def test_a_container_may_allow_less(limited):
    assert limited(max='5000\n', current='2000\n') == 3000
    assert limited(max='9000\n', current='2000\n') == 5000
    assert limited(max='5\n', current='2000\n') == 0


def test_the_peak_grows_with_what_is_held():
    before = peak_memory()
    x = bytearray(before)  # As much again.
    assert peak_memory() >= 1.5 * before
    assert len(x) == before


def test_there_is_a_core():
    assert cores() >= 1


@pytest.mark.parametrize(
    ('count', 'expected'),
    [
        (0, '0 bytes'),
        (1023, '1023 bytes'),
        (1024, '1.0 KiB'),
        (1536 * 1024, '1.5 MiB'),
        (5000 * (1 << 30), '5000.0 GiB'),
    ],
)
def test_bytes_for_people(count, expected):
    assert bytes_text(count) == expected


@pytest.mark.parametrize(
    ('seconds', 'expected'),
    [
        (0.0, '0 s'),
        (9.94, '9.9 s'),
        (59.4, '59 s'),
        (59.6, '1 min 0 s'),
        (3599.9, '1 h 0 min'),
        (7199.0, '2 h 0 min'),
    ],
)
def test_seconds_for_people(seconds, expected):
    assert seconds_text(seconds) == expected
