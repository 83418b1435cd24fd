"""What a model of the suite is: how it is built and trained, and what is chosen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg import models as m
from promptmm_pyg.data import INTERACTS, modality_x_dict, num_nodes_dict
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.training import TEACHER_WEIGHTS, bpr_terms, promptmm_terms

if TYPE_CHECKING:
    import optuna

WIDTH = 64
Kind = Literal['untrained', 'ids', 'multi-modal']
Model = torch.nn.Module | m.ItemKNN | m.EASE | m.GraphFilter
Params = Mapping[str, Any]


class Range(NamedTuple):
    """A number between two ends, drawn on a logarithmic scale."""

    default: float
    low: float
    high: float

    def suggest(self, name: str, trial: 'optuna.Trial') -> float:
        return trial.suggest_float(name, self.low, self.high, log=True)


class Choices(NamedTuple):
    """One of a few numbers."""

    default: float
    values: tuple[float, ...]

    def suggest(self, name: str, trial: 'optuna.Trial') -> Any:
        return trial.suggest_categorical(name, self.values)


Space = Mapping[str, Range | Choices]
LEARNING_RATE = Range(3e-3, 1e-3, 1e-2)
STRONG = 0.03  # A penalty that tables without a graph need.


@dataclass(frozen=True)
class Entry:
    """A model of the suite, and what is chosen for it on validation."""

    name: str
    kind: Kind
    cls: type
    build: Callable[..., Model]  # Of class, training graph and arguments.
    arguments: Space = field(default_factory=dict)  # Of the class.
    weights: Space = field(default_factory=dict)  # Of its terms.

    @property
    def trained(self) -> bool:
        """Whether it is trained step by step."""
        return self.kind != 'untrained'

    @property
    def space(self) -> Space:
        """All that is chosen."""
        rate = {'learning_rate': LEARNING_RATE} if self.trained else {}
        return {**rate, **self.arguments, **self.weights}

    @property
    def defaults(self) -> dict[str, Any]:
        """Where the search starts."""
        return {name: part.default for name, part in self.space.items()}

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What is tried first: the defaults, and these with a strong penalty."""
        part = self.weights.get('l2')
        if part is None:
            return [self.defaults]
        strong = STRONG if isinstance(part, Range) else max(part.values)
        return [self.defaults, {**self.defaults, 'l2': strong}]

    def suggest(self, trial: 'optuna.Trial') -> dict[str, Any]:
        """What a study wants to know next."""
        return {name: part.suggest(name, trial) for name, part in self.space.items()}

    def make(self, train: HeteroData, params: Params) -> Model:
        """The model; untrained ones are fitted."""
        arguments = {name: params[name] for name in self.arguments}
        return self.build(self.cls, train, **arguments)

    def objective(
        self, model: Any, params: Params
    ) -> tuple[Callable[..., dict[str, torch.Tensor]], dict[str, float]]:
        """The terms a model is trained with, and their weights."""
        terms: Callable[..., dict[str, torch.Tensor]]
        if isinstance(model, PromptMM):
            terms, weights = promptmm_terms, dict(TEACHER_WEIGHTS)
        elif isinstance(model, LightGCN | MatrixFactorization):
            terms, weights = bpr_terms, {'bpr': 1.0}
        else:
            terms, weights = model.terms, dict(model.weights)
        return terms, weights | {name: params[name] for name in self.weights}


def tables(cls: Any, train: HeteroData, **arguments: Any) -> Model:
    model: Model = cls(num_nodes_dict(train), embedding_dim=WIDTH, **arguments)
    return model


def graph(cls: Any, train: HeteroData, **arguments: Any) -> Model:
    sizes = num_nodes_dict(train)
    model: Model = cls(sizes, INTERACTS, embedding_dim=WIDTH, **arguments)
    return model


def content(cls: Any, train: HeteroData, **arguments: Any) -> Model:
    sizes, features = num_nodes_dict(train), modality_x_dict(train)
    model: Model = cls(sizes, INTERACTS, features, embedding_dim=WIDTH, **arguments)
    return model


def prompted(cls: Any, train: HeteroData, **arguments: Any) -> Model:
    sizes = num_nodes_dict(train)
    relation = () if cls is PromptMM else (INTERACTS,)
    start = {key: train[key].prompt_start for key in sizes}
    parts = (*relation, modality_x_dict(train), start)
    model: Model = cls(sizes, *parts, embedding_dim=WIDTH, **arguments)
    return model


def counted(cls: Any, train: HeteroData) -> Model:
    model: Model = cls(num_nodes_dict(train), INTERACTS)
    return model


def fitted(cls: Any, train: HeteroData, **arguments: Any) -> Model:
    model = cls(num_nodes_dict(train), INTERACTS, **arguments)
    fitted: Model = model.fit(train[INTERACTS].edge_index)
    return fitted


def fitted_content(cls: Any, train: HeteroData, **arguments: Any) -> Model:
    features = modality_x_dict(train)
    model = cls(num_nodes_dict(train), INTERACTS, features, **arguments)
    fit: Model = model.fit(train[INTERACTS].edge_index)
    return fit
