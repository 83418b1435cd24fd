"""The best items of users who were not there in training."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from promptmm_pyg.ranking import ApproximateItems
from promptmm_pyg.serving._histories import (
    Histories,
    History,
    Unknown,
    read_histories,
)
from promptmm_pyg.serving._raw_ids import RawId
from promptmm_pyg.serving.fold_in import FoldIn
from promptmm_pyg.serving.ranked import Ranked, Recommendations


class NewUsers(Ranked):
    """What a :class:`~promptmm_pyg.serving.Recommender` says of users it does not know,
    from the items they took.
    """

    def recommend_from_history(
        self,
        histories: RawId | History | Sequence[History],
        k: int = 10,
        *,
        weights: Sequence[float] | Sequence[Sequence[float]] | None = None,
        unknown: Unknown = 'raise',
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
        unseen_weight: float = 0.1,
        ridge: float = 10.0,
        memory: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Recommendations:
        """The best ``k`` items for users who were not there in training, from the
        items they took; the formula is that of :meth:`fold_in`.

        Scores estimate a preference between 0 and 1 and are comparable within a list;
        those of :meth:`recommend` are on another scale.

        Args:
            histories: The raw item ids of one user, or a sequence of such, of any
                lengths. An id that stands twice counts twice.
            k: How many items; more than the catalogue holds are padded. (default: 10)
            weights: A positive number for each item of the histories, such as its
                recency. (default: 1)
            unknown: What to do with ids that are not in the catalogue, ``'raise'`` or
                ``'ignore'``. (default: ``'raise'``)
            exclude_seen: Whether to leave out the history. (default: ``True``)
            allow: Recommend only these raw item ids. (default: every item)
            deny: Never recommend these raw item ids. (default: none)
            unseen_weight: Weight of what was not taken. (default: ``0.1``)
            ridge: How near to the mean of the items the user is. (default: ``10.0``)
            memory: See :meth:`recommend`. (default: no bound)
            index: See :meth:`recommend`. (default: none, the exact lists)

        Raises:
            ValueError: If a history holds no (known) item, an id is unknown, a weight
                does not fit, both lists are given, or ``memory`` or ``index`` do not
                fit.
        """
        read = read_histories(self._items, histories, weights, unknown)
        candidates = self._candidates(allow, deny)
        user_x = self._fold_in(unseen_weight, ridge)(read.rows, read.weights)
        item_x = self.item_x
        if memory is None and index is None:
            # A copy of at least single precision, once for all calls.
            if 'precise' not in self._derived:
                self._derived['precise'] = self.item_x.to(user_x.dtype)
            item_x = self._derived['precise']
        ranking = self._rank(
            (user_x.to(item_x.device), item_x),
            list(range(len(read.rows))),
            k,
            seen=read.seen(self.num_items) if exclude_seen else None,
            candidates=candidates,
            memory=memory,
            index=index,
        )
        return self._raw(ranking, scalar=read.one, k=k)

    def fold_in(
        self,
        histories: RawId | History | Sequence[History],
        *,
        weights: Sequence[float] | Sequence[Sequence[float]] | None = None,
        unknown: Unknown = 'raise',
        unseen_weight: float = 0.1,
        ridge: float = 10.0,
    ) -> Tensor:
        """The vectors ``[B, D]`` of users who were not there in training (``[D]`` for
        one history), by :class:`FoldIn`, for example to search an index with.

        Args:
            histories: See :meth:`recommend_from_history`; so are the others.
            weights: (default: 1)
            unknown: (default: ``'raise'``)
            unseen_weight: (default: ``0.1``)
            ridge: (default: ``10.0``)

        Raises:
            ValueError: As :meth:`recommend_from_history`.
        """
        read: Histories = read_histories(self._items, histories, weights, unknown)
        user_x = self._fold_in(unseen_weight, ridge)(read.rows, read.weights)
        return user_x[0] if read.one else user_x

    def _fold_in(self, unseen_weight: float, ridge: float) -> FoldIn:
        key = (unseen_weight, ridge)
        if self._derived.get('fold_in', (None,))[0] != key:
            fold_in = FoldIn(self.item_x, unseen_weight=unseen_weight, ridge=ridge)
            self._derived['fold_in'] = key, fold_in
        found: FoldIn = self._derived['fold_in'][1]
        return found
