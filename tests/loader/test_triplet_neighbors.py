import pytest
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.loader import TripletLoader, TripletNeighborLoader, triplets_of
from promptmm_pyg.transforms import AddBipartiteNorm
from tests.training.setting import make_split


def make_train():
    return AddBipartiteNorm()(make_split()[0])


def make_loader(train=None, num_neighbors=(3, 3), **kwargs):
    kwargs = {'batch_size': 32, **kwargs}
    return TripletNeighborLoader(train or make_train(), num_neighbors, **kwargs)


def in_the_graph(batch, triplets):
    users, items = batch['user'].n_id, batch['item'].n_id
    user, positive, negative = triplets
    return users[user], items[positive], items[negative]


def pairs(edge_index):
    return set(map(tuple, edge_index.t().tolist()))


@pytest.mark.parametrize('user_uniform', [False, True])
def test_triplets_are_those_of_the_triplet_loader(user_uniform):
    train = make_train()
    ours = make_loader(train, seed=4, user_uniform=user_uniform)
    theirs = TripletLoader(
        train[INTERACTS].edge_index, 60, 40, 32, seed=4, user_uniform=user_uniform
    )
    assert len(ours) == len(theirs) > 1
    for batch, expected in zip(ours, theirs, strict=True):
        result = in_the_graph(batch, triplets_of(batch))
        for a, b in zip(result, expected, strict=True):
            assert torch.equal(a, b)


def test_nodes_of_the_triplets_stand_first():
    for batch in make_loader():
        user, positive, negative = triplets_of(batch)
        assert int(user.max()) + 1 == batch['user'].num_sampled_nodes[0]
        items = torch.cat([positive, negative])
        assert int(items.max()) + 1 == batch['item'].num_sampled_nodes[0]


def test_messages_are_training_edges_with_the_weights_of_the_whole_graph():
    split = make_split()
    train = AddBipartiteNorm()(split[0])
    requested = pairs(split[1][INTERACTS].edge_label_index)
    known = pairs(train[INTERACTS].edge_index)
    assert not known & requested
    # The validation graph carries the answers beside the messages.
    val = AddBipartiteNorm()(split[1])
    for batch in make_loader(val, rescale=False):
        for edge_type, (a, b) in {INTERACTS: (0, 1), REV_INTERACTS: (1, 0)}.items():
            store = batch[edge_type]
            source, target = store.edge_index
            ends = batch[edge_type[0]].n_id[source], batch[edge_type[2]].n_id[target]
            assert pairs(torch.stack([ends[a], ends[b]])) <= known
            assert torch.equal(
                store.edge_weight, train[edge_type].edge_weight[store.e_id]
            )


def target_messages(batch):
    """How many messages pass between a user and a positive item of the batch."""
    user, positive, _ = triplets_of(batch)
    targets = pairs(torch.stack([user, positive]))
    forward = batch[INTERACTS].edge_index
    back = batch[REV_INTERACTS].edge_index.flip([0])
    return len(pairs(forward) & targets), len(pairs(back) & targets)


def test_targets_are_messages_unless_they_are_dropped():
    for batch in make_loader(num_neighbors=[-1]):
        assert target_messages(batch) == (32, 32) or len(batch['user'].src_index) < 32
    for batch in make_loader(num_neighbors=[-1, -1], drop_targets=True):
        assert target_messages(batch) == (0, 0)
        assert batch[INTERACTS].edge_index.size(1) > 0


def test_dropped_messages_are_the_targets_and_no_other():
    selected = next(iter(make_loader(num_neighbors=[-1, -1])))
    less = next(iter(make_loader(num_neighbors=[-1], drop_targets=True)))
    seeds = selected['user'].num_sampled_nodes[0]
    target = selected[REV_INTERACTS].edge_index[1]
    into_seeds = int((target < seeds).sum())
    assert into_seeds - less[REV_INTERACTS].edge_index.size(1) == 32


def test_a_graph_without_weights_has_those_of_rescale():
    train, _, _ = make_split()
    batch = next(iter(make_loader(train, num_neighbors=[-1])))
    assert (batch[INTERACTS].edge_weight == 1).all()
    batch = next(iter(make_loader(train, rescale=False)))
    assert 'edge_weight' not in batch[INTERACTS]


def test_a_loaded_state_goes_on_with_the_next_epoch():
    train = make_train()
    ours, other = make_loader(train, seed=3), make_loader(train, seed=9)
    list(ours)
    other.load_state_dict(ours.state_dict())
    for a, b in zip(ours, other, strict=True):
        assert torch.equal(a['user'].n_id, b['user'].n_id)
        assert torch.equal(a[INTERACTS].e_id, b[INTERACTS].e_id)
        assert torch.equal(a['item'].dst_neg_index, b['item'].dst_neg_index)


def test_a_batch_of_one():
    batch = next(iter(make_loader(batch_size=1)))
    assert triplets_of(batch).user.tolist() == [0]
    assert batch['user'].num_sampled_nodes[0] == 1


def test_ids_of_the_data_stay_behind():
    train = make_train()
    assert 'raw_id' in train['user']
    batch = next(iter(make_loader(train)))
    assert set(batch['user'].keys()) == {
        'n_id',
        'num_nodes',
        'num_sampled_nodes',
        'src_index',
    }


def test_errors_and_repr():
    train = make_train()
    one_way = HeteroData()
    for key, num in train.num_nodes_dict.items():
        one_way[key].num_nodes = num
    one_way[INTERACTS].edge_index = train[INTERACTS].edge_index
    with pytest.raises(
        ValueError, match=r"'data' must have message edges of.*rev_interacts"
    ):
        make_loader(one_way)
    one_way[REV_INTERACTS].edge_index = train[REV_INTERACTS].edge_index
    one_way[INTERACTS].edge_weight = train[INTERACTS].edge_weight
    with pytest.raises(ValueError, match="'edge_weight' in both directions"):
        make_loader(one_way)
    with pytest.raises(ValueError, match="'batch_size' must be positive"):
        make_loader(train, batch_size=0)
    with pytest.raises(ValueError, match=r"'batch' must have triplets.*'src_index'"):
        triplets_of(train)
    shown = str(make_loader(train))
    assert shown.startswith('TripletNeighborLoader(TripletLoader(')
    assert shown.endswith('drop_targets=False)')


def test_negatives_are_drawn_among_the_items_given():
    items = torch.arange(0, 40, 3)
    for batch in make_loader(negative_items=items):
        negative = in_the_graph(batch, triplets_of(batch))[2]
        assert torch.isin(negative, items).all()
