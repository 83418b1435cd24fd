"""Items without training interactions in one list with the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
    seeds_of,
)
from promptmm_pyg.benchmark.runner import METRIC, Bench
from promptmm_pyg.benchmark.stats import difference, spread
from promptmm_pyg.data import INTERACTS, ITEM, USER, split_by_part, split_per_user
from promptmm_pyg.evaluation import Evaluation, slice_by_cold_start
from promptmm_pyg.runs.run import placed_embeddings
from promptmm_pyg.targets import SoftTargets


def split_new_items(data: HeteroData, share: float, seed: int = 0) -> Tensor:
    """The part of each interaction: per user, but all interactions of a random share of
    the items are held out, half for validation and half for test.
    """
    num_items = int(data[ITEM].num_nodes)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    new = torch.zeros(num_items, dtype=torch.bool)
    new[order[: round(share * num_items)]] = True
    edges = data[INTERACTS].edge_index
    split = split_per_user(data)
    num_users = int(data[USER].num_nodes)
    part = torch.zeros(edges.size(1), dtype=torch.long)
    key = edges[0] + num_users * edges[1]
    for code, graph in ((1, split.val), (2, split.test)):
        held_out = graph[INTERACTS].edge_label_index
        part[torch.isin(key, held_out[0] + num_users * held_out[1])] = code
    is_new = new[edges[1]]
    part[is_new] = torch.randint(1, 3, (int(is_new.sum()),), generator=generator)
    return part


class PlacementBench(Bench):
    """A data set whose new items are ranked among themselves, too. Negatives are
    those of the package: items with training interactions.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        num_items = int(self.split.train[ITEM].num_nodes)
        item = self.split.train[INTERACTS].edge_index[1]
        self.new = torch.bincount(item, minlength=num_items) == 0
        self.test_items = {'test': None, 'test_new': self.new}

    def train_options(self) -> dict[str, Any]:
        return {}

    def placed(self, entry: Entry) -> Entry:
        """The embeddings of an entry with new items placed by their features."""
        params = self.best_params(entry)[0]

        def targets(seed: int) -> SoftTargets:
            x_dict = self.x_dict(entry.arm, params, seed)
            return SoftTargets(placed_embeddings(x_dict, self.split.val) or x_dict, {})

        arm = Arm(entry.name, embeddings=Teacher(['placed', entry.arm.key], targets))
        return Entry(
            f'{entry.name}, new items placed', arm, references={'unplaced': entry}
        )

    def slices(self, entry: Entry) -> dict[str, list[Evaluation]]:
        """Per seed the test results of all positives, and of those of trained and of
        new items; the latter also ranked among themselves.
        """
        tests = {
            name: [slice_by_cold_start(x, self.split.test) for x in results]
            for name, results in (
                (name, self.tests(entry, name)) for name in self.test_items
            )
        }
        return {
            'all': self.tests(entry, 'test'),
            'trained': [test['warm'] for test in tests['test']],
            'new': [test['cold'] for test in tests['test']],
            'new_alone': [test['cold'] for test in tests['test_new']],
        }


@dataclass(frozen=True, kw_only=True)
class Placement(Experiment):
    """Models with and without the placement of new items."""

    metrics = (METRIC, 'NDCG@20')
    models: tuple[str, ...] = ('VBPR', 'CLCRec')
    trials: Any = field(default_factory=lambda: {'l2': (1e-4, 1e-3, 1e-2, 0.1)})
    new_items: float = 0.05
    """Share of new items of synthetic data; other data have them."""

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for model in (*self.models, TEACHER, *dataset.students):
            for trial in grid(self.trials):
                check_params('models', model, trial, ('weight',))
        hyperparameters(dataset, TEACHER)

    def bench(
        self, dataset: Dataset, seeds: Sequence[int], work: Path, device: str
    ) -> PlacementBench:
        split = None
        if dataset.synthetic is not None:
            graph = dataset.read_graph()
            split = split_by_part(graph, split_new_items(graph, self.new_items))
        return PlacementBench(dataset, seeds, work, split=split, device=device)

    def entries(self, bench: PlacementBench) -> list[Entry]:
        dataset, training = bench.dataset, self.config(bench.dataset)
        trials = grid(self.trials)
        width = hyperparameters(dataset, TEACHER)['embedding_dim']
        entries = [Entry('chance', Arm('chance', embeddings=_chance(bench)))]
        entries += [
            Entry(model, Arm(model, {'embedding_dim': width}, training), trials)
            for model in self.models
        ]
        teacher = model_entry(dataset, TEACHER, training, trials=trials)
        entries.append(replace(teacher, factors={}))
        targets = bench.teacher(teacher.arm, bench.best_params(teacher)[0])
        for model in dataset.students:
            student, baseline = (
                replace(entry, trials=trials, factors={}, references={})
                for entry in student_and_baseline(dataset, model, training, targets)
            )
            for entry in (baseline, student):
                entries += [entry, bench.placed(entry)]
        return entries

    def row(self, bench: PlacementBench, entry: Entry) -> dict[str, Any]:
        row: dict[str, Any] = super().row(bench, replace(entry, references={}))
        slices = bench.slices(entry)
        for name, tests in slices.items():
            row[f'{name}_items'] = spread([test.metrics[METRIC] for test in tests])
        for reference in entry.references.values():
            before = bench.slices(reference)
            for name, tests in slices.items():
                # Of the same trained model: seeds are paired.
                changes = [
                    a.per_user[METRIC] - b.per_user[METRIC]
                    for a, b in zip(tests, before[name], strict=True)
                ]
                zeros = [torch.zeros_like(change) for change in changes]
                row[f'diff_{name}_items'] = difference(changes, zeros)
        return row

    def run(self, bench: PlacementBench, dataset: Dataset, out: Path) -> dict[str, Any]:
        result = super().run(bench, dataset, out)
        item = bench.split.test[INTERACTS].edge_label_index[1]
        share = float(bench.new[item].double().mean())
        numbers = {'items': int(bench.new.sum()), 'share_of_test': share}
        return {**result, 'new_items': numbers}

    @classmethod
    def table(cls, result: Result) -> str:
        """Every model: all items, and the positives of trained and of new items."""
        rows = [
            [
                row['name'],
                mean_std(row['all_items']),
                interval(row.get('diff_all_items')),
                mean_std(row['trained_items']),
                interval(row.get('diff_trained_items')),
                mean_std(row['new_items']),
                mean_std(row['new_alone_items']),
            ]
            for row in result['rows']
        ]
        head = ['model', METRIC, 'vs. unplaced (95 %)', 'trained items']
        head += ['vs. unplaced (95 %)', 'new items', 'new among themselves']
        numbers = result['new_items']
        title = (
            f'**{result["dataset"]}**, test, {numbers["items"]} new items with '
            f'{numbers["share_of_test"]:.1%} of the positives, {seeds_of(result)}'
        )
        return '\n'.join([title, '', *markdown(head, rows)])


def _chance(bench: PlacementBench) -> Teacher:
    """One random order of the items for all users."""

    def targets(seed: int) -> SoftTargets:
        generator = torch.Generator().manual_seed(seed)
        users = torch.ones(int(bench.train[USER].num_nodes), 1)
        items = torch.rand(bench.new.numel(), 1, generator=generator)
        return SoftTargets({USER: users, ITEM: items}, {})

    return Teacher(['chance'], targets)
