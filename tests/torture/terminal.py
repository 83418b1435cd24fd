"""Terminals, locales, closed streams, strange paths and Ctrl-C, by whole programs.

``python -m tests.torture.terminal``; the exit code is 1 if a program ends with another
status than expected, or prints a traceback.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.torture._readers import run_folder

ROOT = Path(__file__).parents[2]
PROGRAM = f'{sys.executable} -m promptmm_pyg'


class Shell(NamedTuple):
    """A command of a shell, where ``$P`` is the program and ``$R`` a run."""

    script: str
    status: int = 0
    environment: dict[str, str] = {}  # noqa: RUF012


_SHOW = '$P recommend $R --users u1 -k 3'
_WRONG = '$P recommend $R --users nobody'
SHELLS = [
    Shell(f'{_SHOW} | head -1'),
    Shell(f'set -o pipefail; {_SHOW} -k 20 | true', 141),
    *(Shell(f'{_SHOW} {closed}') for closed in ('>&-', '2>&-', '<&-', '>&- 2>&- <&-')),
    *(Shell(f'{_WRONG} {closed}', 2) for closed in ('>&-', '2>&-', '>&- 2>&-')),
    Shell(f'{_SHOW} >/dev/full', 1),
    Shell(f'{_WRONG} 2>/dev/full', 1),
    Shell('$P --help | head -1'),
    Shell('$P', 2),
    *(
        Shell(_SHOW, 0, dict(pair.split('=', 1) for pair in pairs.split()))
        for pairs in (
            'LC_ALL=C',
            'LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0',
            'PYTHONIOENCODING=ascii',
            'PYTHONIOENCODING=latin-1',
            'TERM=dumb',
            'NO_COLOR=1',
            'COLUMNS=0',
            'COLUMNS=1',
            'COLUMNS=x',
            'HOME=/nonexistent',
        )
    ),
    Shell('COLUMNS=0 $P recommend --help'),
    Shell(f'env -u HOME {_SHOW}'),
    Shell('mkdir gone; cd gone; rmdir ../gone; $P doctor', 2),
    Shell("$P recommend $'a\\nb' --users 1", 2),
    Shell('$P recommend $(printf "a%.0s" {1..5000}) --users 1', 2),
    Shell('cp $T ./-x.csv; $P data check -- -x.csv'),
    Shell(
        "mkdir -p 'a b/ü$x'; cp $T 'a b/ü$x/c d.csv'; $P data check 'a b/ü$x/c d.csv'"
    ),
    Shell("cp $T $'a\\nb.csv'; $P data check $'a\\nb.csv'"),
    Shell("cp $T $'bad\\xff.csv'; $P data check $'bad\\xff.csv'", 2),
    Shell("$P recommend $R --users $'no\\xff'", 2),
]
# Libraries whose loading marks a stage of the imports.
STAGES = ('_bisect', '_multiarray_umath', 'libtorch_cpu', '_dynamo', 'libarrow')


def run_shell(shell: Shell, work: Path) -> str:
    """What is wrong with the end of a program, or nothing."""
    run = run_folder()
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    environment |= {'P': PROGRAM, 'R': str(run / 'run'), 'T': str(run / 'clicks.csv')}
    try:
        done = subprocess.run(
            ['bash', '-c', shell.script],
            cwd=work,
            env=environment | shell.environment,
            capture_output=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        return 'hang'
    return _problem(done.returncode, shell.status, done.stdout + done.stderr)


def _problem(status: int, expected: int, output: bytes) -> str:
    if b'Traceback' in output or b'internal error' in output or b'Exception' in output:
        return f'traceback: {output[-300:]!r}'
    return '' if status == expected else f'status {status}: {output[-300:]!r}'


def interrupt(stage: str, delay: float) -> str:
    """Sends Ctrl-C once a library is loaded."""
    words = [*PROGRAM.split(), 'data', 'check', str(run_folder() / 'clicks.csv')]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        # A program started in the background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    maps = Path(f'/proc/{process.pid}/maps')
    while process.poll() is None and stage not in maps.read_text():
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        process.communicate()
        return 'too late'
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    return _problem(process.returncode, 130, output)


def main() -> int:
    """Runs all programs and prints counts."""
    draw, work = random.Random(0), Path(tempfile.mkdtemp())
    problems, late, count = [], 0, 0
    for shell in SHELLS:
        count += 1
        if problem := run_shell(shell, work):
            problems.append(f'{shell.environment} {shell.script}: {problem}')
    for stage in STAGES:
        for _ in range(3):
            delay, count = draw.uniform(0, 0.2), count + 1
            problem = interrupt(stage, delay)
            late += problem == 'too late'
            if problem not in ('', 'too late'):
                problems.append(f'Ctrl-C {delay:.2f} s after {stage}: {problem}')
    shutil.rmtree(work)
    print(
        f'terminal: {count} programs, {len(problems)} wrong, {late} ended before Ctrl-C'
    )
    print('\n'.join(problems))
    return 1 if problems else 0


if __name__ == '__main__':
    raise SystemExit(main())
