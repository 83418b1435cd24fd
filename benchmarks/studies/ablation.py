"""The options of a model: each alone, all together, and all but each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.studies.main import TEACHER, hyperparameters
from promptmm_pyg.benchmark.config import grid
from promptmm_pyg.benchmark.entries import Arm, Entry
from promptmm_pyg.benchmark.experiments import Experiment
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    mean_epochs,
    recall,
    title,
)
from promptmm_pyg.benchmark.runner import METRIC, Bench


@dataclass(frozen=True, kw_only=True)
class Ablation(Experiment):
    """The options of a model: each alone, all together, and all but each."""

    model: str = 'PromptMMPlus'
    options: Mapping[str, Any] = field(default_factory=dict)
    """Trials per option."""
    l2_factors: tuple[float, ...] = (1.0, 3.0)
    """Trials of the plain model's penalty, times the data set's."""

    def entries(self, bench: Bench) -> list[Entry]:
        params = hyperparameters(bench.dataset, TEACHER)
        l2 = params.pop('l2')
        arm = Arm(self.model, params, self.config(bench.dataset))
        penalties = grid({'l2': [factor * l2 for factor in self.l2_factors]})
        best = bench.best_params(Entry('plain', arm, penalties))[0]
        tuned = {
            name: self._tuned(bench, arm, best, trials)
            for name, trials in self.options.items()
        }
        every = {k: v for part in tuned.values() for k, v in part.items()}
        plain = Entry('plain', arm, (best,))
        without = Arm(self.model, {**params, 'prompt': False}, arm.training)
        compared = partial(Entry, references={'baseline': plain})
        full = compared('all options', arm, ({**every, **best},))
        return [
            plain,
            compared('plain without prompt', without, (best,)),
            *(compared(k, arm, ({**own, **best},)) for k, own in tuned.items()),
            full,
            *(
                Entry(
                    f'all but {name}',
                    arm,
                    ({**{k: v for k, v in every.items() if k not in own}, **best},),
                    references={'baseline': plain, 'all_options': full},
                )
                for name, own in tuned.items()
            ),
        ]

    def _tuned(
        self, bench: Bench, arm: Arm, best: Mapping[str, Any], trials: Any
    ) -> dict[str, Any]:
        """The best trial of an option."""
        rows = tuple({**trial, **best} for trial in grid(trials))
        params = bench.best_params(Entry('option', arm, rows))[0]
        return {k: v for k, v in params.items() if k not in best}

    @classmethod
    def table(cls, result: Result) -> str:
        """Every variant beside the plain model and, without one option, beside all."""
        rows = [
            [
                row['name'],
                ', '.join(
                    f'{name} {value:g}'
                    for name, value in row['best_params'].items()
                    if not isinstance(value, bool) and name != 'l2'
                ),
                mean_epochs(row),
                recall(row),
                interval(row.get('diff_vs_baseline')),
                interval(row.get('diff_vs_all_options')),
            ]
            for row in result['rows']
        ]
        head = [result['protocol'].get('model', 'PromptMMPlus'), 'strengths', 'epochs']
        head += [METRIC, 'vs. plain (95 %)', 'vs. all options (95 %)']
        return '\n'.join([*title(result), *markdown(head, rows)])
