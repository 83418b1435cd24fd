"""Losses, widths and starts of a student, and what its tables cost to serve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.speed import interleaved
from benchmarks.studies.main import TEACHER, TRIALS, WIDTH, searched
from promptmm_pyg._utils import check_choice
from promptmm_pyg.benchmark.config import Dataset, Params, grid
from promptmm_pyg.benchmark.entries import (
    PROMPTMM,
    RANDOM,
    STARTED,
    TRUNCATED,
    Arm,
    Entry,
    Losses,
    Teacher,
    truncated,
)
from promptmm_pyg.benchmark.experiments import BASELINE, Experiment
from promptmm_pyg.benchmark.registry import build, check_params
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    mean_epochs,
    recall,
    title,
)
from promptmm_pyg.benchmark.runner import METRIC, Bench, with_top
from promptmm_pyg.benchmark.stats import mean
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.distillation import (
    Adapter,
    OnEmbeddings,
    OnLists,
    OnPairs,
    OnTopK,
    fdrec_losses,
    tarec_losses,
    truncate_embeddings,
)
from promptmm_pyg.distillation.start import Start
from promptmm_pyg.functional import l2_normalize, score_lists
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    AngleKDLoss,
    CollaborativeKDLoss,
    DecoupledKDLoss,
    DistanceKDLoss,
    DistillationExperts,
    HierarchicalTopologyKDLoss,
    InfoNCELoss,
    ListwiseKDLoss,
    PairwiseKDLoss,
    RankAwareKDLoss,
    RankingDistillationLoss,
    RelaxedRankingLoss,
    ScaledCosineLoss,
    SimilarityKDLoss,
    SoftLabelKDLoss,
    TopologyKDLoss,
    UnitMSELoss,
    WassersteinKDLoss,
    bidirectional_kd_terms,
    rank_discrepancy_weights,
)
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.serving import Recommender
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.tuning import split_params

NUM_GROUPS = 30  # Of HierarchicalTopologyKDLoss, per node type.
SERVED_USERS = (1, 1024)  # Per request.
# Of the teacher, the width of the student and the weight.
Maker = Callable[[SoftTargets, int, float], list[Adapter]]


def _on_lists(loss: torch.nn.Module) -> Maker:
    return lambda _, __, weight: [OnLists(loss, weight, 'fused')]


def _on_rows(loss: torch.nn.Module, max_rows: int) -> Maker:
    return lambda _, __, weight: [
        OnEmbeddings(loss, weight, 'fused', projection='none', max_rows=max_rows)
    ]


def _projected(loss: torch.nn.Module) -> Maker:
    return lambda _, __, weight: [
        OnEmbeddings(loss, weight, 'fused', projection='per_type')
    ]


def _on_top_k(loss: torch.nn.Module, top_k: int, **options: Any) -> Maker:
    return lambda _, __, weight: [OnTopK(loss, weight, top_k, **options)]


def _experts(teacher: SoftTargets, width: int, weight: float) -> list[Adapter]:
    loss = DistillationExperts(width, teacher.x_dict[ITEM].size(1))
    return [OnEmbeddings(loss, weight, 'fused', projection='none')]


def _hierarchical(teacher: SoftTargets, _: int, weight: float) -> list[Adapter]:
    groups = {key: _groups(x) for key, x in teacher.x_dict.items()}
    return [
        OnEmbeddings(
            HierarchicalTopologyKDLoss(),
            weight,
            'fused',
            projection='none',
            group_dict=groups,
            max_rows=512,
        )
    ]


def _groups(x: Tensor) -> Tensor:
    """K-means on the directions of the teacher's embeddings."""
    from sklearn.cluster import KMeans

    means = KMeans(min(NUM_GROUPS, x.size(0)), n_init=1, random_state=0)
    return torch.from_numpy(means.fit_predict(l2_normalize(x).numpy())).long()


class _OnBidirectional(Adapter):
    """The student's half of bidirectional distillation, with a fixed teacher."""

    default_name = 'listwise'

    def __init__(self, weight: float) -> None:
        super().__init__(torch.nn.Identity(), weight)

    def compute(
        self,
        student: dict[str, Tensor],
        teacher: Any,
        batch: Triplets,
        lists: CandidateLists,
    ) -> Tensor:
        own, other = (
            score_lists(x[USER], x[ITEM], batch.user, lists.item_index)
            for x in (student, teacher.x_dict)
        )
        weights = rank_discrepancy_weights(
            _ranks(own.detach(), lists.mask), _ranks(other, lists.mask), mask=lists.mask
        )
        terms = bidirectional_kd_terms(
            own, other, student_weights=weights, mask=lists.mask
        )
        return terms.student.mean()


def _ranks(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The rank of every candidate in its list, 1 for the best."""
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.argsort(dim=1, descending=True).argsort(dim=1) + 1


MAKERS: dict[str, Maker] = {
    'PairwiseKDLoss': lambda _, __, weight: [OnPairs(PairwiseKDLoss(), weight)],
    'ListwiseKDLoss': _on_lists(ListwiseKDLoss()),
    'DecoupledKDLoss': _on_lists(DecoupledKDLoss()),
    'SoftLabelKDLoss': _on_lists(SoftLabelKDLoss()),
    'WassersteinKDLoss': _on_lists(WassersteinKDLoss()),
    'BidirectionalKDLoss, student only': lambda _, __, weight: [
        _OnBidirectional(weight)
    ],
    'RankingDistillationLoss': _on_top_k(RankingDistillationLoss(), 20, num_sampled=50),
    'CollaborativeKDLoss': _on_top_k(
        CollaborativeKDLoss(), 100, num_samples=20, decay=20.0
    ),
    'RelaxedRankingLoss': _on_top_k(RelaxedRankingLoss(), 20),
    'RankAwareKDLoss': _on_top_k(RankAwareKDLoss(), 50),
    'ScaledCosineLoss': _projected(ScaledCosineLoss()),
    'UnitMSELoss': _projected(UnitMSELoss()),
    'InfoNCELoss': _projected(InfoNCELoss()),
    'DistillationExperts': _experts,
    'DistanceKDLoss': _on_rows(DistanceKDLoss(), max_rows=512),
    'AngleKDLoss': _on_rows(AngleKDLoss(), max_rows=96),
    'SimilarityKDLoss': _on_rows(SimilarityKDLoss(), max_rows=512),
    'TopologyKDLoss': _on_rows(TopologyKDLoss(), max_rows=512),
    'HierarchicalTopologyKDLoss': _hierarchical,
    'TARec, without assistant': lambda _, __, weight: tarec_losses(
        wasserstein_weight=weight, contrastive_weight=weight
    ),
    'FDRec': lambda _, __, weight: fdrec_losses(
        low_weight=weight, high_weight=weight, wasserstein_weight=weight
    ),
}
LOSSES = {name: Losses(name, make) for name, make in MAKERS.items()}
LOSSES['PromptMM'] = PROMPTMM


@dataclass(frozen=True, kw_only=True)
class Distillation(Experiment):
    """Losses of distillation at several widths and starts, and the baseline."""

    student: str = 'MatrixFactorization'
    student_params: Params = field(default_factory=dict)
    losses: tuple[str, ...] = tuple(LOSSES)
    widths: tuple[int, ...] = (16, 32)
    starts: tuple[Start, ...] = (RANDOM,)
    tuned_width: int | None = None
    """Width of the trials of each loss. (default: the first)"""
    trials: Any = ({'weight': 1.0, 'l2': 0.01},)
    """Hyper-parameters of a student with a teacher, chosen from a random start."""
    baseline_trials: Any = ({'l2': 0.01},)
    """Those of the baseline, chosen at every width."""
    candidates: Params = field(default_factory=dict)
    shuffled: bool = False
    """Whether a teacher with shuffled nodes is distilled, too."""
    search_trials: int = TRIALS
    search_width: int = WIDTH
    """Of the search of the teacher, the same as that of ``main.toml``."""
    cost_repeats: int = 0
    """Repeats of the times of refreshing and serving; 0 measures none."""

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for loss in self.losses:
            check_choice('losses', loss, LOSSES)
        check_params('student', self.student, self.student_params)
        for trial in (*grid(self.trials), *grid(self.baseline_trials)):
            check_params('student', self.student, trial, ('weight', 'score_scale'))
        for start in self.starts:
            check_choice('starts', start, (RANDOM, STARTED))
        if max(self.widths) > self.search_width:
            raise ValueError(
                f"'widths' must be at most {self.search_width}, the teacher's own (got "
                f'{max(self.widths)}). There is no truncated teacher of a larger width'
            )

    def teacher(self, dataset: Dataset) -> Entry:
        """The teacher, tuned and trained as in ``main.toml``."""
        return searched(
            TEACHER, dataset.training, self.search_trials, self.search_width
        )

    def student_arm(
        self,
        dataset: Dataset,
        width: int,
        losses: Losses | None = None,
        start: Start = RANDOM,
        teacher: Teacher | None = None,
    ) -> Arm:
        """A student; without ``losses`` it is the baseline."""
        return Arm(
            self.student,
            {**self.student_params, 'embedding_dim': width},
            self.config(dataset),
            losses=losses,
            teacher=None if losses is None and start == RANDOM else teacher,
            candidates=self.candidates if losses is not None else {},
            start=start,
        )

    def entries(self, bench: Bench) -> list[Entry]:
        full = self.teacher(bench.dataset)
        teacher = bench.teacher(full.arm, bench.best_params(full)[0])
        trials, tuned_width = grid(self.trials), self.tuned_width or self.widths[0]
        taught = {name: (LOSSES[name], teacher) for name in self.losses}
        if self.shuffled:
            taught['PromptMM, shuffled teacher'] = PROMPTMM, _shuffled(bench, teacher)
        arm = partial(self.student_arm, bench.dataset)
        entries: list[Entry] = []
        for width in self.widths:
            factors: dict[str, Any] = {'width': width, 'start': STARTED}
            arm_of_cut = truncated(teacher, width)
            cut = Entry(TRUNCATED, arm_of_cut, factors=factors, retained_of=full)
            for start in self.starts:
                factors = {'width': width, 'start': start}
                references = {'truncated_teacher': cut}
                baseline = Entry(
                    BASELINE,
                    arm(width, None, start, teacher),
                    grid(self.baseline_trials),
                    arm(width),
                    factors=factors,
                    references=references,
                    retained_of=full,
                )
                entries.append(baseline)
                references = {BASELINE: baseline, **references}
                entries += [
                    Entry(
                        name,
                        arm(width, losses, start, source),
                        trials,
                        arm(tuned_width, losses, RANDOM, source),
                        factors=factors,
                        references=references,
                        retained_of=full,
                    )
                    for name, (losses, source) in taught.items()
                ]
            entries.append(replace(cut, references={BASELINE: baseline}))
        return entries

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:
        teacher = self.row(bench, self.teacher(dataset))
        result = {**super().run(bench, dataset, out), 'teachers': [teacher]}
        if self.cost_repeats:
            full = self.teacher(dataset)
            params = {**full.arm.params, **bench.best_params(full)[0]}
            result['costs'] = serving_costs(
                bench, self.student, params, self.widths, self.cost_repeats
            )
        return result

    @classmethod
    def table(cls, result: Result) -> str:
        """Losses by width; with several starts, a table per comparison, and costs."""
        (teacher,) = result['teachers']
        widths = sorted({row['width'] for row in result['rows']})
        starts = {row['start'] for row in result['rows'] if row['name'] == BASELINE}
        more = f'; the teacher, width {teacher["width"]}, has {recall(teacher)}'
        if len(starts) == 1:
            return '\n'.join(_losses_lines(result, widths, more))
        lines = title(result, f' (share of the teacher; epochs){more}')
        lines += _by_width(result['rows'], widths, _retained)
        for key, what in (
            ('diff_vs_baseline', 'the baseline of the same start and width'),
            ('diff_vs_truncated_teacher', 'the truncated teacher of the same width'),
        ):
            rows = [row for row in result['rows'] if key in row]
            lines += ['', f'{METRIC} minus that of {what} (95 % interval)', '']
            lines += _by_width(rows, widths, partial(_gain, key))
        if 'costs' in result:
            lines += ['', *_costs_lines(result['costs'])]
        return '\n'.join(lines)


def _shuffled(bench: Bench, teacher: Teacher) -> Teacher:
    def targets(seed: int) -> SoftTargets:
        return shuffled(teacher.targets(seed), bench.train, seed)

    return Teacher(['shuffled', teacher.key], targets)


def shuffled(targets: SoftTargets, train: HeteroData, seed: int) -> SoftTargets:
    """The same embeddings, each of another user or item: a teacher that knows nothing
    about its nodes.
    """
    generator = torch.Generator().manual_seed(seed)
    x_dict = {
        key: x[torch.randperm(x.size(0), generator=generator)]
        for key, x in targets.x_dict.items()
    }
    return with_top(SoftTargets(x_dict, {}), train)


def _losses_lines(result: Result, widths: Sequence[int], more: str) -> list[str]:
    head = [
        text
        for width in widths
        for text in (f'width {width}', 'of teacher', 'vs. baseline (95 %)')
    ]
    rows = {(row['name'], row['width']): row for row in result['rows']}
    body = []
    for name in dict.fromkeys(name for name, _ in rows):
        cells = [name]
        for width in widths:
            row = rows[name, width]
            cells += [
                f'{mean(row["test"][METRIC]):.4f}',
                f'{row["retained_ratio"]:.0%}',
                interval(row.get('diff_vs_baseline')),
            ]
        body.append(cells)
    head_line = (
        f'**{result["dataset"]}**, test {METRIC}, mean of {len(result["seeds"])} seeds'
    )
    return [head_line + more, '', *markdown(['loss', *head], body)]


def _retained(row: Mapping[str, Any]) -> str:
    epochs = mean_epochs(row)
    more = f'; {epochs}' if epochs else ''
    return f'{recall(row)} ({row["retained_ratio"]:.0%}{more})'


def _gain(key: str, row: Mapping[str, Any]) -> str:
    return interval(row[key])


def _by_width(
    rows: Sequence[Mapping[str, Any]],
    widths: Sequence[int],
    cell: Callable[[Mapping[str, Any]], str],
) -> list[str]:
    cells = {(r['start'], r['name'], r['width']): cell(r) for r in rows}
    return markdown(
        ['start', 'distillation', *(f'width {width}' for width in widths)],
        [
            [start, name, *(cells[start, name, width] for width in widths)]
            for start, name in dict.fromkeys(key[:2] for key in cells)
        ],
    )


def _costs_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    times = [key for key in rows[0] if isinstance(rows[0][key], dict)]
    titles = [key.replace('serve_', 'top-20, users: ') + ', ms' for key in times]
    return markdown(
        ['tables', 'width', 'trainable parameters', 'MiB served', *titles],
        [
            [
                row['name'],
                str(row['width']),
                f'{row["parameters"]:,}',
                f'{row["bytes"] / 2**20:.2f}',
                *(f'{row[key]["median_ms"]:.3f}' for key in times),
            ]
            for row in rows
        ],
    )


def serving_costs(
    bench: Bench, student: str, teacher: Params, widths: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Size, refresh time and serving time of a student's embeddings and of a teacher's,
    truncated to the same width. The models are not trained, which changes no time.
    """
    inputs = (normalized_adj_dict(bench.train),)
    arguments = split_params(TEACHER, teacher).arguments
    teacher_model = build(TEACHER, bench.train, arguments)
    refresh: dict[str, Callable[[], dict[str, Tensor]]] = {}
    rows: dict[str, dict[str, Any]] = {}

    def cut(width: int) -> dict[str, Tensor]:
        return truncate_embeddings(get_embeddings(teacher_model, inputs), width)

    for width in widths:
        model = build(student, bench.train, {'embedding_dim': width})
        for name, module, run in (
            (student, model, partial(get_embeddings, model, inputs)),
            (f'{TRUNCATED}, cached', teacher_model, partial(cut, width)),
        ):
            key = f'{name} {width}'
            refresh[key] = run
            size = sum(p.numel() for p in module.parameters() if p.requires_grad)
            rows[key] = {'name': name, 'width': width, 'parameters': size}
    tables = {key: run() for key, run in refresh.items()}
    times = {'refresh': interleaved(refresh, repeats)}
    for num_users in SERVED_USERS:
        runs = {key: _recommend(bench, x, num_users) for key, x in tables.items()}
        times[f'serve_{num_users}'] = interleaved(runs, repeats)
    for key, x_dict in tables.items():
        rows[key]['bytes'] = sum(x.numel() * x.element_size() for x in x_dict.values())
        rows[key] |= {name: values[key] for name, values in times.items()}
    return list(rows.values())


def _recommend(
    bench: Bench, x_dict: dict[str, Tensor], num_users: int
) -> Callable[[], object]:
    sizes = {key: x.size(0) for key, x in x_dict.items()}
    recommender = Recommender(
        x_dict[USER],
        x_dict[ITEM],
        user_ids=list(range(sizes[USER])),
        item_ids=list(range(sizes[ITEM])),
        seen=bench.train[INTERACTS].edge_index,
    )
    users = list(range(min(num_users, sizes[USER])))
    return partial(recommender.recommend, users, k=min(20, sizes[ITEM]))
