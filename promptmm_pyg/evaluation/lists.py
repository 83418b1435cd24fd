"""Metrics of lists beyond accuracy: popularity, novelty, diversity, coverage."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, modality_x_dict
from promptmm_pyg.functional import l2_normalize

PER_USER = ('Diversity', 'Novelty', 'Serendipity', 'AveragePopularity')
OVERALL = ('Coverage', 'Gini', 'Personalization', 'PopularityLift')
_ROWS = 4096  # Users at a time where rows of features are summed.


class ListMetrics:
    """The metrics of the lists of all users on a graph.

    Args:
        item_index: Ranked items ``[N, K]``, padded with -1.
        users: The user of each list, ``[N]``.
        positives: The row of each held-out positive and its item, ``[P]`` each.
        data: The evaluated graph, with the training interactions as message edges.
    """

    def __init__(
        self,
        item_index: Tensor,
        users: Tensor,
        positives: tuple[Tensor, Tensor],
        data: HeteroData,
    ) -> None:
        self.item_index, self.users, self.positives = item_index, users, positives
        self.data = data
        self.num_items = int(data[ITEM].num_nodes)
        self.user, item = data[INTERACTS].edge_index.cpu()
        self.item = item
        self.count = torch.bincount(item, minlength=self.num_items)

    def per_user(self, name: str, ks: Sequence[int]) -> dict[str, Tensor]:
        """A metric of ``PER_USER`` at every cutoff, ``[N]``."""
        functions: dict[str, Callable[[int], Tensor]] = {
            'Diversity': self.diversity,
            'Novelty': lambda k: self._mean(self._novelty(), k),
            'AveragePopularity': lambda k: self._mean(self.count.double(), k),
            'Serendipity': self.serendipity,
        }
        return {f'{name}@{k}': functions[name](k).float() for k in ks}

    def overall(self, name: str, ks: Sequence[int]) -> dict[str, float]:
        """A metric of ``OVERALL`` at every cutoff."""
        functions: dict[str, Callable[[int], Tensor]] = {
            'Coverage': lambda k: (self._lists_with(k) > 0).double().mean(),
            'Gini': self.gini,
            'Personalization': self.personalization,
            'PopularityLift': self.popularity_lift,
        }
        return {f'{name}@{k}': float(functions[name](k)) for k in ks}

    def _lists_with(self, k: int) -> Tensor:
        """The number of lists that contain each item."""
        index = self.item_index[:, :k]
        return torch.bincount(index[index >= 0], minlength=self.num_items).double()

    def _mean(self, values: Tensor, k: int) -> Tensor:
        """The mean over a list of one value per item; zero for an empty list."""
        index = self.item_index[:, :k]
        inside = index >= 0
        total: Tensor = (values[index.clamp(min=0)] * inside).sum(1)
        return total / inside.sum(1).clamp(min=1)

    def _novelty(self) -> Tensor:
        num_users = self.user.unique().numel()
        frequency: Tensor = self.count.clamp(min=1) / max(num_users, 1)
        return -frequency.double().log2()

    def serendipity(self, k: int) -> Tensor:
        index, n = self.item_index[:, :k], self.num_items
        # Equally popular items share a rank, the most popular have the first.
        rank = torch.unique(-self.count, return_inverse=True)[1] + 1
        anyone = torch.where(self.count > 0, (n + 1 - rank) / n, 0.0)
        place = torch.arange(1, index.size(1) + 1)
        surprise = ((n + 1 - place) / n - anyone[index.clamp(min=0)]).clamp(min=0)
        inside = index >= 0
        gain = surprise * inside * self._is_relevant(index)
        return gain.sum(1) / inside.sum(1).clamp(min=1)

    def _is_relevant(self, index: Tensor) -> Tensor:
        row, item = self.positives
        offset = torch.arange(index.size(0)).view(-1, 1) * self.num_items
        return torch.isin(index + offset, row * self.num_items + item)

    def diversity(self, k: int) -> Tensor:
        x_dict = modality_x_dict(self.data)
        parts = [x[ITEM] for x in x_dict.values() if ITEM in x]
        if not parts:
            raise ValueError(
                "'metrics' must not contain 'Diversity' for data without item features "
                f'(got {sorted(x_dict)}). Leave it out'
            )
        per_modality = [self._distance(x.cpu().float(), k) for x in parts]
        return torch.stack(per_modality).mean(0)

    def _distance(self, x: Tensor, k: int) -> Tensor:
        """The mean of one minus the cosine over all pairs of a list."""
        # A row of zeros for what is not in the list.
        x = F.pad(l2_normalize(x), (0, 0, 0, 1))
        index = self.item_index[:, :k]
        index = index.masked_fill(index < 0, self.num_items)
        squares = x.square().sum(1)
        # The sum of all cosines is the squared norm of the sum of the unit vectors.
        cosines = [
            F.embedding_bag(rows, x, mode='sum').square().sum(1) - squares[rows].sum(1)
            for rows in index.split(_ROWS)
        ]
        n = (index < self.num_items).sum(1)
        pairs = n * (n - 1)
        return torch.where(pairs > 0, 1 - torch.cat(cosines) / pairs.clamp(min=1), 0.0)

    def gini(self, k: int) -> Tensor:
        counts, n = self._lists_with(k).sort().values, self.num_items
        weights = 2 * torch.arange(1, n + 1) - n - 1
        return (weights * counts).sum() / (n * counts.sum()).clamp(min=1)

    def personalization(self, k: int) -> Tensor:
        counts, n = self._lists_with(k), self.users.numel()
        pairs = n * (n - 1) * min(k, self.item_index.size(1))
        # Two lists have as many items in common as there are items in both.
        return 1 - (counts * (counts - 1)).sum() / max(pairs, 1)

    def popularity_lift(self, k: int) -> Tensor:
        size = int(self.data[USER].num_nodes)
        history = torch.bincount(self.user, minlength=size)[self.users]
        total = torch.zeros(size, dtype=torch.double)
        total.index_add_(0, self.user, self.count[self.item].double())
        known = history > 0
        profile = (total[self.users][known] / history[known]).mean()
        return self._mean(self.count.double(), k)[known].mean() / profile - 1
