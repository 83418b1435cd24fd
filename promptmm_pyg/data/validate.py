"""What is wrong, or merely odd, with a graph or a split."""

import warnings

from torch_geometric.data import HeteroData

from promptmm_pyg.data.finding import Issue
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.validate_graph import check_graph
from promptmm_pyg.data.validate_split import check_split


def validate(data: HeteroData | Split) -> list[Issue]:
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
    """
    is_split = isinstance(data, Split)
    found = check_split(data) if is_split else check_graph('graph', data)
    return sorted(found, key=lambda finding: finding.level)


def check(data: HeteroData | Split) -> None:
    """Raises on the errors of :func:`validate` and warns of its warnings.

    Args:
        data: A graph, or the three graphs of a split.

    Raises:
        ValueError: If there is an error; the message lists all of them.
    """
    found = validate(data)
    errors = [str(finding) for finding in found if finding.level == 'error']
    if errors:
        raise ValueError("'data' must be mended:\n- " + '\n- '.join(errors))
    for finding in found:
        warnings.warn(str(finding), stacklevel=2)
