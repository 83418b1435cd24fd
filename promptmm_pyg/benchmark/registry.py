"""The models of a benchmark: how they are built from flat hyper-parameters.

:func:`split_params` sorts these into arguments of the constructor, loss weights and
fields of :class:`~promptmm_pyg.training.TrainingConfig` by their names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, ITEM, modality_x_dict
from promptmm_pyg.models import get_model
from promptmm_pyg.models._resolve import constructors
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.nn import ChunkedFeatures
from promptmm_pyg.search_space import SearchSpace
from promptmm_pyg.training import TrainingConfig

Params = Mapping[str, Any]
TRAINING = frozenset(f.name for f in fields(TrainingConfig))


def is_trained(model: str) -> bool:
    """Whether a model is trained step by step, not in closed form.

    Raises:
        ValueError: If there is no model of that name.
    """
    return not issubclass(get_model(model), ClosedForm)


def model_kind(model: str) -> str:
    """``'closed form'``, ``'ids'`` or ``'multi-modal'``."""
    if not is_trained(model):
        return 'closed form'
    return 'multi-modal' if get_model(model).reads_features else 'ids'


def search_space(model: str) -> SearchSpace:
    """The hyper-parameters of a model that are tuned; a model of a file that inherits
    the space of its base may lack some of these.
    """
    known, space = known_params(model), get_model(model).search_space.space
    return SearchSpace({name: x for name, x in space.items() if name in known})


class SplitParams(NamedTuple):
    """Hyper-parameters by their place."""

    arguments: dict[str, Any]
    """Arguments of the constructor."""
    loss_weights: dict[str, float]
    training: dict[str, Any]
    """Fields of ``TrainingConfig``."""


def split_params(model: str, params: Params) -> SplitParams:
    """Sorts flat hyper-parameters by their names."""
    cls = get_model(model)
    losses = cls.loss_weights
    own = _argument_names(cls)  # Such as LATTICE's 'num_neighbors'.
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
    cls = get_model(model)
    names = _argument_names(cls) - {'num_nodes_dict', 'edge_type'}
    if is_trained(model):
        names |= {*cls.loss_weights, *TRAINING}
    return names | BUILD_OPTIONS


def _argument_names(cls: type) -> set[str]:
    """The keyword arguments of a model."""
    return {
        name
        for part in constructors(cls)
        for name, parameter in signature(part).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


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
    get_model(model, option=name)
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
    cls: Any = get_model(model)
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
