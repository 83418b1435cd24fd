"""Times of alternatives that take turns in one process."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.benchmark.registry import build, split_params
from promptmm_pyg.benchmark.runner import Bench
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.distillation import truncate_embeddings
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.serving import Recommender

Times = dict[str, dict[str, float]]
SERVED_USERS = (1, 1024)  # Per request.
TRUNCATED_TEACHER = 'truncated teacher, cached'


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Median and range in milliseconds. All alternatives take turns, so that changes of
    the machine's speed affect all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # The first turn warms up.
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: {
            'median_ms': statistics.median(values),
            'min_ms': min(values),
            'max_ms': max(values),
        }
        for name, values in times.items()
    }


def serving_costs(
    bench: Bench, student: str, teacher: str, widths: tuple[int, ...], repeats: int
) -> list[dict[str, Any]]:
    """Size, refresh time and serving time of a student's embeddings and of a teacher's,
    truncated to the same width. The models are not trained, which changes no time.
    """
    train = bench.train
    teacher_model = build(teacher, train, model_arguments(bench, teacher))
    inputs = (normalized_adj_dict(train),)
    refresh: dict[str, Callable[[], dict[str, Tensor]]] = {}
    rows = {}
    for width in widths:
        model = build(student, train, {'embedding_dim': width})
        for name, module, run in (
            (student, model, partial(get_embeddings, model, inputs)),
            (
                TRUNCATED_TEACHER,
                teacher_model,
                partial(_truncated, teacher_model, inputs, width),
            ),
        ):
            refresh[f'{name} {width}'] = run
            size = sum(p.numel() for p in module.parameters() if p.requires_grad)
            rows[f'{name} {width}'] = {
                'name': name,
                'width': width,
                'parameters': size,
            }
    tables = {key: run() for key, run in refresh.items()}
    for key, x_dict in tables.items():
        rows[key]['bytes'] = sum(x.numel() * x.element_size() for x in x_dict.values())
    times = {'refresh': interleaved(refresh, repeats)}
    for num_users in SERVED_USERS:
        runs = {key: _recommend(bench, x, num_users) for key, x in tables.items()}
        times[f'serve_{num_users}'] = interleaved(runs, repeats)
    return [
        {**row, **{name: values[key] for name, values in times.items()}}
        for key, row in rows.items()
    ]


def model_arguments(bench: Bench, model: str) -> dict[str, Any]:
    """The constructor's arguments of a model of the data set."""
    return split_params(model, bench.dataset.models[model]).arguments


def _truncated(
    teacher: torch.nn.Module, inputs: tuple[Any, ...], width: int
) -> dict[str, Tensor]:
    return truncate_embeddings(get_embeddings(teacher, inputs), width)


def _recommend(
    bench: Bench, x_dict: dict[str, Tensor], num_users: int
) -> Callable[[], object]:
    sizes = {key: x.size(0) for key, x in x_dict.items()}
    recommender = Recommender(
        x_dict[USER],
        x_dict[ITEM],
        user_ids=list(range(sizes[USER])),
        item_ids=list(range(sizes[ITEM])),
        seen=bench.train[INTERACTS].edge_index,
    )
    users = list(range(min(num_users, sizes[USER])))
    return partial(recommender.recommend, users, k=min(20, sizes[ITEM]))
