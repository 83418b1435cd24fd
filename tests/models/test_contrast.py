import torch

from promptmm_pyg.models import _contrast
from promptmm_pyg.models._contrast import contrast
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


def test_more_rows_than_the_published_batch_are_contrasted_in_parts(monkeypatch):
    monkeypatch.setattr(_contrast, 'ROWS', 3)
    a, b = (
        torch.randn(7, 4, generator=torch.Generator().manual_seed(x)) for x in (0, 1)
    )
    parts = [[0, 3, 6], [1, 4], [2, 5]]
    expected = sum(naive_contrast(a[i], b[i], 0.3) * len(i) for i in parts) / 7
    torch.testing.assert_close(contrast(a, b, 0.3), expected)
