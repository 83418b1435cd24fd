import pytest
import torch

from promptmm_pyg.training import EarlyStopping


def test_stops_after_patience_without_improvement():
    stopping = EarlyStopping(patience=2)
    values = [0.1, 0.3, 0.3, 0.2]
    stopped = []
    for epoch, value in enumerate(values, start=1):
        stopping.update(value, epoch, {'x': torch.tensor(float(epoch))})
        stopped.append(stopping.should_stop)
    assert stopped == [False, False, False, True]
    assert stopping.best_epoch == 2  # An equal value is no improvement.
    assert stopping.best_state['x'] == 2


def test_best_state_is_a_copy():
    x = torch.zeros(1)
    stopping = EarlyStopping(patience=1)
    stopping.update(1.0, 1, {'x': x})
    x += 1
    assert stopping.best_state['x'] == 0


def test_state_continues_where_it_was_saved():
    source, target = EarlyStopping(patience=2), EarlyStopping(patience=2)
    source.update(0.5, 1, {'x': torch.ones(1)})
    source.update(0.4, 2, {'x': torch.zeros(1)})
    target.load_state_dict(source.state_dict())
    target.update(0.4, 3, {'x': torch.zeros(1)})
    assert target.should_stop
    assert (target.best_value, target.best_epoch) == (0.5, 1)


def test_errors():
    with pytest.raises(ValueError, match="'patience' must be positive"):
        EarlyStopping(0)
    with pytest.raises(ValueError, match='got NaN at epoch 3'):
        EarlyStopping(1).update(float('nan'), 3, {})
