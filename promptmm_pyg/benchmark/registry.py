"""The models of a benchmark, and how they are built from flat hyper-parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, ITEM, modality_x_dict
from promptmm_pyg.models import get_model
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.nn import ChunkedFeatures
from promptmm_pyg.tuning.tune import TRAINING, argument_names

Params = Mapping[str, Any]


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


# Of `build`, beside arguments of the constructor.
BUILD_OPTIONS = frozenset({'prompt', 'masks', 'feature_dtype', 'product_dtype'})


def known_params(model: str) -> set[str]:
    """The names of all hyper-parameters of a model."""
    cls = get_model(model)
    names = argument_names(cls) - {'num_nodes_dict', 'edge_type'}
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
