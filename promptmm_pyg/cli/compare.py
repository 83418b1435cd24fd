"""``promptmm compare``: runs side by side, on validation."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg.cli.evaluate import ONE_TRAINING, format_table, interval_text
from promptmm_pyg.cli.parsing import UserError, add_flags, print_json
from promptmm_pyg.cli.system import bytes_text
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.data.schema import fingerprint
from promptmm_pyg.evaluation import Evaluation, paired_test
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.evaluation import evaluate_embeddings, scorers_of
from promptmm_pyg.runs.folder import MODEL
from promptmm_pyg.runs.run import build_model

DESCRIPTION = """\
Show runs side by side: the settings in which they differ, their validation metrics, and
the size of their models. Every other run is compared with the first one: differences
with 95% intervals, if both runs rank the same items for the same users; if they do not,
the reason. Runs that differ in nothing but the training seed are one model, and only
then the intervals include training noise (five seeds each are recommended); else they
are valid for these trained models only. Test is not read.

--json prints one object: runs, a list of run, settings, validation (by model and
metric), parameters, bytes (by model) and recommender_bytes; and differences, a list of
of (the runs of both models), no_intervals_because (or null) and intervals (by model and
metric: difference, low, high, confidence, p_value, num_seeds)."""
EXAMPLE = """\
example:
  promptmm compare runs/tiktok runs/wide
  promptmm compare runs/one runs/two runs/three -k 10
  promptmm compare runs/mf-seed* runs/lightgcn-seed*
  promptmm compare runs/one runs/two --json > runs.json"""
_MODELS = ('teacher', 'student', 'baseline')
_SEEDS = ('train.seed', 'student: train.seed')


class Summary(NamedTuple):
    """The settings, metrics and sizes of a run."""

    name: str
    settings: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    """Validation metrics by model."""
    sizes: dict[str, tuple[int | None, int]]
    """Trained parameters and bytes on disk, by model."""
    recommender_bytes: int | None
    evaluations: dict[str, Evaluation] | None
    """By model; ``None`` if the data could not be read."""
    error: str
    """Why the data could not be read."""
    task: tuple[str, Tensor] | None
    """A hash of users, items and training interactions, and the held-out ones."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument(
        'folders', nargs='+', metavar='RUN', help='folders of two or more runs'
    )
    parser.add_argument(
        '-k',
        type=int,
        default=20,
        choices=(10, 20, 50),
        help='cutoff of the metrics in the differences (default: 20)',
    )
    add_flags(parser, '--json  print JSON')


def run(args: argparse.Namespace) -> int:
    """Prints the comparison."""
    if len(args.folders) < 2:
        raise UserError(f"two or more runs are required (got '{args.folders[0]}' only)")
    paths = [Path(folder).resolve() for folder in args.folders]
    if len(set(paths)) < len(paths):
        raise UserError('each run must be named once')
    runs = [Run.open(folder) for folder in args.folders]  # All, before any work.
    summaries = [load_summary(run) for run in runs]
    first, *others = group_by_seed(summaries)
    results = [differences(first, other, args.k) for other in others]
    if args.json:
        print_json(_as_json(summaries, first, others, results))
        return 0
    print(_settings_table(summaries))
    print(f'\nvalidation\n{_metric_table(summaries)}')
    for other, result in zip(others, results, strict=True):
        print(f'\n{_group_name(other)} - {_group_name(first)}, with 95% intervals')
        print(_difference_text(result))
    print(f'\nsize\n{_size_table(summaries)}')
    return 0


def load_summary(run: Run) -> Summary:
    """Reads a run, and evaluates it on validation if its data can be read."""
    config = {k: x for k, x in run.config.items() if k not in ('data_sha256', 'format')}
    settings = dict(flatten(config))
    if run.has('student'):
        student = flatten(run.student_config)
        settings |= {f'student: {key}': value for key, value in student}
    counts: dict[str, int] = {}
    task, error, evaluations = None, '', None
    metrics = {name: run.metrics(name).get('validation', {}) for name in _MODELS}
    try:
        scorers = scorers_of(run, run.embeddings())
        evaluations = evaluate_embeddings(scorers, run.data.val)
        metrics = {name: result.metrics for name, result in evaluations.items()}
        held_out = run.data.val[INTERACTS].edge_label_index
        task = (fingerprint(run.data.train), held_out)
        counts = count_parameters(run)
    except (OSError, ValueError) as caught:
        error = f"'{run.path}': {' '.join(str(caught).split())}"
    files = {name: folder / MODEL for name, folder in run.folders().items()}
    return Summary(
        str(run.path),
        settings,
        {name: metrics[name] for name in _MODELS if metrics.get(name)},
        {
            name: (counts.get(name), files[name].stat().st_size)
            for name in _MODELS
            if files[name].is_file()
        },
        recommender_bytes(run),
        evaluations,
        error,
        task,
    )


def count_parameters(run: Run) -> dict[str, int]:
    """The number of trained parameters of each model; none for one in closed form."""
    models: dict[str, Any] = {
        'teacher': build_model(run.config, 'teacher', run.data.train)
    }
    if run.has('student'):
        models['student'] = models['baseline'] = run.new_student()
    return {
        name: sum(x.numel() for x in model.parameters() if x.requires_grad)
        for name, model in models.items()
        if isinstance(model, torch.nn.Module)
    }


def recommender_bytes(run: Run) -> int | None:
    """The size of the recommender on disk; ``None`` without one."""
    files = [x for x in run.recommender_dir.rglob('*') if x.is_file()]
    return sum(x.stat().st_size for x in files) or None


def flatten(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """The settings in nested dictionaries, by name."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def setting_text(value: Any) -> str:
    """A setting as text."""
    return value if isinstance(value, str) else json.dumps(value)


def reason_incomparable(first: Summary, other: Summary) -> str | None:
    """Why users cannot be paired between two runs; ``None`` if they can."""
    for summary in (first, other):
        if summary.task is None:
            return f'the metrics are those of training, since {summary.error}'
    assert first.task is not None
    assert other.task is not None
    if first.task[0] != other.task[0]:
        return (
            f'the runs differ in users, items or training interactions (hash '
            f'{first.task[0][:8]} and {other.task[0][:8]})'
        )
    a, b = first.task[1], other.task[1]
    if a.size() != b.size() or not torch.equal(a.unique(dim=1), b.unique(dim=1)):
        return 'the runs differ in the interactions held out for validation'
    return None


def group_by_seed(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """Runs that differ in their seeds alone, together. If that is all of them, each
    is a group of its own.
    """
    groups: dict[str, list[Summary]] = {}
    used = set()
    for summary in summaries:
        settings = {k: x for k, x in summary.settings.items() if k not in _SEEDS}
        seeds = [summary.settings.get(key) for key in _SEEDS]
        key = json.dumps(settings, sort_keys=True)
        while (key, str(seeds)) in used:  # The same training once more.
            key += ' '
        used.add((key, str(seeds)))
        groups.setdefault(key, []).append(summary)
    return list(groups.values()) if len(groups) > 1 else [[x] for x in summaries]


def differences(
    first: Sequence[Summary], other: Sequence[Summary], k: int
) -> dict[str, Any] | str:
    """Intervals of ``other - first`` by model and metric, or why there are none.

    Args:
        first: A model, with one run per seed.
        other: The other model, with one run per seed.
        k: Cutoff of the metrics.
    """
    for summary in [*first, *other]:
        reason = reason_incomparable(first[0], summary)
        if reason is not None:
            return reason
    a, b = ([x.evaluations or {} for x in group] for group in (other, first))
    if b[0]['teacher'].users.numel() == 0:
        return 'no user has interactions held out for validation'
    intervals: dict[str, Any] = {}
    for name in _MODELS:
        if name in a[0] and name in b[0]:
            cutoff = min(k, max(a[0][name].ks))  # The catalogue, where smaller.
            intervals[name] = {
                metric: paired_test(
                    *([x[name].per_user[metric] for x in runs] for runs in (a, b))
                )
                for metric in a[0][name].per_user
                if metric.endswith(f'@{cutoff}')
            }
    return intervals


def _group_name(group: Sequence[Summary]) -> str:
    more = f' ({len(group)} seeds)' if len(group) > 1 else ''
    return f'{group[0].name}{more}'


def _difference_text(result: dict[str, Any] | str) -> str:
    if isinstance(result, str):
        return f'no intervals: {result}'
    tests = [test for by_metric in result.values() for test in by_metric.values()]
    lines = [
        f'{name:<8}  {metric:<12}  {interval_text(interval)}'
        for name, by_metric in result.items()
        for metric, interval in by_metric.items()
    ]
    if not any(test.includes_training_noise for test in tests):
        lines.append(ONE_TRAINING)
    return '\n'.join(lines)


def _settings_table(summaries: Sequence[Summary]) -> str:
    names = dict.fromkeys(key for summary in summaries for key in summary.settings)
    rows = []
    for name in names:
        values = [summary.settings.get(name, '-') for summary in summaries]
        if any(value != values[0] for value in values):
            rows.append([name, *(setting_text(value) for value in values)])
    if not rows:
        return 'no setting differs'
    head = ['', *(summary.name for summary in summaries)]
    return f'settings that differ\n{format_table(head, rows)}'


def _metric_table(summaries: Sequence[Summary]) -> str:
    rows: list[list[object]] = []
    for model in _MODELS:
        metrics = [summary.metrics.get(model, {}) for summary in summaries]
        for metric in dict.fromkeys(key for values in metrics for key in values):
            values = [x.get(metric, float('nan')) for x in metrics]
            rows.append([model, metric, *values])
    head = ['model', 'metric', *(summary.name for summary in summaries)]
    return format_table(head, rows)


def _size_table(summaries: Sequence[Summary]) -> str:
    rows = []
    for model in _MODELS:
        sizes = [summary.sizes.get(model) for summary in summaries]
        if any(size is not None for size in sizes):
            rows.append([model, *(_size_text(size) for size in sizes)])
    served = [summary.recommender_bytes for summary in summaries]
    if any(count is not None for count in served):
        texts = ('-' if count is None else bytes_text(count) for count in served)
        rows.append(['recommender', *texts])
    return format_table(['', *(summary.name for summary in summaries)], rows)


def _size_text(size: tuple[int | None, int] | None) -> str:
    if size is None:
        return '-'
    count = '' if size[0] is None else f'{size[0]:,} parameters, '
    return f'{count}{bytes_text(size[1])}'


def _as_json(
    summaries: Sequence[Summary],
    first: Sequence[Summary],
    others: Sequence[Sequence[Summary]],
    results: Sequence[dict[str, Any] | str],
) -> dict[str, Any]:
    runs = [
        {
            'run': summary.name,
            'settings': summary.settings,
            'validation': summary.metrics,
            'parameters': {name: size[0] for name, size in summary.sizes.items()},
            'bytes': {name: size[1] for name, size in summary.sizes.items()},
            'recommender_bytes': summary.recommender_bytes,
        }
        for summary in summaries
    ]
    differences: list[dict[str, Any]] = []
    for other, result in zip(others, results, strict=True):
        names = [[summary.name for summary in group] for group in (other, first)]
        entry: dict[str, Any] = {'of': names}
        entry |= {'no_intervals_because': None, 'intervals': {}}
        if isinstance(result, str):
            entry['no_intervals_because'] = result
        else:
            entry['intervals'] = {
                model: {metric: x.to_dict() for metric, x in by_metric.items()}
                for model, by_metric in result.items()
            }
        differences.append(entry)
    return {'runs': runs, 'differences': differences}
