"""``promptmm refit``: the final model, trained on all interactions."""

import argparse

from promptmm_pyg.cli.parsing import QUIET, Parser, add_device, add_flags, check_device
from promptmm_pyg.runs import Run

DESCRIPTION = """\
Train the final model of RUN: teacher and student, if there is one, on all
interactions, those of validation, test and updates included. Settings are those of the
run, and each model is trained for the number of epochs that was best on validation;
nothing is validated.

The result is in RUN/final/, and 'promptmm recommend RUN' serves it from then on. The
evaluated models stay as they are: 'promptmm evaluate RUN' is about these.

Ctrl-C loses at most one epoch: the same command with --resume continues."""
EXAMPLE = """\
example:
  promptmm refit runs/mine
  promptmm recommend runs/mine --users 7 42"""


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    add_flags(parser, '--resume  continue an interrupted refit')
    add_device(parser)
    add_flags(parser, QUIET)


def run(args: argparse.Namespace) -> int:
    """Trains the final model."""
    device = check_device(args.device)
    run = Run.open(args.folder)
    run.refit(resume=args.resume, progress=not args.quiet, device=device)
    epochs = run.final['epochs']
    lengths = ', '.join(f'{epochs[name]} epochs of the {name}' for name in epochs)
    print(f'{run.describe_final()}; {lengths}, in {run.final_dir}')
    print(f'next: promptmm recommend {run.path} --users ID')
    return 0
