"""Counts that the data sets' sources state or that were measured on them."""

import pytest

from promptmm_pyg.data import INTERACTS, load_dataset, validate
from tests.real_data import real_folder

pytestmark = pytest.mark.real_data


def sizes(split):
    return [graph[INTERACTS].edge_label_index.size(1) for graph in split]


def errors(split):
    return [finding for finding in validate(split) if finding.level == 'error']


def test_tiktok_has_the_known_size():
    split = load_dataset(real_folder('tiktok'))
    assert split.train.num_nodes_dict == {'user': 9308, 'item': 6710}
    assert sizes(split) == [59541, 3051, 6130]
    assert split.train['item'].x_image.shape == (6710, 128)
    assert split.train['item'].x_audio.shape == (6710, 128)
    assert 'mask_image' not in split.train['item']
    assert errors(split) == []


def test_ml100k_has_the_known_size():
    path = 'derived/image_feat_effnetlite0_1280.npy'
    split = load_dataset(real_folder('ml100k'), features={'image': path})
    assert split.train.num_nodes_dict == {'user': 943, 'item': 1682}
    assert sizes(split) == [75000, 12000, 13000]
    assert split.train['item'].x_text.shape == (1682, 384)
    assert int(split.train['item'].mask_image.sum()) == 1445
    assert errors(split) == []
