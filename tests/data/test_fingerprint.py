import pytest
import torch

from promptmm_pyg.data import build_graph, fingerprint
from promptmm_pyg.transforms import StandardizeModalities

EDGES = torch.tensor([[0, 1, 2, 2], [1, 0, 2, 1]])


def graph(edges=EDGES, **kwargs):
    kwargs.setdefault('num_users', 3)
    kwargs.setdefault('num_items', 3)
    return build_graph(edges, item_features={'text': torch.eye(3)}, **kwargs)


def test_the_order_of_interactions_does_not_matter():
    assert fingerprint(graph(EDGES.flip(1))) == fingerprint(graph())


def test_scaling_features_leaves_the_name_as_it_is():
    assert fingerprint(StandardizeModalities()(graph())) == fingerprint(graph())


@pytest.mark.parametrize(
    'other',
    [
        graph(EDGES[:, 1:]),
        graph(EDGES.flip(0)),
        graph(num_users=4),
        graph(user_ids=['a', 'b', 'c']),
        graph(user_ids=['a', 'c', 'b']),
    ],
    ids=['an edge less', 'turned round', 'a user more', 'named users', 'other names'],
)
def test_other_data_has_another_name(other):
    named = graph(user_ids=['a', 'b', 'c'])
    others = {fingerprint(graph()), fingerprint(other)}
    assert len(others) == 2
    assert (fingerprint(named) == fingerprint(other)) == (
        other['user'].get('raw_id') is not None
        and other['user'].raw_id.tolist() == ['a', 'b', 'c']
    )
