import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.data import (
    INTERACTS,
    checkerboard,
    make_synthetic_dataset,
    split_per_user,
    validate,
)


def ranks_of_held_out(split, scores):
    """Share of a user's unseen items that score below a held-out one."""
    users, items = split.train[INTERACTS].edge_index
    seen = torch.zeros(scores.shape, dtype=torch.bool)
    seen[users, items] = True
    users, items = split.test[INTERACTS].edge_label_index
    mine, all_ = scores[users, items].unsqueeze(1), scores[users]
    unseen = ~seen[users]
    below = ((all_ < mine) & unseen).sum(1) + 0.5 * ((all_ == mine) & unseen).sum(1)
    return (below / unseen.sum(1)).mean().item()


def history(split):
    users, items = split.train[INTERACTS].edge_index
    counts = split.train.num_nodes_dict
    out = torch.zeros(counts['user'], counts['item'])
    out[users, items] = 1.0
    return out


@pytest.fixture(scope='module')
def split():
    return split_per_user(make_synthetic_dataset())


@pytest.fixture(scope='module')
def content_auc(split):
    liked = history(split)
    auc = {}
    for name in ('text', 'image', 'audio'):
        x = F.normalize(split.train['item'][f'x_{name}'], dim=-1)
        auc[name] = ranks_of_held_out(split, F.normalize(liked @ x, dim=-1) @ x.t())
    return auc


def test_text_tells_what_is_liked_image_less_audio_hardly(content_auc):
    assert content_auc['text'] > 0.7
    assert content_auc['text'] > content_auc['image'] + 0.01
    assert content_auc['image'] > content_auc['audio'] + 0.1
    assert 0.45 < content_auc['audio'] < 0.6


def test_content_ranks_better_than_neighbours_by_id(split, content_auc):
    liked = history(split)
    scaled = liked * liked.sum(0).clamp(min=1).rsqrt()
    scaled = F.normalize(scaled, dim=-1)
    by_id = ranks_of_held_out(split, scaled @ (scaled.t() @ scaled))
    x = F.normalize(split.train['item'].x_text, dim=-1)
    content = F.normalize(liked @ x, dim=-1) @ x.t()
    popular = 0.1 * liked.sum(0).sqrt()
    assert ranks_of_held_out(split, content + popular) > by_id + 0.01
    # Popularity alone is no answer either.
    assert ranks_of_held_out(split, popular.expand_as(liked)) < 0.7


def test_the_taste_explains_the_choice():
    data = make_synthetic_dataset(affinity=0.9)
    users, items = data[INTERACTS].edge_index
    same = (data['user'].taste[users] == data['item'].taste[items]).double()
    # 0.9 plus the chance of a hit; less where a taste's few items are used up.
    assert 0.75 < same.mean() < 0.95


def test_popularity_is_skewed_by_the_exponent():
    def share_of_top(exponent):
        data = make_synthetic_dataset(popularity_exponent=exponent)
        degree = torch.bincount(data[INTERACTS].edge_index[1], minlength=400)
        return (degree.sort().values[-40:].sum() / degree.sum()).item()

    assert share_of_top(0.0) < share_of_top(0.5) < share_of_top(1.0)


def test_users_differ_in_activity_and_have_three_at_least():
    degree = torch.bincount(make_synthetic_dataset()[INTERACTS].edge_index[0])
    assert degree.min() == 3
    assert degree.max() > 3 * degree.double().mean()
    assert 5.5 < degree.double().mean() < 7.5


def test_missing_rows_are_zero_and_masked():
    item = make_synthetic_dataset()['item']
    for name, share in (('text', 0.05), ('image', 0.10), ('audio', 0.15)):
        mask = item[f'mask_{name}']
        assert abs((~mask).double().mean().item() - share) < 0.05
        assert (item[f'x_{name}'][~mask] == 0).all()
        assert (item[f'x_{name}'][mask] != 0).all(dim=-1).all()


def test_widths_differ():
    item = make_synthetic_dataset()['item']
    assert len({item.x_text.size(1), item.x_image.size(1), item.x_audio.size(1)}) == 3


def test_the_seed_decides():
    first, again, other = (make_synthetic_dataset(seed=s) for s in (1, 1, 2))
    torch.testing.assert_close(first['item'].x_text, again['item'].x_text)
    assert first[INTERACTS].edge_index.equal(again[INTERACTS].edge_index)
    assert not first[INTERACTS].edge_index.equal(other[INTERACTS].edge_index)


def test_planted_data_is_valid():
    found = validate(
        make_synthetic_dataset(num_users=100, num_items=50, num_clusters=1)
    )
    assert [finding for finding in found if finding.level == 'error'] == []


def test_degree_is_capped_by_the_items():
    data = make_synthetic_dataset(num_users=5, num_items=2, num_clusters=1)
    assert data[INTERACTS].edge_index.size(1) <= 10


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_users': 0}, "'num_users' must be positive"),
        ({'num_clusters': 0}, "'num_clusters' must be positive"),
        ({'mean_degree': 0.0}, "'mean_degree' must be positive"),
        ({'affinity': 1.0}, "'affinity' must be in"),
        (
            {'num_items': 3, 'num_clusters': 4},
            r"at least 'num_clusters' \(got 3 and 4\)",
        ),
    ],
)
def test_planted_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make_synthetic_dataset(**options)


@pytest.mark.parametrize(('num_users', 'num_items'), [(16, 12), (3, 6), (20, 8)])
def test_checkerboard_holds_out_the_diagonal_and_its_neighbour(num_users, num_items):
    split = checkerboard(num_users, num_items)
    users = torch.arange(num_users)
    for graph, step in ((split.test, 0), (split.val, 2)):
        expected = torch.stack([users, (users + step) % num_items])
        torch.testing.assert_close(graph[INTERACTS].edge_label_index, expected)
    users, items = split.train[INTERACTS].edge_index
    assert ((users - items) % 2 == 0).all()
    assert users.numel() == num_users * (num_items // 2 - 2)


def test_checkerboard_parity_is_in_both_modalities():
    item = checkerboard().train['item']
    even = torch.arange(12) % 2 == 0
    assert ((item.x_text[:, 0] > item.x_text[:, 1]) == even).all()
    assert ((item.x_image[:, 0] < 0) == even).all()


def test_checkerboard_has_no_findings():
    assert validate(checkerboard()) == []


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((1, 12), r"'num_users' must be at least 2 \(got 1\)"),
        ((4, 7), r"'num_items' must be even and at least 6 \(got 7\)"),
        ((4, 4), r'at least 6 \(got 4\)'),
    ],
)
def test_checkerboard_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        checkerboard(*sizes)
