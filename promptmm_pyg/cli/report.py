"""``promptmm report``: a run on one page."""

import argparse
import sys
from pathlib import Path
from typing import Any

from promptmm_pyg._utils import replacing
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.report_run import gather_run
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.report import render
from promptmm_pyg.report.page import GENERATOR

_DESCRIPTION = """\
Write all that RUN holds to one HTML file that needs nothing else: learning curves,
teacher against student against control, slices (cold and rare items, length of history,
missing modalities), what the teacher's embeddings are made of, size, latency (measured
now) and example recommendations. It works without a network and runs no script.

Where a step has not been done yet, the page shows what there is and names the command.
Metrics are those that 'promptmm evaluate' wrote; test is not read."""
_EXAMPLE = """\
example:
  promptmm report runs/tiktok
  promptmm report runs/tiktok --out tiktok.html"""


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``report`` to the program."""
    parser = commands.add_parser(
        'report', **kwargs, description=_DESCRIPTION, epilog=_EXAMPLE
    )
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    parser.add_argument(
        '--out',
        metavar='FILE.html',
        help='where to write it; an earlier report there is replaced '
        '(default: report.html in RUN)',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    run = RunFolder(args.folder)
    config = run.read_whole_config()
    out = run.path / 'report.html' if args.out is None else Path(args.out)
    _check_out(out)
    report = gather_run(run, config)
    with replacing(out) as temporary:
        temporary.write_text(render(report), encoding='utf-8')
    for what, command in report.missing:
        how = f'. Get it with: {command}' if command else ''
        print(f'note: {what}{how}', file=sys.stderr)
    print(f'written: {out}')
    return 0


def _check_out(out: Path) -> None:
    """Raises before any work is done."""
    if out.suffix.lower() not in ('.html', '.htm'):
        raise UserError(f"--out requires a name that ends in .html (got '{out}')")
    if out.is_dir():
        raise UserError(f"--out requires a file (got the folder '{out}')")
    if out.is_file():
        with out.open('rb') as file:
            head = file.read(4096)
        if head and GENERATOR.encode() not in head:
            raise UserError(
                f"'{out}' is there already and is no report. Choose another --out"
            )
