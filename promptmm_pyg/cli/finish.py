"""``promptmm finish``: end an interrupted training with the best epoch so far."""

import argparse

from promptmm_pyg.cli.train import metrics_text
from promptmm_pyg.runs import Run

DESCRIPTION = """\
End the interrupted training of RUN, of a teacher or of a student, with its best epoch
so far, as if patience had run out: write the model and its metrics and, for a student,
the recommender. For trainings that were stopped by Ctrl-C, a time limit or a crash.

The checkpoint stays: the training command with --resume still continues it."""
EXAMPLE = """\
example:
  promptmm finish runs/mine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder."""
    parser.add_argument('folder', metavar='RUN', help='folder of a run')


def run(args: argparse.Namespace) -> int:
    """Finishes the training and prints the validation metrics."""
    run = Run.open(args.folder)
    name = run.finish()
    print(metrics_text(run, name))
    if name == 'teacher':
        print(f'next: promptmm distill {run.path}')
        return 0
    if run.has('baseline'):
        print(metrics_text(run, 'baseline'))
    print(f'next: promptmm evaluate {run.path}')
    return 0
