import copy
import pickle

from promptmm_pyg.models._graphs import EdgeSampler, GraphCache
from promptmm_pyg.nn import CSRPair
from tests.nn.graphs import EDGE_INDEX


def make_adj():
    return CSRPair.from_edge_index(EDGE_INDEX, size=(5, 7))


def test_it_is_built_once_for_the_operator_seen_last():
    seen = []
    remembered = GraphCache(lambda adj: seen.append(adj) or len(seen))
    first, second = make_adj(), make_adj()
    assert [remembered(a) for a in (first, first, second, second)] == [1, 1, 2, 2]
    assert remembered(first) == 3


def test_copies_start_without():
    remembered, adj = GraphCache(EdgeSampler), make_adj()
    sampler = remembered(adj)
    for twin in (copy.deepcopy(remembered), pickle.loads(pickle.dumps(remembered))):
        assert twin(adj) is not sampler
        assert twin(adj) is twin(adj)
    assert remembered(adj) is sampler
