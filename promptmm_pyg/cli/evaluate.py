"""``promptmm evaluate``: all models of a run side by side; tables as text."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch_geometric.data import HeteroData

from promptmm_pyg.cli.parsing import UserError, add_flags, print_json, printable
from promptmm_pyg.evaluation import (
    ALL_METRICS,
    Evaluation,
    PairedTest,
    paired_test,
    slice_by_cold_start,
)
from promptmm_pyg.evaluation.metrics import ACCURACY
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.evaluation import PAIRS, compared_metrics, read_groups
from promptmm_pyg.runs.folder import read_json

DESCRIPTION = """\
Rank all items for every user with held-out interactions (training items left out) and
print Recall, NDCG, Precision, HitRatio, MRR and MAP at 10, 20 and 50 for the teacher,
the student, the baseline (the student without distillation) and the truncated teacher
(the teacher's embeddings at the student's width by SVD, without training).

Below: 95% intervals of differences over users; they are valid for these trained models
and do not include training noise. Then the metrics for warm items (with training
interactions) and cold ones (without).

Make all choices on validation, the default. Test should be read once, at the end: each
evaluation on it is recorded in evaluation-test.json.

--json prints one object: split, num_users, num_items, file (where it is recorded),
embedding_dim (by model), metrics (by model and metric), differences (by pair and
metric: difference, low, high, confidence, p_value), slices (by model, warm and cold),
groups (with --groups), baseline_tuned (null without a baseline) and, for test,
test_reads."""
EXAMPLE = """\
example:
  promptmm evaluate runs/tiktok
  promptmm evaluate runs/tiktok --eval-split test
  promptmm evaluate runs/tiktok --metrics Coverage Gini Novelty Diversity
  promptmm evaluate runs/tiktok --groups users.csv:gender
  promptmm evaluate runs/tiktok --json > metrics.json"""
ONE_TRAINING = (
    'one training each: training noise is not included. Train with several seeds, see '
    'promptmm compare --help'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    parser.add_argument(
        '--eval-split',
        choices=('val', 'test'),
        default='val',
        help='which held-out interactions (default: val)',
    )
    add_flags(
        parser,
        f"""
--metrics NAME...  beside Recall and NDCG, at 10, 20 and 50:
  {', '.join(ALL_METRICS[2:])} (default: {' '.join(ACCURACY[2:])})
--groups FILE:COLUMN  also print metrics per group of users, with intervals and the
  largest gap: a table with user ids and this column
--json  print JSON""",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the comparison and writes it to the run."""
    run = Run.open(args.folder)
    if not os.access(run.path, os.W_OK):
        name = run.evaluation_file(args.eval_split).name
        raise UserError(
            f"'{run.path}' must be writable, since its {name} is written (got a "
            f'read-only folder). Copy the run, or change its permissions'
        )
    options: dict[str, Any] = {}
    if args.metrics:
        options['metrics'] = args.metrics
    if args.groups is not None:
        options['groups'] = _groups(run, args.groups)
    results = run.evaluate(args.eval_split, **options)
    graph = getattr(run.data, args.eval_split)
    first = next(iter(results.values()))
    file = run.evaluation_file(args.eval_split)
    recorded = read_json(file)
    tuned = None
    if 'baseline' in results:
        tuned = bool(run.metrics('baseline').get('tuned'))
    if args.json:
        facts = {'num_items': first.num_items, 'file': str(file)}
        print_json({**recorded, **facts, 'baseline_tuned': tuned})
        return 0
    name = {'val': 'validation', 'test': 'test'}[args.eval_split]
    print(f'{name}: {first.users.numel()} users, {first.num_items} items\n')
    print(metric_table(results, recorded['embedding_dim']))
    print('\n'.join(difference_lines(results, PAIRS)))
    if tuned is False:
        print('baseline: not tuned, see promptmm distill --tune')
    print(_slice_table(results, graph))
    if args.groups is not None:
        print('\n'.join(group_lines(recorded['groups'], args.groups)))
    print(f'\nwritten to {file}')
    return 0


def _groups(run: Run, text: str) -> list[str]:
    path, _, column = text.rpartition(':')
    if not path or not column:
        raise UserError(f"--groups must be FILE:COLUMN (got '{text}')")
    user = run.config['data'].get('user')
    return read_groups(path, column, run.data.val, user)


def group_lines(by_model: Mapping[str, Any], title: str) -> list[str]:
    """The metrics of each group of users by model, and the largest gaps."""
    first = next(iter(by_model.values()))
    rows: list[list[object]] = []
    for group, values in first['groups'].items():
        for metric in first['largest_gap']:
            parts = [x['groups'][group][metric] for x in by_model.values()]
            cells = [f'{x["mean"]:.4f} {_ends(x)}' for x in parts]
            rows.append([group, values['num_users'], metric, *cells])
    head = ['group', 'users', 'metric', *by_model]
    lines = [f'\nby group of users ({title}), with 95% intervals']
    lines += [format_table(head, rows), 'largest gaps, corrected for all pairs']
    for model, values in by_model.items():
        for metric, gap in values['largest_gap'].items():
            if gap is None:
                continue
            text = 'significant' if gap['p_value'] < 0.05 else 'not significant'
            lines.append(
                f'{model}  {metric}  {gap["high_group"]} - {gap["low_group"]}  '
                f'{gap["difference"]:+.4f}  {_ends(gap)}  {text}'
            )
    return lines


def _ends(values: Mapping[str, Any]) -> str:
    """An interval; one of a single user has no ends."""
    low, high = values['low'], values['high']
    return '' if low is None else f'[{low:.4f}, {high:.4f}]'


def difference_lines(
    results: Mapping[str, Evaluation], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """One line per pair of evaluated models and metric."""
    pairs = [pair for pair in pairs if set(pair) <= set(results)]
    if not pairs:
        return []
    width = max(len(f'{a} - {b}') for a, b in pairs)
    lines = ['\ndifferences with 95% intervals']
    for a, b in pairs:
        for metric in compared_metrics(results):
            interval = paired_test(
                results[a].per_user[metric], results[b].per_user[metric]
            )
            name = f'{a} - {b}'
            lines.append(f'{name:<{width}}  {metric:<9}  {interval_text(interval)}')
    return [*lines, ONE_TRAINING]


def metric_table(results: Mapping[str, Evaluation], dims: Mapping[str, int]) -> str:
    """One row per metric and cutoff, one column per model."""
    rows: list[list[object]] = [['embedding dim', *(dims[name] for name in results)]]
    keys = next(iter(results.values())).metrics
    rows += [[key, *(x.metrics[key] for x in results.values())] for key in keys]
    return format_table(['', *results], rows)


def _slice_table(results: Mapping[str, Evaluation], graph: HeteroData) -> str:
    slices = {name: slice_by_cold_start(x, graph) for name, x in results.items()}
    rows: list[list[object]] = []
    for kind in ('warm', 'cold'):
        users = next(iter(slices.values()))[kind].users.numel()
        for metric in compared_metrics(results):
            values = [parts[kind].metrics[metric] for parts in slices.values()]
            rows.append([kind, users, metric, *values])
    head = ['items', 'users', 'metric', *results]
    return f'\nby item\n{format_table(head, rows)}'


def format_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: text to the left, numbers to the right with four places.

    Example:
        >>> print(format_table(['model', 'Recall@20'], [['student', 0.25]]))
        model    Recall@20
        student     0.2500
    """
    cells = [
        [printable(name) for name in head],
        *([_cell(value) for value in row] for row in rows),
    ]
    columns = range(len(head))
    widths = [max(len(row[column]) for row in cells) for column in columns]
    numeric = [
        all(isinstance(row[column], int | float | None) for row in rows)
        for column in columns
    ]
    lines = []
    for row in cells:
        aligned = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ]
        lines.append('  '.join(aligned).rstrip())
    return '\n'.join(lines)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '-'
    return f'{value:.4f}' if isinstance(value, float) else printable(str(value))


def interval_text(interval: PairedTest) -> str:
    """A difference with its interval, and whether it is significant."""
    text = 'significant' if interval.significant else 'no significant difference'
    difference = f'{interval.difference:+.4f}'
    return f'{difference}  [{interval.low:+.4f}, {interval.high:+.4f}]  {text}'
