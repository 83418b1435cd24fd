"""Recommendations by raw ids, from embeddings alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._checks import check_positive
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items
from promptmm_pyg.serving._card import ABOUT, build_card
from promptmm_pyg.serving._files import MAX_BYTES, Artifact, read_files, write_files
from promptmm_pyg.serving._histories import (
    Histories,
    History,
    Unknown,
    read_histories,
)
from promptmm_pyg.serving._modalities import Features
from promptmm_pyg.serving._raw_ids import RawId, is_id
from promptmm_pyg.serving._restore import restore
from promptmm_pyg.serving._tables import Ids
from promptmm_pyg.serving.exports import Exports
from promptmm_pyg.serving.feature_path import FeaturePath
from promptmm_pyg.serving.fold_in import FoldIn

_COLD_USER = (
    "A user without a row of embeddings is new to the model: 'recommend_from_history' "
    'ranks by the items they took'
)


class Recommendations(NamedTuple):
    """Raw item ids, best first, and their scores.

    Both are ``[k]`` for one user and ``[B, k]`` for several. Where fewer than ``k``
    items can be recommended, the rest is ``None`` with score ``-inf``.
    """

    ids: np.ndarray
    scores: np.ndarray


class Recommender(Exports):
    """Serves a trained model: raw ids in, raw ids out, without model, graph library or
    training data.

    Equal scores are ordered as everywhere in the package: by position in ``item_ids``.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        user_ids: The raw id of each user, strings or integers.
        item_ids: The raw id of each item, strings or integers.
        seen: What the users have seen already: (user, item) edges ``[2, E]`` of row
            numbers, the same as :class:`~promptmm_pyg.ranking.SeenItems`, or ``None``
            if nobody has seen anything.
        titles: What to call items when printing them, by raw id. (default: none)
        feature_path: Predicts embeddings of new items, for :meth:`add_items`.
            (default: none)

    Raises:
        ValueError: If sizes do not fit each other, an id occurs twice, or an embedding
            is not finite.

    Example:
        >>> x = torch.eye(2)
        >>> model = Recommender(
        ...     x, x, user_ids=['ann', 'bob'], item_ids=[10, 20], seen=None
        ... )
        >>> model.recommend('bob', k=1).ids.tolist()
        [20]
    """

    def __init__(
        self,
        user_x: Tensor,
        item_x: Tensor,
        *,
        user_ids: Ids,
        item_ids: Ids,
        seen: SeenItems | Tensor | None,
        titles: Mapping[Any, str] | None = None,
        feature_path: FeaturePath | None = None,
    ) -> None:
        super().__init__(
            user_x,
            item_x,
            user_ids=user_ids,
            item_ids=item_ids,
            seen=seen,
            titles=titles,
        )
        if feature_path is not None and feature_path.width != item_x.size(1):
            raise ValueError(
                "'feature_path' needs to predict embeddings of the same width (got "
                f'{feature_path.width} instead of {item_x.size(1)})'
            )
        self.feature_path = feature_path
        self.card: dict[str, Any] = {}
        """What :meth:`load` found written about the model."""
        self.num_added = 0
        """How many items came by :meth:`add_items`; they are the last ones."""
        self._derived: dict[Any, Any] = {}

    def recommend(
        self,
        users: RawId | Sequence[RawId] | np.ndarray,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
    ) -> Recommendations:
        """The best ``k`` items for each user.

        Args:
            users: One raw user id, or several.
            k: How many items; more than the catalogue holds are padded. (default: 10)
            exclude_seen: Whether to leave out what the user has seen. (default:
                ``True``)
            allow: Recommend only these raw item ids. (default: every item)
            deny: Never recommend these raw item ids. (default: none)

        Raises:
            ValueError: If an id is unknown or both lists are given.
        """
        rows = self._users.rows('users', users, _COLD_USER)
        ranking = self._rank(
            (self.user_x, self.item_x),
            rows,
            k,
            seen=self.seen if exclude_seen else None,
            candidates=self._candidates(allow, deny),
        )
        return self._raw(ranking, scalar=is_id(users), k=k)

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

        Raises:
            ValueError: If a history holds no (known) item, an id is unknown, a weight
                does not fit, or both lists are given.
        """
        read = read_histories(self._items, histories, weights, unknown)
        candidates = self._candidates(allow, deny)
        user_x = self._fold_in(unseen_weight, ridge)(read.rows, read.weights)
        if 'precise' not in self._derived:  # At least of single precision.
            self._derived['precise'] = self.item_x.to(user_x.dtype)
        item_x = self._derived['precise']
        ranking = self._rank(
            (user_x.to(item_x.device), item_x),
            list(range(len(read.rows))),
            k,
            seen=read.seen(self.num_items) if exclude_seen else None,
            candidates=candidates,
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

    def similar_items(
        self, items: RawId | Sequence[RawId] | np.ndarray, k: int = 10
    ) -> Recommendations:
        """The ``k`` items closest to each item by cosine, itself left out.

        Args:
            items: One raw item id, or several.
            k: How many items; more than the catalogue holds are padded. (default: 10)

        Raises:
            ValueError: If an id is unknown.
        """
        rows = self._items.rows('items', items)
        number = torch.arange(self.num_items + 1)
        itself = SeenItems(number, number[:-1], self.num_items)
        if 'unit' not in self._derived:
            self._derived['unit'] = normalize(self.item_x, dim=-1)
        unit = self._derived['unit']
        ranking = self._rank((unit, unit), rows, k, seen=itself)
        return self._raw(ranking, scalar=is_id(items), k=k)

    def learn_features(
        self,
        modality_x: Features,
        modality_mask: Features | None = None,
        *,
        seed: int = 0,
    ) -> FeaturePath:
        """Fits the :attr:`feature_path` on the items there are, and returns it.

        Args:
            modality_x: Features ``[num_items, F_m]`` by name, as they come, in the
                order of ``item_ids``.
            modality_mask: Boolean ``[num_items]`` by name, ``True`` where an item has
                the modality. (default: everywhere)
            seed: Of the choice of held-out items. (default: ``0``)

        Raises:
            ValueError: As :meth:`FeaturePath.fit`.
        """
        self.feature_path = FeaturePath.fit(
            modality_x,
            self.item_x,
            user_x=self.user_x,
            seen=self.seen,
            modality_mask=modality_mask,
            seed=seed,
        )
        return self.feature_path

    def add_items(
        self,
        ids: RawId | Sequence[RawId] | np.ndarray,
        features: Features,
        *,
        modality_mask: Features | None = None,
        titles: Mapping[Any, str] | None = None,
    ) -> None:
        """Appends new items, whose embeddings are predicted from their features, to
        the catalogue; nothing is trained, and known items stay as they are. Not while
        another thread asks for recommendations.

        Args:
            ids: Raw ids that are not in the catalogue.
            features: ``[N, F_m]`` by modality, as they come; a modality left out is
                one that none of the new items has.
            modality_mask: Boolean ``[N]`` by modality, ``True`` where an item has it.
                (default: everywhere)
            titles: What to call the items, by raw id. (default: nothing)

        Raises:
            ValueError: If there is no feature path, an id is known or occurs twice, or
                features do not fit. The recommender is unchanged then.
        """
        if self.feature_path is None:
            raise ValueError(
                "'add_items' needs a recommender with a feature path (got none). Fit "
                "it with 'learn_features'"
            )
        new: list[RawId] = [ids] if is_id(ids) else list(ids)  # type: ignore[arg-type]
        item_x = self.feature_path(features, modality_mask)
        self._append_items(item_x, new, titles)
        self.num_added += len(new)
        self._derived.clear()

    def save(self, path: str | Path, *, card: Mapping[str, Any] | None = None) -> None:
        """Writes the folder ``path``: ``model.safetensors``, ``ids.json``,
        ``card.json``, the same for people as ``README.md``, and, last, ``config.json``
        with sizes and checksums.

        Args:
            path: The folder.
            card: What to say about the model, by section: ``'name'``,
                ``'description'``, ``'intended_use'``, ``'limits'``, ``'metrics'``,
                ``'data'``, ``'license'`` or any other, each text, numbers, lists and
                mappings. Counts, versions and the date are added. (default: what was
                loaded, and general words)

        Raises:
            ValueError: If ``path`` is a file, or JSON cannot hold the card.
        """
        tensors = {
            'user_x': self.user_x,
            'item_x': self.item_x,
            'seen_rowptr': self.seen.rowptr,
            'seen_col': self.seen.col,
        }
        ids = {
            'user_ids': self.user_ids,
            'item_ids': self.item_ids,
            'titles': [self.titles.get(raw) for raw in self.item_ids],
            'num_added': self.num_added,
        }
        if self.feature_path is not None:
            more, ids['feature_path'] = self.feature_path.state()
            tensors |= more
        said = {key: value for key, value in self.card.items() if key != ABOUT}
        whole = build_card({**said, **(card or {})}, self._about())
        write_files(Path(path), Artifact(tensors, ids, whole))
        self.card = whole

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = 'cpu',
        max_bytes: int = MAX_BYTES,
    ) -> 'Recommender':
        """Reads what :meth:`save` wrote, of this format version or an older one; no
        code in the files is ever run, and nothing outside the folder is opened.

        Args:
            path: The folder.
            device: Where the embeddings are to live. (default: the CPU)
            max_bytes: A larger file is refused unread. (default: 16 GiB)

        Raises:
            ValueError: If a file is missing, too large, a link to outside, of an
                unknown format version, or not the one that was written, or if its
                content does not fit together.
        """
        artifact = read_files(Path(path), max_bytes)
        try:
            model = cls(**restore(artifact, device))
        except ValueError as error:
            raise ValueError(
                f"'{path}' needs to hold a recommender ({error})"
            ) from error
        model.card = artifact.card
        added = artifact.ids.get('num_added', 0)
        if type(added) is not int or not 0 <= added <= model.num_items:
            raise ValueError(
                f"'{path}' needs to hold a recommender (got {added!r} added items)"
            )
        model.num_added = added
        return model

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.num_users} users, {self.num_items} items, '
            f'{self.user_x.size(1)} channels)'
        )

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            'users': self.num_users,
            'items': self.num_items,
            'items_added_from_features': self.num_added,
            'interactions': int(self.seen.col.numel()),
            'channels': self.user_x.size(1),
            'precision': str(self.item_x.dtype).removeprefix('torch.'),
        }
        if self.feature_path is not None:
            about['feature_path'] = {
                ' + '.join(part.modalities): {
                    'held_out_ndcg': part.gain,
                    'held_out_ndcg_of_the_average_item': part.baseline,
                    'penalty': part.penalty,
                }
                for part in self.feature_path.maps
            }
        return about

    def _fold_in(self, unseen_weight: float, ridge: float) -> FoldIn:
        key = (unseen_weight, ridge)
        if self._derived.get('fold_in', (None,))[0] != key:
            fold_in = FoldIn(self.item_x, unseen_weight=unseen_weight, ridge=ridge)
            self._derived['fold_in'] = key, fold_in
        found: FoldIn = self._derived['fold_in'][1]
        return found

    def _rank(
        self,
        tables: tuple[Tensor, Tensor],
        rows: list[int],
        k: int,
        *,
        seen: SeenItems | None,
        candidates: Tensor | None = None,
    ) -> Ranking:
        check_positive('k', k)
        users = torch.tensor(rows, dtype=torch.long)
        k = min(k, self.num_items)
        return rank_items(tables, users, k, seen=seen, candidates=candidates)

    def _raw(self, ranking: Ranking, *, scalar: bool, k: int) -> Recommendations:
        index = ranking.item_index.cpu().numpy()
        ids = np.full((len(index), k), None, dtype=object)
        # Row -1 of the lookup is the `None` that stands for padding.
        ids[:, : index.shape[1]] = self._items.lookup[index]
        scores = np.full((len(index), k), -np.inf, dtype=np.float32)
        scores[:, : index.shape[1]] = ranking.scores.float().cpu().numpy()
        return Recommendations(*((ids[0], scores[0]) if scalar else (ids, scores)))
