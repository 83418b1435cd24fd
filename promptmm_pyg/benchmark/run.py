"""Runs the benchmark of a configuration, each entry in a process of its own."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptmm_pyg._files import replacing
from promptmm_pyg._progress import Progress
from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset
from promptmm_pyg.benchmark.experiments import (
    make_experiment,
)
from promptmm_pyg.benchmark.result import (
    commit,
    data_sha256,
    result_path,
    versions,
    write_result,
)
from promptmm_pyg.benchmark.runner import Bench


def run_benchmark(
    config: BenchmarkConfig,
    *,
    out: str | Path = 'benchmarks/results',
    work: str | Path = 'runs/benchmarks',
    jobs: int = 1,
    device: str = 'cpu',
) -> list[Path]:
    """Runs a benchmark on each of its data sets and writes a result file for each.

    Args:
        config: From :func:`~promptmm_pyg.benchmark.load_config`.
        out: Folder of the results.
        work: Folder of the cache: an interrupted benchmark continues from it, and
            benchmarks share it.
        jobs: Entries trained side by side, each in a process of its own; with 0 all run
            in this process, whose peak memory then includes earlier models.
        device: Where models are trained.

    Raises:
        ValueError: If an option of the kind is unknown or does not fit.
    """
    out, work = Path(out), Path(work)
    experiment = make_experiment(config)
    for dataset in config.datasets:
        experiment.check(dataset, out)
    paths = []
    for dataset in config.datasets:
        bench = experiment.bench(dataset, config.seeds, work, device)
        if jobs > 0 and bench is not None:
            _fill_cache(config, dataset, experiment.entries(bench), bench, jobs)
        result = {
            'kind': config.kind,
            'name': config.name,
            'dataset': dataset.name,
            'seeds': list(config.seeds),
            **experiment.run(bench, dataset, out),
        }
        code = Path(sys.modules[type(experiment).__module__].__file__ or '').parent
        if (current := commit(code)) is not None:
            result['commit'] = current
        if bench is not None:
            result['data_sha256'] = data_sha256(bench.split)
            result['test_reads'] = max(bench.test_reads.values(), default=0)
            result['threads'] = torch.get_num_threads()
        result['versions'] = versions()
        paths.append(result_path(out, config.name, dataset.name))
        if bench is not None and bench.values:
            result['per_user'] = _write_values(bench, paths[-1]).name
        write_result(paths[-1], result)
    return paths


def _write_values(bench: Bench, path: Path) -> Path:
    """Writes the test values per seed and user of every row, from which differences can
    be computed again.
    """
    path = path.with_name(f'{path.stem}-per-user.npz')
    arrays: Any = {name: values.numpy() for name, values in bench.values.items()}
    with replacing(path) as temporary, temporary.open('wb') as file:
        np.savez_compressed(file, users=bench.users.numpy(), **arrays)
    return path


def _fill_cache(
    config: BenchmarkConfig, dataset: Dataset, entries: Any, bench: Any, jobs: int
) -> None:
    """Trains all entries, teachers before their students."""
    # Several processes of several threads each would compete for the cores.
    threads = 1 if jobs > 1 else None
    train = partial(_train_entry, config, dataset, bench.work, bench.device, threads)
    trained = [i for i, e in enumerate(entries) if e.arm.embeddings is None]
    for students in (False, True):
        stage = [i for i in trained if (entries[i].arm.teacher is not None) == students]
        with ProcessPoolExecutor(
            max(1, min(jobs, len(stage))),
            mp_context=multiprocessing.get_context('spawn'),
            initializer=end_with_parent,
            max_tasks_per_child=1,
        ) as pool:
            done = pool.map(train, stage)
            with Progress(len(stage), dataset.name, unit='model') as progress:
                for _ in done:
                    progress.update()


def _train_entry(
    config: BenchmarkConfig,
    dataset: Dataset,
    work: Path,
    device: str,
    threads: int | None,
    index: int,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    experiment = make_experiment(config)
    bench = experiment.bench(dataset, config.seeds, work, device)
    bench.runs(experiment.entries(bench)[index])


def end_with_parent() -> None:
    """Ends this process when the one that started it is killed: workers of a pool would
    continue for hours.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
