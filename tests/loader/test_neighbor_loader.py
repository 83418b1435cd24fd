"""PyG's neighbor sampling works on our graphs; it needs a compiled package."""

import pytest
import torch
from torch_geometric.loader import LinkNeighborLoader
from torch_geometric.sampler import NegativeSampling

from promptmm_pyg.data import (
    INTERACTS,
    REV_INTERACTS,
    modality_x_dict,
    planted_dataset,
    split_per_user,
    without_raw_ids,
)
from promptmm_pyg.nn import LightGCN, csr_pair_dict

pytestmark = pytest.mark.kernels


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning')
def test_batches_hold_whole_neighborhoods_and_feed_a_model():
    pytest.importorskip('torch_sparse', reason='needs `make kernels`')
    train = without_raw_ids(split_per_user(planted_dataset(60, 40, 4)).train)
    loader = LinkNeighborLoader(
        train,
        num_neighbors=[-1, -1],
        edge_label_index=(INTERACTS, train[INTERACTS].edge_index),
        neg_sampling=NegativeSampling('triplet', 1),
        batch_size=16,
        shuffle=False,
    )
    batch = next(iter(loader))
    sizes = {key: batch[key].num_nodes for key in ('user', 'item')}
    # Features came along with their nodes.
    image = modality_x_dict(train)['image']['item']
    assert torch.equal(batch['item'].x_image, image[batch['item'].n_id])
    # All neighbors of a seed user are there.
    user = batch['user'].src_index[0]
    here = batch[REV_INTERACTS].edge_index[1] == user
    everywhere = train[INTERACTS].edge_index[0] == batch['user'].n_id[user]
    assert int(here.sum()) == int(everywhere.sum()) > 0
    edges = {key: batch[key].edge_index for key in (INTERACTS, REV_INTERACTS)}
    x_dict = LightGCN(sizes, 4)(csr_pair_dict(edges, num_nodes_dict=sizes))
    assert x_dict['item'].shape == (sizes['item'], 4)
