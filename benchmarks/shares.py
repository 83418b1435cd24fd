"""Models at several shares of items whose content is spoiled, beside the first one."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch_geometric.data import HeteroData

from benchmarks.paired import difference
from benchmarks.run import spread
from promptmm_pyg.data import Split
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.training import get_embeddings, normalized_adj_dict, train_teacher

METRIC = 'Recall@20'


class Bench(Protocol):
    """What was trained at a share: one model with one trial and seed."""

    def outcome(
        self, share: float, model: str, trial: Any, seed: int
    ) -> dict[str, Any]:
        """Validation value, epoch and per-user test values."""

    def choose(self, share: float, model: str, seed: int) -> Any:
        """The best trial on validation."""


def best_trial(
    bench: Bench, trials: tuple[Any, ...], share: float, model: str, seed: int
) -> Any:
    """The best trial on validation; of equals, the first."""
    return max(
        trials, key=lambda t: float(bench.outcome(share, model, t, seed)['validation'])
    )


def fitted(
    model: torch.nn.Module, train: HeteroData, split: Split, **how: Any
) -> dict[str, Any]:
    """Trains a model, ``how`` as :func:`~promptmm_pyg.training.train_teacher` is told;
    validation value, epoch and per-user test values of its best state.
    """
    history = train_teacher(model, train, split.val, **how)
    tables = get_embeddings(model, (normalized_adj_dict(train),))
    return {
        'validation': history.best_value,
        'epoch': history.best_epoch,
        'test': evaluate(tables, split.test, ks=(20,)).per_user[METRIC],
    }


def rows(
    bench: Bench,
    models: Iterable[str],
    shares: list[float],
    seeds: list[int],
    *,
    over: str,
    about: Callable[[Any], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Every model at every share, beside the first.

    Args:
        bench: Trains them, or has done so.
        models: Their names.
        shares: Shares of spoiled items.
        seeds: The trial is chosen at the first and kept for all.
        over: What the difference to the first model is called.
        about: What of a trial is reported.
    """
    out: list[dict[str, Any]] = []
    for share in shares:
        base: list[torch.Tensor] | None = None
        for model in models:
            trial = bench.choose(share, model, seeds[0])
            runs = [bench.outcome(share, model, trial, seed) for seed in seeds]
            values = [run['test'] for run in runs]
            row: dict[str, Any] = {
                'share': share,
                'model': model,
                **about(trial),
                'test': spread([float(x.mean()) for x in values]),
                'validation': [run['validation'] for run in runs],
                'epochs': [run['epoch'] for run in runs],
            }
            if base is None:
                base = values
            else:
                row[over] = difference(values, base)
            out.append(row)
            print(share, model, trial, row['test']['mean'], flush=True)
    return out
