"""The command line, ``promptmm``; a command imports what it runs."""

import argparse
import contextlib
import errno
import io
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from promptmm_pyg import __version__
from promptmm_pyg.cli.parsing import (
    HELP_COLUMNS,
    EscapedStream,
    Parser,
    UserError,
    printable,
)

__all__ = ['main']

_DESCRIPTION = """\
Multi-modal recommendation: train a large teacher on interactions and on the texts and
images of items, distill it into a small student that needs only its embeddings, and
recommend.

Start here:
  promptmm demo                              all steps once, on synthetic data
Then, with your own data:
  promptmm data check PATH                   find errors in the data
  promptmm auto PATH --out runs/best         find the best model in half an hour
or step by step:
  promptmm train PATH --out runs/mine        train the teacher
  promptmm tune PATH --out runs/mine --minutes 20  or search its settings
  promptmm distill runs/mine                 train the student and its recommender
  promptmm evaluate runs/mine                evaluate all models on validation
  promptmm finish runs/mine                  end a long training with its best epoch
  promptmm refit runs/mine                   train the final model on everything
  promptmm update runs/mine new.csv          continue it with new interactions
  promptmm recommend runs/mine --users 7 42  recommend items to users
  promptmm similar runs/mine --items 31 8    find items that are alike
  promptmm serve runs/mine                   recommend over HTTP
  promptmm add-items runs/mine --features text=new.csv  add items without training
  promptmm explain runs/mine --user 7        explain a score
  promptmm report runs/mine                  write one page about the run
  promptmm compare runs/mine runs/other      compare settings and metrics of runs
  promptmm export runs/mine --embeddings x.npz  write files for other programs
  promptmm benchmark FILE.toml               compare models by one protocol
If something does not work:
  promptmm doctor                            check this machine and its packages
For your shell:
  promptmm completion bash                   complete commands and options

Results are printed to stdout, progress to stderr."""
# Errors about values, files and packages; anything else is a bug.
_MISTAKES = (ValueError, TypeError, ImportError, OSError, FloatingPointError)
# What the user can change only outside of this program.
_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}
_FIXES = {
    errno.ENOSPC: 'Free disk space, or choose another folder',
    errno.EDQUOT: 'Free some of your disk quota, or choose another folder',
    errno.EIO: 'Check the disk',
    errno.EMFILE: "Raise the limit of open files ('ulimit -n')",
    errno.ENFILE: 'End other programs: the system has too many open files',
    errno.EROFS: 'Choose a folder that can be written to',
    errno.ENAMETOOLONG: 'Choose a shorter name',
}
_FAILURES |= {errno.ENOMEM, errno.EFBIG}
_NO_MEMORY = re.compile('memory|size is too big', re.IGNORECASE)
_LONG_WORD = re.compile(r'(\S{200})\S{200,}(\S{100})')

# A new command is a module with DESCRIPTION, EXAMPLE, add_arguments and run, and a line
# here. The module is imported when its command is typed.
COMMANDS = {
    'data': ('data', 'check a data set'),
    'auto': ('auto', 'find the best recommender within a budget of time'),
    'train': ('train', 'train a teacher'),
    'tune': ('tune', 'train a model with many settings'),
    'distill': ('distill', 'train a student'),
    'finish': ('finish', 'end an interrupted training'),
    'refit': ('refit', 'train the final model on all interactions'),
    'update': ('update', 'continue the model with new interactions'),
    'evaluate': ('evaluate', 'evaluate all models of a run'),
    'recommend': ('recommend', 'recommend items'),
    'similar': ('similar', 'similar items'),
    'serve': ('serve', 'recommend over HTTP'),
    'add-items': ('add_items', 'add new items without training'),
    'demo': ('demo', 'all steps once, on synthetic data'),
    'compare': ('compare', 'compare runs'),
    'export': ('export', 'write files for other programs'),
    'doctor': ('doctor', 'check this machine'),
    'explain': ('explain', 'explain a score'),
    'report': ('report', 'write a page about a run'),
    'benchmark': ('benchmark', 'compare models by one protocol'),
    'completion': ('completion', 'complete commands in your shell'),
}


def build_parser(command: str | None = None) -> Parser:
    """The parser of the program.

    Args:
        command: The only command whose module is imported and whose options are known;
            a name that is not a command imports none. (default: all of them)
    """
    parser = Parser(prog='promptmm', description=_DESCRIPTION)
    parser.add_argument('--version', action='version', version=__version__)
    parser.add_argument(
        '--traceback',
        action='store_true',
        help='show where in the code an error was raised, for a bug report',
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND')
    for name, (module_name, text) in COMMANDS.items():
        child = commands.add_parser(name, help=text)
        if command in (None, name):
            module = import_module(f'promptmm_pyg.cli.{module_name}')
            child.description, child.epilog = module.DESCRIPTION, module.EXAMPLE
            child.set_defaults(run=module.run, command=name)
            module.add_arguments(child)
    parser.set_defaults(run=None)
    return parser


def command_of(argv: Sequence[str]) -> str:
    """The first word that is not an option."""
    return next((word for word in argv if not word.startswith('-')), '')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 when done, 1 if data have errors
    or after a failure (a full disk, too little memory, a bug), 2 after a mistake of the
    user, 130 when interrupted, 141 when the output is closed, 129 or 143 when hung up
    or terminated.

    Args:
        argv: The words after ``promptmm``. (default: from the system)
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    with (
        contextlib.redirect_stdout(EscapedStream(sys.stdout)),
        contextlib.redirect_stderr(EscapedStream(sys.stderr)),
    ):
        return _main(argv)


def _main(argv: list[str]) -> int:
    show = '--traceback' in argv
    try:
        with _ended_in_order() as check_interrupted:
            _check_current_folder()
            args = _parse(argv)
            check_interrupted()
            status = _run(args)
            sys.stdout.flush()  # A closed pipe raises here, not when Python ends.
        return status
    except KeyboardInterrupt as error:
        _note(f'\npromptmm: interrupted. {_how_to_resume(argv)}')
        return 128 + int(error.args[0] if error.args else signal.SIGINT)
    except BrokenPipeError:
        # The reader, such as `head`, is done; Python's last flush must not complain.
        # A stream without a file, as in a test, needs nothing.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if show:
            raise
        message, status = _describe(error)
        _note(f'promptmm: error: {printable(message)}')
        return status


def _written_help(argv: Sequence[str]) -> str:
    """The help of a command from the file of all of them: no command is imported.
    Empty in a narrow terminal, and where other options are typed.
    """
    *words, last = argv or ['']
    is_help = last in ('-h', '--help') and bool(words)
    if not is_help or shutil.get_terminal_size().columns < HELP_COLUMNS:
        return ''
    from promptmm_pyg.cli.completion import read_commands

    return str(read_commands().get(' '.join(words), {}).get('help', ''))


def _parse(argv: list[str]) -> argparse.Namespace:
    try:
        if text := _written_help(argv):
            print(text, end='')
            raise SystemExit(0)
        args = build_parser(command_of(argv)).parse_args(argv)
    except SystemExit:
        sys.stdout.flush()  # A closed pipe after --help.
        raise
    if args.run is None:
        raise UserError("a command is required. See 'promptmm --help'")
    return args


def _check_current_folder() -> None:
    """Raises where torch could not be imported."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError(
            'the current folder must exist (it was deleted). Change to another folder'
        ) from error


def _note(text: str) -> None:
    """Prints to stderr, if that is possible."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _describe(error: Exception) -> tuple[str, int]:
    """One line about an error, and the exit status."""
    text = ' '.join(format_error(error).split()) or type(error).__name__
    text = _LONG_WORD.sub(r'\1...\2', text) + _line_of_own_model(error)
    no_memory = isinstance(error, RuntimeError) and _NO_MEMORY.search(text)
    if no_memory or isinstance(error, MemoryError):
        return f'not enough memory ({text}). Use less data or smaller models', 1
    is_loop = isinstance(error, RuntimeError) and text.startswith('Symlink loop')
    if not isinstance(error, _MISTAKES) and not is_loop:
        text = f'{type(error).__name__}: {text}'
        return f'internal error ({text}). Report it with the output of --traceback', 1
    is_failure = isinstance(error, OSError) and error.errno in _FAILURES
    return text, 1 if is_failure else 2


def _line_of_own_model(error: Exception) -> str:
    """Where in the file of a model of the user an error was raised, if it was."""
    resolve = sys.modules.get('promptmm_pyg.models._resolve')
    files = {x['__file__'] for x in resolve.LOADED.values()} if resolve else ()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            return f" (line {frame.lineno} of '{frame.filename}')"
    return ''


@contextlib.contextmanager
def _ended_in_order() -> Iterator[Callable[[], None]]:
    """Ends the program on SIGTERM and SIGHUP as on Ctrl-C: temporary files are removed,
    and what is replaced is put back. Yields a function that raises after a signal that
    an imported module has ignored.
    """
    received: list[int] = []

    def end(number: int, _: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt(number)

    def check() -> None:
        if received:
            raise KeyboardInterrupt(received[0])

    signals = [getattr(signal, name, None) for name in ('SIGINT', 'SIGTERM', 'SIGHUP')]
    former = {}
    if threading.current_thread() is threading.main_thread():
        # A process started by 'nohup' ignores SIGHUP.
        usual = (signal.SIG_DFL, signal.default_int_handler)
        known = [x for x in signals if x and signal.getsignal(x) in usual]
        former = {x: signal.signal(x, end) for x in known}
    try:
        yield check
    except Exception:  # A module reports its interrupted import in its own way.
        check()
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _prepare_streams() -> None:
    """Makes output possible where a stream is closed or its encoding is narrow."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None or (name == 'stderr' and _is_read_only(stream)):
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def _is_read_only(stream: Any) -> bool:
    """Whether a file that was opened for reading has the number of a closed stream, as
    in a shell script without stderr.
    """
    try:
        os.write(stream.fileno(), b'')
    except OSError as error:  # A stream without a file, as in a test, has no number.
        return error.errno == errno.EBADF
    return False


def _run(args: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        # Users cannot act on these.
        warnings.filterwarnings('ignore', message='Sparse CSR tensor support')
        warnings.filterwarnings('ignore', message='Sparse invariant checks')
        warnings.showwarning = _show_warning
        if 'torch' in sys.modules and args.command not in ('data', 'serve'):
            from promptmm_pyg.training import tune_allocator

            tune_allocator()  # The others take no step, and return their memory.
        status: int = args.run(args)
    return status


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    text = printable(' '.join(str(message).split()))
    _note(f'warning: {text}')


def format_error(error: Exception) -> str:
    """The message of an error, with the path if it is about a file."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        fix = _FIXES.get(error.errno or 0, 'Check the path and its permissions')
        return f"'{error.filename}' cannot be read or written: {error.strerror}. {fix}"
    return str(error)


def _how_to_resume(argv: list[str]) -> str:
    words = argv
    if {'train', 'distill', 'refit', 'auto'} & set(argv[:2]):
        words = [word for word in argv if word not in ('--overwrite', '--resume')]
        words.append('--resume')
    return f'Continue with: {shlex.join(["promptmm", *words])}'
