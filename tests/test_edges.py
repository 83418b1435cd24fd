"""Edges that are none are told by everything that takes edges, in the same words."""

import copy

import pytest
import torch

from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.loader import ExactNegativeSampler
from promptmm_pyg.models import EASE, GraphFilter, ItemKNN
from promptmm_pyg.models.closed_form import Interactions
from promptmm_pyg.nn import CSRPair
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.transforms import AddBipartiteNorm, AddModalityPCA

SIZES = {'user': 60, 'item': 50}
TRAIN = split_per_user(make_synthetic_dataset(60, 50, 6, seed=0)).train
FEATURES = {'text': {'item': torch.eye(50)}}


def transformed(transform, edge_index):
    data = copy.copy(TRAIN)
    data[INTERACTS].edge_index = edge_index
    return transform(data)


TAKERS = {
    'CSRPair': lambda e: CSRPair.from_edge_index(e, size=(60, 50)),
    'SeenItems': lambda e: SeenItems.from_edge_index(e, 60, 50),
    'ExactNegativeSampler': lambda e: ExactNegativeSampler(e, 60, 50),
    'EASE': EASE(SIZES, edge_type=INTERACTS).fit,
    'ItemKNN': ItemKNN(SIZES, edge_type=INTERACTS).fit,
    'GraphFilter': GraphFilter(SIZES, FEATURES, edge_type=INTERACTS).fit,
    'AddBipartiteNorm': lambda e: transformed(AddBipartiteNorm(), e),
    'AddModalityPCA': lambda e: transformed(AddModalityPCA(4), e),
}


@pytest.mark.parametrize('name', TAKERS)
@pytest.mark.parametrize(
    ('edges', 'told'),
    [
        ([[0.0], [1.0]], r"must contain integers \(got torch.float32\).*'.long\(\)'"),
        ([[True], [False]], r'must contain integers \(got torch.bool\)'),
        ([0, 1], r'must have shape \[2, E\] \(got \[2\]\)'),
        ([[0], [1], [2]], r'must have shape \[2, E\] \(got \[3, 1\]\)'),
        ([[0, 60], [1, 1]], r'source ids in \[0, 60\) \(got 0 to 60\)'),
        ([[0, 1], [-1, 1]], r'target ids in \[0, 50\) \(got -1 to 1\)'),
    ],
)
def test_what_is_no_edge(name, edges, told):
    with pytest.raises(ValueError, match=rf"edge_index' .*{told}"):
        TAKERS[name](torch.tensor(edges))


@pytest.mark.parametrize('name', TAKERS)
@pytest.mark.parametrize('dtype', [torch.int32, torch.int16, torch.uint8])
def test_short_integers_will_do(name, dtype):
    TAKERS[name](TRAIN[INTERACTS].edge_index.to(dtype))


def test_pairs_outgrow_the_integers_their_ids_come_in():
    # 65,000 * 70,000 is beyond what 32 bits hold.
    edges = torch.tensor([[65_000, 3], [60_000, 69_999]], dtype=torch.int32)
    seen = SeenItems.from_edge_index(edges, 70_000, 70_000)
    assert seen.pairs(torch.tensor([65_000, 3]))[1].tolist() == [60_000, 69_999]
    pairs = Interactions(edges, 70_000, 70_000).histories(torch.tensor([65_000, 3]))
    assert pairs[1].tolist() == [60_000, 69_999]
