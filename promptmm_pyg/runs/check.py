"""What training requires of data, and what their split holds out."""

import sys
from collections.abc import Mapping
from typing import Any

from promptmm_pyg._utils import counted
from promptmm_pyg.data import INTERACTS, Issue, Split, validate
from promptmm_pyg.data.split import held_out
from promptmm_pyg.runs.data import RunError

_TOLERANCE = 0.01  # Shares that differ by less from those requested are as requested.


def data_issues(split: Split, config: Mapping[str, Any]) -> list[Issue]:
    """All issues of data to train on, errors first: those of
    :func:`~promptmm_pyg.data.validate`, an empty validation part, shares that differ
    from those requested, and random held-out interactions in place of the latest.

    Args:
        split: The data as they were read.
        config: The settings of the data, with ``split``.
    """
    issues = [*validate(split), *_split_issues(split, config.get('split'))]
    if split.val[INTERACTS].edge_label_index.size(1) == 0:
        where = 'val: edge_label_index'
        problem = (
            'contains no positives: the data must hold out interactions for '
            'validation, which chooses the epoch'
        )
        issues = [issue for issue in issues if issue.where != where]
        fix = 'Hold some out (--val-ratio, --val-file)'
        issues.append(Issue('error', where, problem, fix))
    return sorted(issues, key=lambda issue: issue.level)


def _split_issues(split: Split, method: Any) -> list[Issue]:
    options = method if isinstance(method, Mapping) else {}
    issues = []
    if options.get('by') == 'random':
        problem = (
            'leave-one-out without times holds out random interactions, not the latest'
        )
        fix = 'Name the column of times (--time-column), if there is one'
        issues.append(Issue('warning', 'split', problem, fix))
    if options.get('method') not in ('per-user', 'time'):
        return issues
    shares = held_out(split)
    val, test = options.get('val_ratio', 0.1), options.get('test_ratio', 0.1)
    if max(abs(shares.val - val), abs(shares.test - test)) > _TOLERANCE:
        problem = f'{shares}; requested {val:.1%} and {test:.1%}'
        fix = (
            'Users with few interactions have at least one in each part, and at least '
            'one in training: metrics are those of this split'
        )
        issues.append(Issue('warning', 'split', problem, fix))
    return issues


def check_data(split: Split, config: Mapping[str, Any]) -> None:
    """Shows the warnings about the data of a run on stderr.

    Raises:
        RunError: If the data have errors.
    """
    issues = data_issues(split, config)
    errors = [issue for issue in issues if issue.level == 'error']
    if errors:
        path = config['path']
        raise RunError(
            f'the data have {counted(len(errors), "error")}; the first: {errors[0]}. '
            f"List all with 'promptmm data check {path}'"
        )
    for issue in issues:
        print(f'warning: {issue}', file=sys.stderr)
