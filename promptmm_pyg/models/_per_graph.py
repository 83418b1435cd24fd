"""What a model computes once per graph and does not save."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from promptmm_pyg.nn.csr import CSRPair

T = TypeVar('T')


class GraphCache(Generic[T]):
    """Remembers what was built from the operator seen last.

    Operators are told apart by identity: convert edges once
    (:func:`~promptmm_pyg.nn.csr_pair_dict`), or it is built at every call. A plain
    attribute of a model, no part of its state; copies of the model start without.

    Args:
        build: Called with an operator that is new.
    """

    def __init__(self, build: Callable[[CSRPair], T]) -> None:
        self._build = build
        self._last: tuple[CSRPair, T] | None = None

    def __call__(self, adj: CSRPair) -> T:
        if self._last is None or self._last[0] is not adj:
            self._last = (adj, self._build(adj))
        return self._last[1]

    def __deepcopy__(self, _: Any) -> 'GraphCache[T]':
        return GraphCache(self._build)

    def __getstate__(self) -> dict[str, Any]:
        return {'_build': self._build, '_last': None}
