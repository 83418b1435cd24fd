"""The models of a benchmark: how they are built, and their search spaces.

Hyper-parameters are flat dictionaries. :func:`split_params` sorts them into arguments
of the constructor, loss weights and fields of
:class:`~promptmm_pyg.training.TrainingConfig` by their names.

All search spaces are small: learning rate and penalty of every trained model, mostly
the number of layers, and at most two parameters of its own. The first trial of every
search is :attr:`SearchSpace.defaults`, the second is the same with a strong penalty.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data import INTERACTS, ITEM, modality_x_dict
from promptmm_pyg.models import MODELS
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.nn import ChunkedFeatures
from promptmm_pyg.training import TrainingConfig

if TYPE_CHECKING:
    import optuna

Params = Mapping[str, Any]
TRAINING = frozenset(f.name for f in fields(TrainingConfig))
STRONG_L2 = 0.03  # As models of ids without a graph require.


class Range(NamedTuple):
    """A float in an interval, on a logarithmic scale."""

    default: float
    low: float
    high: float

    def suggest(self, name: str, trial: 'optuna.Trial') -> float:
        return trial.suggest_float(name, self.low, self.high, log=True)


class Choices(NamedTuple):
    """One of a few values."""

    default: float | str
    values: tuple[float, ...] | tuple[str, ...]

    def suggest(self, name: str, trial: 'optuna.Trial') -> Any:
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class SearchSpace:
    """The tuned hyper-parameters of a model."""

    space: Mapping[str, Range | Choices] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """The first trial."""
        return {name: part.default for name, part in self.space.items()}

    def first_trials(self, *, trained: bool) -> list[dict[str, Any]]:
        """The defaults and, for trained models, these with a strong penalty."""
        l2 = self.space.get('l2')
        if not trained or l2 is None:
            return [self.defaults]
        strong: Any
        if isinstance(l2, Range):
            strong = STRONG_L2 if l2.default < STRONG_L2 else l2.high
        else:
            strong = max(l2.values)
        return [self.defaults, {**self.defaults, 'l2': strong}]

    def suggest(self, trial: 'optuna.Trial') -> dict[str, Any]:
        """The parameters of an Optuna trial."""
        return {name: part.suggest(name, trial) for name, part in self.space.items()}


_LOSS_WEIGHTS = {'projection_l2', 'contrast', 'alignment', 'modality_bpr'}
_RATE = Range(3e-3, 1e-3, 1e-2)


def _space(l2: float, **parts: Range | Choices) -> SearchSpace:
    # Optuna draws the parameters in this order.
    weights = {k: v for k, v in parts.items() if k in _LOSS_WEIGHTS}
    arguments = {k: v for k, v in parts.items() if k not in weights}
    # Where the paper has no penalty, none is one of the choices.
    penalty = (
        Range(l2, min(l2, 1e-5), 0.2)
        if l2
        else Choices(0.0, (0.0, 1e-5, 1e-4, 1e-3, 1e-2))
    )
    space = {'learning_rate': _RATE, **arguments, 'l2': penalty, **weights}
    return SearchSpace(space)


def _layers(default: int, *values: int) -> Choices:
    return Choices(default, values)


_NEIGHBORS = Choices(10, (5, 10, 20))
_CONTRAST = Range(0.01, 1e-3, 0.1)

SEARCH_SPACES: dict[str, SearchSpace] = {
    'Popularity': SearchSpace(),
    'ItemKNN': SearchSpace(
        {
            'k': Choices(20, (5, 10, 20, 50, 100, 200)),
            'shrink': Choices(0.0, (0.0, 1.0, 3.0, 10.0, 30.0)),
        }
    ),
    'EASE': SearchSpace({'l2': Range(250.0, 1.0, 5000.0)}),
    'GraphFilter': SearchSpace(
        {
            'num_layers': _layers(4, 2, 3, 4, 6, 8),
            'popularity': Choices(0.5, (0.25, 0.5, 0.75, 1.0)),
            'modality_weight': Range(0.1, 0.01, 1.0),
        }
    ),
    'MatrixFactorization': _space(1e-4),
    'LightGCN': _space(1e-4, num_layers=_layers(3, 2, 3, 4, 6)),
    'LayerGCN': _space(
        1e-3,
        num_layers=_layers(4, 2, 3, 4, 6),
        prune_ratio=Choices(0.1, (0.0, 0.1, 0.2)),
    ),
    'NGCF': _space(
        1e-3,
        num_layers=_layers(3, 1, 2, 3),
        dropout=Choices(0.1, (0.0, 0.1, 0.3)),
    ),
    'VBPR': _space(1e-3, projection_l2=Range(1e-5, 1e-6, 1e-3)),
    'LightGCNM': _space(1e-3, num_layers=_layers(2, 1, 2, 3, 4)),
    'MMGCN': _space(1e-3, num_layers=_layers(3, 1, 2, 3)),
    'GRCN': _space(
        1e-3, num_layers=_layers(2, 1, 2, 3), num_routings=Choices(0, (0, 1, 3))
    ),
    'LATTICE': _space(
        1e-4,
        num_layers=_layers(2, 1, 2, 3, 4),
        num_neighbors=_NEIGHBORS,
        frozen_weight=Choices(0.9, (0.5, 0.7, 0.9)),
    ),
    'DualGNN': _space(1e-3, num_layers=_layers(2, 1, 2, 3)),
    'CLCRec': _space(
        0.1,
        temperature=Range(2.0, 0.1, 4.0),
        hybrid_rate=Choices(0.5, (0.3, 0.5, 0.7)),
    ),
    'SLMRec': _space(
        0.0, num_layers=_layers(3, 1, 2, 3), alignment=Range(0.1, 0.01, 1.0)
    ),
    'BM3': _space(
        0.1, num_layers=_layers(2, 1, 2, 3), dropout=Choices(0.3, (0.3, 0.5))
    ),
    'FREEDOM': _space(
        0.0,
        num_layers=_layers(2, 1, 2, 3, 4),
        prune_ratio=Choices(0.8, (0.0, 0.5, 0.8, 0.9)),
        modality_bpr=Range(1e-3, 1e-4, 0.1),
    ),
    'DRAGON': _space(1e-3, num_layers=_layers(2, 1, 2, 3), num_neighbors=_NEIGHBORS),
    'MMSSL': _space(
        1e-5,
        num_layers=_layers(2, 1, 2, 3),
        modality_weight=Range(0.55, 0.05, 1.0),
        contrast=Range(0.03, 3e-3, 0.3),
    ),
    'MGCN': _space(
        1e-4,
        num_layers=_layers(2, 1, 2, 3, 4),
        num_neighbors=_NEIGHBORS,
        contrast=_CONTRAST,
    ),
    'SMORE': _space(
        1e-4,
        num_layers=_layers(3, 1, 2, 3, 4),
        num_neighbors=_NEIGHBORS,
        contrast=_CONTRAST,
    ),
    'PGL': _space(
        0.0,
        num_layers=_layers(2, 1, 2, 3, 4),
        keep_ratio=Choices(0.3, (0.1, 0.3, 0.5)),
        contrast=Choices(0.0, (0.0, 1e-3, 1e-2, 0.1)),
    ),
    'LGMRec': _space(
        1e-6,
        num_layers=_layers(2, 1, 2, 3, 4),
        global_weight=Range(0.3, 0.05, 1.0),
        contrast=Range(1e-4, 1e-6, 1e-2),
    ),
    'MMGCF': _space(
        1e-3,
        num_layers=_layers(2, 1, 2, 3, 4),
        fusion=Choices('mean', ('mean', 'sum', 'concat')),
        weighting=Choices('equal', ('equal', 'alpha', 'normalized')),
    ),
    'FastMMRec': _space(
        1e-3,
        num_layers=_layers(2, 1, 2, 3, 4),
        num_neighbors=_NEIGHBORS,
    ),
    'PromptMM': _space(
        1e-3,
        num_layers=_layers(2, 2, 3, 4, 6),
        modality_weight=Range(0.5, 0.02, 1.0),
        self_loop_weight=Choices(0.0, (0.0, 1.0)),
    ),
    'PromptMMPlus': _space(
        1e-3,
        num_layers=_layers(2, 2, 3, 4, 6),
        # Both are off by default: the first trial is PromptMM's.
        item_graph_weight=Choices(0.0, (0.0, 0.1, 0.3, 1.0)),
        alignment_weight=Choices(0.0, (0.0, 0.01, 0.1)),
    ),
}


def is_trained(model: str) -> bool:
    """Whether a model is trained step by step, not in closed form.

    Raises:
        ValueError: If there is no model of that name.
    """
    check_choice('model', model, MODELS)
    return not issubclass(MODELS[model], ClosedForm)


def model_kind(model: str) -> str:
    """``'closed form'``, ``'ids'`` or ``'multi-modal'``."""
    if not is_trained(model):
        return 'closed form'
    return 'multi-modal' if MODELS[model].reads_features else 'ids'


class SplitParams(NamedTuple):
    """Hyper-parameters by their place."""

    arguments: dict[str, Any]
    """Arguments of the constructor."""
    loss_weights: dict[str, float]
    training: dict[str, Any]
    """Fields of ``TrainingConfig``."""


def split_params(model: str, params: Params) -> SplitParams:
    """Sorts flat hyper-parameters by their names."""
    cls = MODELS[model]
    losses = cls.loss_weights
    own = signature(cls).parameters  # Such as LATTICE's 'num_neighbors'.
    out = SplitParams({}, {}, {})
    for name, value in params.items():
        if name in losses:
            out.loss_weights[name] = value
        elif name in TRAINING and name not in own:
            out.training[name] = value
        else:
            out.arguments[name] = value
    return out


# Of `build`, beside arguments of the constructor.
BUILD_OPTIONS = frozenset({'prompt', 'masks', 'feature_dtype', 'product_dtype'})


def known_params(model: str) -> set[str]:
    """The names of all hyper-parameters of a model."""
    cls = MODELS[model]
    names = set(signature(cls).parameters)
    if 'teacher' in names:  # Further arguments, of PromptMM.
        names |= set(signature(MODELS['PromptMM']).parameters)
    names -= {'num_nodes_dict', 'edge_type', 'teacher'}
    if is_trained(model):
        names |= {*cls.loss_weights, *TRAINING}
    return names | BUILD_OPTIONS


def check_params(
    name: str, model: str, params: Iterable[str], more: Iterable[str] = ()
) -> None:
    """Raises unless a model is known and has all of these hyper-parameters.

    Args:
        name: Of the key in the configuration, for the message.
        model: The name of the model.
        params: The names of hyper-parameters.
        more: Further names that are allowed.
    """
    check_choice(name, model, MODELS)
    known = known_params(model) | set(more)
    check_keys(f'{name}.{model}', params, known)


def check_keys(name: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Raises unless all keys of a table are known."""
    unknown = sorted(set(keys) - set(known))
    if unknown:
        raise ValueError(
            f"'{name}' must have keys among {sorted(known)} (got {unknown})"
        )


def build(model: str, train: HeteroData, arguments: Params) -> Any:
    """A model for a prepared graph; one in closed form is fitted.

    Beside arguments of the constructor there are ``prompt=False`` (no prompt),
    ``masks=True`` (the model knows which features are missing), ``feature_dtype`` and
    ``product_dtype`` (features in half precision, and the products with them).
    """
    is_trained(model)
    cls: Any = MODELS[model]
    arguments = dict(arguments)
    dtype = arguments.pop('feature_dtype', None)
    products = arguments.pop('product_dtype', None)
    if dtype is not None:
        arguments['modality_x_dict'] = {
            name: {ITEM: _in_half(x_dict[ITEM], dtype, products)}
            for name, x_dict in modality_x_dict(train).items()
        }
    if cls.reads_prompt:
        if not arguments.pop('prompt', True):
            arguments['prompt_start_dict'] = None
        if not arguments.pop('masks', False):
            arguments['modality_mask_dict'] = None
    out = cls.from_data(train, **arguments)
    if isinstance(out, ClosedForm):
        out.fit(train[INTERACTS].edge_index)
    return out


def _in_half(x: torch.Tensor, dtype: str, products: str | None) -> Any:
    x = x.to(getattr(torch, dtype))
    if products is None:
        return x
    return ChunkedFeatures(x, products=getattr(torch, products))
