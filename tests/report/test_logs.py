import json

import pytest

from promptmm_pyg.report.gather import (
    loss_curve,
    read_log,
    shared_metric,
    training,
    validation_curve,
)


def record(epoch, loss=1.0, seconds=1.0, **validation):
    found = {'epoch': epoch, 'loss': loss, 'seconds': seconds}
    return {**found, 'validation': validation} if validation else found


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_text(json.dumps(record(1)) + '\n' + json.dumps(record(2))[:20])
    assert read_log(file) == [record(1)]


def test_lines_that_are_no_records_are_left_out(tmp_path):
    (tmp_path / 'log').write_text('[1]\n{"epoch": "x"}\n\n7\n')
    assert read_log(tmp_path / 'log') == []


def test_a_line_that_is_nested_without_end_is_left_out(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_text('[' * 100_000 + '\n' + json.dumps(record(1)) + '\n')
    assert read_log(file) == [record(1)]


def test_no_log_has_no_records(tmp_path):
    assert read_log(tmp_path / 'log') == []


def test_a_curve_has_the_epochs_that_were_validated():
    log = [record(1), record(2, r=0.5), record(3), record(4, r=0.25)]
    assert validation_curve(log, 'r', 4) == ((2, 4), (0.5, 0.25), 4)


def test_an_epoch_that_is_not_in_the_log_is_not_marked():
    assert validation_curve([record(2, r=0.5)], 'r', 9).best is None


def test_values_that_are_not_finite_are_left_out():
    log = [record(1, r=float('nan')), record(2, r=0.5), record(3, r=None)]
    assert validation_curve(log, 'r', None).epochs == (2,)
    assert validation_curve([record(1)], 'r', None) is None


def test_losses_are_multiples_of_the_first():
    log = [record(1, 4.0), record(2, 2.0), record(3, float('inf')), record(4, 1.0)]
    assert loss_curve(log, 2) == ((1, 2, 4), (1.0, 0.5, 0.25), 2)


@pytest.mark.parametrize('loss', [0.0, -1.0, float('nan'), None])
def test_a_first_loss_that_cannot_divide_has_no_curve(loss):
    assert loss_curve([record(1, loss), record(2)], None) is None
    assert loss_curve([], None) is None


def test_the_preferred_metric_is_taken_where_all_have_it():
    logs = {'a': [record(1, x=1, y=1)], 'b': [record(1, y=1, x=1)], 'c': []}
    assert shared_metric(logs, 'y') == 'y'
    assert shared_metric(logs, 'z') == 'x'
    assert shared_metric({'a': [record(1, x=1)], 'b': [record(1, y=1)]}, 'x') == ''
    assert shared_metric({'a': [record(1)]}, 'x') == ''


def test_the_time_of_an_epoch_is_the_median():
    log = [record(1, seconds=9.0), record(2, seconds=1.0), record(3, seconds=2.0)]
    assert training(log, 2) == (3, 2, 2.0)
    assert training([], 2) is None
