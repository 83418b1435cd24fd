"""The program: its commands, and how it ends."""

import argparse
import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from promptmm_pyg import __version__
from promptmm_pyg.cli.parsing import Parser, UserError

_DESCRIPTION = """\
Multi-modal recommendation: train a large teacher that reads what items look and
sound like, distill it into a small student that needs its embeddings only, and
recommend.

Start here:
  promptmm demo                              everything once, on made-up data
Then, with your own data:
  promptmm data check PATH                   is the data sound?
  promptmm train PATH --out runs/mine        the teacher
  promptmm distill runs/mine                 the student, and a recommender
  promptmm evaluate runs/mine                how good they are, on validation
  promptmm recommend runs/mine --users 7 42  what to show to whom
  promptmm add-items runs/mine --features text=new.csv  items that came later
  promptmm explain runs/mine --user 7        where a score comes from
  promptmm report runs/mine                  all of it on one page
  promptmm compare runs/mine runs/other      settings and metrics side by side
  promptmm export runs/mine --embeddings x.npz  for other programs
If something does not work:
  promptmm doctor                            what this machine lacks, and how to get it
For your shell:
  promptmm completion bash                   complete commands and options

Results are printed to stdout, progress to stderr."""
# What the library raises where a value does not fit; anything else is a bug.
_MISTAKES = (
    UserError,
    ValueError,
    TypeError,
    ImportError,
    OSError,
    FloatingPointError,
)


# The module of each command and its line of help. A module is imported when its
# command is typed, so that starting the program costs nothing else.
COMMANDS = {
    'data': ('data_check', 'check a data set'),
    'train': ('train', 'train a teacher'),
    'distill': ('distill', 'train a student'),
    'evaluate': ('evaluate', 'how good is it'),
    'recommend': ('recommend', 'recommend items'),
    'add-items': ('add_items', 'new items without training'),
    'demo': ('demo', 'everything once, on made-up data'),
    'compare': ('compare', 'runs side by side'),
    'export': ('export', 'for other programs'),
    'doctor': ('doctor', 'can this machine do the work'),
    'explain': ('explain', 'where a score comes from'),
    'report': ('report', 'a run on one page'),
    'completion': ('completion', 'complete commands in your shell'),
}


def build_parser(command: str | None = None) -> Parser:
    """The parser of the program.

    Args:
        command: The only command whose module is imported and whose options are known;
            one that does not exist imports none. (default: all of them)
    """
    parser = Parser(prog='promptmm', description=_DESCRIPTION)
    parser.add_argument('--version', action='version', version=__version__)
    parser.add_argument(
        '--traceback',
        action='store_true',
        help='show where in the code an error was raised, for a bug report',
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND')
    for name, (module, text) in COMMANDS.items():
        if command in (None, name):
            add = import_module(f'promptmm_pyg.cli.{module}').add_command
            add(commands, help=text)
        else:
            commands.add_parser(name, help=text)
    parser.set_defaults(run=None)
    return parser


def command_of(argv: Sequence[str]) -> str:
    """The first word that is no option of the program itself."""
    return next((word for word in argv if not word.startswith('-')), '')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 when done, 1 where data have
    errors, 2 after a mistake of the user, 130 when interrupted, 141 when nobody
    reads on.

    Args:
        argv: What was typed after ``promptmm``. (default: from the system)
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show = '--traceback' in argv
    try:
        args = build_parser(command_of(argv)).parse_args(argv)
        if args.run is None:
            raise UserError("a command is needed. See 'promptmm --help'")
        return _run(args)
    except KeyboardInterrupt:
        print(f'\npromptmm: interrupted. {_how_to_go_on(argv)}', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python's last flush must
        # not complain either. A stream without a file, as in a test, needs nothing.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _MISTAKES as error:
        if show:
            raise
        message = ' '.join(format_error(error).split()) or type(error).__name__
        print(f'promptmm: error: {message}', file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        # Nothing that a user could act on.
        warnings.filterwarnings('ignore', message='Sparse CSR tensor support')
        warnings.filterwarnings('ignore', message='Sparse invariant checks')
        if 'torch' in sys.modules:
            from promptmm_pyg.training import tune_allocator

            tune_allocator()
        status: int = args.run(args)
    return status


def format_error(error: Exception) -> str:
    """The message of an error, with the path where it is about a file."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return (
            f"'{error.filename}' cannot be read or written: {error.strerror}. Check "
            f'that path, and who may write there'
        )
    return str(error)


def _how_to_go_on(argv: list[str]) -> str:
    again = [word for word in argv if word not in ('--overwrite', '--resume')]
    if {'train', 'distill'} & set(argv[:2]):
        again.append('--resume')
    return f'Go on with: {shlex.join(["promptmm", *again])}'
