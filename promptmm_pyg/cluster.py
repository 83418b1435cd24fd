"""Ray as the engine of a cluster (extra ``ray``): training on several workers, and rows
that workers compute, such as the lists of all users and encoded contents.

Workers must see the same files: folders are on storage that all machines mount.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from promptmm_pyg._distributed import rank_and_size, run_on_rank0
from promptmm_pyg._files import current, replacing
from promptmm_pyg._utils import check_positive, missing_extra
from promptmm_pyg.content import ContentEncoder, ContentRows, encode_content
from promptmm_pyg.content.rows import Contents
from promptmm_pyg.limits import MIB
from promptmm_pyg.serving import Recommendations, Recommender
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.training.loop import CHECKPOINT

__all__ = [
    'check_room',
    'encode_on_workers',
    'recommend_all',
    'resumable',
    'run_workers',
]

T = TypeVar('T')
Resources = Mapping[str, float]
Compute = Callable[[list[int]], Any]
"""A function of row numbers that returns an Arrow table."""
ONE_CPU: Resources = {'CPU': 1}
_BLOCK = 512 * MIB
"""Memory of a worker that ranks, beyond its recommender."""


def run_workers(
    work: Callable[[], T],
    num_workers: int,
    *,
    resources: Resources = ONE_CPU,
    max_failures: int = 3,
    storage: str | Path | None = None,
) -> T:
    """Calls ``work`` on every worker of ``ray.train``, in one ``torch.distributed``
    group: ``train``, ``distill`` and ``evaluate`` in it share the work, as under
    ``torchrun``. If a worker dies or raises, all start again; with :func:`resumable`
    they continue from the last checkpoint, with the numbers of an uninterrupted run.

    Ray is connected to as by ``ray.init()``, unless it is already.

    Args:
        work: A function without arguments.
        num_workers: The number of workers.
        resources: What each worker reserves, ``'CPU'``, ``'GPU'`` and bytes of
            ``'memory'``. (default: one CPU)
        max_failures: How often all start again. (default: ``3``)
        storage: The folder of Ray's own records. (default: that of Ray)

    Returns:
        What ``work`` returned on the first worker.

    Raises:
        ValueError: If the cluster has no room for the workers.
        ImportError: If Ray is not installed.

    Example:
        >>> def work():
        ...     data = load_dataset('/shared/tiktok')
        ...     config = resumable(TrainingConfig(run_dir='/shared/run'))
        ...     train(PromptMM.from_data(data), data, config=config)
        >>> run_workers(work, num_workers=8)  # doctest: +SKIP
    """
    ray = _connect('run_workers')
    check_room(ray.nodes(), num_workers, resources)
    import ray.train.torch as ray_torch
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.util.queue import Queue

    results = Queue(actor_options={'num_cpus': 0})

    def on_worker(_: Any) -> None:
        result = work()
        if rank_and_size()[0] == 0:
            results.put(result)

    trainer = ray_torch.TorchTrainer(
        on_worker,
        train_loop_config={},
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=resources.get('GPU', 0) > 0,
            resources_per_worker=dict(resources),
        ),
        run_config=RunConfig(
            storage_path=None if storage is None else str(Path(storage).resolve()),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    trainer.fit()
    # More than one where a worker died after the first one's work.
    result: T = results.get_nowait_batch(results.qsize())[-1]
    results.shutdown()
    return result


def resumable(config: TrainingConfig) -> TrainingConfig:
    """The configuration with ``resume`` where ``run_dir`` has a checkpoint.

    Raises:
        ValueError: If there is no ``run_dir``.
    """
    if config.run_dir is None:
        raise ValueError("'run_dir' must be a folder that all workers see (got None)")
    folder = Path(config.run_dir)
    has_checkpoint = run_on_rank0(lambda: any(folder.rglob(CHECKPOINT)))
    return replace(config, resume=has_checkpoint)


def recommend_all(
    folder: str | Path,
    path: str | Path,
    k: int,
    to_arrow: Callable[[list[Any], Recommendations, Any], Any],
    *,
    num_workers: int,
    resources: Resources = ONE_CPU,
    block_size: int = 1024,
    **options: Any,
) -> int:
    """Writes the lists of all users to a folder of Parquet files with Ray Data. Every
    worker loads the recommender once, as a memory map.

    Args:
        folder: The recommender, the same for all workers.
        path: The new folder of Parquet files.
        k: Items per user.
        to_arrow: Called with user ids, their lists and the titles of items; returns an
            Arrow table.
        num_workers: The number of workers; Ray Data needs one more CPU.
        resources: What each worker reserves, besides the memory of the recommender.
            (default: one CPU)
        block_size: Users at a time. (default: ``1024``)
        **options: Further arguments of ``Recommender.recommend``.

    Returns:
        The number of users.

    Raises:
        ValueError: If the cluster has no room for the workers, or a worker has another
            recommender in ``folder``.
    """
    folder = Path(folder).resolve()
    digest, num_users = _digest(folder), Recommender.load(folder).num_users
    size = sum(file.stat().st_size for file in folder.glob('*') if file.is_file())

    def setup() -> Compute:
        if _digest(folder) != digest:
            raise ValueError(
                f"'{folder}' must be the same recommender on all workers (got "
                f'{_digest(folder)[:12]}, not {digest[:12]}). Use shared storage'
            )
        recommender = Recommender.load(folder)
        ids = recommender.user_ids

        def rank(rows: list[int]) -> Any:
            keys = [ids[row] for row in rows]
            lists = recommender.recommend(keys, k, **options)
            return to_arrow(keys, lists, recommender.titles)

        return rank

    needed = {**resources, 'memory': resources.get('memory', size + _BLOCK)}
    dataset = _dataset(setup, num_users, num_workers, needed, block_size)
    with replacing(Path(path).resolve()) as temporary:  # It appears when complete.
        dataset.write_parquet(str(temporary))
    return num_users


def _digest(folder: Path) -> str:
    content = current(folder, 'config.json').read_bytes()  # It has those of all files.
    return hashlib.sha256(content).hexdigest()


def encode_on_workers(
    contents: Contents,
    make_encoder: Callable[[], ContentEncoder],
    *,
    cache: str | Path,
    num_workers: int,
    resources: Resources = ONE_CPU,
    block_size: int = 4096,
) -> ContentRows:
    """Encodes texts or pictures with Ray Data, like
    :func:`~promptmm_pyg.content.encode_content`. Workers store their rows in ``cache``:
    after a failure only the others are encoded.

    Args:
        contents: ``{id: text}`` or ``{id: path}``.
        make_encoder: Returns the encoder; called once per worker.
        cache: A folder that all workers see.
        num_workers: The number of workers; Ray Data needs one more CPU.
        resources: What each worker reserves. (default: one CPU)
        block_size: Contents per file of the cache. (default: ``4096``)
    """
    names, cache = list(contents), Path(cache).resolve()

    def setup() -> Compute:
        import pyarrow as pa

        encoder = make_encoder()

        def encode(rows: list[int]) -> Any:
            part = {names[row]: contents[names[row]] for row in rows}
            encode_content(part, encoder, cache=cache, progress=False)
            return pa.table({'row': rows})

        return encode

    _dataset(setup, len(names), num_workers, resources, block_size).materialize()
    return encode_content(contents, make_encoder(), cache=cache, progress=False)


class _Worker:
    """The class that Ray Data creates once per worker."""

    def __init__(self, setup: Callable[[], Compute]) -> None:
        self.compute = setup()

    def __call__(self, batch: dict[str, Any]) -> Any:
        return self.compute(batch['id'].tolist())


def _dataset(
    setup: Callable[[], Compute],
    length: int,
    num_workers: int,
    resources: Resources,
    block_size: int,
) -> Any:
    check_positive('block_size', block_size)
    ray = _connect('ray.data')
    check_room(ray.nodes(), num_workers, resources, num_spare=1)
    import ray.data as ray_data

    blocks = min(-(-length // block_size), 64 * num_workers)
    return ray_data.range(length, override_num_blocks=max(1, blocks)).map_batches(
        _Worker,
        fn_constructor_args=(setup,),
        batch_size=block_size,
        compute=ray_data.ActorPoolStrategy(size=num_workers),
        num_cpus=resources.get('CPU', 1),
        num_gpus=resources.get('GPU', 0),
        memory=resources.get('memory'),
    )


def check_room(
    nodes: Iterable[Mapping[str, Any]],
    num_workers: int,
    resources: Resources,
    *,
    num_spare: int = 0,
) -> None:
    """Raises if a cluster cannot run the workers at the same time.

    Args:
        nodes: The machines, as returned by ``ray.nodes()``.
        num_workers: The number of workers.
        resources: What each worker reserves.
        num_spare: CPUs that must remain. (default: ``0``)

    Example:
        >>> nodes = [{'Alive': True, 'Resources': {'CPU': 4, 'memory': 3 * 2**30}}]
        >>> check_room(nodes, 4, {'CPU': 1, 'memory': 2**30})
        Traceback (most recent call last):
        ValueError: 'num_workers' must be at most 3, as many as the cluster has room \
for with 1 CPU, 1.0 GiB of memory each (got 4; it has 4 CPU, 3.0 GiB of memory). Use \
fewer workers, or more or larger machines
    """
    check_positive('num_workers', num_workers)
    alive = [node['Resources'] for node in nodes if node['Alive']]
    total = {key: sum(x.get(key, 0) for x in alive) for key in resources}
    room = sum(
        min(int(node.get(key, 0) // x) for key, x in resources.items() if x)
        for node in alive
    )
    cpus = resources.get('CPU', 0)
    if cpus:
        room = min(room, int((total['CPU'] - num_spare) // cpus))
    if num_workers > room:
        spare = f' and {num_spare} CPU for Ray Data' if num_spare else ''
        raise ValueError(
            f"'num_workers' must be at most {room}, as many as the cluster has room "
            f'for with {_text(resources)} each{spare} (got {num_workers}; it has '
            f'{_text(total)}). Use fewer workers, or more or larger machines'
        )


def _text(resources: Resources) -> str:
    parts = [
        f'{x / 2**30:.1f} GiB of memory' if key == 'memory' else f'{x:g} {key}'
        for key, x in resources.items()
    ]
    return ', '.join(parts)


def _connect(caller: str) -> Any:
    """Ray, connected to the cluster; a new one on this machine if there is none."""
    try:
        import ray
    except ImportError as error:
        raise missing_extra(caller, 'ray', 'ray') from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False)
    return ray
