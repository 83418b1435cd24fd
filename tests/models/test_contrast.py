import torch

from promptmm_pyg.models.base import contrast
from tests.models.setting import naive_contrast
from tests.nn.graphs import features


def test_it_is_info_nce_both_ways():
    a, b = features(3), features(3, seed=1)
    torch.testing.assert_close(contrast(a, b, 0.3), naive_contrast(a, b, 0.3))
    torch.testing.assert_close(contrast(a, b, 0.3), contrast(b, a, 0.3))


def test_a_node_alone_has_nothing_to_tell_it_from():
    assert contrast(torch.ones(1, 3), torch.ones(1, 3), 0.3) == 0
