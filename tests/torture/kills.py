"""Ends a writer at each of its system calls that write, and loads what is left.

    python -m tests.torture.kills            # every call of every scenario
    python -m tests.torture.kills --short    # every seventh call of the fast ones

Each scenario runs a command in a forked process, in which a small library counts the
calls below a folder (open to write, write, rename, mkdir, unlink, fsync, ...). At call
N, the process is killed (a write is torn in two), interrupted, terminated, or the disk
is full from then on; for all N. What the public loaders then read must be the former
or the new state, and the same command must succeed and leave no temporary file.
"""

import argparse
import collections
import contextlib
import ctypes
import hashlib
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char root[4096];
static long count, at;
static int how; /* A signal, or 0: the disk is full. */
static char tracked[65536];

void torture_arm(const char *path, long n, int mode) {
    strncpy(root, path, sizeof root - 1);
    count = 0; at = n; how = mode;
}
long torture_count(void) { return count; }

/* Whether the disk is full; does not return if the process is to be killed. */
static int hit(void) {
    count++;
    if (!at || count < at) return 0;
    if (!how) return 1;
    if (count == at) raise(how);
    return 0;
}
static int inside(const char *path) {
    return root[0] && (path[0] != '/' || !strncmp(path, root, strlen(root)));
}
static int full(void) { errno = ENOSPC; return -1; }

#define REAL(name) \
    static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPEN(name, HEAD, path, ...) \
int name HEAD { \
    REAL(name); va_list list; va_start(list, flags); \
    mode_t mode = va_arg(list, mode_t); va_end(list); \
    int ours = inside(path) && (flags & (O_WRONLY | O_RDWR)); \
    if (ours && hit() && (flags & O_CREAT)) return full(); \
    int fd = real(__VA_ARGS__, mode); \
    if (fd >= 0 && fd < (int)sizeof tracked) tracked[fd] = ours; \
    return fd; \
}
OPEN(open, (const char *path, int flags, ...), path, path, flags)
OPEN(open64, (const char *path, int flags, ...), path, path, flags)
OPEN(openat, (int dir, const char *path, int flags, ...), path, dir, path, flags)
OPEN(openat64, (int dir, const char *path, int flags, ...), path, dir, path, flags)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (root[0] && fd >= 0 && fd < (int)sizeof tracked && tracked[fd]) {
        if (how == SIGKILL && count + 1 == at && size > 1) real(fd, data, size / 2);
        if (hit()) return full();
    }
    return real(fd, data, size);
}
#define FD(name, HEAD, ...) \
int name HEAD { \
    REAL(name); \
    if (root[0] && fd >= 0 && fd < (int)sizeof tracked && tracked[fd]) hit(); \
    return real(__VA_ARGS__); \
}
FD(fsync, (int fd), fd)
FD(ftruncate, (int fd, off_t size), fd, size)
FD(ftruncate64, (int fd, off64_t size), fd, size)
FD(fallocate, (int fd, int mode, off_t a, off_t b), fd, mode, a, b)
FD(posix_fallocate, (int fd, off_t a, off_t b), fd, a, b)

#define PATH(name, may_fill, HEAD, path, ...) \
int name HEAD { \
    REAL(name); \
    if (inside(path) && hit() && may_fill) return full(); \
    return real(__VA_ARGS__); \
}
PATH(rename, 0, (const char *a, const char *b), a, a, b)
PATH(renameat, 0, (int x, const char *a, int y, const char *b), a, x, a, y, b)
PATH(mkdir, 1, (const char *a, mode_t mode), a, a, mode)
PATH(mkdirat, 1, (int x, const char *a, mode_t mode), a, x, a, mode)
PATH(rmdir, 0, (const char *a), a, a)
PATH(unlink, 0, (const char *a), a, a)
PATH(unlinkat, 0, (int x, const char *a, int flags), a, x, a, flags)
PATH(chmod, 0, (const char *a, mode_t mode), a, a, mode)
PATH(link, 1, (const char *a, const char *b), a, a, b)
"""
ENDS = {
    'killed': signal.SIGKILL,
    'interrupted': signal.SIGINT,
    'terminated': signal.SIGTERM,
    'full disk': 0,
}
_STATUS = {
    'killed': [-9],
    'interrupted': [130],
    'terminated': [143, -15],
    'full disk': [1, 2],
}


def preloaded() -> None:
    """Starts this program again with the counting library."""
    if 'torture' in os.environ.get('LD_PRELOAD', ''):
        return
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None or sys.platform != 'linux':
        print('skipped: this needs Linux and a C compiler')
        sys.exit(0)
    folder = tempfile.mkdtemp(prefix='torture-')
    source, library = Path(folder, 'torture.c'), Path(folder, 'torture.so')
    source.write_text(SOURCE)
    flags = ['-shared', '-fPIC', '-O1', '-w', str(source), '-o', str(library), '-ldl']
    subprocess.run([compiler, *flags], check=True)
    environment = {**os.environ, 'LD_PRELOAD': str(library), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'tests.torture.kills', *sys.argv[1:]]
    status = subprocess.run(command, env=environment).returncode
    shutil.rmtree(folder)
    sys.exit(status)


def forked(call, folder, number=0, how=0):
    """Runs ``call(folder)`` in a process of its own, armed to end at a call.

    Returns its exit status, the number of calls and its standard error.
    """
    library = ctypes.CDLL(None)
    ends = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    process = os.fork()
    if process == 0:
        status = 99
        try:
            for stream in (1, 2):
                os.dup2(ends[0].fileno(), stream)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, 'w'), line_buffering=True)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, 'w'), line_buffering=True)
            library.torture_arm(
                str(folder).encode(), ctypes.c_long(number), ctypes.c_int(how)
            )
            status = call(folder) or 0
            count = library.torture_count()
            library.torture_arm(b'', ctypes.c_long(0), ctypes.c_int(0))
            ends[1].write(str(count).encode())
            ends[1].flush()
        except KeyboardInterrupt:  # Of a function; the program ends so, too.
            status = 130
        except OSError as error:
            print(error)
            status = 2
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    texts = []
    for file in ends:
        file.seek(0)
        texts.append(file.read().decode(errors='replace'))
        file.close()
    return status, int(texts[1] or 0), texts[0]


class Scenario:
    """A command that replaces something.

    Args:
        name: Its name.
        template: The folder before the command.
        command: Runs it in a copy, and returns its exit status.
        state: What the public loaders read from a folder.
        again: What continues it, in place of ``command``.
        once: Whether it is refused where the new state is there already.
    """

    def __init__(self, name, template, command, state, *, again=None, once=False):
        self.name, self.template, self.command = name, template, command
        self.state, self.again, self.once = state, again or command, once


def digest(*values):
    """A short text of tensors, arrays and other values."""
    text = hashlib.sha256()
    for value in values:
        if hasattr(value, 'detach'):
            value = value.detach().cpu().numpy().tobytes()
        text.update(value if isinstance(value, bytes) else pickle.dumps(value))
    return text.hexdigest()[:12]


def leftovers(folder):
    """Names of temporary files."""
    names = ('.promptmm-', '.next', '.new-', '.lock', '.tmp')
    return [
        str(x.relative_to(folder))
        for x in folder.rglob('*')
        if x.name.startswith(names) or x.name.endswith('.tmp')
    ]


def load(scenario, folder):
    """The state, or the error in words."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return scenario.state(folder)
        except Exception as error:
            return f'unreadable: {type(error).__name__}: {error}'


def fresh(scenario, work):
    """A copy of the template."""
    folder = work / 'copy'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scenario.template, folder, symlinks=True)
    return folder


def attack(scenario, work, every, ends, counts):
    """Ends the command at each call; returns what went wrong."""
    folder = fresh(scenario, work)
    former = load(scenario, folder)
    status, total, text = forked(scenario.command, folder)
    new = load(scenario, folder)
    if status or 'unreadable' in new + former or new == former or leftovers(folder):
        left = leftovers(folder)
        counts[scenario.name, 'WRONG'] += 1
        problem = f'{scenario.name}: {status} {former} -> {new} {left}\n{text[-2000:]}'
        print(problem, flush=True)
        return [problem]
    wrong = []
    for end, how in ends.items():
        for number in range(1, total + 1, every):
            folder = fresh(scenario, work)
            problem = one(scenario, folder, number, end, how, (former, new), counts)
            counts[scenario.name, end] += 1
            if problem:
                counts[scenario.name, 'WRONG'] += 1
                wrong.append(
                    f'{scenario.name}, {end} at {number} of {total}: {problem}'
                )
                print(wrong[-1][:1500], flush=True)
        count = counts[scenario.name, end]
        print(f'{scenario.name}, {end} at {count} of {total} calls', flush=True)
    return wrong


def one(scenario, folder, number, end, how, states, counts):
    """What is wrong after one end; empty if nothing is."""
    former, new = states
    status, _, text = forked(scenario.command, folder, number, how)
    if status not in (*_STATUS[end], 0) or 'Traceback' in text:
        return f'status {status}, {text[-1200:]}'
    state = load(scenario, folder)
    if state not in (former, new):
        counts[scenario.name, 'UNREADABLE'] += 1
        return f'state {state}, neither {former} nor {new}'
    # Checkpoints are left to be resumed.
    left = [name for name in leftovers(folder) if not name.startswith('.new-')]
    if end == 'full disk' and status and state == former and left:
        return f'left after an error: {left}'
    command = scenario.command if state == new else scenario.again
    status, _, text = forked(command, folder)
    if status and not (state == new and scenario.once and status == 2):
        return f'the same again: status {status}, {text[-1200:]}'
    after = load(scenario, folder)
    if after != new:
        return f'the same again: state {after}, not {new}'
    left = leftovers(folder)
    return f'left over: {left}' if left and not status else ''


def main():
    """Runs the scenarios; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--short', action='store_true')
    parser.add_argument('--only', nargs='*', help='names of scenarios')
    parser.add_argument('--ends', nargs='*', choices=ENDS, default=list(ENDS))
    parser.add_argument('--every', type=int, default=1)
    args = parser.parse_args()
    preloaded()
    from tests.torture._scenarios import scenarios

    counts = collections.Counter()
    with tempfile.TemporaryDirectory(prefix='torture-') as name:
        work = Path(name).resolve()
        wrong = []
        for scenario in scenarios(work, fast=args.short):
            if args.only and scenario.name not in args.only:
                continue
            ends = {end: ENDS[end] for end in args.ends}
            every = 7 if args.short else args.every
            wrong += attack(scenario, work, every, ends, counts)
    names = list(dict.fromkeys(name for name, _ in counts))
    kinds = [*args.ends, 'UNREADABLE', 'WRONG']
    for name in names:
        texts = (f'{kind}: {counts[name, kind]}' for kind in kinds)
        print(f'{name:<20}', ', '.join(texts))
    totals = {kind: sum(counts[name, kind] for name in names) for kind in kinds}
    print(f'{"all":<20}', ', '.join(f'{kind}: {n}' for kind, n in totals.items()))
    return 1 if wrong or not counts else 0


if __name__ == '__main__':
    sys.exit(main())
