"""The numbers of a report, from logs, evaluations and graphs."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    USER,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.evaluation import (
    Evaluation,
    paired_test,
    slice_by_history,
    slice_by_item_popularity,
)
from promptmm_pyg.evaluation.metrics import ACCURACY
from promptmm_pyg.evaluation.slices import slice_by_items
from promptmm_pyg.report.content import (
    Bar,
    Comparison,
    Curve,
    Difference,
    Slice,
    SliceRow,
    Training,
    Trial,
)
from promptmm_pyg.report.headline import MINOR

T = TypeVar('T')
Evaluations = Mapping[str, Evaluation]
Log = list[dict[str, Any]]
_MIN_USERS = 20  # An interval over fewer users is not informative.
_CHUNK = 65_536  # Rows; features may be memory-mapped.
_SPLITS = {'val': 'validation', 'test': 'test'}
_NAMES = {
    'truncated_teacher': 'truncated teacher',
    'low_rank_teacher': 'low-rank teacher',
}
_FIRST = ('student', 'teacher', 'baseline', 'ensemble')


def read_log(path: Path) -> Log:
    """The records of a ``log.jsonl`` without an interrupted last line; empty if there
    is no such file.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get('epoch'), int):
            records.append(record)
    return records


def shared_metric(logs: Mapping[str, Log], preferred: str) -> str:
    """``preferred`` if every validated model has it, else the first common metric;
    empty if there is none.
    """
    keys = [
        list(record['validation'])
        for log in logs.values()
        for record in log
        if record.get('validation')
    ]
    if not keys:
        return ''
    common = [key for key in keys[0] if all(key in other for other in keys)]
    return preferred if preferred in common else next(iter(common), '')


def validation_curve(log: Log, metric: str, best: int | None) -> Curve | None:
    """The finite values of a validation metric, by epoch."""
    validated = [r for r in log if isinstance(r.get('validation'), dict)]
    points = [(r['epoch'], r['validation'].get(metric)) for r in validated]
    return _curve(points, best)


def loss_curve(log: Log, best: int | None) -> Curve | None:
    """The training loss divided by that of the first epoch, since the losses of
    different models are sums of different losses.
    """
    first = log[0].get('loss') if log else None
    if not _finite(first) or first <= 0:  # type: ignore[operator]
        return None
    finite = [r for r in log if _finite(r.get('loss'))]
    return _curve([(r['epoch'], r['loss'] / first) for r in finite], best)


def training(log: Log, best: int | None) -> Training | None:
    """The number of epochs and the median seconds per epoch."""
    seconds = [r['seconds'] for r in log if _finite(r.get('seconds'))]
    return Training(len(log), best, statistics.median(seconds)) if seconds else None


def trials(recorded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The trials in the metrics of a tuned teacher, and their curves.

    Args:
        recorded: The fields of :class:`~promptmm_pyg.tuning.Trial` of each.
    """
    rows = [
        Trial(
            trial['number'] + 1,
            {
                name: value if isinstance(value, str) else f'{value:.4g}'
                for name, value in trial['params'].items()
            },
            trial['value'],
            trial['state'],
            trial['num_epochs'],
            trial['seconds'] or 0.0,
        )
        for trial in recorded
        if trial['state'] != 'running'
    ]
    points = [(row.number, row.value) for row in rows if row.value is not None]
    values = [value for _, value in points]
    best = [(n, max(values[: i + 1])) for i, (n, _) in enumerate(points)]
    if not points:
        return {'trials': rows}
    winner = points[values.index(max(values))][0]
    curves = {'value': _curve(points, winner), 'best so far': _curve(best, None)}
    return {'trials': rows, 'trial_curves': curves}


def _curve(points: Sequence[tuple[int, Any]], best: int | None) -> Curve | None:
    points = [(epoch, value) for epoch, value in points if _finite(value)]
    if not points:
        return None
    epochs, values = zip(*points, strict=True)
    return Curve(epochs, values, best if best in epochs else None)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def drawn_metric(content: Mapping[str, Any], name: str = 'Recall') -> str:
    """Recall at the second cutoff of a recorded evaluation, 20 as a rule."""
    keys = next(iter(content['metrics'].values()))
    ks = sorted({int(key.partition('@')[2]) for key in keys})
    return f'{name}@{ks[min(1, len(ks) - 1)]}'


def agrees(content: Mapping[str, Any], results: Evaluations) -> bool:
    """Whether a recorded evaluation has the metrics of these models, up to rounding.
    Models of only one of the two are ignored.
    """
    for name, result in results.items():
        for key, value in content['metrics'].get(name, {}).items():
            if key.partition('@')[0] not in ACCURACY:  # Not evaluated again.
                continue
            current = result.metrics.get(key, math.nan)
            # Another machine sums in another order, which may swap near ties.
            if value is not None and not abs(value - current) < 1e-3:
                return False
    return True


def _named(models: Mapping[str, T]) -> dict[str, T]:
    """By the names of the page, the main models first."""
    first = [name for name in _FIRST if name in models]
    return {_NAMES.get(x, x): models[x] for x in dict.fromkeys([*first, *models])}


def _pair(text: str) -> str:
    return ' - '.join(_NAMES.get(name, name) for name in text.split(' - '))


def comparison(
    content: Mapping[str, Any], results: Evaluations | None = None
) -> Comparison:
    """A recorded evaluation (``evaluation-val.json`` or ``-test.json``), with an
    interval for each model in ``results``, the same evaluation with values per user.
    """
    metric = drawn_metric(content)
    metrics = _named(content['metrics'])
    bars = {
        name: Bar(values[metric])
        for name, values in metrics.items()
        if values.get(metric) is not None
    }
    for name, result in _named(results or {}).items():
        if name in bars:
            bars[name] = bars[name]._replace(**_interval(result.per_user[metric]))
    reads = content.get('test_reads', [])
    return Comparison(
        split=_SPLITS[content['split']],
        num_users=content['num_users'],
        metric=metric,
        metrics=metrics,
        widths=_named(content.get('embedding_dim', {})),
        bars=bars,
        differences=[
            Difference(_pair(pair), key, Bar(x['difference'], x['low'], x['high']))
            for pair, by_metric in content.get('differences', {}).items()
            for key, x in by_metric.items()
        ],
        num_test_reads=len(reads),
        last_test_read=reads[-1]['time'] if reads else '',
    )


def _interval(values: Tensor) -> dict[str, float]:
    if values.numel() < _MIN_USERS:
        return {}
    result = paired_test(values, torch.zeros_like(values))
    # Metrics are in [0, 1].
    return {'low': max(result.low, 0.0), 'high': min(result.high, 1.0)}


def slices(results: Evaluations, data: HeteroData, metric: str) -> list[Slice]:
    """Evaluations by item popularity, history length and missing modalities; that of
    the served recommender, which treats cold items in its own way, by popularity only.
    """
    main = {n: x for n, x in _named(results).items() if n not in _NAMES.values()}
    popularity = {n: slice_by_item_popularity(x, data) for n, x in main.items()}
    main.pop('served', None)
    history = {n: slice_by_history(x, data) for n, x in main.items()}
    missing = {n: slice_by_missing(x, data) for n, x in main.items()}
    parts = [
        Slice(
            'Cold and rare items',
            'Held-out items by the number of training interactions: 0 are cold, 1-4 '
            'the tail. Lists are those of the whole catalogue.',
            _rows(popularity, metric),
        ),
        Slice(
            'Length of history',
            'Users by the number of training interactions.',
            _rows(history, metric),
        ),
        Slice(
            'Missing modality',
            'Held-out items by missing features: a row that is masked or all zeros. '
            'An item may lack several modalities.',
            _rows(missing, metric),
        ),
    ]
    return parts if len(parts[-1].rows) > 1 else parts[:-1]


def recorded_slices(content: Mapping[str, Any], metric: str) -> list[Slice]:
    """Warm and cold items as an evaluation recorded them, without intervals."""
    rows = []
    for kind in ('warm', 'cold'):
        by_model = _named(content.get('slices', {}))
        parts = {name: x[kind] for name, x in by_model.items() if kind in x}
        if parts:
            users = max(part['num_users'] for part in parts.values())
            values = {name: part.get(metric) for name, part in parts.items()}
            bars = {n: Bar(value) for n, value in values.items() if value is not None}
            rows.append(SliceRow(kind, users, bars))
    caption = 'Held-out items with training interactions (warm) and without (cold).'
    return [Slice('Warm and cold items', caption, rows)] if rows else []


def recorded_groups(content: Mapping[str, Any], metric: str) -> list[Slice]:
    """Groups of users as ``promptmm evaluate --groups`` recorded them."""
    rows: dict[str, SliceRow] = {}
    for model, by_group in _named(content.get('groups', {})).items():
        for name, part in by_group['groups'].items():
            row = rows.setdefault(name, SliceRow(name, part['num_users'], {}))
            if model not in MINOR and metric in part:
                values = part[metric]
                row.bars[model] = Bar(values['mean'], values['low'], values['high'])
    caption = 'Users by the groups that were evaluated.'
    return [Slice('Groups of users', caption, list(rows.values()))] if rows else []


def _rows(parts: Mapping[str, Mapping[str, Evaluation]], metric: str) -> list[SliceRow]:
    rows = []
    for name, first in next(iter(parts.values())).items():
        bars = {}
        for model, by_name in parts.items():
            values = by_name[name].per_user[metric]
            if values.numel():
                bars[model] = Bar(float(values.double().mean()), **_interval(values))
        rows.append(SliceRow(name, first.users.numel(), bars))
    return rows


def missing_rows(data: HeteroData) -> dict[str, Tensor]:
    """Items without a modality ``[num_items]``, bool, by modality: masked ones and
    those with a row of zeros, the convention of published data sets.

    Args:
        data: A graph whose features are raw, not standardized.
    """
    masks = modality_mask_dict(data)
    missing = {}
    for name, x_dict in modality_x_dict(data).items():
        if ITEM in x_dict:
            chunks = x_dict[ITEM].split(_CHUNK)
            present = torch.cat([x.any(dim=-1).cpu() for x in chunks])
            mask = masks.get(name, {}).get(ITEM)
            missing[name] = ~(present if mask is None else present & mask.cpu())
    return missing


def slice_by_missing(evaluation: Evaluation, data: HeteroData) -> dict[str, Evaluation]:
    """The evaluation of the positives whose item has every modality, and per modality
    of those whose item lacks it. Empty groups of items are left out.

    Args:
        evaluation: Result of :func:`~promptmm_pyg.evaluation.evaluate`.
        data: The evaluated graph.
    """
    missing = {name: mask for name, mask in missing_rows(data).items() if mask.any()}
    any_missing = torch.zeros(data.num_nodes_dict[ITEM], dtype=torch.bool)
    for mask in missing.values():
        any_missing |= mask
    groups = {'has every modality': ~any_missing}
    groups |= {f'lacks {name}': mask for name, mask in missing.items()}
    return {
        name: slice_by_items(evaluation, data, group)
        for name, group in groups.items()
        if group.any()
    }


def part_shares(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of each source in the embeddings: its mean norm over the nodes,
    relative to the sum over sources; empty if there is one source.

    Args:
        parts: Rows ``[N, D]`` by source, from
            :meth:`~promptmm_pyg.explain.Explainer.parts`.
    """
    if len(parts) < 2:
        return {}
    norms = {name: float(x.double().norm(dim=-1).mean()) for name, x in parts.items()}
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else {}


def data_facts(train: HeteroData, val: HeteroData) -> dict[str, str]:
    """The sizes of a data set, as text."""
    users, items = train[USER].num_nodes, train[ITEM].num_nodes
    edges = train[INTERACTS].edge_index.size(1)
    facts = {
        'users': f'{users:,}',
        'items': f'{items:,}',
        'training interactions': f'{edges:,}',
        'validation positives': f'{val[INTERACTS].edge_label_index.size(1):,}',
    }
    missing = missing_rows(val)
    for name, x_dict in modality_x_dict(val).items():
        text = ', '.join(f'{x.size(-1):,} numbers per {k}' for k, x in x_dict.items())
        if name in missing and missing[name].any():
            text += f'; missing for {float(missing[name].double().mean()):.1%} of items'
        facts[f'modality {name}'] = text
    return facts


def table_bytes(tables: Mapping[str, Tensor]) -> int:
    """Bytes of the embeddings of users and items in memory."""
    return sum(tables[key].numel() * tables[key].element_size() for key in (USER, ITEM))
