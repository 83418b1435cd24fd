"""The teachers of `benchmarks.mixture`, alone and together, and the models beside."""

from functools import cache
from itertools import product
from typing import Any, ClassVar, NamedTuple

import torch
from torch_geometric.data import HeteroData

from benchmarks.kept import kept
from benchmarks.losses import METRIC, Bench
from benchmarks.run import EASE_L2, EASE_ROW, LIGHT_GCN, best_ease, training
from benchmarks.shares import fitted
from promptmm_pyg.data import INTERACTS, ITEM, modality_x_dict, num_nodes_dict
from promptmm_pyg.distillation import (
    ensemble_targets,
    fit_ensemble_weights,
    truncate_embeddings,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import GraphFilter, LightGCN
from promptmm_pyg.targets import SoftTargets, topk_targets
from promptmm_pyg.training import bpr_terms

PROMPTMM, FILTER, MIXTURE = 'PromptMM', 'GraphFilter', 'mixture'
TEACHERS = (PROMPTMM, FILTER, EASE_ROW, MIXTURE)
FILTER_WIDTH = 256
FILTER_GRID = tuple(product((2, 3, 4), (0.0, 0.1, 0.2)))  # Layers, modality weight.
EASE_WIDTHS = (64, 128, 256)
TEACHER_WIDTH = 128  # Wider teachers are cut to it: a step costs what they are wide.


class Teacher(NamedTuple):
    """One teacher of one seed."""

    weights: dict[str, float]
    """How much of it is whose."""
    said: SoftTargets
    """What it says."""
    told: SoftTargets
    """What of that a student is told."""


def as_teacher(
    weights: dict[str, float], said: SoftTargets, train: HeteroData
) -> Teacher:
    """What is said, cut for a student; its best items are those before the cut."""
    wide = said.x_dict[ITEM].size(1) > TEACHER_WIDTH
    x_dict = truncate_embeddings(said.x_dict, TEACHER_WIDTH) if wide else said.x_dict
    told = SoftTargets(x_dict, {}, top=topk_targets(said, train, 100))
    return Teacher(weights, said, told)


def sharpened(targets: SoftTargets, factor: float) -> SoftTargets:
    """The same teacher with larger scores: its softmax is surer of the same ranking."""
    x_dict = {key: factor**0.5 * x for key, x in targets.x_dict.items()}
    return targets._replace(x_dict=x_dict)


def recall(targets: SoftTargets, positives: HeteroData) -> float:
    """Recall@20 of what a teacher says."""
    return evaluate(targets.x_dict, positives, ks=(20,)).metrics[METRIC]


class MixTeachers:
    """Teachers, made when they are asked for; all choices are made on validation, of
    equals the first.
    """

    names = TEACHERS
    searched: ClassVar[dict[str, Any]] = {
        'filter_grid': FILTER_GRID,
        'ease_grid': [EASE_L2, EASE_WIDTHS],
    }

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.rivals = {
            LIGHT_GCN: bench.setting.light_gcn['embedding_dim'],
            EASE_ROW: num_nodes_dict(bench.train)[ITEM],
        }
        self.filter = cache(self._filter)
        self.ease = cache(self._ease)
        self.of_seed = cache(self._of_seed)

    def _filter(self) -> tuple[dict[str, Any], SoftTargets]:
        train = self.bench.train
        width = min(FILTER_WIDTH, *num_nodes_dict(train).values())
        found = []
        for num_layers, weight in FILTER_GRID:
            numbers: dict[str, Any] = {
                'num_layers': num_layers,
                'modality_weight': weight,
            }
            model = GraphFilter(
                num_nodes_dict(train), INTERACTS, modality_x_dict(train), **numbers
            ).fit(train[INTERACTS].edge_index)
            targets = SoftTargets.from_output(model.as_output(width))
            found.append((recall(targets, self.bench.split.val), numbers, targets))
        _, numbers, targets = max(found, key=lambda x: x[0])
        return numbers | {'width': width}, targets._replace(modality_x_dict={})

    def _ease(self) -> tuple[dict[str, Any], SoftTargets, torch.Tensor]:
        """Its numbers, its tables, and the per-user test values of all of it."""
        split = self.bench.split
        _, model = best_ease(split)
        sizes = num_nodes_dict(split.train).values()
        found = []
        for width in sorted({min(width, *sizes) for width in EASE_WIDTHS}):
            targets = SoftTargets.from_output(model.as_output(width))
            found.append((recall(targets, split.val), width, targets))
        _, width, targets = max(found, key=lambda x: x[0])
        test = evaluate(model.scores, split.test, ks=(20,)).per_user[METRIC]
        return {'l2': model.l2, 'width': width}, targets, test

    def _of_seed(self, name: str, seed: int) -> Teacher:
        train = self.bench.train
        parts = {
            PROMPTMM: self.bench.targets(seed)._replace(modality_x_dict={}, top=None),
            FILTER: self.filter()[1],
            EASE_ROW: self.ease()[1],
        }
        if name == MIXTURE:
            weights = fit_ensemble_weights(parts, train, self.bench.split.val)
        else:
            weights = {key: float(key == name) for key in parts}
        return as_teacher(weights, ensemble_targets(parts, weights), train)

    def numbers(self) -> dict[str, Any]:
        """Every number that was chosen, and the width that students are told."""
        chosen = {'filter': self.filter()[0], 'ease': self.ease()[0]}
        return chosen | {'teacher_width': TEACHER_WIDTH}

    def rival(self, name: str, seed: int) -> torch.Tensor:
        """Per-user test values of a model that students stand beside: EASE as it is,
        LightGCN as `benchmarks.run` tunes and trains it.
        """
        if name == EASE_ROW:
            return self.ease()[2]
        bench, setting = self.bench, self.bench.setting

        def trained() -> dict[str, Any]:
            torch.manual_seed(seed)
            return fitted(
                LightGCN(num_nodes_dict(bench.train), **setting.light_gcn),
                bench.train,
                bench.split,
                terms=bpr_terms,
                weights={'bpr': 1.0, 'l2': setting.light_gcn_l2},
                **training(setting, seed),
            )

        key = [setting.digest(), LIGHT_GCN, seed]
        out = kept(bench.work / 'mixture', key, trained, f'{bench.name}-')
        values: torch.Tensor = out['test']
        return values
