"""The teacher, its students and their baselines, LightGCN and EASE."""

from dataclasses import dataclass, replace
from typing import Any

from promptmm_pyg.benchmark.config import Dataset, Params, grid
from promptmm_pyg.benchmark.entries import (
    PROMPTMM,
    TRUNCATED,
    Arm,
    Entry,
    Teacher,
    truncated,
)
from promptmm_pyg.benchmark.experiments import BASELINE, LIGHT_GCN, Experiment
from promptmm_pyg.benchmark.report import Result, markdown, mean_std, seeds_of
from promptmm_pyg.benchmark.runner import METRIC, Bench
from promptmm_pyg.data import ITEM

STUDENT, TEACHER, EASE = 'student', 'PromptMM', 'EASE'
EASE_L2 = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


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
    """The teacher, its students and their baselines, LightGCN and EASE."""

    metrics = ()
    ease_l2: tuple[float, ...] = EASE_L2

    def entries(self, bench: Bench) -> list[Entry]:
        dataset, training = bench.dataset, self.config(bench.dataset)
        light_gcn = model_entry(dataset, LIGHT_GCN, training)
        teacher = model_entry(
            dataset, TEACHER, training, references={LIGHT_GCN: light_gcn}
        )
        width = {'width': int(bench.train[ITEM].num_nodes)}
        ease = Entry(EASE, Arm(EASE), grid({'l2': self.ease_l2}), factors=width)
        others = {'teacher': teacher, LIGHT_GCN: light_gcn, EASE: ease}
        students, cuts = [], {}
        for model in dataset.students:
            targets = bench.teacher(teacher.arm)
            student, baseline = student_and_baseline(dataset, model, training, targets)
            width = dict(student.factors)
            name = f'{TRUNCATED}, width {width["width"]}'
            cuts[name] = Entry(name, truncated(targets, width['width']), factors=width)
            references = {
                **student.references,
                'truncated_teacher': cuts[name],
                **others,
            }
            student = replace(student, references=references, retained_of=teacher)
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
