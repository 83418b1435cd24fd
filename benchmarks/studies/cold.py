"""Items without training interactions, which are known by their features alone."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.studies.main import (
    TEACHER,
    hyperparameters,
    model_entry,
    student_and_baseline,
)
from promptmm_pyg.benchmark.config import Dataset, grid
from promptmm_pyg.benchmark.entries import Arm, Entry, Teacher
from promptmm_pyg.benchmark.experiments import Experiment
from promptmm_pyg.benchmark.registry import check_params
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    mean_std,
    save_plot,
    seeds_of,
)
from promptmm_pyg.benchmark.runner import METRIC, Bench
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    REV_INTERACTS,
    USER,
    Split,
    modality_mask_dict,
    modality_x_dict,
    split_cold_items,
    split_per_user,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import get_model
from promptmm_pyg.serving import Recommender
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.viz.figure import new_axes


def merge_split(split: Split) -> HeteroData:
    """The graph of all interactions of a split, to be split again."""
    parts = [split.train[INTERACTS].edge_index]
    parts += [part[INTERACTS].edge_label_index for part in (split.val, split.test)]
    return _with_edges(split.train, torch.cat(parts, dim=1))


def _with_edges(data: HeteroData, edge_index: Tensor) -> HeteroData:
    out = copy.copy(data)
    del out[INTERACTS]
    del out[REV_INTERACTS]
    out[INTERACTS].edge_index = edge_index
    out[REV_INTERACTS].edge_index = edge_index.flip(0)
    out[INTERACTS].order = torch.arange(edge_index.size(1))
    return out


def cold_split(data: HeteroData) -> tuple[Split, Split]:
    """The split by cold items, and its training edges split per user, for the
    validation that stops training.
    """
    outer = split_cold_items(data)
    edge_index = outer.train[INTERACTS].edge_index
    warm = split_per_user(_with_edges(outer.train, edge_index), test_ratio=0.0)
    return outer, warm


def positive_items(data: HeteroData) -> Tensor:
    """The items among the positives, a mask ``[num_items]``."""
    mask = torch.zeros(int(data[ITEM].num_nodes), dtype=torch.bool)
    mask[data[INTERACTS].edge_label_index[1]] = True
    return mask


def predict_cold_items(
    x_dict: dict[str, Tensor], data: HeteroData, warm: Tensor
) -> Tensor:
    """Item embeddings in which those of cold items are predicted from features, as
    :class:`~promptmm_pyg.serving.Recommender` does for new items. A cold item without
    features has the mean of the warm items.

    Args:
        x_dict: Embeddings of a model without features.
        data: The training graph, with features.
        warm: The items with training interactions, ``[num_items]``.
    """
    features = {k: x[ITEM] for k, x in modality_x_dict(data).items()}
    masks = {
        name: modality_mask_dict(data).get(name, {}).get(ITEM, torch.ones_like(warm))
        for name in features
    }
    old = warm.nonzero().view(-1)
    position = torch.full(warm.size(), -1)
    position[old] = torch.arange(old.numel())
    user, item = data[INTERACTS].edge_index
    server = Recommender(
        x_dict[USER],
        x_dict[ITEM][old],
        user_ids=list(range(x_dict[USER].size(0))),
        item_ids=old.tolist(),
        seen=torch.stack([user, position[item]]),
    )
    server.fit_feature_mapper(
        {k: x[old] for k, x in features.items()}, {k: x[old] for k, x in masks.items()}
    )
    new = (~warm & torch.stack(list(masks.values())).any(0)).nonzero().view(-1)
    server.add_items(
        new.tolist(),
        {k: x[new] for k, x in features.items()},
        modality_mask={k: x[new] for k, x in masks.items()},
    )
    out = x_dict[ITEM][old].mean(0).expand(warm.numel(), -1).clone()
    out[torch.cat([old, new])] = server.item_x
    return out


class ColdBench(Bench):
    """A data set split by items without training interactions.

    Models stop by held-out interactions of warm items; trials are chosen by the cold
    items of validation. The ids of cold items, which nothing trains, are zero.
    """

    def __init__(
        self, dataset: Dataset, data: HeteroData, seeds: Sequence[int], **options: Any
    ) -> None:
        self.outer, inner = cold_split(data)
        num_items = int(data[ITEM].num_nodes)
        edges = self.outer.train[INTERACTS].edge_index
        self.degree = torch.bincount(edges[1], minlength=num_items)
        split = Split(inner.train, inner.val, self.outer.test)
        super().__init__(dataset, seeds, split=split, **options)
        self.test_items = {'test_cold': positive_items(self.outer.test), 'test': None}

    def model(self, arm: Arm, *args: Any) -> Any:
        model = super().model(arm, *args)
        # Nothing trains them, and the noise of their start would stay.
        with torch.no_grad():
            model.get_parameter(f'embeddings.tables.{ITEM}')[self.degree == 0] = 0.0
        return model

    def train_options(self) -> dict[str, Any]:
        return {'negative_items': self.degree.nonzero().view(-1)}

    def trial_value(self, arm: Arm, params: Any, seed: int) -> float:
        x_dict, cold = self.x_dict(arm, params, seed), positive_items(self.outer.val)
        result = evaluate(x_dict, self.outer.val, ks=(20,), candidates=cold)
        return float(result.per_user[METRIC].mean())

    def x_dict(self, arm: Arm, params: Any, seed: int) -> dict[str, Tensor]:
        """The embeddings; for models without features, cold items are predicted."""
        x_dict = super().x_dict(arm, params, seed)
        if arm.embeddings is not None or get_model(arm.model).reads_features:
            return x_dict
        item_x = predict_cold_items(x_dict, self.split.train, self.degree > 0)
        return {**x_dict, ITEM: item_x}

    def _targets_of(self, arm: Arm, params: Any, seed: int) -> SoftTargets:
        # Without its best items, which would contain cold ones.
        return SoftTargets(self.x_dict(arm, params, seed), {})


@dataclass(frozen=True, kw_only=True)
class Cold(Experiment):
    """Items without training interactions: teacher, students, baselines and others."""

    metrics = (METRIC, 'NDCG@20')
    models: tuple[str, ...] = ('VBPR', 'CLCRec')
    trials: Any = field(default_factory=lambda: {'l2': (1e-3, 1e-2, 0.1)})
    note: ClassVar[str] = (
        'Cold items have no training interaction; they are known by features only. '
        'Negatives and candidates are drawn among warm items, and the ids of cold '
        'items, which nothing trains, are zero. Training reads the features of cold '
        'items (it is transductive): columns are standardized over all items, and the '
        "prompt's principal components and sums of features are those of all items. "
        'The feature mapper that predicts cold items for students is fitted on warm '
        'items alone. Popularity and random order cold items by chance. A cold item '
        'without any modality gets the mean of the warm items.'
    )

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for model in (*self.models, TEACHER, *dataset.students):
            for trial in grid(self.trials):
                check_params('models', model, trial, ('weight',))
        hyperparameters(dataset, TEACHER)

    def bench(
        self, dataset: Dataset, seeds: Sequence[int], work: Path, device: str
    ) -> ColdBench:
        synthetic = dataset.synthetic is not None
        data = dataset.read_graph() if synthetic else merge_split(dataset.read())
        return ColdBench(dataset, data, seeds, work=work, device=device)

    def entries(self, bench: ColdBench) -> list[Entry]:
        dataset, training = bench.dataset, self.config(bench.dataset)
        trials = grid(self.trials)
        width = hyperparameters(dataset, TEACHER)['embedding_dim']
        teacher = model_entry(dataset, TEACHER, training, trials=trials)
        entries = [
            Entry(name, Arm(name, embeddings=_by_chance(bench, popularity)))
            for name, popularity in (('random', 0.0), ('popularity', 1.0))
        ]
        entries += [
            Entry(model, Arm(model, {'embedding_dim': width}, training), trials)
            for model in self.models
        ]
        entries.append(replace(teacher, factors={}))
        targets = bench.teacher(teacher.arm, bench.best_params(teacher)[0])
        for model in dataset.students:
            student, baseline = (
                replace(entry, trials=trials, factors={})
                for entry in student_and_baseline(dataset, model, training, targets)
            )
            student = replace(student, references={'baseline': baseline})
            entries += [baseline, student]
        return entries

    def run(self, bench: ColdBench, dataset: Dataset, out: Path) -> dict[str, Any]:
        result = super().run(bench, dataset, out)
        numbers = {
            part: int(positive_items(getattr(bench.outer, part)).sum())
            for part in ('val', 'test')
        }
        return {**result, 'cold_items': numbers}

    def protocol(self, dataset: Dataset) -> dict[str, Any]:
        return {**super().protocol(dataset), 'note': self.note}

    @classmethod
    def table(cls, result: Result) -> str:
        """Every model among cold items and among all items."""
        rows = [
            [
                row['name'],
                *(mean_std(row['test_cold'][m]) for m in cls.metrics),
                interval(row.get('diff_vs_baseline')),
                *(mean_std(row['test'][m]) for m in cls.metrics),
            ]
            for row in result['rows']
        ]
        head = ['model', *(f'{m}, cold' for m in cls.metrics), 'vs. baseline (95 %)']
        head += [f'{m}, all' for m in cls.metrics]
        title = (
            f'**{result["dataset"]}**, test, {result["cold_items"]["test"]} cold '
            f'items, {seeds_of(result)}'
        )
        return '\n'.join([title, '', *markdown(head, rows)])

    @classmethod
    def plot(cls, result: Result, path: str | Path) -> None:
        """Test values among cold items."""
        rows = result['rows'][::-1]
        values = [row['test_cold'][METRIC] for row in rows]
        axes = new_axes('plot', 7.0, 4.0)
        axes.barh(
            [row['name'] for row in rows],
            [value['mean'] for value in values],
            xerr=[value['std'] for value in values],
            color=['C0' if 'diff_vs_baseline' in row else '0.65' for row in rows],
            capsize=3,
        )
        axes.set_xlabel(f'{METRIC} among cold items, {seeds_of(result)}')
        axes.set_title(f'{result["dataset"]}: items without interactions')
        save_plot(axes, path)


def _by_chance(bench: ColdBench, popularity: float) -> Teacher:
    """Items by popularity, of equals by chance; with 0 by chance alone."""

    def targets(seed: int) -> SoftTargets:
        generator = torch.Generator().manual_seed(seed)
        chance = torch.rand(bench.degree.numel(), 1, generator=generator)
        users = torch.ones(int(bench.train[USER].num_nodes), 1)
        items = chance + popularity * bench.degree[:, None]
        return SoftTargets({USER: users, ITEM: items}, {})

    return Teacher(['chance', popularity], targets)
