"""Items that nobody has taken yet: who ranks them best, from their features alone.

    python -m benchmarks.cold synthetic --seeds 0 1 2
    python -m benchmarks.cold tiktok --data FOLDER

The data is split anew by strict cold items: those of validation, and others of test,
have no training interaction at all and are known by their features only. Training
stops by interactions with warm items that are held out of training; the penalty is
chosen by the cold items of validation, with the first seed and for all; the cold items
of test are read once per model and seed. Tables without features get the rows of cold
items from the feature path of serving. Finished trainings are kept under ``--work``.
Writes ``benchmarks/results/cold-<dataset>.json``.
"""

import argparse
import copy
import hashlib
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.kept import kept
from benchmarks.paired import difference
from benchmarks.run import STUDENTS, build_teacher, prepare, spread
from benchmarks.settings import SETTINGS, Setting, read
from promptmm_pyg import models as m
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    REV_INTERACTS,
    USER,
    Split,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
    planted_dataset,
    split_cold_items,
    split_per_user,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.outputs import SoftTargets, TeacherOutput
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    DistillationObjective,
    Schedule,
    bpr_terms,
    distill,
    embed,
    message_operators,
    train_teacher,
)

METRIC = 'Recall@20'
METRICS = (METRIC, 'NDCG@20')
SIZES = (2000, 1000)  # Users and items of the planted data.
SCHEDULE = Schedule(epochs=40, patience=4, validate_every=4, progress=False)
L2 = (1e-3, 1e-2, 0.1)  # The trials of every model.
RANDOM, POPULARITY, TEACHER = 'random', 'popularity', 'PromptMM teacher'
STUDENT, CONTROL = 'student', 'control'
TRAINED = (
    'VBPR',
    'CLCRec',
    TEACHER,
    *(f'{kind} {role}' for kind in STUDENTS for role in (CONTROL, STUDENT)),
)
NOTE = (
    'cold items have no training interaction; they are known by features only. They '
    'are among the negatives drawn in training, as all items are. Popularity and '
    'random order cold items by chance. A cold item without any modality gets the '
    'mean row of the warm items.'
)


def unsplit(split: Split) -> HeteroData:
    """The graph of all interactions of a split, to be split again."""
    parts = [split.train[INTERACTS].edge_index]
    parts += [part[INTERACTS].edge_label_index for part in (split.val, split.test)]
    return _with_edges(split.train, torch.cat(parts, dim=1))


def _with_edges(data: HeteroData, edge_index: Tensor) -> HeteroData:
    out = copy.copy(data)
    del out[INTERACTS]
    del out[REV_INTERACTS]
    out[INTERACTS].edge_index = edge_index
    out[REV_INTERACTS].edge_index = edge_index.flip(0)
    return out


def cold_split(data: HeteroData) -> tuple[Split, Split]:
    """The split by cold items, and its training edges split once more by user, for
    the validation that training stops by.
    """
    outer = split_cold_items(data)
    edge_index = outer.train[INTERACTS].edge_index
    warm = split_per_user(_with_edges(outer.train, edge_index), test_ratio=0.0)
    return outer, warm


def mask_of(num_items: int, data: HeteroData) -> Tensor:
    """Which items are to be found, ``[num_items]``."""
    mask = torch.zeros(num_items, dtype=torch.bool)
    mask[data[INTERACTS].edge_label_index[1]] = True
    return mask


def add_cold(x_dict: dict[str, Tensor], data: HeteroData, warm: Tensor) -> Tensor:
    """Item rows with those of cold items predicted by serving's feature path."""
    features = {k: x[ITEM] for k, x in modality_x_dict(data).items()}
    masks = {
        name: modality_mask_dict(data).get(name, {}).get(ITEM, torch.ones_like(warm))
        for name in features
    }
    old = warm.nonzero().view(-1)
    position = torch.full(warm.size(), -1)
    position[old] = torch.arange(old.numel())
    user, item = data[INTERACTS].edge_index
    server = Recommender(
        x_dict[USER],
        x_dict[ITEM][old],
        user_ids=list(range(x_dict[USER].size(0))),
        item_ids=old.tolist(),
        seen=torch.stack([user, position[item]]),
    )
    server.learn_features(
        {k: x[old] for k, x in features.items()}, {k: x[old] for k, x in masks.items()}
    )
    new = (~warm & torch.stack(list(masks.values())).any(0)).nonzero().view(-1)
    server.add_items(
        new.tolist(),
        {k: x[new] for k, x in features.items()},
        modality_mask={k: x[new] for k, x in masks.items()},
    )
    out = x_dict[ITEM][old].mean(0).expand(warm.numel(), -1).clone()
    out[torch.cat([old, new])] = server.item_x
    return out


class Bench:
    """A data set split by cold items, and every model that was trained on it."""

    def __init__(
        self, setting: Setting, data: HeteroData, work: Path, first_seed: int
    ) -> None:
        self.setting, self.work, self.first_seed = setting, work, first_seed
        self.choose = cache(self._choose)  # Every student asks for its teacher's.
        self.split, inner = cold_split(data)
        self.val = inner.val
        self.train = prepare(inner.train, setting)
        self.raw = inner.train
        sizes = num_nodes_dict(data)
        degree = torch.bincount(
            self.split.train[INTERACTS].edge_index[1], minlength=sizes[ITEM]
        )
        self.degree, self.warm = degree, degree > 0

    def outcome(self, name: str, l2: float, seed: int) -> dict[str, Any]:
        """Tables of the state that was best, trained now or before."""
        edges = self.split.train[INTERACTS].edge_index.numpy().tobytes()
        key: list[Any] = [self.setting.digest(), hashlib.sha256(edges).hexdigest()]
        key += [list(SCHEDULE), name, l2, seed]
        taught = name.endswith(STUDENT)
        if taught:
            key.append(self.choose(TEACHER))

        def trained() -> dict[str, Any]:
            targets = self.targets(seed) if taught else None
            return {'x_dict': self._fit(name, l2, seed, targets)}

        return kept(self.work / 'cold', key, trained)

    def targets(self, seed: int) -> SoftTargets:
        """What the chosen teacher says, trained now or before."""
        x_dict = self.outcome(TEACHER, self.choose(TEACHER), seed)['x_dict']
        return SoftTargets.from_output(TeacherOutput(x_dict, {}))

    def _fit(
        self, name: str, l2: float, seed: int, targets: SoftTargets | None
    ) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        sizes, inputs = num_nodes_dict(self.train), (message_operators(self.train),)
        common: dict[str, Any] = {
            'learning_rate': self.setting.learning_rate,
            'batch_size': self.setting.batch_size,
            'seed': seed,
            'schedule': SCHEDULE,
        }
        kind = name.split()[0]
        model: Any
        if kind in STUDENTS:
            model = STUDENTS[kind](sizes, **self.setting.students[kind].arguments)
            if targets is not None:
                width = self.setting.students[kind].arguments['embedding_dim']
                distill(
                    model,
                    targets,
                    self.train,
                    self.val,
                    objective=DistillationObjective(
                        targets, width, **self.setting.objective
                    ),
                    candidates=self.setting.candidates,
                    weights={**STUDENT_WEIGHTS, 'l2': l2},
                    control=False,
                    **common,
                )
                return embed(model, inputs)
            common |= {'terms': bpr_terms, 'weights': {**CONTROL_WEIGHTS, 'l2': l2}}
        elif name == TEACHER:
            model = build_teacher(self.train, self.setting)
            common['weights'] = {**self.setting.teacher_weights, 'l2': l2}
        else:
            cls: Any = {'VBPR': m.VBPR, 'CLCRec': m.CLCRec}[name]
            width = self.setting.teacher['embedding_dim']
            features = modality_x_dict(self.train)
            model = cls(sizes, INTERACTS, features, embedding_dim=width)
            common |= {'terms': model.terms, 'weights': {**model.weights, 'l2': l2}}
        train_teacher(model, self.train, self.val, **common)
        return {k: x.float() for k, x in embed(model, inputs).items()}

    def tables(self, name: str, l2: float, seed: int) -> dict[str, Tensor]:
        """What is ranked: cold rows of tables without features are predicted."""
        if name in (RANDOM, POPULARITY):
            generator = torch.Generator().manual_seed(seed)
            chance = torch.rand(self.degree.numel(), 1, generator=generator)
            item_x = chance + (self.degree[:, None] if name == POPULARITY else 0)
            return {USER: torch.ones(num_nodes_dict(self.train)[USER], 1), ITEM: item_x}
        x_dict: dict[str, Tensor] = self.outcome(name, l2, seed)['x_dict']
        if name.split()[0] in STUDENTS:
            x_dict = {**x_dict, ITEM: add_cold(x_dict, self.raw, self.warm)}
        return x_dict

    def among_cold(self, x_dict: dict[str, Tensor], part: str) -> dict[str, Tensor]:
        """Per-user values where the cold items of a part alone are ranked."""
        data = getattr(self.split, part)
        cold = mask_of(self.warm.numel(), data)
        return dict(evaluate(x_dict, data, ks=(20,), candidates=cold).per_user)

    def _choose(self, name: str) -> float:
        """The best penalty on the cold items of validation at the first seed; of
        equals, the first.
        """
        tables = [self.tables(name, l2, self.first_seed) for l2 in L2]
        values = [float(self.among_cold(x, 'val')[METRIC].mean()) for x in tables]
        return L2[values.index(max(values))]


def rows(bench: Bench, seeds: list[int]) -> list[dict[str, Any]]:
    """Every model among cold items and among all, students beside their control."""
    out: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, Tensor]]] = {}
    for name in (RANDOM, POPULARITY, *TRAINED):
        l2 = bench.choose(name) if name in TRAINED else 0.0
        tables = [bench.tables(name, l2, seed) for seed in seeds]
        cold = [bench.among_cold(x, 'test') for x in tables]
        everywhere = [evaluate(x, bench.split.test, ks=(20,)).per_user for x in tables]
        found[name] = cold
        row: dict[str, Any] = {'model': name, 'l2': l2}
        for key, runs in (('cold', cold), ('all', everywhere)):
            row[key] = {
                metric: spread([float(run[metric].mean()) for run in runs])
                for metric in METRICS
            }
        if name.endswith(STUDENT):
            control = found[f'{name.split()[0]} {CONTROL}']
            row['over_control'] = difference(
                [run[METRIC] for run in cold], [run[METRIC] for run in control]
            )
        out.append(row)
        print(name, l2, row['cold'][METRIC]['mean'], flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('setting', choices=sorted(SETTINGS), help='what to run')
    parser.add_argument('--data', type=Path, help='folder of the data set')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work', type=Path, default=Path('runs/benchmarks'))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'))
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    if args.setting == 'synthetic':
        data = planted_dataset(*SIZES, seed=0)
    else:
        data = unsplit(read(setting.dataset, args.data))
    bench = Bench(setting, data, args.work, args.seeds[0])
    result = {
        'setting': setting.as_dict(),
        'note': NOTE,
        'schedule': SCHEDULE._asdict(),
        'l2': L2,
        'seeds': args.seeds,
        'cold_items': {
            part: int(mask_of(bench.warm.numel(), getattr(bench.split, part)).sum())
            for part in ('val', 'test')
        },
        'cold': rows(bench, args.seeds),
        'threads': torch.get_num_threads(),
        'versions': {'torch': torch.__version__, 'python': platform.python_version()},
    }
    if args.setting == 'synthetic':
        result['sizes'] = SIZES
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'cold-{args.setting}.json'
    path.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
