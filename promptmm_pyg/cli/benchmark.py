"""``promptmm benchmark``: a benchmark from a configuration file."""

import argparse
import sys
from pathlib import Path

from promptmm_pyg.cli.parsing import UserError, up_to
from promptmm_pyg.limits import PROCESSES

DESCRIPTION = """\
Run the benchmark of a TOML file: models are tuned on validation, trained with every
seed, and tested once per seed. One result file per data set is written to --out, and
its tables are printed. With a result file (JSON) the tables are printed only.

Finished trainings are cached in --work: an interrupted benchmark continues, and
benchmarks share trainings."""
EXAMPLE = """\
example:
  promptmm benchmark benchmarks/configs/main.toml --dataset synthetic
  promptmm benchmark benchmarks/configs/suite.toml --data data --jobs 2
  promptmm benchmark benchmarks/configs/losses.toml --data data/tiktok \\
      --dataset tiktok --set widths=[16] --seeds 0
  promptmm benchmark benchmarks/results/suite-tiktok.json --plot suite.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``benchmark``."""
    parser.add_argument('file', metavar='FILE', help='configuration or result')
    parser.add_argument(
        '--data', help='folder of the data set, or of folders named as the data sets'
    )
    parser.add_argument(
        '--dataset', nargs='+', default=[], help='names (default: those in the file)'
    )
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[], help='(default: those in the file)'
    )
    parser.add_argument(
        '--set',
        dest='overrides',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='a key of the file with another value, such as training.epochs=5',
    )
    parser.add_argument(
        '--work',
        default='runs/benchmarks',
        help='folder of the cache (default: runs/benchmarks)',
    )
    parser.add_argument(
        '--out',
        default='benchmarks/results',
        help='folder of the results (default: benchmarks/results)',
    )
    parser.add_argument(
        '--jobs',
        type=up_to(PROCESSES),
        default=1,
        help='processes side by side; 0 runs all in this one (default: 1)',
    )
    parser.add_argument('--device', default='cpu', help='for training (default: cpu)')
    parser.add_argument(
        '--plot', metavar='FILE.png', help='draw a figure of a result file'
    )


def run(args: argparse.Namespace) -> int:
    """Runs a configuration, or prints a result."""
    from promptmm_pyg.benchmark import KINDS, Experiment, load_config, run_benchmark
    from promptmm_pyg.benchmark.experiments import experiment_class
    from promptmm_pyg.benchmark.result import load_result

    path = Path(args.file)
    if not path.is_file():
        raise UserError(f"'{path}' must be a configuration (TOML) or result (JSON)")
    if path.suffix == '.json':
        result = load_result(path)
        # No module is imported because a result file names it.
        cls = KINDS.get(result['kind'], Experiment)
        print(cls.report(result))
        if args.plot is not None:
            cls.plot(result, args.plot)
        return 0
    if args.plot is not None:
        raise UserError(f"'--plot' requires a result file (got '{path}')")
    sys.path.insert(0, str(Path.cwd()))  # Where a kind of yours is found.
    config = load_config(
        path,
        data=args.data,
        datasets=args.dataset,
        seeds=args.seeds,
        overrides=args.overrides,
    )
    for written in run_benchmark(
        config, out=args.out, work=args.work, jobs=args.jobs, device=args.device
    ):
        print(experiment_class(config.kind).report(load_result(written)))
        print(f'\nwritten: {written}')
    return 0
