"""What is wrong, or merely odd, with a graph or a split."""

import warnings

from torch_geometric.data import HeteroData

from promptmm_pyg.data.finding import Issue
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.validate_graph import check_graph
from promptmm_pyg.data.validate_split import check_split


def validate(data: HeteroData | Split, raise_on_error: bool = False) -> list[Issue]:
    """Returns all that is wrong with a graph or a split, errors first; an empty
    list is a good answer.

    Errors are what makes results wrong: a broken schema, indices out of range,
    repeated edges, reverse edges that do not mirror the interactions, features
    with NaN, infinity or the wrong number of rows and, in a split, any positive
    of validation or test that training can see, also through edges of other types
    and through graphs among items (or users) that were made of who took what:
    those whose every edge joins what some interaction brings together, held-out
    ones included. Warnings are what is often an accident: users or items without
    training edges or in no part at all, raw ids that differ in spaces or case
    only, zero, repeated or constant features, and features that are no more alike
    for two items of one user than for any two, as rows in another order are.

    Args:
        data: A graph, or the three graphs of a split.
        raise_on_error: Whether errors are raised and warnings are issued as Python's
            warnings. (default: ``False``)

    Raises:
        ValueError: If ``raise_on_error`` and there is an error; the message lists all
            of them.
    """
    is_split = isinstance(data, Split)
    issues = check_split(data) if is_split else check_graph('graph', data)
    issues = sorted(issues, key=lambda issue: issue.level)
    if raise_on_error:
        errors = [str(issue) for issue in issues if issue.level == 'error']
        if errors:
            raise ValueError("'data' must be mended:\n- " + '\n- '.join(errors))
        for issue in issues:
            warnings.warn(str(issue), stacklevel=2)
    return issues
