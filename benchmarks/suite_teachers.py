"""The models of a finished suite as teachers: the best, and all of them together."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.entry import WIDTH
from benchmarks.losses import Bench
from benchmarks.mix_teachers import (
    EASE_WIDTHS,
    MIXTURE,
    TEACHER_WIDTH,
    Teacher,
    as_teacher,
    recall,
)
from benchmarks.run import EASE_ROW, LIGHT_GCN
from benchmarks.spaces import ENTRIES
from benchmarks.suite import Job
from promptmm_pyg.data import ITEM, num_nodes_dict
from promptmm_pyg.distillation import ensemble_targets, fit_ensemble_weights
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import Schedule

ALL_SEEDS = 'mixture of all seeds'
_LEFT_OUT = ('Popularity',)  # Says the same to everybody.


class SuiteTeachers:
    """Teachers, made when they are asked for, of what a suite has chosen and kept.

    Args:
        bench: What students are trained with.
        result: The suite's JSON.
        data: The data's folder.
        work: The suite's ``--work``; what is missing there is trained again.
    """

    def __init__(
        self, bench: Bench, result: Path, data: Path | None, work: Path
    ) -> None:
        self.bench = bench
        self.suite: dict[str, Any] = json.loads(result.read_text())
        protocol = self.suite['suite']
        if protocol['dataset'] != bench.setting.dataset:
            raise ValueError(
                f"'suite' requires a result on {bench.setting.dataset!r} (got one on "
                f'{protocol["dataset"]!r} in {result})'
            )
        self.seeds: list[int] = protocol['seeds']
        self.trials = Job(
            bench.name,
            data,
            'auto',
            '',
            protocol['trials'],
            tuple(self.seeds),
            Schedule(**protocol['schedule']),
            protocol['batch_size'],
            work,
            device=protocol['device'],
        ).bench()
        with np.load(result.parent / self.suite['per_user']) as tables:
            self._rivals = {name: torch.from_numpy(tables[name]) for name in tables}
        self.searched: dict[str, Any] = {'widths': EASE_WIDTHS}
        best = max(
            self.models,
            key=lambda name: self.suite['models'][name]['validation']['mean'],
        )
        self.names = (best, MIXTURE, ALL_SEEDS)
        self.rivals = {
            LIGHT_GCN: WIDTH,
            EASE_ROW: num_nodes_dict(bench.train)[ITEM],
        }
        self.tables = cache(self._tables)
        self.every_seed = cache(self._every_seed)
        self.of_seed = cache(self._of_seed)

    @property
    def models(self) -> list[str]:
        """Those that are mixed."""
        return [name for name in self.suite['models'] if name not in _LEFT_OUT]

    def numbers(self) -> dict[str, Any]:
        """Every number that was chosen, and the width that students are told."""
        models = self.suite['models']
        chosen = {name: models[name]['chosen'] for name in self.models}
        return {
            'protocol': self.suite['suite'],
            'chosen': chosen,
            'teacher_width': TEACHER_WIDTH,
        }

    def rival(self, name: str, seed: int) -> torch.Tensor:
        """Per-user test values of a model of the suite."""
        values = self._rivals[name]
        return values[self.seeds.index(seed) if len(values) > 1 else 0]

    def _tables(self, name: str, seed: int) -> SoftTargets:
        """What a model says; one in closed form, cut to the width that is best on
        validation, of equals the narrowest.
        """
        entry, chosen = ENTRIES[name], self.suite['models'][name]['chosen']
        if entry.trained:
            outcome = self.trials.outcome(entry, chosen, seed)
            return SoftTargets(outcome['x_dict'], {})
        model: Any = entry.make(self.trials.train, chosen)
        sizes = num_nodes_dict(self.bench.train).values()
        found = [
            SoftTargets(model.as_output(width).x_dict, {})
            for width in sorted({min(width, *sizes) for width in EASE_WIDTHS})
        ]
        return max(found, key=lambda targets: recall(targets, self.bench.split.val))

    def _every_seed(self, name: str) -> SoftTargets:
        """A model's seeds as one."""
        if not ENTRIES[name].trained:
            return self.tables(name, self.seeds[0])
        parts = {str(seed): self.tables(name, seed) for seed in self.seeds}
        return ensemble_targets(parts, dict.fromkeys(parts, 1.0))

    def _of_seed(self, name: str, seed: int) -> Teacher:
        if name == ALL_SEEDS and seed != self.seeds[0]:
            return self.of_seed(name, self.seeds[0])
        train, val = self.bench.train, self.bench.split.val
        if name == ALL_SEEDS:
            parts = {model: self.every_seed(model) for model in self.models}
        elif name == MIXTURE:
            parts = {model: self.tables(model, seed) for model in self.models}
        else:
            parts = {name: self.tables(name, seed)}
        alone = len(parts) == 1
        weights = {name: 1.0} if alone else fit_ensemble_weights(parts, train, val)
        return as_teacher(weights, ensemble_targets(parts, weights), train)
