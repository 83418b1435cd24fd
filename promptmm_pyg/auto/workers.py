"""Trainings in processes of their own, which end with their time."""

import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from promptmm_pyg.runs.folder import read_json, write_json
from promptmm_pyg.training import Callback

RESULT = 'result.json'
GRACE = 3.0
"""Seconds after its deadline until a process is ended."""
Work = Callable[..., dict[str, Any]]


@dataclass
class Task:
    """One piece of work: ``work(folder, watch, *arguments)`` in a process."""

    key: Any
    work: Work
    folder: Path
    arguments: tuple[Any, ...]
    seconds: float
    """How long it may train."""
    deadline: float
    """When it must have ended, by :func:`time.time`."""


class Watch(Callback):
    """Ends a training in time: after its seconds, before an epoch that would not end by
    the deadline, or when the parent ends or is interrupted.

    Args:
        seconds: How long to train.
        deadline: When to have ended, by :func:`time.time`.
        stop: An event that ends the training after its epoch.
    """

    def __init__(self, seconds: float, deadline: float, stop: Any) -> None:
        self.started = self._last = time.time()
        self.seconds, self.deadline, self.stop = seconds, deadline, stop
        self.longest, self.stopped = 0.0, False
        self._parent = os.getppid()

    def on_epoch(self, *_: Any) -> bool:
        return self.check()

    def check(self) -> bool:
        """Whether to end, after one epoch more."""
        now = time.time()
        self.longest, self._last = max(self.longest, now - self._last), now
        self.stopped = (
            now - self.started >= self.seconds
            or now + self.longest > self.deadline
            or self.stop.is_set()
            or os.getppid() != self._parent
        )
        return self.stopped


class Workers:
    """Up to ``jobs`` processes at a time.

    Args:
        jobs: The number of processes.
        threads: Threads of each.
        device: Where they train; processes are forked, and share the data, for one
            thread on the CPU only.
    """

    def __init__(self, jobs: int, threads: int, device: str) -> None:
        self.jobs, self.threads = jobs, threads
        can_fork = 'fork' in multiprocessing.get_all_start_methods()
        forked = can_fork and threads == 1 and device == 'cpu'
        self._context: Any = multiprocessing.get_context('fork' if forked else 'spawn')
        self._stop = self._context.Event()
        self._running: dict[Any, tuple[Task, float]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further process may start."""
        return len(self._running) >= self.jobs

    @property
    def running(self) -> list[Any]:
        """The keys of the running tasks."""
        return [task.key for task, _ in self._running.values()]

    def start(self, task: Task) -> None:
        """Starts a task."""
        (task.folder / RESULT).unlink(missing_ok=True)
        process = self._context.Process(
            target=_run, args=(task, self._stop, self.threads), daemon=True
        )
        sys.stderr.flush()
        process.start()
        self._running[process] = task, time.time()

    def finished(self, timeout: float) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Waits until a task ends, at most ``timeout`` seconds, and yields the keys and
        results of all that have; a failed one has an ``'error'``.
        """
        ends = [task.deadline + GRACE for task, _ in self._running.values()]
        timeout = max(0.0, min([timeout, *(end - time.time() for end in ends)]))
        wait([process.sentinel for process in self._running], timeout)
        for process, (task, started) in list(self._running.items()):
            is_late = process.is_alive() and time.time() > task.deadline + GRACE
            if is_late:
                process.kill()
                process.join()
            if process.is_alive():
                continue
            process.join()
            del self._running[process]
            yield task.key, _result(task, process.exitcode, is_late, started)

    def interrupt(self, seconds: float = 20.0) -> None:
        """Asks all tasks to end with their best epoch so far."""
        self._stop.set()
        for key, (task, started) in self._running.items():
            end = min(task.deadline, time.time() + seconds)
            task.deadline = end
            self._running[key] = task, started

    def reset(self) -> None:
        """Allows new tasks after an interrupt."""
        self._stop.clear()

    def close(self) -> None:
        """Ends all processes."""
        for process in self._running:
            process.kill()
            process.join()
        self._running.clear()


def _result(task: Task, code: int | None, is_late: bool, started: float) -> Any:
    file = task.folder / RESULT
    wall = time.time() - started
    if is_late:
        return {'error': f'no epoch within {wall:.0f} s', 'wall': wall, 'late': True}
    if not file.is_file():
        return {'error': f'its process ended with {code} (memory?)', 'wall': wall}
    return {**read_json(file), 'wall': wall}


def _run(task: Task, stop: Any, threads: int) -> None:
    """The life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent asks it to end.
    for name in ('SIGTERM', 'SIGHUP'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    torch.set_num_threads(threads)
    task.folder.mkdir(parents=True, exist_ok=True)
    log = (task.folder / 'output.txt').open('w', encoding='utf-8')
    sys.stdout = sys.stderr = log
    try:
        watch = Watch(task.seconds, task.deadline, stop)
        result = task.work(task.folder, watch, *task.arguments)
        result['longest_epoch'] = watch.longest
    except Exception as error:
        traceback.print_exc()
        result = {'error': ' '.join(f'{error}'.split()) or type(error).__name__}
    result['cpu'] = time.process_time()
    log.flush()
    write_json(task.folder / RESULT, json.loads(json.dumps(result, default=str)))
    os._exit(0)  # Without the handlers of the parent.


def processes(
    jobs: int | None, cores: int, bytes_each: int, free: int
) -> tuple[int, int]:
    """The number of processes, and the threads of each.

    Args:
        jobs: The number, if it is given.
        cores: Cores of the machine.
        bytes_each: Memory of a process.
        free: Free memory.

    Example:
        >>> processes(None, 8, 1 << 30, 3 << 30), processes(2, 8, 1 << 30, 3 << 30)
        ((3, 2), (2, 4))
    """
    jobs = jobs or max(1, min(cores, free // max(bytes_each, 1)))
    return jobs, max(1, cores // jobs)


def collect(
    workers: Workers,
    tasks: Sequence[Task],
    show: Callable[[Any, dict[str, Any]], None] = lambda *_: None,
    until: float = math.inf,
) -> dict[Any, dict[str, Any]]:
    """The results of all tasks by key, as many at a time as there are processes; none
    starts later than ``until`` or its deadline.
    """
    results: dict[Any, dict[str, Any]] = {}
    waiting = list(tasks)
    while waiting or workers.running:
        while waiting and not workers.is_full:
            task = waiting.pop(0)
            if time.time() < min(until, task.deadline):
                workers.start(task)
        for key, result in workers.finished(0.5):
            results[key] = result
            show(key, result)
    return results
