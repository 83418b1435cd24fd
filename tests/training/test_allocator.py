import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from promptmm_pyg.training import optim
from promptmm_pyg.training.optim import tune_allocator


def count_faults():
    """Page faults of ten large sums, before and after."""
    import resource

    x = torch.ones(2**24)  # 64 MiB.
    counts = []
    for tune in (bool, tune_allocator):
        tune()
        y = x + 1
        del y
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            y = x + 1
            del y
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return counts


def glibc():
    import ctypes

    return sys.platform.startswith('linux') and hasattr(
        ctypes.CDLL(None), 'gnu_get_libc_version'
    )


@pytest.mark.skipif(not glibc(), reason='the C library is not glibc')
def test_a_large_tensor_reuses_freed_memory():
    with ProcessPoolExecutor(1, get_context('forkserver')) as pool:
        default, tuned = pool.submit(count_faults).result()
    assert default > 10 * 2**14 / 16  # At least, if pages are of 64 KiB.
    assert tuned < default / 2  # The system may take freed memory back.


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
