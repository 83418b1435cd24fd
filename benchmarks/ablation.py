"""What each option of ``PromptMMPlus`` is worth: alone, and left out of all of them.

    python -m benchmarks.ablation ml100k --data FOLDER --seeds 0 1 2

The plain model is PromptMM's teacher. Its penalty is chosen among two on validation, at
the first seed, and kept for every other model; the strength of an option is chosen
among two in the same way, alone, and kept where options compose. The test positives are
read once per model and seed, by the state that was best on validation. Finished
trainings are kept under ``--work``. Writes
``benchmarks/results/ablation-<setting>.json``.
"""

from typing import Any

import torch

from benchmarks.command_line import command_line
from benchmarks.kept import kept
from benchmarks.paired import difference
from benchmarks.prepared import PreparedSetting
from benchmarks.result_file import versions, write_result
from benchmarks.run import spread
from benchmarks.settings import SETTINGS, read
from benchmarks.shares import fitted
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    modality_x_dict,
    num_nodes_dict,
)
from promptmm_pyg.models import PromptMMPlus
from promptmm_pyg.training import Schedule

PLAIN, ALL, NO_PROMPT = 'plain', 'all options', 'plain without prompt'
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    'denoise': ({'denoise': True},),
    'edge dropout': ({'edge_dropout': 0.2}, {'edge_dropout': 0.5}),
    'item graph': ({'item_graph_weight': 0.1}, {'item_graph_weight': 0.5}),
    'alignment': ({'alignment_weight': 0.01}, {'alignment_weight': 0.1}),
}
PENALTIES = (1.0, 3.0)  # Times the setting's.
SCHEDULE = Schedule(epochs=150, patience=6, validate_every=3, progress=False)


def without(option: str) -> str:
    """The name of the model with all options but one."""
    return f'all but {option}'


class Bench(PreparedSetting):
    """One data set, and every model that was trained on it."""

    def outcome(
        self, options: dict[str, Any], l2: float, seed: int, *, prompt: bool = True
    ) -> dict[str, Any]:
        """Validation value, epoch and per-user test values, trained now or before."""
        return kept(
            self.work / 'ablation',
            [self.setting.digest(), options, l2, prompt, seed, SCHEDULE],
            lambda: self._fit(options, l2, seed, prompt),
            f'{self.setting.dataset}-',
        )

    def _fit(
        self, options: dict[str, Any], l2: float, seed: int, prompt: bool
    ) -> dict[str, Any]:
        train, setting = self.train, self.setting
        torch.manual_seed(seed)
        model = PromptMMPlus(
            num_nodes_dict(train),
            INTERACTS,
            modality_x_dict(train),
            {key: train[key].prompt_start for key in (USER, ITEM)} if prompt else None,
            **setting.teacher,
            **options,
        )
        return fitted(
            model,
            train,
            self.split,
            terms=model.terms,
            weights={**model.weights, **setting.teacher_weights, 'l2': l2},
            learning_rate=setting.learning_rate,
            batch_size=setting.batch_size,
            seed=seed,
            schedule=SCHEDULE,
        )

    def penalty(self, seed: int) -> float:
        """The plain model's best on validation; of equals, the smaller."""
        l2 = self.setting.teacher_weights['l2']
        trials = [factor * l2 for factor in PENALTIES]
        return max(
            trials, key=lambda l2: float(self.outcome({}, l2, seed)['validation'])
        )

    def strength(self, option: str, l2: float, seed: int) -> dict[str, Any]:
        """An option's best on validation; of equals, the weaker."""
        return max(
            OPTIONS[option],
            key=lambda trial: float(self.outcome(trial, l2, seed)['validation']),
        )


def models(chosen: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Arguments by model: none, each option, all, and all but each."""
    every = {name: value for part in chosen.values() for name, value in part.items()}
    out = {PLAIN: {}, NO_PROMPT: {}, **chosen, ALL: every}
    for option, part in chosen.items():
        rest = {name: value for name, value in every.items() if name not in part}
        out[without(option)] = rest
    return out


def rows(bench: Bench, seeds: list[int]) -> list[dict[str, Any]]:
    """Every model, beside the plain one and, with an option left out, beside all."""
    l2 = bench.penalty(seeds[0])
    chosen = {option: bench.strength(option, l2, seeds[0]) for option in OPTIONS}
    tested: dict[str, list[torch.Tensor]] = {}
    out: list[dict[str, Any]] = []
    for name, options in models(chosen).items():
        runs = [
            bench.outcome(options, l2, seed, prompt=name != NO_PROMPT) for seed in seeds
        ]
        tested[name] = [run['test'] for run in runs]
        row: dict[str, Any] = {
            'model': name,
            'options': options,
            'l2': l2,
            'test': spread([float(x.mean()) for x in tested[name]]),
            'validation': [run['validation'] for run in runs],
            'epochs': [run['epoch'] for run in runs],
        }
        if name != PLAIN:
            row['over_plain'] = difference(tested[name], tested[PLAIN])
        if name in map(without, OPTIONS):
            row['over_all'] = difference(tested[name], tested[ALL])
        out.append(row)
        print(name, options, row['validation'], flush=True)
    return out


def main() -> None:
    args = command_line(__doc__).parse_args()
    setting = SETTINGS[args.setting]
    bench = Bench(setting, read(setting.dataset, args.data), args.work)
    result = {
        'setting': setting.as_dict(),
        'schedule': SCHEDULE._asdict(),
        'strengths': OPTIONS,
        'penalties': PENALTIES,
        'seeds': args.seeds,
        'ablation': rows(bench, args.seeds),
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }
    write_result(args.out / f'ablation-{args.setting}.json', result)


if __name__ == '__main__':
    main()
