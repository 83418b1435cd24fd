"""Every model of the cold-item benchmark, trained on one split and kept."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.cold_data import add_cold, cold_split, mask_of
from benchmarks.kept import kept
from benchmarks.run import STUDENTS, build_teacher, prepare
from benchmarks.settings import Setting
from promptmm_pyg import models as m
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    modality_x_dict,
    num_nodes_dict,
)
from promptmm_pyg.distillation import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    DistillationObjective,
    distill,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training import (
    Schedule,
    bpr_terms,
    get_embeddings,
    normalized_adj_dict,
    train_teacher,
)

METRIC = 'Recall@20'
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
_PROTOCOL = 'warm negatives, cold ids zero'  # Named in what is kept.


def silence(model: torch.nn.Module, warm: Tensor) -> None:
    """Sets the id rows of cold items to zero: nothing trains them, and the noise that
    they start with would stay.
    """
    with torch.no_grad():
        model.get_parameter(f'embeddings.tables.{ITEM}')[~warm] = 0.0


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
        key += [_PROTOCOL, list(SCHEDULE), name, l2, seed]
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
        model, terms, weights = self._build(name)
        silence(model, self.warm)
        common: dict[str, Any] = {
            'learning_rate': self.setting.learning_rate,
            'batch_size': self.setting.batch_size,
            'negative_items': self.warm.nonzero().view(-1),
            'seed': seed,
            'schedule': SCHEDULE,
            'weights': {**weights, 'l2': l2},
        }
        if targets is None:
            if terms is not None:
                common['terms'] = terms
            train_teacher(model, self.train, self.val, **common)
        else:
            width = model.embeddings.embedding_dim
            distill(
                model,
                targets,
                self.train,
                self.val,
                objective=DistillationObjective(
                    targets, width, **self.setting.objective
                ),
                candidates=self.setting.candidates,
                control=False,
                **common,
            )
        x_dict = get_embeddings(model, (normalized_adj_dict(self.train),))
        return {k: x.float() for k, x in x_dict.items()}

    def _build(self, name: str) -> tuple[Any, Any, Mapping[str, float]]:
        """A new model, its terms, unless they are the default, and their weights."""
        sizes, kind = num_nodes_dict(self.train), name.split()[0]
        if kind in STUDENTS:
            student = STUDENTS[kind](sizes, **self.setting.students[kind].arguments)
            weights = STUDENT_WEIGHTS if name.endswith(STUDENT) else CONTROL_WEIGHTS
            return student, bpr_terms, weights
        if name == TEACHER:
            teacher = build_teacher(self.train, self.setting)
            return teacher, None, self.setting.teacher_weights
        cls: Any = {'VBPR': m.VBPR, 'CLCRec': m.CLCRec}[name]
        width = self.setting.teacher['embedding_dim']
        features = modality_x_dict(self.train)
        model = cls(sizes, INTERACTS, features, embedding_dim=width)
        return model, model.terms, model.weights

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
