"""``promptmm benchmark``: a benchmark from a configuration file."""

import argparse
import sys
from pathlib import Path

from promptmm_pyg.cli.parsing import UserError, add_flags, up_to
from promptmm_pyg.limits import PROCESSES

DESCRIPTION = """\
Run the benchmark of a TOML file: models are tuned on validation, trained with every
seed, and tested once per seed. One result file per data set is written to --out, and
its tables are printed. With result files (JSON) the tables are printed only; with
--table they are one table for a paper. A model of yours is 'path/to/file.py:Class'
among the models in the file.

Finished trainings are cached in --work: an interrupted benchmark continues, and
benchmarks share trainings."""
EXAMPLE = """\
example:
  promptmm benchmark benchmarks/configs/main.toml --dataset synthetic
  promptmm benchmark benchmarks/configs/suite.toml --data data --jobs 2
  promptmm benchmark benchmarks/configs/losses.toml --data data/tiktok \\
      --dataset tiktok --set widths=[16] --seeds 0
  promptmm benchmark benchmarks/results/suite-tiktok.json --plot suite.png
  promptmm benchmark results/suite-tiktok.json results/suite-office.json \\
      --table latex --reference MyModel"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``benchmark``."""
    parser.add_argument(
        'file', metavar='FILE', nargs='+', help='configuration, or results'
    )
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
    table = parser.add_argument_group('table for a paper')
    table.add_argument(
        '--table',
        choices=('markdown', 'latex'),
        help='print one table of all data sets; latex requires the package booktabs',
    )
    add_flags(
        table,
        """
--metrics METRIC...  test metrics (default: Recall@20 NDCG@20)
--reference NAME  row that others are compared with (default: best on validation)""",
    )


def run(args: argparse.Namespace) -> int:
    """Runs a configuration, or prints a result."""
    from promptmm_pyg.benchmark import load_config, run_benchmark
    from promptmm_pyg.benchmark.experiments import experiment_class
    from promptmm_pyg.benchmark.result import load_result

    paths = [Path(file) for file in args.file]
    path, kinds = paths[0], {path.suffix for path in paths}
    for missing in (path for path in paths if not path.is_file()):
        raise UserError(f"'{missing}' must be a configuration (TOML) or result (JSON)")
    if kinds == {'.json'}:
        _print_results(paths, args)
        return 0
    if len(paths) > 1:
        raise UserError(
            f'FILE must be one configuration, or results (got {len(paths)} files). '
            f'Name one .toml file, or .json files only'
        )
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
    written = run_benchmark(
        config, out=args.out, work=args.work, jobs=args.jobs, device=args.device
    )
    if args.table is not None:
        _print_results(written, args)
    for result in written:
        if args.table is None:
            print(experiment_class(config.kind).report(load_result(result)))
        print(f'\nwritten: {result}')
    return 0


def _print_results(paths: list[Path], args: argparse.Namespace) -> None:
    from promptmm_pyg.benchmark import KINDS, Experiment
    from promptmm_pyg.benchmark.report import paper_table
    from promptmm_pyg.benchmark.result import load_result

    if args.table is not None:
        options = {'metrics': args.metrics} if args.metrics else {}
        print(paper_table(paths, args.table, reference=args.reference, **options))
        return
    for path in paths:
        result = load_result(path)
        # No module is imported because a result file names it.
        cls = KINDS.get(result['kind'], Experiment)
        print(cls.report(result))
        if args.plot is not None:
            cls.plot(result, args.plot)
