"""Inner products between user and item vectors; imports :mod:`torch` only."""

import torch
from torch import Tensor


def rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows ``[*, D]`` of a table ``[N, D]`` at ``index`` ``[*]``.

    Unlike ``x[index]`` it refuses a negative index, and its gradient is a plain
    addition of rows: several times as fast as that of indexing or of an embedding
    where rows repeat.

    Raises:
        IndexError: If an index is negative or beyond the table.
    """
    return x.index_select(0, index.reshape(-1)).view(*index.size(), x.size(-1))


def score_pairs(
    user_x: Tensor, item_x: Tensor, user_index: Tensor, item_index: Tensor
) -> Tensor:
    """One score for each (user, item) pair, differentiable in both tables.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        user_index: Rows of ``user_x``, ``[B]``.
        item_index: Rows of ``item_x``, ``[B]``.

    Returns:
        Scores ``[B]``.

    Raises:
        ValueError: If the widths or the index shapes do not fit each other.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
        >>> score_pairs(x, x, torch.tensor([0, 1]), torch.tensor([1, 1]))
        tensor([ 1., 10.])
    """
    check_width(user_x, item_x)
    if user_index.dim() != 1 or user_index.size() != item_index.size():
        raise ValueError(
            "'user_index' and 'item_index' need to have the same shape [B] "
            f'(got {list(user_index.size())} and {list(item_index.size())})'
        )
    return (rows(user_x, user_index) * rows(item_x, item_index)).sum(-1)


def score_lists(
    user_x: Tensor, item_x: Tensor, user_index: Tensor, item_index: Tensor
) -> Tensor:
    """One score for each candidate in each user's list, differentiable in both
    tables.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        user_index: Rows of ``user_x``, ``[B]``.
        item_index: Rows of ``item_x``, ``[B, K]``.

    Returns:
        Scores ``[B, K]``.

    Raises:
        ValueError: If the widths or the index shapes do not fit each other.
    """
    check_width(user_x, item_x)
    if item_index.dim() != 2 or user_index.size() != item_index.size()[:1]:
        raise ValueError(
            "'item_index' needs to have the shape [B, K] where 'user_index' has [B] "
            f'(got {list(item_index.size())} and {list(user_index.size())})'
        )
    users, items = rows(user_x, user_index).unsqueeze(1), rows(item_x, item_index)
    if torch.is_grad_enabled() and (users.requires_grad or items.requires_grad):
        return (users * items).sum(-1)  # Its gradient is the faster one.
    return torch.matmul(users, items.mT).squeeze(1)


def score_all(user_x: Tensor, item_x: Tensor) -> Tensor:
    """The score of every item for every given user vector, differentiable in both.

    Args:
        user_x: User vectors ``[B, D]``.
        item_x: Item vectors ``[num_items, D]``.

    Returns:
        Scores ``[B, num_items]``.

    Raises:
        ValueError: If the widths differ.
    """
    check_width(user_x, item_x)
    return user_x @ item_x.t()


def check_width(user_x: Tensor, item_x: Tensor) -> None:
    """Raises unless both are matrices with the same number of columns."""
    if user_x.dim() != 2 or item_x.dim() != 2 or user_x.size(1) != item_x.size(1):
        raise ValueError(
            "'user_x' and 'item_x' need to be matrices of one width "
            f'(got {list(user_x.size())} and {list(item_x.size())})'
        )
