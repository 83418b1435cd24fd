"""``promptmm evaluate``: teacher, student and control side by side."""

import argparse
import datetime
import math
import sys
from collections.abc import Mapping
from typing import Any

from torch_geometric.data import HeteroData

from promptmm_pyg.cli.models import Tables, load_tables, reload
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import RunFolder, read_json, write_json
from promptmm_pyg.cli.tables import interval_text, table
from promptmm_pyg.data import INTERACTS, ITEM
from promptmm_pyg.evaluation import (
    Evaluation,
    Interval,
    evaluate,
    paired_bootstrap,
    slice_by_cold_start,
)

_DESCRIPTION = """\
Rank all items for every user with something held out (training items left out) and
print Recall, NDCG, Precision, HitRatio, MRR and MAP at 10, 20 and 50 for the teacher,
the student, the control (the student without a teacher) and, as 'copied', the
teacher's embeddings cut to the student's width without any training.

Below: 95% intervals of differences, from resampling users; and the metrics for warm
items (with training interactions) and cold ones (without).

Choose everything on validation, the default. Test is to be read once, at the very
end: each reading is recorded in evaluation-test.json."""
_EXAMPLE = """\
example:
  promptmm evaluate runs/tiktok
  promptmm evaluate runs/tiktok --on test"""
KS = (10, 20, 50)
_PAIRS = (('student', 'control'), ('student', 'copied'), ('teacher', 'student'))
_COMPARED = ('Recall@20', 'NDCG@20')


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``evaluate`` to the program."""
    parser = commands.add_parser(
        'evaluate', **kwargs, description=_DESCRIPTION, epilog=_EXAMPLE
    )
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    parser.add_argument(
        '--on',
        choices=('val', 'test'),
        default='val',
        help='which held-out interactions (default: val)',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison and writes it to the run."""
    run = RunFolder(args.folder)
    config = run.read_whole_config()
    data = reload(run, config)
    graph = getattr(data, args.on)
    if graph[INTERACTS].edge_label_index.size(1) == 0:
        raise UserError(f"the data hold no interactions for '{args.on}'")
    tables = load_tables(run, config, data)
    found = evaluate_tables(tables, graph)
    file = record(run, args.on, tables, found, graph)
    print(_head(args.on, found))
    print(metric_table(found, tables))
    for line in comparisons(found, _PAIRS):
        print(line)
    print(_slice_table(found, graph))
    print(f'\nwritten to {file}')
    return 0


def evaluate_tables(
    tables: Mapping[str, Tables], graph: HeteroData
) -> dict[str, Evaluation]:
    """The evaluation of each model's embeddings, by name."""
    num_items = int(graph[ITEM].num_nodes)
    ks = sorted({min(k, num_items) for k in KS})
    return {name: evaluate(x, graph, ks=ks) for name, x in tables.items()}


def compare(
    found: Mapping[str, Evaluation], pair: tuple[str, str], metric: str
) -> Interval:
    """The mean difference of two models over users, with its interval."""
    a, b = (found[name].per_user[metric] for name in pair)
    return paired_bootstrap(a, b)


def comparisons(
    found: Mapping[str, Evaluation], pairs: tuple[tuple[str, str], ...]
) -> list[str]:
    """A line for each pair and metric that is there."""
    present = [pair for pair in pairs if set(pair) <= set(found)]
    if not present:
        return []
    width = max(len(f'{a} - {b}') for a, b in present)
    lines = ['\ndifferences with 95% intervals']
    for a, b in present:
        for metric in _compared(found):
            text = interval_text(compare(found, (a, b), metric))
            lines.append(f'{f"{a} - {b}":<{width}}  {metric:<9}  {text}')
    return lines


def _compared(found: Mapping[str, Evaluation]) -> list[str]:
    """Recall and NDCG at 20, or at the whole catalogue where that is smaller."""
    ks = next(iter(found.values())).ks
    k = ks[min(1, len(ks) - 1)]
    return [f'{name.partition("@")[0]}@{k}' for name in _COMPARED]


def record(
    run: RunFolder,
    part: str,
    tables: Mapping[str, Tables],
    found: Mapping[str, Evaluation],
    graph: HeteroData,
) -> Any:
    """Writes all numbers, with the moment of this and every earlier reading."""
    file = run.evaluation(part)
    readings = read_json(file).get('readings', []) if file.is_file() else []
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    if part == 'test':
        print(
            'note: this reads test, which should be read once, when all choices are '
            f'made; it was read {len(readings)} times before',
            file=sys.stderr,
        )
    content = {
        'on': part,
        'num_users': int(next(iter(found.values())).users.numel()),
        'width': {name: x[ITEM].size(1) for name, x in tables.items()},
        'metrics': {name: _plain(one.metrics) for name, one in found.items()},
        'differences': {
            f'{a} - {b}': {
                metric: vars(compare(found, (a, b), metric))
                for metric in _compared(found)
            }
            for a, b in _PAIRS
            if {a, b} <= set(found)
        },
        'slices': {
            name: {
                key: {'num_users': part.users.numel(), **_plain(part.metrics)}
                for key, part in slice_by_cold_start(one, graph).items()
            }
            for name, one in found.items()
        },
        'readings': [*readings, {'time': now, 'models': sorted(found)}],
    }
    write_json(file, content)
    return file


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {key: None if math.isnan(x) else x for key, x in metrics.items()}


def _head(part: str, found: Mapping[str, Evaluation]) -> str:
    one = next(iter(found.values()))
    name = {'val': 'validation', 'test': 'test'}[part]
    return f'on {name}: {one.users.numel()} users, {one.num_items} items\n'


def metric_table(found: Mapping[str, Evaluation], tables: Mapping[str, Tables]) -> str:
    """A row for each metric and cutoff, a column for each model."""
    metrics = {name: one.metrics for name, one in found.items()}
    rows: list[list[object]] = [['width', *(x[ITEM].size(1) for x in tables.values())]]
    keys = next(iter(metrics.values()))
    rows += [[key, *(values[key] for values in metrics.values())] for key in keys]
    return table(['', *found], rows)


def _slice_table(found: Mapping[str, Evaluation], graph: HeteroData) -> str:
    slices = {name: slice_by_cold_start(one, graph) for name, one in found.items()}
    rows: list[list[object]] = []
    for kind in ('warm', 'cold'):
        users = next(iter(slices.values()))[kind].users.numel()
        for metric in _compared(found):
            values = [parts[kind].metrics[metric] for parts in slices.values()]
            rows.append([kind, users, metric, *values])
    return '\nby item\n' + table(['items', 'users', 'metric', *found], rows)
