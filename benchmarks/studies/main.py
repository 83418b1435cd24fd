"""The teacher, its students and their baselines, LightGCN and EASE."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptmm_pyg._utils import check_positive
from promptmm_pyg.benchmark.config import Dataset, Params
from promptmm_pyg.benchmark.entries import (
    PROMPTMM,
    RANDOM,
    STARTED,
    TRUNCATED,
    Arm,
    Entry,
    Teacher,
    truncated,
)
from promptmm_pyg.benchmark.experiments import (
    BASELINE,
    LIGHT_GCN,
    Experiment,
    suite_arm,
)
from promptmm_pyg.benchmark.registry import (
    is_trained,
)
from promptmm_pyg.benchmark.report import Result, markdown, mean_std, seeds_of
from promptmm_pyg.benchmark.runner import METRIC, Bench
from promptmm_pyg.data import ITEM
from promptmm_pyg.models import get_model
from promptmm_pyg.search_space import STRONG_L2, Range, SearchSpace
from promptmm_pyg.tuning.tune import search_space

STUDENT, TEACHER, EASE = 'student', 'PromptMM', 'EASE'
TRIALS, WIDTH = 5, 64  # Of every search.
WEIGHT = Range(1.0, 0.1, 30.0)  # Of the losses of distillation.
RANDOM_STARTS: tuple[Params, ...] = (
    {'start': RANDOM},
    {'start': RANDOM, 'l2': STRONG_L2},
)
"""The last trials of a student, in place of as many drawn ones."""


def searched(
    model: str, training: Params, trials: int = TRIALS, width: int = WIDTH
) -> Entry:
    """A model tuned as in the suite, with which it shares its trainings."""
    arm, factors = suite_arm(model, training, width), {}
    if is_trained(model):
        factors['width'] = width
    return Entry(model, arm, search=(search_space(model), trials), factors=factors)


def hyperparameters(dataset: Dataset, model: str) -> dict[str, Any]:
    """The hyper-parameters of a model on a data set.

    Raises:
        ValueError: If the configuration has none.
    """
    if model not in dataset.models:
        raise ValueError(
            f"'dataset.{dataset.name}.models' must have {model!r} (got "
            f'{sorted(dataset.models)})'
        )
    return dict(dataset.models[model])


def model_entry(
    dataset: Dataset, model: str, training: Params, **options: Any
) -> Entry:
    """A model with its hyper-parameters on a data set."""
    params = hyperparameters(dataset, model)
    factors = {'width': params['embedding_dim']}
    return Entry(model, Arm(model, params, training), factors=factors, **options)


def student_and_baseline(
    dataset: Dataset, model: str, training: Params, teacher: Teacher
) -> tuple[Entry, Entry]:
    """A student with PromptMM's losses, and the same student without distillation."""
    params = dict(dataset.students[model])
    l2 = params.pop('baseline_l2', params['l2'])
    factors = {'width': params['embedding_dim']}
    arm = Arm(model, {**params, 'l2': l2}, training)
    baseline = Entry(f'{model} {BASELINE}', arm, factors=factors)
    arm = Arm(model, params, training, PROMPTMM, teacher, dataset.candidates)
    references = {BASELINE: baseline}
    student = Entry(f'{model} {STUDENT}', arm, factors=factors, references=references)
    return student, baseline


@dataclass(frozen=True, kw_only=True)
class Main(Experiment):
    """The teacher, its students and their baselines, LightGCN and EASE. All are tuned
    by equally many trials, of which the last two of a student start at random.
    """

    metrics = ()
    search_trials: int = TRIALS
    search_width: int = WIDTH
    """Of teacher and LightGCN; the width of students is that of the data set."""

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        check_positive('search_trials', self.search_trials)
        for student in dataset.students:
            get_model(student, option='students')

    def entries(self, bench: Bench) -> list[Entry]:
        training = self.config(bench.dataset)
        light_gcn, teacher, ease = (
            searched(model, training, self.search_trials, self.search_width)
            for model in (LIGHT_GCN, TEACHER, EASE)
        )
        teacher = replace(teacher, references={LIGHT_GCN: light_gcn})
        ease = replace(ease, factors={'width': int(bench.train[ITEM].num_nodes)})
        others = {'teacher': teacher, LIGHT_GCN: light_gcn, EASE: ease}
        targets = bench.teacher(teacher.arm, bench.best_params(teacher)[0])
        students, cuts = [], {}
        for model, params in bench.dataset.students.items():
            width = params['embedding_dim']
            factors = {'width': width}
            name = f'{TRUNCATED}, width {width}'
            cuts[name] = Entry(name, truncated(targets, width), factors=factors)
            baseline = replace(
                searched(model, training, self.search_trials, width),
                name=f'{model} {BASELINE}',
            )
            space = SearchSpace({**search_space(model).space, 'weight': WEIGHT})
            student = replace(
                baseline,
                name=f'{model} {STUDENT}',
                arm=replace(
                    baseline.arm,
                    losses=PROMPTMM,
                    teacher=targets,
                    candidates=bench.dataset.candidates,
                    start=STARTED,
                ),
                search=(space, max(1, self.search_trials - len(RANDOM_STARTS))),
                trials=RANDOM_STARTS,
                references={
                    BASELINE: baseline,
                    'truncated_teacher': cuts[name],
                    **others,
                },
                retained_of=teacher,
            )
            students += [student, baseline]
        return [light_gcn, teacher, *students, *cuts.values(), ease]

    def row(self, bench: Bench, entry: Entry) -> dict[str, Any]:
        size = bench.runs(entry).outcomes[0]['parameters']
        if entry.name == EASE:
            size = entry.factors['width'] ** 2
        return {**super().row(bench, entry), 'parameters': size}

    @classmethod
    def table(cls, result: Result) -> str:
        """Every model, and the differences on the same users."""
        metrics = (METRIC, 'NDCG@20')
        rows = [
            [row['name'], str(row['width']), f'{row["parameters"]:,}']
            + [mean_std(row['test'][m]) for m in metrics]
            for row in result['rows']
        ]
        gains = [
            [
                f'{row["name"]} vs. {key.removeprefix("diff_vs_").replace("_", " ")}',
                f'{gain["difference"]:+.4f}',
                f'[{gain["low"]:+.4f}, {gain["high"]:+.4f}]',
            ]
            for row in result['rows']
            for key, gain in row.items()
            if key.startswith('diff_vs_')
        ]
        lines = [f'**{result["dataset"]}**, test, {seeds_of(result)}', '']
        lines += markdown(['model', 'width', 'parameters', *metrics], rows)
        head = [f'difference in {METRIC}', 'mean', '95 % interval']
        return '\n'.join([*lines, '', *markdown(head, gains)])
