import pytest

from promptmm_pyg.cli.machine import (
    available_memory,
    bytes_text,
    cores,
    peak_memory,
    seconds_text,
)


@pytest.fixture
def system(tmp_path):
    """Linux' files on memory, as they would read."""

    def write(meminfo=None, **group):
        if meminfo is not None:
            (tmp_path / 'meminfo').write_text(meminfo)
        for name, text in group.items():
            (tmp_path / f'memory.{name}').write_text(text)
        return available_memory(tmp_path / 'meminfo', tmp_path)

    return write


def test_memory_is_what_linux_says(system):
    text = 'MemTotal:  900 kB\nMemAvailable:   200 kB\nSwapFree: 1 kB\n'
    assert system(text) == 200 * 1024


def test_a_container_may_allow_less(system):
    text = 'MemAvailable:   200 kB\n'
    assert system(text, max='5000\n', current='2000\n') == 3000
    assert system(text, max='max\n', current='2000\n') == 200 * 1024
    assert system(text, max='5\n', current='2000\n') == 0


@pytest.mark.parametrize('text', [None, '', 'MemAvailable:', 'MemAvailable: x kB'])
def test_a_system_that_does_not_tell_gives_none(system, text):
    assert system(text) is None


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
