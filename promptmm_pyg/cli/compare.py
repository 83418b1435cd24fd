"""``promptmm compare``: runs side by side, on validation."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg.cli.evaluate import evaluate_tables
from promptmm_pyg.cli.machine import bytes_text
from promptmm_pyg.cli.models import build_teacher, load_tables, new_student, reload
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import MODEL, RunFolder, read_json
from promptmm_pyg.cli.tables import interval_text, table
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.data.schema import fingerprint
from promptmm_pyg.evaluation import Evaluation, paired_bootstrap

_DESCRIPTION = """\
Put runs side by side: the settings in which they differ, their validation metrics, and
the size of their models. The first run is what the others are held against: for each of
them, the difference to it with a 95% interval from resampling users, where both rank
the same items for the same users; if they do not, it is said why. Test is not read."""
_EXAMPLE = """\
example:
  promptmm compare runs/tiktok runs/wide
  promptmm compare runs/one runs/two runs/three -k 10"""
_MODELS = ('teacher', 'student', 'control')
_NO_SETTINGS = ('data_sha256', 'format')


class Seen(NamedTuple):
    """What a run holds."""

    name: str
    settings: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    """By model, those of validation."""
    sizes: dict[str, tuple[int | None, int]]
    """By model: trained numbers, bytes of the file."""
    recommender_bytes: int | None
    evaluations: dict[str, Evaluation] | None
    """By model; ``None`` if the data could not be read."""
    why_not: str
    task: tuple[str, Tensor] | None
    """What is asked: a hash of users, items and training, and what is held out."""


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``compare`` to the program."""
    parser = commands.add_parser(
        'compare', **kwargs, description=_DESCRIPTION, epilog=_EXAMPLE
    )
    parser.add_argument(
        'folders', nargs='+', metavar='RUN', help='folders of two or more runs'
    )
    parser.add_argument(
        '-k',
        type=int,
        default=20,
        choices=(10, 20, 50),
        help='length of the lists in the differences (default: 20)',
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison."""
    if len(args.folders) < 2:
        raise UserError(f"two or more runs are needed (got '{args.folders[0]}' only)")
    places = [Path(folder).resolve() for folder in args.folders]
    if len(set(places)) < len(places):
        raise UserError('each run is to be named once')
    runs = [RunFolder(folder) for folder in args.folders]
    configs = [run.read_whole_config() for run in runs]  # Before any work is done.
    seen = [look(run, config) for run, config in zip(runs, configs, strict=True)]
    found = [differences(seen[0], other, args.k) for other in seen[1:]]
    if args.json:
        print(json.dumps(_as_json(seen, found), indent=2))
        return 0
    print(_settings_table(seen))
    print(f'\non validation\n{_metric_table(seen)}')
    for other, one in zip(seen[1:], found, strict=True):
        print(f'\n{other.name} - {seen[0].name}, with 95% intervals')
        print(_difference_text(one))
    print(f'\nsize\n{_size_table(seen)}')
    return 0


def look(run: RunFolder, config: Mapping[str, Any]) -> Seen:
    """Reads a run, and evaluates it on validation if its data are there.

    Args:
        run: Its folder.
        config: Its configuration.
    """
    settings = dict(_flat(config))
    student: dict[str, Any] = {}
    if (run.student / MODEL).is_file():
        student = read_json(run.student / 'config.json')
        settings |= {f'student: {key}': value for key, value in _flat(student)}
    counts: dict[str, int] = {}
    task, why_not, evaluations = None, '', None
    metrics = _written_metrics(run)
    try:
        data = reload(run, dict(config))
        tables = load_tables(run, dict(config), data)
        evaluations = evaluate_tables(tables, data.val)
        metrics = {name: one.metrics for name, one in evaluations.items()}
        task = (fingerprint(data.train), data.val[INTERACTS].edge_label_index)
        models: dict[str, torch.nn.Module] = {
            'teacher': build_teacher(dict(config), data.train)
        }
        if student:
            models |= {'student': new_student(run, data.train)}
            models |= {'control': models['student']}
        counts = {
            name: sum(x.numel() for x in model.parameters() if x.requires_grad)
            for name, model in models.items()
        }
    except (UserError, OSError, ValueError) as error:
        why_not = f"'{run.path}': {' '.join(str(error).split())}"
    places = zip(_MODELS, (run.teacher, run.student, run.control), strict=True)
    files = {name: folder / MODEL for name, folder in places}
    sizes = {
        name: (counts.get(name), file.stat().st_size)
        for name, file in files.items()
        if file.is_file()
    }
    served = [x.stat().st_size for x in run.recommender.rglob('*') if x.is_file()]
    return Seen(
        str(run.path),
        settings,
        {name: metrics[name] for name in _MODELS if name in metrics},
        sizes,
        sum(served) if served else None,
        evaluations,
        why_not,
        task,
    )


def _written_metrics(run: RunFolder) -> dict[str, dict[str, float]]:
    """What training wrote, for runs whose data are gone."""
    places = zip(_MODELS, (run.teacher, run.student, run.control), strict=True)
    files = {name: folder / 'metrics.json' for name, folder in places}
    return {
        name: read_json(file).get('validation', {})
        for name, file in files.items()
        if file.is_file()
    }


def _flat(config: Mapping[str, Any], above: str = '') -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        if above or key not in _NO_SETTINGS:
            if isinstance(value, dict) and value:
                found += _flat(value, f'{above}{key}.')
            else:
                found.append((f'{above}{key}', value))
    return found


def why_incomparable(first: Seen, other: Seen) -> str | None:
    """Why no user can be compared with themselves; ``None`` if all can."""
    for one in (first, other):
        if one.task is None:
            return f'the metrics are those written in training, since {one.why_not}'
    assert first.task is not None
    assert other.task is not None
    if first.task[0] != other.task[0]:
        return (
            f'the runs differ in users, items or training interactions (hash '
            f'{first.task[0][:8]} against {other.task[0][:8]})'
        )
    if not _same_pairs(first.task[1], other.task[1]):
        return 'the runs differ in what is held out for validation'
    return None


def _same_pairs(a: Tensor, b: Tensor) -> bool:
    if a.size() != b.size():
        return False
    return torch.equal(a.unique(dim=1), b.unique(dim=1))


def differences(first: Seen, other: Seen, k: int) -> dict[str, Any] | str:
    """Intervals of ``other - first`` by model and metric, or why there are none."""
    why = why_incomparable(first, other)
    if why is not None:
        return why
    assert first.evaluations is not None
    assert other.evaluations is not None
    shared = [
        name
        for name in _MODELS
        if name in first.evaluations and name in other.evaluations
    ]
    if first.evaluations['teacher'].users.numel() == 0:
        return 'no user has anything held out for validation'
    found: dict[str, Any] = {}
    for name in shared:
        a, b = other.evaluations[name], first.evaluations[name]
        longest = min(k, max(a.ks))  # The whole catalogue, where that is smaller.
        found[name] = {
            metric: paired_bootstrap(values, b.per_user[metric])
            for metric, values in a.per_user.items()
            if metric.endswith(f'@{longest}')
        }
    return found


def _difference_text(found: dict[str, Any] | str) -> str:
    if isinstance(found, str):
        return f'no intervals: {found}'
    lines = []
    for name, by_metric in found.items():
        lines += [
            f'{name:<7}  {metric:<12}  {interval_text(interval)}'
            for metric, interval in by_metric.items()
        ]
    return '\n'.join(lines)


def _settings_table(seen: Sequence[Seen]) -> str:
    names = dict.fromkeys(key for one in seen for key in one.settings)
    rows = []
    for name in names:
        values = [one.settings.get(name, '-') for one in seen]
        if any(value != values[0] for value in values):
            rows.append([name, *(_setting(value) for value in values)])
    if not rows:
        return 'no setting differs'
    return 'settings that differ\n' + table(['', *(one.name for one in seen)], rows)


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _metric_table(seen: Sequence[Seen]) -> str:
    rows: list[list[object]] = []
    for model in _MODELS:
        of_model = [one.metrics.get(model, {}) for one in seen]
        for metric in dict.fromkeys(key for one in of_model for key in one):
            values = [one.get(metric, float('nan')) for one in of_model]
            rows.append([model, metric, *values])
    return table(['model', 'metric', *(one.name for one in seen)], rows)


def _size_table(seen: Sequence[Seen]) -> str:
    rows = []
    for model in _MODELS:
        sizes = [one.sizes.get(model) for one in seen]
        if any(size is not None for size in sizes):
            rows.append([model, *(_size(size) for size in sizes)])
    served = [one.recommender_bytes for one in seen]
    if any(count is not None for count in served):
        texts = ('-' if count is None else bytes_text(count) for count in served)
        rows.append(['recommender', *texts])
    return table(['', *(one.name for one in seen)], rows)


def _size(size: tuple[int | None, int] | None) -> str:
    if size is None:
        return '-'
    count, stored = size
    numbers = '' if count is None else f'{count:,} parameters, '
    return f'{numbers}{bytes_text(stored)}'


def _as_json(seen: Sequence[Seen], found: list[dict[str, Any] | str]) -> dict[str, Any]:
    return {
        'runs': [
            {
                'run': one.name,
                'settings': one.settings,
                'validation': one.metrics,
                'parameters': {name: size[0] for name, size in one.sizes.items()},
                'bytes': {name: size[1] for name, size in one.sizes.items()},
                'recommender_bytes': one.recommender_bytes,
            }
            for one in seen
        ],
        'differences': [
            {
                'of': [other.name, seen[0].name],
                'none_since': one if isinstance(one, str) else None,
                'intervals': {}
                if isinstance(one, str)
                else {
                    model: {metric: vars(x) for metric, x in by_metric.items()}
                    for model, by_metric in one.items()
                },
            }
            for other, one in zip(seen[1:], found, strict=True)
        ],
    }
