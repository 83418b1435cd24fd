import pytest
import torch

from promptmm_pyg.data import (
    build_graph,
    make_synthetic_dataset,
    split_by_part,
    split_leave_one_out,
    split_per_user,
)
from promptmm_pyg.runs.data import RunError, check_data, data_issues, warn_titles

PER_USER = {'method': 'per-user', 'val_ratio': 0.1, 'test_ratio': 0.1, 'seed': 0}


def problems(split, method=None):
    issues = data_issues(split, {'split': method})
    return [x.problem for x in issues if x.where == 'split']


def test_shares_of_small_users_are_compared_with_those_requested():
    edges = torch.stack([torch.arange(8).repeat_interleave(5), torch.arange(40)])
    split = split_per_user(build_graph(edges))
    assert problems(split, PER_USER) == [
        'held out 20.0% for validation, 20.0% for test; 0 of 8 users have nothing held '
        'out; requested 10.0% and 10.0%'
    ]
    edges = torch.stack([torch.arange(4).repeat_interleave(10), torch.arange(40)])
    assert problems(split_per_user(build_graph(edges)), PER_USER) == []
    assert problems(split) == []  # A given split has no requested shares.


def test_random_leave_one_out_is_announced():
    split = split_leave_one_out(make_synthetic_dataset(30, 20), 'random')
    method = {'method': 'leave-one-out', 'by': 'random', 'seed': 0}
    (problem,) = problems(split, method)
    assert 'random interactions, not the latest' in problem
    assert problems(split, {**method, 'by': 'time'}) == []


def test_nothing_to_validate_on_is_an_error(capsys):
    edges = torch.stack([torch.arange(9) % 3, torch.arange(9)])
    split = split_by_part(build_graph(edges), torch.zeros(9, dtype=torch.long))
    issue = data_issues(split, {})[0]
    assert (issue.level, issue.where) == ('error', 'val: edge_label_index')
    with pytest.raises(RunError, match=r"1 error.*data check clicks.csv'"):
        check_data(split, {'path': 'clicks.csv'})
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('shift', [0, 1, -1])
def test_titles_of_ids_that_are_shifted_by_one_are_refused(shift, capsys):
    titles = {str(raw + shift): f'title {raw}' for raw in range(3, 9)}
    if shift:
        with pytest.raises(RunError, match='shifted by one'):
            warn_titles('items.csv', titles, range(3, 9))
    warn_titles('items.csv', titles, range(3 + shift, 8 + shift))
    warn_titles('items.csv', titles, ['a', 'b'])
    assert "'items.csv': 6 of 6 titles match no item" in capsys.readouterr().err
