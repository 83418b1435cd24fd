import pytest
import torch

from promptmm_pyg.distillation import truncate_embeddings


def make_tables(dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return {
        'user': torch.randn(9, 5, generator=g, dtype=dtype),
        'item': torch.randn(12, 5, generator=g, dtype=dtype),
    }


def scores(x_dict):
    return x_dict['user'] @ x_dict['item'].t()


@pytest.mark.parametrize('width', [1, 3, 4])
def test_scores_are_the_truncated_svd_of_the_score_matrix(width):
    x_dict = make_tables()
    out = truncate_embeddings(x_dict, width)
    left, sizes, right = torch.linalg.svd(scores(x_dict), full_matrices=False)
    expected = (left[:, :width] * sizes[:width]) @ right[:width]
    torch.testing.assert_close(scores(out), expected)
    assert out['user'].shape == (9, width)
    assert out['item'].shape == (12, width)


@pytest.mark.parametrize('width', [5, 8])
def test_at_its_own_width_or_above_it_is_the_teacher(width):
    x_dict = make_tables()
    out = truncate_embeddings(x_dict, width)
    assert torch.equal(out['user'], x_dict['user'])
    assert torch.equal(out['item'], x_dict['item'])


def test_fewer_nodes_than_the_width():
    x_dict = {'user': make_tables()['user'][:2], 'item': make_tables()['item']}
    torch.testing.assert_close(scores(truncate_embeddings(x_dict, 4)), scores(x_dict))


def test_the_type_is_that_of_the_input_which_is_unchanged():
    x_dict = make_tables(torch.float)
    before = {key: x.clone() for key, x in x_dict.items()}
    assert truncate_embeddings(x_dict, 2)['item'].dtype == torch.float
    torch.testing.assert_close(x_dict, before, rtol=0, atol=0)


def test_error():
    with pytest.raises(ValueError, match="'width' must be positive"):
        truncate_embeddings(make_tables(), 0)
