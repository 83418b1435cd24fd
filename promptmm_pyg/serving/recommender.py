"""Recommendations by raw ids, from embeddings alone."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptmm_pyg.serving._card import ABOUT, build_card
from promptmm_pyg.serving._files import MAX_BYTES, Artifact, read_files, write_files
from promptmm_pyg.serving._restore import restore
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.new_items import NewItems

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from promptmm_pyg.data.split import Split
    from promptmm_pyg.targets import TeacherOutput


class Recommender(NewItems):
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
        feature_mapper: Predicts embeddings of new items, for :meth:`add_items`.
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

    @classmethod
    def from_model(
        cls,
        model: 'torch.nn.Module | TeacherOutput | Mapping[str, Tensor]',
        data: 'Split | HeteroData',
        *,
        inputs: tuple[Any, ...] | None = None,
        titles: Mapping[Any, str] | None = None,
        fit_features: bool = True,
    ) -> 'Recommender':
        """Builds the recommender of a trained model; needs torch_geometric.

        Ids are the ``raw_id`` of ``data`` (row numbers where there are none), and
        users have seen the training interactions. Where items have features, a
        :class:`FeatureMapper` is fitted, so that :meth:`add_items` accepts new items.
        Features must be on the scale that those of new items will have: pass the data
        as loaded, not standardized.

        Args:
            model: A trained model, or its embeddings: a
                :class:`~promptmm_pyg.targets.TeacherOutput`, such as the
                ``as_output(width)`` of a closed form, or
                ``{'user': [num_users, D], 'item': [num_items, D]}``.
            data: The split the model was trained on, or one of its graphs.
            inputs: The arguments of the model's forward. (default: the normalized
                message edges of ``data``)
            titles: Item titles by raw id, for display. (default: none)
            fit_features: Whether to fit the feature mapper. (default: ``True``)

        Warns:
            UserWarning: If there are features and no mapper can be fitted on them.

        Raises:
            ValueError: If the embeddings and ``data`` differ in their sizes.

        Example:
            >>> from promptmm_pyg.data import make_synthetic_dataset
            >>> from promptmm_pyg.models import LightGCN
            >>> data = make_synthetic_dataset(30, 20)
            >>> student = LightGCN.from_data(data, embedding_dim=8)
            >>> Recommender.from_model(student, data)
            Recommender(30 users, 20 items, 8 channels)
        """
        from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
        from promptmm_pyg.models.inference import get_embeddings

        graph: HeteroData = getattr(data, 'train', data)
        x_dict: Mapping[str, Tensor] = (
            get_embeddings(model, graph if inputs is None else inputs)
            if isinstance(model, torch.nn.Module)
            else model
            if isinstance(model, Mapping)
            else model.x_dict
        )
        ids = {
            key: graph[key].get('raw_id', range(x_dict[key].size(0)))
            for key in (USER, ITEM)
        }
        recommender = cls(
            x_dict[USER],
            x_dict[ITEM],
            user_ids=ids[USER],
            item_ids=ids[ITEM],
            seen=graph[INTERACTS].edge_index,
            titles=titles,
        )
        if fit_features:
            recommender.feature_mapper = _fit_mapper(recommender, graph)
        return recommender

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
        if self.feature_mapper is not None:
            more, ids['feature_mapper'] = self.feature_mapper.state()
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
                f"'{path}' must contain a recommender ({error})"
            ) from error
        model.card = artifact.card
        added = artifact.ids.get('num_added', 0)
        if type(added) is not int or not 0 <= added <= model.num_items:
            raise ValueError(
                f"'{path}' must contain a recommender (got {added!r} added items)"
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
        if self.feature_mapper is not None:
            about['feature_mapper'] = {
                ' + '.join(part.modalities): {
                    'held_out_ndcg': part.gain,
                    'held_out_ndcg_of_the_average_item': part.baseline,
                    'penalty': part.penalty,
                }
                for part in self.feature_mapper.maps
            }
        return about


def _fit_mapper(recommender: Recommender, graph: 'HeteroData') -> FeatureMapper | None:
    """The feature mapper of the item features of a graph, if it has any."""
    from promptmm_pyg.data.schema import ITEM, modality_mask_dict, modality_x_dict

    features, masks = (
        {name: x_of[ITEM] for name, x_of in kind(graph).items() if ITEM in x_of}
        for kind in (modality_x_dict, modality_mask_dict)
    )
    if not features:
        return None
    try:
        return FeatureMapper.fit(
            features,
            recommender.item_x,
            user_x=recommender.user_x,
            seen=recommender.seen,
            modality_mask=masks,
        )
    except ValueError as error:
        warnings.warn(f'no items can be added later: {error}', stacklevel=3)
        return None
