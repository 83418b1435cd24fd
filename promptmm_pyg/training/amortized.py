"""One forward of a model for several batches."""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.training.loop import Terms
from promptmm_pyg.training.row_tables import RowTable


class AmortizedTerms:
    r"""The named losses of a large batch, taken piece by piece from one output of the
    model, whose graph is gone through once, forwards and backwards.

    Every piece leaves its gradient in the output; what has come together there then
    goes back through the model. With :math:`B_k` of :math:`B` examples in piece
    :math:`k`, term :math:`t` and its gradient are

    .. math::
        \ell_t = \sum_k \frac{B_k}{B} \, \ell_t^{(k)}, \qquad
        \nabla \ell = \Big( \sum_k \frac{B_k}{B}
        \frac{\partial \ell^{(k)}}{\partial \mathbf{H}} \Big)
        \frac{\partial \mathbf{H}}{\partial \theta}.

    *Equal* to the whole batch at once, up to rounding: terms that are means over the
    examples of a batch (BPR, the penalty on a batch's rows) and terms that do not
    depend on it, with dropout, too. *Another value*: terms in which the examples of a
    batch meet, such as in-batch negatives; these meet those of their piece alone.

    The memory of the losses is that of a piece, and a lookup costs its rows, not the
    table.

    Args:
        forward: Returns the model's output: tensors in mappings, tuples or lists.
        terms: The named losses of an output on a batch; means over its examples.
        weights: The weight of each. They are needed in advance: the gradient is taken
            here, and what calls ``backward`` may scale it, but not change their
            proportions.
        parameters: What else ``terms`` may depend on, if it has parameters of its own.
        batch_size: The size of a piece; the last one may be smaller.

    Raises:
        ValueError: If called and the names of terms and weights differ.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(4, 2))
        >>> terms = lambda x, batch: {'sum': x[batch.user].sum(dim=1).mean()}
        >>> shared = AmortizedTerms(lambda: 3 * table, terms, {'sum': 1.0}, [], 2)
        >>> shared(Triplets(*[torch.tensor([0, 1, 1])] * 3))['sum'].backward()
        >>> table.grad[:, 0]
        tensor([1., 2., 0., 0.])
    """

    def __init__(
        self,
        forward: Callable[[], Any],
        terms: Callable[[Any, Triplets], Terms],
        weights: Mapping[str, float],
        parameters: Iterable[Tensor],
        batch_size: int,
    ) -> None:
        self.forward = forward
        self.terms = terms
        self.weights = dict(weights)
        self.parameters = [p for p in parameters if p.requires_grad]
        self.batch_size = batch_size

    def __call__(self, batch: Triplets) -> Terms:
        found: dict[int, tuple[Tensor, Tensor]] = {}
        output = _cut(self.forward(), found)
        sources = [source for source, _ in found.values()] + self.parameters
        leaves = [leaf for _, leaf in found.values()] + self.parameters
        grads: list[Tensor | None] = [None] * len(leaves)
        sums: dict[str, Tensor] = {}
        for piece in zip(*(x.split(self.batch_size) for x in batch), strict=True):
            share = piece[0].numel() / batch.user.numel()
            values = self.terms(output, Triplets(*piece))
            loss = share * weighted_sum(values, self.weights)
            _add_gradients(loss, leaves, grads)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + share * value.detach()
        dtype = reduce(torch.promote_types, [x.dtype for x in sums.values()])
        stacked = torch.stack([x.to(dtype) for x in sums.values()])
        weights = stacked.new_tensor([self.weights[name] for name in sums])
        out = _known(stacked, weights, grads, *sources)
        return dict(zip(sums, out.unbind(), strict=True))


class _Known(torch.autograd.Function):
    """Values whose weighted sum has a gradient that is known already."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weights: Tensor,
        grads: list[Tensor | None],
        *_: Tensor,
    ) -> Tensor:
        ctx.weights, ctx.grads = weights, grads
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        # One where the caller takes the weighted sum as it is.
        weights = ctx.weights
        scale = outer[0] @ weights / (weights @ weights)
        scaled = [None if g is None else g * scale.to(g) for g in ctx.grads]
        return None, None, None, *scaled


_known: Any = _Known.apply


def _add_gradients(
    loss: Tensor, leaves: list[Tensor], sums: list[Tensor | None]
) -> None:
    """Adds the gradient of ``loss`` to ``sums``, in place where it can be."""
    if not loss.requires_grad:
        return
    # The graph is kept: terms may go on from what the model keeps of its forward.
    grads: Iterable[Tensor | None] = torch.autograd.grad(
        loss, leaves, allow_unused=True, retain_graph=True
    )
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        known = sums[i]
        if known is None:
            # `grad` may share memory with another gradient.
            sums[i] = grad.to_dense() if grad.is_sparse else grad.clone()
        else:
            known.add_(grad)


def _cut(output: Any, found: dict[int, tuple[Tensor, Tensor]]) -> Any:
    """``output`` with every tensor in it a leaf of its own; the pairs in ``found``."""
    if isinstance(output, Tensor):
        if not output.requires_grad:
            return output
        if id(output) not in found:
            found[id(output)] = output, output.detach().requires_grad_()
        leaf = found[id(output)][1]
        # A view: its lookups have sparse gradients.
        return leaf.as_subclass(RowTable) if leaf.dim() == 2 else leaf
    if isinstance(output, Mapping):
        return {key: _cut(value, found) for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, '_fields'):
        return type(output)(*(_cut(value, found) for value in output))
    if isinstance(output, tuple | list):
        return type(output)(_cut(value, found) for value in output)
    return output
