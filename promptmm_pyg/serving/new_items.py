"""New items in the catalogue, from their features and without training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._modalities import Features
from promptmm_pyg.serving._raw_ids import RawId, is_id
from promptmm_pyg.serving._tables import Ids
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.new_users import NewUsers


class NewItems(NewUsers):
    """How a :class:`~promptmm_pyg.serving.Recommender` comes to know more items."""

    def __init__(
        self,
        user_x: Tensor,
        item_x: Tensor,
        *,
        user_ids: Ids,
        item_ids: Ids,
        seen: SeenItems | Tensor | None,
        titles: Mapping[Any, str] | None = None,
        feature_mapper: FeatureMapper | None = None,
    ) -> None:
        super().__init__(
            user_x,
            item_x,
            user_ids=user_ids,
            item_ids=item_ids,
            seen=seen,
            titles=titles,
        )
        if feature_mapper is not None and feature_mapper.width != item_x.size(1):
            raise ValueError(
                "'feature_mapper' must predict embeddings of the same width (got "
                f'{feature_mapper.width} instead of {item_x.size(1)})'
            )
        self.feature_mapper = feature_mapper
        self.card: dict[str, Any] = {}
        """What :meth:`Recommender.load` found written about the model."""
        self.num_added = 0
        """How many items came by :meth:`add_items`; they are the last ones."""

    def fit_feature_mapper(
        self,
        modality_x: Features,
        modality_mask: Features | None = None,
        *,
        seed: int = 0,
    ) -> FeatureMapper:
        """Fits the :attr:`feature_mapper` on the items there are, and returns it.

        Args:
            modality_x: Features ``[num_items, F_m]`` by name, as they come, in the
                order of ``item_ids``.
            modality_mask: Boolean ``[num_items]`` by name, ``True`` where an item has
                the modality. (default: everywhere)
            seed: Of the choice of held-out items. (default: ``0``)

        Raises:
            ValueError: As :meth:`FeatureMapper.fit`.
        """
        self.feature_mapper = FeatureMapper.fit(
            modality_x,
            self.item_x,
            user_x=self.user_x,
            seen=self.seen,
            modality_mask=modality_mask,
            seed=seed,
        )
        return self.feature_mapper

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
        if self.feature_mapper is None:
            raise ValueError(
                "'add_items' requires a recommender with a feature path (got none). Fit "
                "it with 'fit_feature_mapper'"
            )
        new: list[RawId] = [ids] if is_id(ids) else list(ids)  # type: ignore[arg-type]
        item_x = self.feature_mapper(features, modality_mask)
        self._append_items(item_x, new, titles)
        self.num_added += len(new)
