"""The numbers of a report, from evaluations, tables and a recommender."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    USER,
    modality_x_dict,
    num_nodes_dict,
)
from promptmm_pyg.evaluation import (
    Evaluation,
    paired_bootstrap,
    slice_by_history,
    slice_by_item_popularity,
)
from promptmm_pyg.report.content import (
    Bar,
    Comparison,
    Difference,
    Slice,
    SliceRow,
)
from promptmm_pyg.report.item_slices import missing_rows, slice_by_missing

Evaluations = Mapping[str, Evaluation]
_SAMPLES = 1000
_ENOUGH = 20  # Users; resampling fewer says too little of others.
_PARTS = {'val': 'validation', 'test': 'test'}


def drawn_metric(content: Mapping[str, Any], name: str = 'Recall') -> str:
    """Recall at the second cutoff of a written evaluation, 20 as a rule."""
    keys = next(iter(content['metrics'].values()))
    ks = sorted({int(key.partition('@')[2]) for key in keys})
    return f'{name}@{ks[min(1, len(ks) - 1)]}'


def agrees(content: Mapping[str, Any], found: Evaluations) -> bool:
    """Whether a written evaluation is that of these models, and not of earlier ones.

    Args:
        content: What ``evaluation-val.json`` holds.
        found: The same evaluation, made now. Models that only one of them knows are
            not looked at.
    """
    for name, one in found.items():
        for key, value in content['metrics'].get(name, {}).items():
            now = one.metrics.get(key, math.nan)
            # Another machine adds up in another order, which may swap near ties.
            if value is not None and not abs(value - now) < 1e-3:
                return False
    return True


def comparison(
    content: Mapping[str, Any], found: Evaluations | None = None
) -> Comparison:
    """What an evaluation wrote, with an interval for each model that is in ``found``.

    Args:
        content: What ``evaluation-val.json`` or ``evaluation-test.json`` holds.
        found: The same evaluation with the values of every user. (default: none)
    """
    metric = drawn_metric(content)
    bars = {
        name: Bar(values[metric])
        for name, values in content['metrics'].items()
        if values.get(metric) is not None
    }
    for name, one in (found or {}).items():
        if name in bars:
            # The value stays the one that was written.
            bars[name] = bars[name]._replace(**_interval(one.per_user[metric]))
    readings = content.get('readings', [])
    return Comparison(
        part=_PARTS[content['on']],
        num_users=content['num_users'],
        metric=metric,
        metrics=content['metrics'],
        widths=content.get('width', {}),
        bars=bars,
        differences=[
            Difference(pair, key, Bar(x['difference'], x['low'], x['high']))
            for pair, by_metric in content.get('differences', {}).items()
            for key, x in by_metric.items()
        ],
        num_readings=len(readings),
        last_reading=readings[-1]['time'] if readings else '',
    )


def _interval(values: Tensor) -> dict[str, float]:
    if values.numel() < _ENOUGH:
        return {}
    found = paired_bootstrap(values, torch.zeros_like(values), num_samples=_SAMPLES)
    return {'low': found.low, 'high': found.high}


def slices(found: Evaluations, data: HeteroData, metric: str) -> list[Slice]:
    """Evaluations by popularity of items, missing modalities and history of users."""
    popularity = {name: slice_by_item_popularity(x, data) for name, x in found.items()}
    history = {name: slice_by_history(x, data) for name, x in found.items()}
    result = [
        Slice(
            'Cold and rare items',
            'Held-out items by the number of users who took them in training: 0 are '
            'cold, 1-4 the tail. Lists are those of the whole catalogue.',
            _rows(popularity, metric),
        ),
        Slice(
            'Length of history',
            'Users by the number of items they took in training.',
            _rows(history, metric),
        ),
    ]
    missing = {name: slice_by_missing(one, data) for name, one in found.items()}
    rows = _rows(missing, metric)
    if len(rows) > 1:
        caption = (
            'Held-out items by what they lack: a row of features that is masked, or '
            'all zeros. An item may lack several.'
        )
        result.append(Slice('Missing modality', caption, rows))
    return result


def written_slices(content: Mapping[str, Any], metric: str) -> list[Slice]:
    """Warm and cold items as an evaluation wrote them, without intervals."""
    rows = []
    by_model = content.get('slices', {})
    for kind in ('warm', 'cold'):
        parts = {name: x[kind] for name, x in by_model.items() if kind in x}
        bars = {
            name: Bar(part[metric])
            for name, part in parts.items()
            if part.get(metric) is not None
        }
        if parts:
            users = max(part['num_users'] for part in parts.values())
            rows.append(SliceRow(kind, users, bars))
    caption = 'Held-out items that were seen in training (warm) or not (cold).'
    return [Slice('Warm and cold items', caption, rows)] if rows else []


def _rows(parts: Mapping[str, Mapping[str, Evaluation]], metric: str) -> list[SliceRow]:
    first = next(iter(parts.values()))
    rows = []
    for name, one in first.items():
        bars = {}
        for model, by_name in parts.items():
            values = by_name[name].per_user[metric]
            if values.numel():
                bars[model] = Bar(float(values.double().mean()), **_interval(values))
        rows.append(SliceRow(name, one.users.numel(), bars))
    return rows


def part_shares(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """How much of the embeddings each source makes up: its mean norm over the nodes,
    relative to the sum over sources.

    Args:
        parts: Rows ``[N, D]`` by source, as
            :meth:`~promptmm_pyg.explain.Explainer.parts` gives them.
    """
    norms = {name: float(x.double().norm(dim=-1).mean()) for name, x in parts.items()}
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else {}


def data_facts(train: HeteroData, val: HeteroData) -> dict[str, str]:
    """The sizes of a data set, in words."""
    users, items = num_nodes_dict(train).values()
    edges = train[INTERACTS].edge_index.size(1)
    facts = {
        'users': f'{users:,}',
        'items': f'{items:,}',
        'interactions for training': f'{edges:,}',
        'held out for validation': f'{val[INTERACTS].edge_label_index.size(1):,}',
    }
    gaps = missing_rows(val)
    for name, x_of in modality_x_dict(val).items():
        text = ', '.join(f'{x.size(-1):,} numbers per {key}' for key, x in x_of.items())
        if name in gaps:
            text += f'; {float(gaps[name].double().mean()):.1%} of items lack it'
        facts[f'modality {name}'] = text
    return facts


def table_bytes(tables: Mapping[str, Tensor]) -> int:
    """What the embeddings of users and items take in memory."""
    return sum(tables[key].numel() * tables[key].element_size() for key in (USER, ITEM))
