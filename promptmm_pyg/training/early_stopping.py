"""Keep the best state, and stop when nothing gets better."""

from typing import Any

from torch import Tensor

from promptmm_pyg._utils import check_positive


class EarlyStopping:
    """Remembers the state with the highest validation metric and says when
    ``patience`` evaluations in a row brought nothing better.

    Args:
        patience: Evaluations without improvement until :attr:`should_stop`.

    Example:
        >>> import torch
        >>> stopping = EarlyStopping(patience=1)
        >>> stopping.update(0.2, epoch=1, state={'w': torch.zeros(1)})
        True
        >>> stopping.update(0.1, epoch=2, state={'w': torch.ones(1)})
        False
        >>> stopping.should_stop, stopping.best_epoch, stopping.best_state['w']
        (True, 1, tensor([0.]))
    """

    def __init__(self, patience: int) -> None:
        check_positive('patience', patience)
        self.patience = patience
        self.best_value = -float('inf')
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] = {}
        self.num_stale = 0

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.num_stale >= self.patience

    def update(self, value: float, epoch: int, state: dict[str, Tensor]) -> bool:
        """Takes in one evaluation; returns whether it is the best so far.

        Raises:
            ValueError: If ``value`` is NaN, which would compare as "not better"
                for ever.
        """
        if value != value:
            raise ValueError(
                f"'value' must be a number (got NaN at epoch {epoch}). "
                f'Lower the learning rate'
            )
        if value > self.best_value:
            self.best_value, self.best_epoch, self.num_stale = value, epoch, 0
            self.best_state = {key: x.detach().clone() for key, x in state.items()}
            return True
        self.num_stale += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """Everything :meth:`load_state_dict` needs, as tensors and plain numbers."""
        return {
            'best_value': self.best_value,
            'best_epoch': self.best_epoch,
            'best_state': self.best_state,
            'num_stale': self.num_stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken."""
        self.best_value = float(state['best_value'])
        self.best_epoch = int(state['best_epoch'])
        self.best_state = dict(state['best_state'])
        self.num_stale = int(state['num_stale'])
