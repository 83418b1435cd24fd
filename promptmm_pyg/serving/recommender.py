"""Recommendations by raw ids, from embeddings alone."""

import os
import threading
import warnings
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg._utils import check_flag
from promptmm_pyg.hub import HubMixin
from promptmm_pyg.ranking import ApproximateItems, SeenItems, score_pairs
from promptmm_pyg.serving._artifact import (
    MAX_BYTES,
    Artifact,
    read_artifact,
    read_index,
    restore,
    table_tensors,
    write_artifact,
    write_index,
)
from promptmm_pyg.serving._card import ABOUT, about, build_card
from promptmm_pyg.serving._feature_fit import Features
from promptmm_pyg.serving._from_model import ModelData
from promptmm_pyg.serving._ids import Ids, RawId, RawIds, Unknown, as_list, is_id
from promptmm_pyg.serving._ranker import Filters, Ranker, Recommendations
from promptmm_pyg.serving._tables import Pairs, Tables
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.fold_in import History, read_histories

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from promptmm_pyg.data.split import Split
    from promptmm_pyg.targets import TeacherOutput

_COLD_USER = (
    'The model has no embedding of a user who was not in the training data: '
    "'recommend_from_history' ranks by the items they interacted with"
)
_Users = RawId | Sequence[RawId] | np.ndarray
_Histories = RawId | History | Sequence[History]
_Weights = Sequence[float] | Sequence[Sequence[float]] | None


class Recommender(HubMixin):
    """Serves a trained model by raw ids, without the model, the training data or
    torch_geometric.

    Equal scores are ordered by position in ``item_ids``. Ids are matched by their
    text: ``'7'`` also finds the integer 7 (:class:`RawIds`). :meth:`from_model` builds
    a recommender from a model.

    Args:
        user_x: User embeddings ``[num_users, D]``, a tensor or an array.
        item_x: Item embeddings ``[num_items, D]``.
        user_ids: The raw id of each user, strings or integers.
        item_ids: The raw id of each item, strings or integers.
        seen: The items users have seen: (user, item) edges ``[2, E]`` of row numbers,
            a :class:`~promptmm_pyg.ranking.SeenItems`, or ``None`` for no items.
        titles: Item titles by raw id, for display. (default: none)
        feature_mapper: Predicts embeddings of new items, for :meth:`add_items`.
            (default: none)

    Raises:
        TypeError: If embeddings are neither tensors nor arrays.
        ValueError: If sizes do not match, an id occurs twice, or an embedding is not
            finite.

    Example:
        >>> x = torch.eye(2)
        >>> model = Recommender(
        ...     x, x, user_ids=['ann', 'bob'], item_ids=[10, 20], seen=None
        ... )
        >>> model.recommend('bob', k=1).ids.tolist()
        [20]
    """

    card: dict[str, Any]
    """The model card, if the recommender was saved or loaded."""
    placed: dict[str, int]
    """The number of users and items that :meth:`from_model` placed, by kind."""

    def __init__(
        self,
        user_x: Tensor | np.ndarray,
        item_x: Tensor | np.ndarray,
        *,
        user_ids: Ids,
        item_ids: Ids,
        seen: SeenItems | Tensor | np.ndarray | None,
        titles: Mapping[Any, str] | None = None,
        feature_mapper: FeatureMapper | None = None,
    ) -> None:
        tables = Tables.build(user_x, item_x, user_ids, item_ids, seen, titles)
        self._set(tables, feature_mapper)

    def _set(self, tables: Tables, feature_mapper: FeatureMapper | None) -> None:
        width = tables.item_x.size(1)
        if feature_mapper is not None and feature_mapper.width != width:
            raise ValueError(
                "'feature_mapper' must predict embeddings of the same width (got "
                f'{feature_mapper.width} instead of {width})'
            )
        self._ranker = Ranker(tables)
        self.feature_mapper = feature_mapper
        self.card = {}
        self.placed = {}

    @classmethod
    def from_model(
        cls,
        model: 'torch.nn.Module | TeacherOutput | Mapping[str, Tensor]',
        data: 'Split | HeteroData',
        *,
        inputs: tuple[Any, ...] | None = None,
        titles: Mapping[Any, str] | None = None,
        fit_features: bool = True,
        place_cold: bool = True,
    ) -> 'Recommender':
        """Builds the recommender of a trained model; requires torch_geometric.

        Ids are the ``raw_id`` of ``data`` (row numbers if there are none). Seen items
        are all interactions that ``data`` holds, those of validation and test
        included: nobody is recommended what they have. If items have features, a
        :class:`FeatureMapper` is fitted for :meth:`add_items`. Pass the data as
        loaded, not standardized: new items must have features of the same scale.

        Users and items without training interactions have random embeddings in most
        models. They are replaced (:func:`~promptmm_pyg.serving.place_cold`): items are
        predicted from their features, users are folded in from their other
        interactions, and a user without any gets the list of the average user. A
        module with ``reads_features`` has embeddings of new items, which are kept.

        Args:
            model: A trained model, or its embeddings: a
                :class:`~promptmm_pyg.targets.TeacherOutput`, such as
                ``as_output(width)`` of a closed form, or
                ``{'user': [num_users, D], 'item': [num_items, D]}``.
            data: The split the model was trained on, or one of its graphs, whose
                message edges and positives are the seen items then.
            inputs: The arguments of the model's forward. (default: the normalized
                message edges of ``data``)
            titles: Item titles by raw id, for display. (default: none)
            fit_features: Whether to fit a feature mapper. (default: ``True``)
            place_cold: Whether to replace the embeddings of users and items without
                training interactions. (default: ``True``)

        Warns:
            UserWarning: If no feature mapper can be fitted on the features.

        Raises:
            ValueError: If the sizes of the embeddings and of ``data`` differ.

        Example:
            >>> from promptmm_pyg.data import make_synthetic_dataset
            >>> from promptmm_pyg.models import LightGCN
            >>> data = make_synthetic_dataset(30, 20)
            >>> student = LightGCN.from_data(data, embedding_dim=8)
            >>> Recommender.from_model(student, data)
            Recommender(30 users, 20 items, 8 channels)
        """
        parts = ModelData.read(model, data, inputs)
        recommender = cls(
            parts.user_x,
            parts.item_x,
            user_ids=parts.user_ids,
            item_ids=parts.item_ids,
            seen=parts.seen,
            titles=titles,
        )
        if fit_features and parts.features:
            try:
                # Held-out interactions did not train the embeddings.
                recommender.fit_feature_mapper(
                    parts.features, parts.masks, seen=parts.train
                )
            except ValueError as error:
                warnings.warn(f'no items can be added later: {error}', stacklevel=2)
        if place_cold:
            tables = recommender.tables
            placement = parts.place_cold(
                tables.user_x, tables.item_x, tables.seen, recommender.feature_mapper
            )
            recommender.placed = placement.counts
            tables = replace(tables, user_x=placement.user_x, item_x=placement.item_x)
            recommender._ranker = Ranker(tables)
        return recommender

    @property
    def tables(self) -> Tables:
        """The current version of all tables, while other threads may add items."""
        return self._ranker.tables

    @property
    def user_x(self) -> Tensor:
        """User embeddings ``[num_users, D]``."""
        return self.tables.user_x

    @property
    def item_x(self) -> Tensor:
        """Item embeddings ``[num_items, D]``."""
        return self.tables.item_x

    @property
    def seen(self) -> SeenItems:
        """The items each user has seen."""
        return self.tables.seen

    @property
    def titles(self) -> MutableMapping[Any, str]:
        """Item titles by raw id."""
        return self.tables.titles

    @property
    def users(self) -> RawIds:
        """The raw user ids and their rows in ``user_x``."""
        return self.tables.users

    @property
    def items(self) -> RawIds:
        """The raw item ids and their rows in ``item_x``."""
        return self.tables.items

    @property
    def user_ids(self) -> list[RawId]:
        """A copy of the raw user ids, in the order of ``user_x``."""
        return list(self.tables.users)

    @property
    def item_ids(self) -> list[RawId]:
        """A copy of the raw item ids, in the order of ``item_x``."""
        return list(self.tables.items)

    @property
    def num_users(self) -> int:
        """The number of known users."""
        return self.user_x.size(0)

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.item_x.size(0)

    @property
    def num_added(self) -> int:
        """The number of items added by :meth:`add_items`, the last ones."""
        return self.tables.num_added

    def recommend(
        self,
        users: _Users,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
        exclude: Pairs | None = None,
        candidates: Pairs | None = None,
        unknown: Unknown = 'raise',
        memory_limit: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Recommendations:
        """The ``k`` best items for each user.

        Args:
            users: One raw user id, or several.
            k: How many items; beyond the catalogue, lists are padded. (default: 10)
            exclude_seen: Whether to leave out what the user has seen. (default:
                ``True``)
            allow: Recommend only these raw item ids. (default: every item)
            deny: Never recommend these raw item ids. (default: none)
            exclude: Item ids by user id, ``{'ann': ['i3']}``, or pairs of user and
                item id: never recommend these to that user. (default: none)
            candidates: The same: recommend only these to that user; a user without any
                gets an empty list. Only candidates are scored. (default: every item)
            unknown: Whether unknown ids ``'raise'`` or are ignored (``'ignore'``); an
                unknown user gets an empty list. (default: ``'raise'``)
            memory_limit: Bytes, or text such as ``'2GiB'``, for all intermediate
                tensors and the lists, see :func:`~promptmm_pyg.ranking.rank_items`.
                (default: no limit)
            index: The result of :meth:`index_items`, for approximate lists, see
                :meth:`index_recall`. (default: none, exact lists)

        Raises:
            TypeError: If ``k`` is not an integer, or ``exclude_seen`` no bool.
            ValueError: If an id is unknown, ``k`` exceeds the catalogue and 10,000,
                ``allow`` and ``deny``, or two of ``candidates``, ``memory_limit`` and
                ``index`` are combined, the limit is too small, or the index was built
                from other items.
        """
        check_flag('exclude_seen', exclude_seen)
        if candidates is not None and (memory_limit is not None or index is not None):
            raise ValueError(
                "'candidates' must be given without 'memory_limit' and 'index' (got "
                'both). Only the candidates are scored anyway'
            )
        ranker = self._ranker
        tables = ranker.tables
        return ranker.recommend(
            tables.user_x,
            tables.users.rows('users', users, _COLD_USER, unknown),
            k,
            Filters(
                mask=tables.candidates(allow, deny, unknown),
                seen=tables.seen if exclude_seen else None,
                exclude=tables.pairs('exclude', exclude, unknown),
                candidates=tables.pairs('candidates', candidates, unknown),
            ),
            scalar=is_id(users),
            memory_limit=memory_limit,
            index=index,
        )

    def score(
        self, users: _Users, items: _Users, *, unknown: Unknown = 'raise'
    ) -> np.ndarray:
        """The scores of given pairs, comparable for one user only.

        Args:
            users: Raw user ids; one id is paired with every item.
            items: As many raw item ids; one id is paired with every user.
            unknown: Whether unknown ids ``'raise'`` or have the score NaN
                (``'ignore'``). (default: ``'raise'``)

        Returns:
            ``[N]`` in single precision; a single number for one pair of ids.

        Raises:
            ValueError: If an id is unknown, or there are more users than items or the
                other way round.

        Example:
            >>> x = torch.eye(2)
            >>> model = Recommender(
            ...     x, x, user_ids=['ann', 'bob'], item_ids=[10, 20], seen=None
            ... )
            >>> model.score('bob', [10, 20]).tolist()
            [0.0, 1.0]
        """
        tables = self.tables
        user_rows = np.array(tables.users.rows('users', users, _COLD_USER, unknown))
        item_rows = np.array(tables.items.rows('items', items, unknown=unknown))
        if is_id(users):
            user_rows = user_rows.repeat(len(item_rows))
        elif is_id(items):
            item_rows = item_rows.repeat(len(user_rows))
        if len(user_rows) != len(item_rows):
            raise ValueError(
                "'users' and 'items' must have the same length (got "
                f'{len(user_rows)} and {len(item_rows)})'
            )
        known = (user_rows >= 0) & (item_rows >= 0)
        rows = (torch.from_numpy(x[known]).long() for x in (user_rows, item_rows))
        scores = np.full(len(known), np.nan, dtype=np.float32)
        scores[known] = score_pairs(tables.user_x, tables.item_x, *rows).float().cpu()
        return scores[0] if is_id(users) and is_id(items) else scores

    def recommend_from_history(
        self,
        histories: _Histories,
        k: int = 10,
        *,
        weights: _Weights = None,
        unknown: Unknown = 'raise',
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
        unseen_weight: float = 0.1,
        ridge: float = 10.0,
        memory_limit: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Recommendations:
        """The ``k`` best items for users who were not in the training data, by
        :meth:`fold_in`.

        Scores estimate a preference between 0 and 1. They are comparable within a list
        and not with those of :meth:`recommend`.

        Args:
            histories: The raw item ids of one user, or a sequence of such. Repeated
                ids count repeatedly.
            k: How many items. (default: 10)
            weights: A positive number for each item of the histories, such as its
                recency. (default: 1)
            unknown: Whether ids that are not in the catalogue ``'raise'`` or are
                ignored (``'ignore'``), those of ``allow`` and ``deny`` included.
                (default: ``'raise'``)
            exclude_seen: Whether to leave out the history. (default: ``True``)
            allow: See :meth:`recommend`.
            deny: See :meth:`recommend`.
            unseen_weight: Weight of items without interaction. (default: ``0.1``)
            ridge: How close the user is to the mean of the items. (default: ``10.0``)
            memory_limit: See :meth:`recommend`.
            index: See :meth:`recommend`.

        Raises:
            ValueError: If a history contains no (known) item, an id is unknown, or
                weights do not match; also as :meth:`recommend`.
        """
        check_flag('exclude_seen', exclude_seen)
        ranker = self._ranker
        tables = ranker.tables
        read = read_histories(tables.items, histories, weights, unknown)
        mask = tables.candidates(allow, deny, unknown)
        user_x = ranker.fold_in(unseen_weight, ridge)(read.rows, read.weights)
        # Converted once for all calls, unless the conversion would not fit.
        exact = memory_limit is None and index is None
        return ranker.recommend(
            user_x.to(tables.item_x.device),
            list(range(len(read.rows))),
            k,
            Filters(mask, read.seen(tables.num_items) if exclude_seen else None),
            scalar=read.scalar,
            item_x=ranker.precise_x if exact else None,
            memory_limit=memory_limit,
            index=index,
        )

    def fold_in(
        self,
        histories: _Histories,
        *,
        weights: _Weights = None,
        unknown: Unknown = 'raise',
        unseen_weight: float = 0.1,
        ridge: float = 10.0,
    ) -> Tensor:
        """The vectors ``[B, D]`` of users who were not in the training data (``[D]``
        for one history), by :class:`FoldIn`, for example to search an index.

        The arguments are those of :meth:`recommend_from_history`.
        """
        ranker = self._ranker
        read = read_histories(ranker.tables.items, histories, weights, unknown)
        user_x = ranker.fold_in(unseen_weight, ridge)(read.rows, read.weights)
        return user_x[0] if read.scalar else user_x

    def similar_items(
        self,
        items: _Users,
        k: int = 10,
        *,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
        unknown: Unknown = 'raise',
        memory_limit: int | str | None = None,
    ) -> Recommendations:
        """The ``k`` items closest to each item by cosine, without the item itself.

        Args:
            items: One raw item id, or several.
            k: How many items; beyond the catalogue, lists are padded. (default: 10)
            allow: See :meth:`recommend`.
            deny: See :meth:`recommend`.
            unknown: See :meth:`recommend`.
            memory_limit: See :meth:`recommend`.

        Raises:
            TypeError: If ``k`` is not an integer.
            ValueError: As :meth:`recommend`.
        """
        ranker = self._ranker
        tables = ranker.tables
        rows = np.array(tables.items.rows('items', items, unknown=unknown), int)
        item = torch.from_numpy(rows.clip(0))
        itself = SeenItems(torch.arange(len(rows) + 1), item, tables.num_items)
        return ranker.recommend(
            ranker.unit_x[item.to(ranker.unit_x.device)],
            np.where(rows < 0, -1, np.arange(len(rows))).tolist(),
            k,
            Filters(tables.candidates(allow, deny, unknown), itself),
            scalar=is_id(items),
            item_x=ranker.unit_x,
            memory_limit=memory_limit,
        )

    def index_items(
        self, *, num_lists: int | None = None, nprobe: int = 32, seed: int = 0
    ) -> ApproximateItems:
        """An index of the current items, for catalogues of a million and more;
        requires faiss. It is invalid after :meth:`add_items`. The arguments are those
        of :class:`~promptmm_pyg.ranking.ApproximateItems`; :meth:`save_index` saves it.
        """
        return ApproximateItems(
            self.item_x, num_lists=num_lists, nprobe=nprobe, seed=seed
        )

    def save_index(self, path: str | Path, index: ApproximateItems) -> None:
        """Writes an index to ``index.safetensors`` in the folder ``path``, beside the
        saved recommender.

        Raises:
            ValueError: If the index was built from other items.
        """
        self._ranker.check_index(index)
        write_index(Path(path), self.item_x, index)

    def load_index(self, path: str | Path, *, nprobe: int = 32) -> ApproximateItems:
        """The index of :meth:`save_index`, without clustering the items again;
        requires faiss.

        Args:
            path: The folder.
            nprobe: The number of clusters to search per user. (default: 32)

        Raises:
            FileNotFoundError: If there is no index.
            ValueError: If it is damaged or belongs to other items.
        """
        return read_index(Path(path), self.item_x, nprobe)

    def index_recall(
        self,
        index: ApproximateItems,
        users: _Users,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
    ) -> np.ndarray:
        """The fraction of the exact ``k`` best items that :meth:`recommend` returns
        with the index, per user, ``[B]``. A few hundred users are enough for a
        standard error of one or two percent. The arguments are those of
        :meth:`recommend`.
        """
        check_flag('exclude_seen', exclude_seen)
        ranker = self._ranker
        tables = ranker.tables
        rows = tables.users.rows('users', users, _COLD_USER)
        k = ranker.check_k(k)
        ranker.check_index(index)
        recall = index.recall_against_exact(
            tables.user_x,
            torch.tensor(rows, dtype=torch.long),
            min(k, tables.num_items),
            seen=tables.seen if exclude_seen else None,
            candidates=tables.candidates(allow, deny),
        )
        values: np.ndarray = recall.float().cpu().numpy()
        return values

    def fit_feature_mapper(
        self,
        modality_x: Features,
        modality_mask: Features | None = None,
        *,
        seen: SeenItems | Tensor | None = None,
        seed: int = 0,
    ) -> FeatureMapper:
        """Fits :attr:`feature_mapper` on the current items, and returns it.

        Args:
            modality_x: Features ``[num_items, F_m]`` by modality, in the order of
                ``item_ids``.
            modality_mask: Boolean ``[num_items]`` by modality, ``True`` where an item
                has it. (default: everywhere)
            seen: Training interactions, as seen items or as edges ``[2, E]``.
                (default: :attr:`seen`)
            seed: Seed of the choice of held-out items. (default: ``0``)

        Raises:
            ValueError: As :meth:`FeatureMapper.fit`.
        """
        tables = self.tables
        self.feature_mapper = FeatureMapper.fit(
            modality_x,
            tables.item_x,
            user_x=tables.user_x,
            seen=tables.seen if seen is None else seen,
            modality_mask=modality_mask,
            seed=seed,
        )
        return self.feature_mapper

    def add_items(
        self,
        ids: _Users,
        features: Features,
        *,
        modality_mask: Features | None = None,
        titles: Mapping[Any, str] | None = None,
    ) -> None:
        """Appends new items to the catalogue, with embeddings predicted from their
        features. Known items do not change. Other threads may add items or rank
        meanwhile: each call uses the tables it started with.

        Args:
            ids: Raw ids that are not in the catalogue.
            features: ``[N, F_m]`` by modality, on the scale that the mapper was fitted
                on; modalities may be left out.
            modality_mask: Boolean ``[N]`` by modality, ``True`` where an item has it.
                (default: everywhere)
            titles: Titles by raw id. (default: none)

        Raises:
            ValueError: If there is no feature mapper, an id is known or occurs twice,
                or features do not match. The recommender is unchanged then.
        """
        if self.feature_mapper is None:
            raise ValueError(
                "'add_items' requires a recommender with a feature mapper (got none). "
                "Fit it with 'fit_feature_mapper'"
            )
        item_x = self.feature_mapper(features, modality_mask)
        with _Writers.lock:
            tables = self.tables.with_items(item_x, as_list(ids), titles)
            self._ranker = Ranker(tables)

    def save(self, path: str | Path, *, card: Mapping[str, Any] | None = None) -> None:
        """Writes the folder ``path``: ``model.safetensors``, ``card.json``, the card as
        ``README.md``, and ``config.json`` with sizes and checksums.

        Args:
            path: The folder.
            card: Sections of the model card: ``'name'``, ``'description'``,
                ``'intended_use'``, ``'limits'``, ``'metrics'``, ``'data'``,
                ``'license'`` or others, as JSON values. Counts, versions and the date
                are added. (default: those of :attr:`card`, or a general text)

        Raises:
            ValueError: If ``path`` is a file or the card is not a JSON value.
        """
        tables, mapper = self.tables, self.feature_mapper
        tensors = table_tensors(tables)
        state: dict[str, Any] = {'num_added': tables.num_added}
        if mapper is not None:
            mapper_tensors, state['feature_mapper'] = mapper.state()
            tensors |= mapper_tensors
        sections = {key: value for key, value in self.card.items() if key != ABOUT}
        new_card = build_card({**sections, **(card or {})}, about(tables, mapper))
        write_artifact(Path(path), Artifact(tensors, state, new_card))
        self.card = new_card

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = 'cpu',
        max_bytes: int = MAX_BYTES,
        verify: bool | None = None,
    ) -> 'Recommender':
        """Reads what :meth:`save` wrote. No code in the files is executed, and no file
        outside the folder is opened.

        On the CPU, the tables are mapped to the file: processes that load the same
        folder share its memory, and a later :meth:`save` does not change them. Never
        copy other files over those of a folder that is in use: its readers would crash.

        Args:
            path: The folder.
            device: The device of the embeddings. (default: the CPU)
            max_bytes: The size of the largest file to read. (default: 16 GiB)
            verify: Whether to read all tensors, compare their checksum and check all
                values. Without it, sizes, types and shapes are checked and tables stay
                on the disk until they are used. (default: tables of up to 64 MiB)

        Raises:
            ValueError: If a file is missing, too large, a link to outside, of an
                unknown format version or changed, or parts do not fit each other.
        """
        artifact, verified = read_artifact(Path(path), max_bytes, verify)
        recommender = cls.__new__(cls)
        try:
            recommender._set(*restore(artifact, device, verified))
        except ValueError as error:
            raise ValueError(
                f"'{path}' must contain a recommender ({error})"
            ) from error
        recommender.card = artifact.card
        return recommender

    def __repr__(self) -> str:
        x, num_items = self.user_x, self.num_items
        return (
            f'{type(self).__name__}({x.size(0)} users, {num_items} items, '
            f'{x.size(1)} channels)'
        )


class _Writers:
    """The lock of those who replace tables."""

    lock = threading.Lock()


def _after_fork() -> None:
    """Makes a forked process able to rank. OpenMP's threads exist in the parent only,
    and a parallel operation would wait for them forever.
    """
    _Writers.lock = threading.Lock()
    torch.set_num_threads(1)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)
