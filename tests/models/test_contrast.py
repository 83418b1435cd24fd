import torch

from promptmm_pyg.models.base import contrast
from tests.models.setting import naive_contrast
from tests.nn.graphs import features


def test_it_is_info_nce_one_way_or_both():
    a, b = features(3), features(3, seed=1)
    for symmetric in (False, True):
        torch.testing.assert_close(
            contrast(a, b, 0.3, symmetric=symmetric),
            naive_contrast(a, b, 0.3, symmetric),
        )


def test_a_node_alone_has_nothing_to_tell_it_from():
    assert contrast(torch.ones(1, 3), torch.ones(1, 3), 0.3) == 0
