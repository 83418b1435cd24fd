"""``promptmm tune``: a model with the best of many settings."""

import argparse
import sys

from promptmm_pyg.cli import train
from promptmm_pyg.cli.parsing import (
    Parser,
    UserError,
    add_flags,
    check_device,
    config_text,
)
from promptmm_pyg.models._resolve import short_name
from promptmm_pyg.runs import Run, tune_run
from promptmm_pyg.runs.folder import TUNING

DESCRIPTION = """\
Search the hyper-parameters of a model on validation, with Optuna, and save the best
trial as the model of a run. All else is as in 'promptmm train', and so is the run:
evaluate, distill, recommend and report work on it. Test data are not used.

Each model has its own search space ('promptmm_pyg.models.NAME.search_space'). An option
of it that has another value than its default is fixed and not tuned. Trials that are
worse than the median of the others are ended early; failed ones are left out.

Ctrl-C ends with the best trial so far. The same command with --resume continues, after
a kill, too, or joins the search from another terminal; --minutes counts from its
start, --trials includes the trials before it."""
EXAMPLE = """\
example:
  promptmm tune data/tiktok --out runs/lightgcn --model LightGCN --minutes 20
  promptmm tune data/tiktok --out runs/freedom --model FREEDOM --trials 30 --jobs 2
  promptmm tune data/tiktok --out runs/ease --model EASE --trials 20
  promptmm tune data/tiktok --out runs/ease --model EASE --trials 40 --resume"""


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    train.add_arguments(parser)
    parser.usage = 'promptmm tune PATH --out RUN (--trials N | --minutes X) [options]'
    add_flags(
        parser.add_argument_group('search'),
        """
--trials N  number of trials, those before --resume included (default: no limit)
--minutes X  time for everything (default: no limit)
--jobs N [1]  number of processes, which share the threads
--no-pruning  train every trial to its end""",
    )


def run(args: argparse.Namespace) -> int:
    """Tunes and prints the best trial."""
    if args.print_config or args.dry_run:
        if args.print_config:
            print(config_text(args))
            return 0
        return train.run(args)
    if args.track:
        raise UserError(
            f"--track must be left out of 'tune' (got '{args.track[0][0]}'). The "
            f"trials are in RUN; track a training with 'promptmm train'"
        )
    if args.trials is None and args.minutes is None:
        raise UserError('--trials N or --minutes X is required (got neither)')
    config = train.run_config(args)
    tuned = tune_run(
        args.out,
        config,
        trials=args.trials,
        minutes=args.minutes,
        jobs=args.jobs,
        prune=not args.no_pruning,
        overwrite=args.overwrite,
        resume=args.resume,
        progress=not args.quiet,
        device=check_device(args.device),
    )
    _plot(tuned)
    text = train.metrics_text(tuned, 'teacher').removeprefix('teacher')
    print(f'{short_name(args.model)}{text}, in {tuned.teacher_dir}')
    print(f'next: promptmm distill {tuned.path}')
    return 0


def _plot(run: Run) -> None:
    """Writes the figure of the trials, where matplotlib is installed."""
    from promptmm_pyg.viz import plot_trials, save_figure

    metrics = run.metrics('teacher')
    file = run.path / TUNING / 'trials.png'
    try:
        save_figure(plot_trials(metrics['trials'], metrics['monitor']), file)
    except ImportError as error:
        print(f'note: no figure of the trials: {error}', file=sys.stderr)
