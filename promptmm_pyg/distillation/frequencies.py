"""Adapters on one part of the spectrum of the interaction graph."""

from typing import Literal

from torch import Tensor

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER
from promptmm_pyg.distillation.adapters import Adapter, Graph, Teacher, XDict
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, TeacherOutput


class OnFrequencies(Adapter):
    r"""An adapter on the low or the high frequencies of the embeddings of student and
    teacher.

    The graphs are those of users with common items and of items with common users,
    :math:`\mathbf{P} = \mathbf{A} \mathbf{A}^{\top}` and :math:`\mathbf{A}^{\top}
    \mathbf{A}` of the normalized training interactions :math:`\mathbf{A}`, whose
    eigenvalues are between 0 and 1.

    .. math::
        \mathbf{X}_{\text{low}} = \mathbf{P}^{k} \mathbf{X}, \qquad
        \mathbf{X}_{\text{high}} = \mathbf{X} - \mathbf{X}_{\text{low}}

    The low frequencies are what a node shares with its neighbors, the high ones what
    distinguishes it from them; nodes without interactions have high ones only. A step
    filters all embeddings of the student, at the cost of :math:`2 k` propagations.

    Args:
        adapter: The adapter; its weight is used.
        band: ``'low'`` or ``'high'``.
        num_hops: :math:`k`; with more hops, fewer frequencies are low.
            (default: ``1``)
        name: Its name in the history. (default: that of the adapter after the band, as
            in ``'low_embedding'``)

    Raises:
        ValueError: If an option is unknown or out of range; on setup, without a graph.

    Example:
        >>> from promptmm_pyg.distillation import OnEmbeddings
        >>> from promptmm_pyg.losses import ScaledCosineLoss
        >>> OnFrequencies(OnEmbeddings(ScaledCosineLoss(), 0.5), 'high').name
        'high_embedding'
    """

    loss: Adapter

    def __init__(
        self,
        adapter: Adapter,
        band: Literal['low', 'high'],
        num_hops: int = 1,
        *,
        name: str | None = None,
    ) -> None:
        check_choice('band', band, ('low', 'high'))
        check_positive('num_hops', num_hops)
        name = f'{band}_{adapter.name}' if name is None else name
        super().__init__(adapter, adapter.weight, name=name)
        self.band = band
        self.num_hops = num_hops

    def setup(self, targets: SoftTargets, width: int, train: Graph = None) -> None:
        """Filters the teacher's embeddings."""
        if train is None:
            raise ValueError("'train' must be the graph of the frequencies (got None)")
        self.adj_dict = normalized_adj_dict(train)
        self.targets = targets
        self.filtered = SoftTargets(*self._filter_views(targets))
        self.loss.setup(self.filtered, width, train)

    def compute(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Tensor:
        current: Teacher = self.filtered
        if teacher is not self.targets:
            current = TeacherOutput(*self._filter_views(teacher))
        return self.loss.compute(self.filter(student), current, batch, lists)

    def filter(self, x_dict: XDict) -> XDict:
        """The band of the embeddings ``[N_t, D]`` of users and items."""
        to_item, to_user = (self.adj_dict[key] for key in (INTERACTS, REV_INTERACTS))
        user_x, item_x = x_dict[USER], x_dict[ITEM]
        for _ in range(self.num_hops):
            user_x, item_x = to_user @ (to_item @ user_x), to_item @ (to_user @ item_x)
        if self.band == 'low':
            return {USER: user_x, ITEM: item_x}
        return {USER: x_dict[USER] - user_x, ITEM: x_dict[ITEM] - item_x}

    def _filter_views(self, teacher: Teacher) -> tuple[XDict, dict[str, XDict]]:
        views = {
            # Views without users or items are refused on setup where they are used.
            name: self.filter(x) if {USER, ITEM} <= set(x) else x
            for name, x in teacher.modality_x_dict.items()
        }
        return self.filter(teacher.x_dict), views

    def extra_repr(self) -> str:
        return f'band={self.band!r}, num_hops={self.num_hops}, {super().extra_repr()}'
