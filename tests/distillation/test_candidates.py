import pytest
import torch

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.distillation import CandidateSampling
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.loader import TripletLoader
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets
from tests.training.setting import make_split


def make_targets(seed=0):
    g = torch.Generator().manual_seed(seed)
    x_dict = {
        'user': torch.randn(60, 4, generator=g),
        'item': torch.randn(40, 4, generator=g),
    }
    return SoftTargets(x_dict, {})


def make_source(train, items=None, targets=None, **kwargs):
    targets = make_targets() if targets is None else targets
    sizes = {'num_teacher_topk': 0, 'num_student_topk': 0, **kwargs}
    return CandidateSampler(CandidateSampling(**sizes), train, targets, 0, items)


def make_batch(train):
    return next(iter(TripletLoader(train[INTERACTS].edge_index, 60, 40, 64)))


def best(train, targets, depth):
    scores = targets.x_dict['user'] @ targets.x_dict['item'].t()
    scores[tuple(train[INTERACTS].edge_index)] = -torch.inf
    return scores.argsort(dim=1, descending=True)[:, :depth]


def test_uniform_lists_hold_the_positive_and_negatives():
    train, _, _ = make_split()
    batch = make_batch(train)
    lists = make_source(train, num_uniform=7).lists(batch)
    assert lists.item_index.shape == (64, 8)
    assert torch.equal(lists.item_index[:, 0], batch.positive)
    assert lists.mask is None


def test_teacher_draws_come_from_its_best_unseen_items():
    train, _, _ = make_split()
    batch = make_batch(train)
    lists = make_source(train, num_uniform=1, num_teacher_topk=6, top_k=5).lists(batch)
    tops = best(train, make_targets(), 5)[batch.user]
    drawn = lists.item_index[:, 1:7]
    assert (drawn[:, :, None] == tops[:, None, :]).any(-1).all()


def test_student_draws_follow_the_student_when_it_is_looked_at_again():
    train, _, _ = make_split()
    batch = make_batch(train)
    source = make_source(
        train, num_uniform=1, num_student_topk=6, top_k=5, refresh_every=2
    )
    for epoch, seed in ((1, 1), (2, 1), (3, 3)):  # Not looked at in epoch 2.
        source.refresh(epoch, lambda epoch=epoch: make_targets(epoch).x_dict)
        drawn = source.lists(batch).item_index[:, 1:7]
        tops = best(train, make_targets(seed), 5)[batch.user]
        assert (drawn[:, :, None] == tops[:, None, :]).any(-1).all()


def test_top_k_is_at_most_the_catalogue():
    train, _, _ = make_split()
    lists = make_source(train, num_teacher_topk=3, top_k=10_000).lists(
        make_batch(train)
    )
    assert lists.item_index.max() < 40
    assert lists.item_index.min() >= 0


def test_lists_are_made_of_the_items_given():
    train, _, _ = make_split()
    batch, items = make_batch(train), torch.arange(1, 40, 2)
    full = make_targets()
    seen = SeenItems.from_edge_index(train[INTERACTS].edge_index, 60, 40)
    tables = full.x_dict['user'], full.x_dict['item']
    # The best items a teacher brings along are those of the whole catalogue.
    full = full._replace(top=rank_items(tables, torch.arange(60), 40, seen=seen))
    source = make_source(
        train,
        items,
        full,
        num_uniform=3,
        num_teacher_topk=4,
        num_student_topk=4,
        top_k=8,
    )
    source.refresh(1, lambda: make_targets(1).x_dict)
    lists = source.lists(batch)
    drawn = lists.item_index[:, 1:][lists.mask[:, 1:]]
    assert torch.isin(drawn, items).all()
    assert lists.mask[:, 1:].sum(dim=1).min() > 3


def test_errors():
    train, _, _ = make_split()
    with pytest.raises(ValueError, match="'num_uniform' must be positive"):
        make_source(train, num_uniform=0)
    with pytest.raises(ValueError, match="'num_teacher_topk' must be zero or more"):
        make_source(train, num_teacher_topk=-1)
    with pytest.raises(ValueError, match="'top_k' must be positive"):
        make_source(train, top_k=0)
