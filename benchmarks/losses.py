"""Every distillation loss alone, their sum and a shuffled teacher, beside the control.

    python -m benchmarks.losses tiktok --data FOLDER --seeds 0 1 2 --widths 16 32

The student is matrix factorization, so that all of the graph and of the content comes
through its teacher: that of :mod:`benchmarks.run`, whose soft targets are read from
``--work``. All is chosen on validation at the first seed: weight and penalty of every
loss from equally many trials at the first width, penalty and learning rate of the
control from more of them and at every width, so that no gain is a number that does not
fit. Finished trials are kept under ``--work``. Writes
``benchmarks/results/losses-<setting>.json``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from benchmarks.command_line import command_line
from benchmarks.kept import kept
from benchmarks.paired import difference
from benchmarks.prepared import PreparedSetting
from benchmarks.recipes import RECIPES, Context, Recipe
from benchmarks.result_file import write_result
from benchmarks.run import spread, targets_path
from benchmarks.settings import SETTINGS, read
from promptmm_pyg.data import ITEM, num_nodes_dict
from promptmm_pyg.distillation import CandidateSampling, distill, truncate_embeddings
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.targets import SoftTargets, load_targets, topk_targets
from promptmm_pyg.training import (
    History,
    Schedule,
    bpr_terms,
    get_embeddings,
    train_teacher,
)

CONTROL, TEACHER, SHUFFLED = 'control', 'teacher', 'PromptMM, shuffled teacher'
RANDOM, COPY = 'random', 'teacher copy'
METRIC = 'Recall@20'
LEARNING_RATE = 1e-2
SCHEDULE = Schedule(epochs=150, patience=5, validate_every=3, progress=False)
CANDIDATES = CandidateSampling(5, 5, 5, refresh_every=15)


class Trial(NamedTuple):
    """What is chosen on validation."""

    weight: float  # Of the loss.
    l2: float
    learning_rate: float = LEARNING_RATE


TRIALS = (Trial(1.0, 0.01), Trial(1.0, 0.05), Trial(10.0, 0.01))
CONTROL_TRIALS = tuple(
    Trial(0.0, l2, learning_rate)
    for learning_rate in (3e-3, LEARNING_RATE)
    for l2 in (0.003, 0.01, 0.03, 0.05, 0.1)
)


class Bench(PreparedSetting):
    """One data set: its graphs, and what the teacher of each seed says."""

    @property
    def name(self) -> str:
        """That of the data set."""
        return self.setting.dataset

    def targets(self, seed: int) -> SoftTargets:
        path = targets_path(self.work, self.name, seed)
        if not path.is_file():
            raise SystemExit(
                f'no teacher of seed {seed}. Run it first, with the same --work: '
                f"'python -m benchmarks.run {self.name}'"
            )
        return load_targets(path, self.train)

    def outcome(
        self, name: str, trial: Trial, width: int, seed: int, init: str = RANDOM
    ) -> dict[str, Any]:
        """Validation value, epoch and per-user test values of one student, trained
        now or before, from ``init``: random tables or the teacher's, cut to its width.
        """
        digest = self.setting.digest()
        *chosen, learning_rate = trial
        numbers = [digest, name, chosen, width, seed, learning_rate, SCHEDULE]
        if init != RANDOM:  # What random starts are kept under stays as it was.
            numbers.append(init)
        return kept(
            self.work / 'losses',
            numbers,
            lambda: self._train(name, trial, width, seed, init),
            f'{self.name}-',
        )

    def student(self, width: int, seed: int, init: str = RANDOM) -> MatrixFactorization:
        """A student at its start."""
        torch.manual_seed(seed)
        student = MatrixFactorization(num_nodes_dict(self.train), width)
        if init == COPY:
            tables = truncate_embeddings(self.targets(seed).x_dict, width)
            student.embeddings.load_tables(tables)
        return student

    def _train(
        self, name: str, trial: Trial, width: int, seed: int, init: str
    ) -> dict[str, Any]:
        student = self.student(width, seed, init)
        if name == CONTROL:
            history = train_teacher(
                student,
                self.train,
                self.split.val,
                terms=bpr_terms,
                weights={'bpr': 1.0, 'l2': trial.l2},
                **self._common(trial, seed),
            )
            return self._said(student, history)
        targets = self.targets(seed)
        if name == SHUFFLED:
            targets = shuffled(targets, self.train, seed)
        recipe = RECIPES['PromptMM' if name == SHUFFLED else name]
        return self.teach(student, targets, recipe, trial, seed)

    def teach(
        self,
        student: MatrixFactorization,
        targets: SoftTargets,
        recipe: Recipe,
        trial: Trial,
        seed: int,
    ) -> dict[str, Any]:
        """Validation value, epoch and per-user test values of a student that learns
        from ``targets``.
        """
        width = student.embeddings.embedding_dim
        objective, shares = recipe(Context(targets, self.train, width))
        shares = {name: trial.weight * share for name, share in shares.items()}
        history = distill(
            student,
            targets,
            self.train,
            self.split.val,
            objective=objective,
            candidates=CANDIDATES,
            weights={'bpr': 1.0, 'l2': trial.l2, **shares},
            control=False,
            **self._common(trial, seed),
        ).history
        return self._said(student, history)

    def _common(self, trial: Trial, seed: int) -> dict[str, Any]:
        return {
            'learning_rate': trial.learning_rate,
            'batch_size': self.setting.batch_size,
            'seed': seed,
            'schedule': SCHEDULE,
        }

    def _said(self, student: MatrixFactorization, history: History) -> dict[str, Any]:
        test = evaluate(get_embeddings(student, ()), self.split.test, ks=(20,))
        return {
            'validation': history.best_value,
            'epoch': history.best_epoch,
            'test': dict(test.per_user),
        }


def shuffled(targets: SoftTargets, train: HeteroData, seed: int) -> SoftTargets:
    """The same vectors, each given to another user or item: a teacher that knows
    nothing about its nodes.
    """
    generator = torch.Generator().manual_seed(seed)
    order = {
        key: torch.randperm(x.size(0), generator=generator)
        for key, x in targets.x_dict.items()
    }
    wrong = SoftTargets(
        {key: x[order[key]] for key, x in targets.x_dict.items()},
        {
            modality: {key: x[order[key]] for key, x in x_dict.items()}
            for modality, x_dict in targets.modality_x_dict.items()
        },
    )
    return wrong._replace(top=topk_targets(wrong, train, 100))


def choose(bench: Bench, name: str, width: int, seed: int) -> Trial:
    """The best trial on validation; of equals, the first."""
    trials = CONTROL_TRIALS if name == CONTROL else TRIALS
    return max(
        trials, key=lambda t: float(bench.outcome(name, t, width, seed)['validation'])
    )


def _width_of_trials(name: str, width: int, widths: list[int]) -> int:
    return width if name == CONTROL else widths[0]


def summarize(
    bench: Bench, names: list[str], widths: list[int], seeds: list[int]
) -> dict[str, Any]:
    """The result file: every loss at every width, beside control and teacher."""
    teachers = [bench.targets(seed).x_dict for seed in seeds]
    full = [_test(bench, x_dict) for x_dict in teachers]
    rows: list[dict[str, Any]] = []
    for width in widths:
        control: list[torch.Tensor] = []
        for name in names:
            trial = choose(bench, name, _width_of_trials(name, width, widths), seeds[0])
            runs = [bench.outcome(name, trial, width, s) for s in seeds]
            values = [run['test'][METRIC] for run in runs]
            if name == CONTROL:
                control = values
            row = _row(name, width, values, control, full)
            row |= {
                'trial': trial._asdict(),
                'validation': [run['validation'] for run in runs],
                'epochs': [run['epoch'] for run in runs],
            }
            rows.append(row)
        cut = [_test(bench, truncate_embeddings(x_dict, width)) for x_dict in teachers]
        rows.append(_row('teacher cut, untrained', width, cut, control, full))
    return {
        'setting': bench.setting.as_dict(),
        'learning_rate': LEARNING_RATE,
        'schedule': SCHEDULE._asdict(),
        'trials': [t._asdict() for t in TRIALS],
        'control_trials': [t._asdict() for t in CONTROL_TRIALS],
        'seeds': seeds,
        'teacher': spread([float(x.mean()) for x in full]),
        'teacher_width': teachers[0][ITEM].size(1),
        'losses': rows,
    }


def _test(bench: Bench, x_dict: dict[str, torch.Tensor]) -> torch.Tensor:
    return evaluate(x_dict, bench.split.test, ks=(20,)).per_user[METRIC]


def _row(
    name: str,
    width: int,
    values: list[torch.Tensor],
    control: list[torch.Tensor],
    teacher: list[torch.Tensor],
) -> dict[str, Any]:
    means = [float(x.mean()) for x in values]
    of_teacher = sum(means) / sum(float(x.mean()) for x in teacher)
    row = {
        'name': name,
        'width': width,
        'test': spread(means),
        'share_of_teacher': of_teacher,
    }
    if name != CONTROL:
        row['difference'] = difference(values, control)
    return row


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument('--widths', type=int, nargs='+', default=[16, 32])
    parser.add_argument('--losses', nargs='+', choices=list(RECIPES), help='only these')
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    bench = Bench(setting, read(setting.dataset, args.data), args.work)
    names = [CONTROL, *(args.losses or RECIPES), SHUFFLED]
    report: Callable[..., None] = lambda *x: print(*x, flush=True)  # noqa: E731
    for name in names:
        for width in args.widths:
            at = _width_of_trials(name, width, args.widths)
            trial = choose(bench, name, at, args.seeds[0])
            for seed in args.seeds:
                out = bench.outcome(name, trial, width, seed)
                report(name, trial, width, seed, round(out['validation'], 4))
    result = summarize(bench, names, args.widths, args.seeds)
    path = args.out / f'losses-{args.setting}.json'
    write_result(path, result)


if __name__ == '__main__':
    main()
