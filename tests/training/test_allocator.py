import subprocess
import sys

import pytest

from promptmm_pyg.training import optim
from promptmm_pyg.training.optim import tune_allocator

COUNT = """
import ctypes, resource, sys
import torch
from promptmm_pyg.training import tune_allocator

if sys.argv[1] == 'keep':
    assert tune_allocator()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

x = torch.ones(2**24)  # 64 MiB.
y = x + 1
del y
before = faults()
for _ in range(10):
    y = x + 1
    del y
print(faults() - before)
"""


def faults(how):
    command = [sys.executable, '-c', COUNT, how]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def glibc():
    import ctypes

    return sys.platform.startswith('linux') and hasattr(
        ctypes.CDLL(None), 'gnu_get_libc_version'
    )


@pytest.mark.skipif(not glibc(), reason='the C library is not glibc')
def test_a_large_tensor_reuses_freed_memory():
    given_back = faults('default')
    assert given_back > 10 * 2**14 / 16  # At least, if pages are of 64 KiB.
    assert faults('keep') < given_back / 10


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(optim.sys, 'platform', 'darwin')
    monkeypatch.setattr(optim.ctypes, 'CDLL', None)
    assert not tune_allocator()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(optim.sys, 'platform', 'linux')
    monkeypatch.setattr(optim.ctypes, 'CDLL', lambda _: object())
    assert not tune_allocator()


@pytest.mark.parametrize(('answers', 'expected'), [((1, 1), True), ((1, 0), False)])
def test_returns_whether_the_option_was_set(monkeypatch, answers, expected):
    messages, left = [], list(answers)

    class Library:
        gnu_get_libc_version = None

        @staticmethod
        def mallopt(option, value):
            messages.append((option, value))
            return left.pop(0)

    monkeypatch.setattr(optim.sys, 'platform', 'linux')
    monkeypatch.setattr(optim.ctypes, 'CDLL', lambda _: Library)
    assert tune_allocator() is expected
    assert messages == [(-4, 0), (-1, 2**31 - 1)]
