"""Runs cases in forked processes with limits of time and memory."""

import contextlib
import multiprocessing as mp
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

KINDS = ('ok', 'clear error', 'raw traceback', 'unnamed file', 'changed', 'lost')
KINDS += ('memory', 'hang', 'crash')
GOOD = KINDS[:2]


class Outcome(NamedTuple):
    """The class of a case, and what it printed or raised."""

    kind: str
    text: str = ''


Case = Callable[[], Outcome]


def attempt(call: Callable[[], object], names: list[str]) -> Outcome:
    """Calls a reader: ``'clear error'`` is a ``ValueError`` or ``OSError`` that has one
    of the names.
    """
    try:
        call()
    except (ValueError, OSError) as error:
        text = f'{type(error).__name__}: {error}'
        if isinstance(error, UnicodeError) or not any(name in text for name in names):
            return Outcome('unnamed file', text)
        return Outcome('clear error', text)
    except MemoryError as error:
        return Outcome('memory', repr(error))
    except (Exception, SystemExit) as error:
        return Outcome('raw traceback', _describe(error))
    return Outcome('ok')


def _describe(error: BaseException) -> str:
    trace = error.__traceback__
    place = ''
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if 'promptmm_pyg' in file:
            place = f'{Path(file).name}:{trace.tb_lineno}'
        trace = trace.tb_next
    return f'{type(error).__name__} at {place}: {str(error)[:300]}'


def run_cases(
    make: Callable[[int], Case],
    count: int,
    *,
    seconds: float = 20,
    mebibytes: int = 2048,
    per_process: int = 10**9,
) -> Iterator[Outcome]:
    """The outcome of each case; after a hang or a crash the next process continues.

    Args:
        make: Returns the case of a number, within the forked process.
        count: The number of cases.
        seconds: The time limit of each.
        mebibytes: Memory that a process may have beyond that of its parent.
        per_process: Cases of one process, at most.
    """
    context, start = mp.get_context('fork'), 0
    while start < count:
        end = min(count, start + per_process)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(sender, make, start, end, mebibytes), daemon=True
        )
        process.start()
        sender.close()
        try:
            while start < end:
                outcome = _next(receiver, seconds)
                start += 1
                yield outcome
                if outcome.kind in ('hang', 'crash'):
                    break
        finally:
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            process.join()


def _next(receiver: Connection, seconds: float) -> Outcome:
    try:
        if not receiver.poll(seconds):
            return Outcome('hang', f'more than {seconds:g} s')
        return Outcome(*receiver.recv())
    except (EOFError, OSError):
        return Outcome('crash', 'the process ended')


def _work(
    sender: Connection,
    make: Callable[[int], Case],
    start: int,
    count: int,
    mebibytes: int,
) -> None:
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(null, number)
    for index in range(start, count):
        sender.send(tuple(make(index)()))
    sender.close()
    os._exit(0)


def report(title: str, counts: dict[str, int], examples: dict[str, list[str]]) -> bool:
    """Prints counts by class with examples of faults; returns whether there is none."""
    total = sum(counts.values())
    parts = ', '.join(f'{counts.get(kind, 0)} {kind}' for kind in KINDS)
    print(f'{title}: {total} cases: {parts}', flush=True)
    for kind, texts in examples.items():
        for text in texts:
            print(f'    {kind}: {text}', file=sys.stdout, flush=True)
    return all(kind in GOOD for kind, number in counts.items() if number)


def until(minutes: float) -> Callable[[], bool]:
    """Whether so many minutes have passed."""
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end
