"""Models with the interfaces of RecTools and implicit, and lists for torchmetrics.

Each class trains any model by a function of yours, or serves a recommender that you
have.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data import INTERACTS, Split, build_graph, read_table, split_per_user
from promptmm_pyg.data.tables import as_table
from promptmm_pyg.evaluation import Evaluation
from promptmm_pyg.models import LightGCN
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import train

TrainFn = Callable[[Split], Any]
_VALIDATION = 0.1


def train_light_gcn(data: Split) -> LightGCN:
    """Trains a :class:`~promptmm_pyg.models.LightGCN` with its defaults."""
    model = LightGCN.from_data(data)
    train(model, data)
    return model


class _Adapter:
    """A recommender that is given, or made by ``fit``.

    Args:
        train_fn: Trains a model on a split, whose validation part is a tenth of the
            interactions and whose test part is empty. It returns the model, its
            embeddings, or the result of ``distill``, whose student is used.
        recommender: What to serve without ``fit``. (default: none)
    """

    def __init__(
        self,
        train_fn: TrainFn = train_light_gcn,
        *,
        recommender: Recommender | None = None,
    ) -> None:
        self.train_fn = train_fn
        self._recommender = recommender

    @property
    def recommender(self) -> Recommender:
        """What is served."""
        if self._recommender is None:
            raise ValueError(
                f"'{type(self).__name__}' must be fitted before (got no recommender). "
                f"Call 'fit', or pass 'recommender'"
            )
        return self._recommender

    def _fit(self, graph: Any) -> None:
        data = split_per_user(graph, _VALIDATION, 0.0)
        result = self.train_fn(data)
        model: Any = getattr(result, 'student', result)
        self._recommender = Recommender.from_model(model, data)


class FrameModel(_Adapter):
    """The interface of RecTools' models: ``fit(dataset)`` and ``recommend(users,
    dataset, k, filter_viewed)`` with data frames.

    A dataset is a frame of interactions (pandas, polars, pyarrow, ...) with the columns
    ``user_id`` and ``item_id``, or a ``rectools.dataset.Dataset``.

    Args:
        train_fn: Trains a model on a split, a tenth of it for validation, and returns
            the model or the result of :func:`~promptmm_pyg.distillation.distill`.
            (default: :func:`train_light_gcn`)
        recommender: What to serve without ``fit``. (default: none)
        **options: Arguments of :func:`~promptmm_pyg.data.read_table`, such as
            ``features`` of items. (default: repeated interactions count once)

    Example:
        >>> model = FrameModel(recommender=Recommender(
        ...     torch.eye(2), torch.eye(2), user_ids=['ann', 'bob'], item_ids=[10, 20],
        ...     seen=None,
        ... ))
        >>> viewed = {'user_id': ['ann'], 'item_id': [10]}
        >>> import pandas as pd
        >>> model.recommend(['ann'], pd.DataFrame(viewed), 1, filter_viewed=True)
          user_id  item_id  score  rank
        0     ann       20    0.0     1
    """

    def __init__(
        self,
        train_fn: TrainFn = train_light_gcn,
        *,
        recommender: Recommender | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train_fn, recommender=recommender)
        defaults = {'user': 'user_id', 'item': 'item_id', 'duplicates': 'first'}
        self.options: dict[str, Any] = {**defaults, **options}

    def fit(self, dataset: Any) -> Self:
        """Trains on the interactions of a frame or a dataset of RecTools.

        Raises:
            TypeError: If it is neither.
            ValueError: If a column is missing or an id is, see
                :func:`~promptmm_pyg.data.read_table`.
        """
        self._fit(read_table(_frame(dataset), **self.options))
        return self

    def recommend(
        self,
        users: Iterable[Any],
        dataset: Any,
        k: int,
        filter_viewed: bool,
        items_to_recommend: Iterable[Any] | None = None,
        add_rank_col: bool = True,
        on_unsupported_targets: Literal['raise', 'ignore'] = 'raise',
    ) -> Any:
        """The ``k`` best items of each user, a frame of pandas with the columns
        ``user_id``, ``item_id``, ``score`` and ``rank``.

        Args:
            users: User ids.
            dataset: The interactions that ``filter_viewed`` leaves out.
            k: How many items.
            filter_viewed: Whether to leave out a user's items in ``dataset``.
            items_to_recommend: Only these items. (default: all)
            add_rank_col: Whether to add the ranks. (default: ``True``)
            on_unsupported_targets: Whether users without an embedding are an error or
                are left out. (default: ``'raise'``)

        Raises:
            ImportError: If ``pandas`` is not installed.
            ValueError: If a user is unknown, or ``k`` is not positive.
        """
        import pandas as pd

        options = ('raise', 'ignore')
        check_choice('on_unsupported_targets', on_unsupported_targets, options)
        users, recommender = list(users), self.recommender
        rows = recommender.users.rows('users', users, unknown=on_unsupported_targets)
        known = [raw for raw, row in zip(users, rows, strict=True) if row >= 0]
        viewed = self._viewed(dataset, known) if filter_viewed else None
        ids, scores = recommender.recommend(
            known,
            k,
            exclude_seen=False,
            exclude=viewed,
            allow=items_to_recommend,
            unknown='ignore',
        )
        is_item = np.isfinite(scores)
        row, rank = is_item.nonzero()
        columns: dict[str, Any] = {
            self.options['user']: [known[x] for x in row.tolist()],
            self.options['item']: ids[is_item].tolist(),
            'score': scores[is_item],
        }
        if add_rank_col:
            columns['rank'] = rank + 1
        return pd.DataFrame(columns)

    def _viewed(self, dataset: Any, users: list[Any]) -> dict[Any, list[str]]:
        """The items of each of the users in a dataset."""
        names = [self.options['user'], self.options['item']]
        table = as_table(_frame(dataset), 'dataset', names)
        columns = []
        for name in names:
            table.check_column(name)
            columns.append(table.texts(name).to_pylist())
        viewed: dict[str, list[str]] = {str(raw): [] for raw in users}
        for user, item in zip(*columns, strict=True):
            if user in viewed and item is not None:
                viewed[user].append(item)
        return {raw: viewed[str(raw)] for raw in users}


class MatrixModel(_Adapter):
    """The interface of implicit's models: ``fit(user_items)``, ``recommend(userid,
    user_items, N)`` and ``similar_items(itemid, N)`` with a matrix of SciPy; ids are
    row numbers. ``implicit.evaluation`` evaluates it.

    Lists that are shorter than ``N`` end with -1 and score ``-inf``.

    Args:
        train_fn: Trains a model on a split, a tenth of it for validation, and returns
            the model or the result of :func:`~promptmm_pyg.distillation.distill`.
            (default: :func:`train_light_gcn`)
        recommender: What to serve without ``fit``; ids are the rows of its tables.
            (default: none)

    Example:
        >>> from scipy.sparse import csr_matrix
        >>> x = torch.eye(2)
        >>> model = MatrixModel(recommender=Recommender(
        ...     x, x, user_ids=['ann', 'bob'], item_ids=[10, 20], seen=None
        ... ))
        >>> ids, _ = model.recommend(1, csr_matrix([[0, 1]]), N=1)
        >>> ids.tolist()
        [0]
    """

    @property
    def user_factors(self) -> np.ndarray:
        """User embeddings ``[num_users, D]``."""
        return _array(self.recommender.user_x)

    @property
    def item_factors(self) -> np.ndarray:
        """Item embeddings ``[num_items, D]``."""
        return _array(self.recommender.item_x)

    def fit(
        self, user_items: Any, show_progress: bool = True, callback: Any = None
    ) -> None:
        """Trains on the entries of a sparse matrix ``[num_users, num_items]``.

        Args:
            user_items: The matrix; its values are not used.
            show_progress: Not used; pass ``train_fn`` with a configuration of yours.
            callback: Not used, likewise.
        """
        del show_progress, callback
        matrix = user_items.tocsr().tocoo()
        num_users, num_items = matrix.shape
        edges = np.stack([matrix.row, matrix.col]).astype(np.int64)
        self._fit(build_graph(edges, num_users=num_users, num_items=num_items))

    def recommend(
        self,
        userid: Any,
        user_items: Any,
        N: int = 10,
        filter_already_liked_items: bool = True,
        filter_items: Any = None,
        recalculate_user: bool = False,
        items: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items and scores, ``[N]`` for one user and ``[B, N]`` for several.

        Args:
            userid: A row number, or several.
            user_items: A sparse matrix with one row for each of them.
            N: How many items. (default: 10)
            filter_already_liked_items: Whether to leave out the items of
                ``user_items``. (default: ``True``)
            filter_items: Never these items. (default: none)
            recalculate_user: Whether to fold the users in from ``user_items``.
                (default: ``False``)
            items: Only these items. (default: all)

        Raises:
            IndexError: If a row is outside of the tables.
            ValueError: If ``user_items`` does not have a row per user, or both
                ``items`` and ``filter_items`` are given.
        """
        rows, model = np.atleast_1d(np.asarray(userid)), self.recommender
        num_items, seen = model.num_items, None
        if filter_already_liked_items or recalculate_user:
            if user_items.shape != (len(rows), num_items):
                raise ValueError(
                    f"'user_items' must have the shape {(len(rows), num_items)}, a row "
                    f"per user of 'userid' (got {user_items.shape})"
                )
            matrix = user_items.tocsr()
            edges = np.stack(matrix.nonzero()).astype(np.int64)
            if filter_already_liked_items:
                seen = SeenItems.from_edge_index(torch.from_numpy(edges), *matrix.shape)
        if recalculate_user:
            parts = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
            slices = [slice(start, stop) for start, stop in parts]
            user_x = model.fold_in(
                [[model.items[i] for i in matrix.indices[x]] for x in slices],
                weights=[matrix.data[x].tolist() for x in slices],
            )
        else:
            user_x = model.user_x.index_select(0, torch.from_numpy(rows).long())
        mask = _mask(num_items, items, filter_items)
        result = _top(user_x, model.item_x, N, seen, mask)
        return (result[0][0], result[1][0]) if np.ndim(userid) == 0 else result

    def similar_items(
        self, itemid: Any, N: int = 10, filter_items: Any = None, items: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items and their cosines, the item itself first; the arguments are those of
        :meth:`recommend`.
        """
        x = normalize(self.recommender.item_x.float(), dim=-1)
        rows = torch.from_numpy(np.atleast_1d(np.asarray(itemid))).long()
        mask = _mask(x.size(0), items, filter_items)
        result = _top(x.index_select(0, rows), x, N, None, mask)
        return (result[0][0], result[1][0]) if np.ndim(itemid) == 0 else result


def retrieval_inputs(
    evaluation: Evaluation, data: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """``preds``, ``target`` and ``indexes`` for the retrieval metrics of torchmetrics,
    with ``top_k`` up to the longest cutoff of the evaluation.

    A user's ranked items have scores from ``K`` down to 1, and the positives that are
    not in the list 0, so that recall knows of them.

    Args:
        evaluation: The result of :func:`~promptmm_pyg.evaluation.evaluate`.
        data: The graph that was evaluated.

    Example:
        >>> from torchmetrics.retrieval import RetrievalRecall
        >>> from promptmm_pyg import evaluate
        >>> from promptmm_pyg.data import make_synthetic_dataset
        >>> data = split_per_user(make_synthetic_dataset(30, 40, 4))
        >>> result = evaluate(LightGCN.from_data(data), data.test, ks=[10])
        >>> preds, target, indexes = retrieval_inputs(result, data.test)
        >>> recall = RetrievalRecall(top_k=10)(preds, target, indexes=indexes)
        >>> abs(float(recall) - result.metrics['Recall@10']) < 1e-6
        True
    """
    store, items = data[INTERACTS], evaluation.ranking.item_index.cpu()
    positives = store.edge_label_index.cpu()
    if 'edge_label' in store:
        positives = positives[:, store.edge_label.cpu() > 0]
    num_items, k = int(data['item'].num_nodes), items.size(1)
    positive_keys = positives[0] * num_items + positives[1]
    listed_keys = evaluation.users.cpu()[:, None] * num_items + items
    is_item = items >= 0
    listed = listed_keys[is_item]
    missed = positive_keys[~torch.isin(positive_keys, listed)]
    scores = torch.arange(k, 0, -1, dtype=torch.float).expand_as(items)[is_item]
    keys = torch.cat([listed, missed])
    preds = torch.cat([scores, scores.new_zeros(missed.numel())])
    return preds, torch.isin(keys, positive_keys), keys // num_items


def _frame(dataset: Any) -> Any:
    """The frame of a dataset of RecTools, or the frame itself."""
    read = getattr(dataset, 'get_raw_interactions', None)
    return dataset if read is None else read()


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.float().cpu().numpy()
    return array


def _mask(num_items: int, items: Any, filter_items: Any) -> Tensor | None:
    """Which items may be recommended."""
    if items is not None and filter_items is not None:
        raise ValueError(
            "'items' and 'filter_items' must be given one at a time (got both)"
        )
    if items is None and filter_items is None:
        return None
    mask = torch.full((num_items,), items is None)
    rows = filter_items if items is None else items
    mask[torch.as_tensor(np.asarray(rows), dtype=torch.long)] = items is not None
    return mask


def _top(
    x: Tensor, item_x: Tensor, k: int, seen: SeenItems | None, mask: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores ``[B, k]`` of vectors ``[B, D]``."""
    most = item_x.size(0) if mask is None else int(mask.sum())
    rows = torch.arange(x.size(0))
    k = max(1, min(k, most))
    ranking = rank_items((x, item_x), rows, k, seen=seen, candidates=mask)
    items: np.ndarray = ranking.item_index.int().cpu().numpy()  # As implicit's.
    return items, _array(ranking.scores)
