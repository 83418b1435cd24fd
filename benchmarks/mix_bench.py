"""Students of the teachers of `benchmarks.mixture`: how they are told and trained."""

from itertools import product
from typing import Any, NamedTuple

import torch

from benchmarks.kept import kept
from benchmarks.losses import SCHEDULE, TRIALS, Bench, Trial
from benchmarks.mix_teachers import MixTeachers, recall, sharpened
from benchmarks.recipes import RECIPES
from benchmarks.suite_teachers import SuiteTeachers
from promptmm_pyg.targets import SoftTargets


class MixTrial(NamedTuple):
    """What is chosen on validation."""

    sharpness: float
    """What the teacher's scores are multiplied with."""
    student: Trial

    def as_dict(self) -> dict[str, float]:
        return {'sharpness': self.sharpness, **self.student._asdict()}


MIX_TRIALS = tuple(MixTrial(*pair) for pair in product((1.0, 3.0), TRIALS))


class MixBench:
    """The bench of the losses, with more teachers than one."""

    def __init__(self, bench: Bench, teachers: MixTeachers | SuiteTeachers) -> None:
        self.bench = bench
        self.teachers = teachers

    def outcome(
        self, name: str, trial: MixTrial, width: int, seed: int
    ) -> dict[str, Any]:
        """Validation value, epoch and per-user test values of one student, trained
        now or before.
        """
        *chosen, learning_rate = trial.student
        if trial.sharpness != 1:  # What others are kept under stays as it was.
            chosen.append(trial.sharpness)
        key = [
            self.bench.setting.digest(),
            [name, chosen, width, seed, self.teachers.numbers()],
            learning_rate,
            SCHEDULE,
        ]

        def taught() -> dict[str, Any]:
            targets = self.teachers.of_seed(name, seed).told
            return self.bench.teach(
                self.bench.student(width, seed),
                sharpened(targets, trial.sharpness),
                RECIPES['PromptMM'],
                trial.student,
                seed,
            )

        return kept(self.bench.work / 'mixture', key, taught, f'{self.bench.name}-')

    def choose(self, name: str, width: int, seed: int) -> MixTrial:
        """The best trial on validation; of equals, the first."""
        return max(
            MIX_TRIALS,
            key=lambda t: float(self.outcome(name, t, width, seed)['validation']),
        )

    def test(self, x_dict: dict[str, torch.Tensor]) -> float:
        return recall(SoftTargets(x_dict, {}), self.bench.split.test)
