import json

import numpy as np
import pytest
import torch

from promptmm_pyg.evaluation import rank_items
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving import Recommender

INF = float('inf')
SIZE = 10
NAMES = [f'user {number}' for number in range(SIZE)]
CODES = [1000 + number for number in range(SIZE)]


@pytest.fixture
def checkerboard():
    """Even users like even items and odd users odd ones. Each has seen all of those
    but the item of its own number, which is therefore the one right answer.
    """
    parity = torch.arange(SIZE) % 2
    x = torch.stack([1.0 - 2.0 * parity, torch.zeros(SIZE)], dim=1)
    likes = (parity.unsqueeze(1) == parity) & ~torch.eye(SIZE, dtype=torch.bool)
    return Recommender(
        x,
        x,
        user_ids=NAMES,
        item_ids=CODES,
        seen=likes.nonzero().t(),
        titles={CODES[0]: 'The first', CODES[3]: 'Ünïcode'},
    )


def random_recommender(num_users=6, num_items=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Recommender(
        torch.randn(num_users, 3, generator=generator),
        torch.randn(num_items, 3, generator=generator),
        user_ids=list(range(num_users)),
        item_ids=[f'i{number}' for number in range(num_items)],
        seen=torch.tensor([[0, 0, 3], [1, 2, 8]]),
    )


def test_the_withheld_item_comes_first_for_every_user(checkerboard):
    for name, code in zip(NAMES, CODES, strict=True):
        ids, scores = checkerboard.recommend(name, k=1)
        assert ids.tolist() == [code]
        assert scores.tolist() == [1.0]


def test_then_come_the_disliked_items_in_catalogue_order(checkerboard):
    ids, scores = checkerboard.recommend('user 4', k=4)
    assert ids.tolist() == [1004, 1001, 1003, 1005]
    assert scores.tolist() == [1.0, -1.0, -1.0, -1.0]


def test_with_seen_items_every_liked_item_comes_in_catalogue_order(checkerboard):
    ids, _ = checkerboard.recommend('user 4', k=6, exclude_seen=False)
    assert ids.tolist() == [1000, 1002, 1004, 1006, 1008, 1001]


@pytest.mark.parametrize('k', [1, 6, 13])
def test_a_batch_equals_its_users_one_by_one(checkerboard, k):
    users = ['user 7', 'user 0', 'user 7']
    ids, scores = checkerboard.recommend(users, k=k)
    assert ids.shape == scores.shape == (3, k)
    for row, user in enumerate(users):
        one = checkerboard.recommend(user, k=k)
        assert one.ids.shape == (k,)
        assert one.ids.tolist() == ids[row].tolist()
        assert one.scores.tolist() == scores[row].tolist()


def test_more_than_there_is_ends_in_padding(checkerboard):
    ids, scores = checkerboard.recommend('user 4', k=12)
    # Four seen, six left, two more than the catalogue.
    assert sorted(ids[:6].tolist()) == [1001, 1003, 1004, 1005, 1007, 1009]
    assert ids[6:].tolist() == [None] * 6
    assert scores[6:].tolist() == [-INF] * 6


def test_allow_keeps_only_the_listed(checkerboard):
    ids, _ = checkerboard.recommend('user 4', k=3, allow={1005, 1006, 1001})
    assert ids.tolist() == [1001, 1005, None]  # 1006 has been seen.


def test_deny_leaves_out_the_listed(checkerboard):
    ids, _ = checkerboard.recommend('user 4', k=3, deny=np.array([1004, 1003]))
    assert ids.tolist() == [1001, 1005, 1007]


def test_empty_lists_allow_nothing_and_deny_nothing(checkerboard):
    assert checkerboard.recommend('user 4', k=2, allow=[]).ids.tolist() == [None, None]
    plain = checkerboard.recommend('user 4', k=2).ids.tolist()
    assert checkerboard.recommend('user 4', k=2, deny=[]).ids.tolist() == plain


def test_lists_may_be_generators_or_one_id(checkerboard):
    ids, _ = checkerboard.recommend('user 4', k=2, allow=(c for c in (1009, 1001)))
    assert ids.tolist() == [1001, 1009]
    assert checkerboard.recommend('user 4', k=1, allow=1009).ids.tolist() == [1009]


def test_scores_and_order_are_those_of_rank_items():
    model = random_recommender()
    users = torch.tensor([5, 0, 3])
    ranking = rank_items((model.user_x, model.item_x), users, 9, seen=model.seen)
    ids, scores = model.recommend(users.numpy(), k=9)
    assert (ranking.item_index[1] == -1).sum() == 2
    expected = [
        [f'i{item}' if item >= 0 else None for item in row]
        for row in ranking.item_index.tolist()
    ]
    assert ids.tolist() == expected
    np.testing.assert_array_equal(scores, ranking.scores.numpy())


def test_ids_come_back_as_they_went_in():
    model = random_recommender()
    assert model.recommend(np.int64(3), k=1).ids.shape == (1,)
    assert all(type(raw) is str for raw in model.recommend(3, k=3).ids)
    swapped = Recommender(
        model.item_x,
        model.user_x,
        user_ids=np.array(model.item_ids),
        item_ids=np.array(model.user_ids),
        seen=None,
    )
    assert all(type(raw) is int for raw in swapped.recommend('i1', k=3).ids)
    assert all(type(raw) is str for raw in swapped.user_ids)


def test_no_users_give_no_rows():
    assert random_recommender().recommend([], k=4).ids.shape == (0, 4)


def test_similar_items_equal_cosines_without_the_item_itself():
    model = random_recommender()
    x = model.item_x
    cosine = torch.nn.functional.cosine_similarity(x.unsqueeze(1), x, dim=-1)
    cosine.fill_diagonal_(-INF)
    ids, scores = model.similar_items(model.item_ids, k=8)
    values, index = cosine.sort(dim=1, descending=True)
    assert ids.tolist() == [[f'i{item}' for item in row] for row in index[:, :8]]
    np.testing.assert_allclose(scores, values[:, :8].numpy(), rtol=1e-5, atol=1e-6)
    assert scores.min() < 0


def test_similar_items_of_one_item_are_padded_too():
    model = random_recommender()
    ids, scores = model.similar_items('i4', k=11)
    assert ids.shape == (11,)
    assert 'i4' not in ids
    assert ids[8:].tolist() == [None] * 3
    assert scores[8:].tolist() == [-INF] * 3


def test_seen_items_may_come_as_rows_or_edges(checkerboard):
    edges = torch.tensor([[0, 0, 3], [1, 2, 8]])
    model = random_recommender()
    again = Recommender(
        model.user_x,
        model.item_x,
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=SeenItems.from_edge_index(edges, 6, 9),
    )
    assert again.recommend(0, k=9).ids.tolist() == model.recommend(0, k=9).ids.tolist()


def test_training_on_does_not_change_what_is_served():
    user_x, item_x = torch.ones(1, 1), torch.nn.Parameter(torch.ones(2, 1))
    model = Recommender(user_x, item_x, user_ids=[0], item_ids=[0, 1], seen=None)
    with torch.no_grad():
        item_x[1] = 5.0
        user_x.zero_()
    assert model.recommend(0, k=2).scores.tolist() == [1.0, 1.0]


def test_a_saved_recommender_answers_the_same(checkerboard, tmp_path):
    checkerboard.save(tmp_path / 'new' / 'model')
    again = Recommender.load(tmp_path / 'new' / 'model')
    first, second = checkerboard.recommend(NAMES, k=7), again.recommend(NAMES, k=7)
    assert first.ids.tolist() == second.ids.tolist()
    assert first.scores.tolist() == second.scores.tolist()
    assert again.titles == {1000: 'The first', 1003: 'Ünïcode'}
    assert again.user_ids == NAMES
    assert again.item_ids == CODES


def test_tables_that_share_memory_are_saved_whole(tmp_path):
    x = torch.eye(3)
    number = torch.arange(4)
    seen = SeenItems(number, number[:-1], 3)
    ids = [0, 1, 2]
    Recommender(x, x, user_ids=ids, item_ids=ids, seen=seen).save(tmp_path)
    again = Recommender.load(tmp_path)
    torch.testing.assert_close(again.item_x, x)
    assert again.recommend(0, k=2).ids.tolist() == [1, 2]


def test_saving_over_an_older_model_leaves_four_files(tmp_path):
    random_recommender().save(tmp_path)
    newer = random_recommender(seed=1)
    newer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'README.md',
        'card.json',
        'config.json',
        'model.safetensors',
    ]
    torch.testing.assert_close(Recommender.load(tmp_path).user_x, newer.user_x)


@pytest.mark.parametrize('name', ['model.safetensors', 'card.json'])
def test_a_crash_between_two_files_is_noticed(tmp_path, name):
    random_recommender().save(tmp_path / 'old')
    other = random_recommender(num_users=7, num_items=10, seed=1)
    other.save(tmp_path / 'new')
    (tmp_path / 'new' / name).replace(tmp_path / 'old' / name)
    with pytest.raises(ValueError, match=rf'{name}.*must be the saved file'):
        Recommender.load(tmp_path / 'old')


def test_a_failed_write_leaves_the_older_model(tmp_path, monkeypatch):
    older = random_recommender()
    older.save(tmp_path)

    def fail(self, content):
        raise OSError('disk full')

    with monkeypatch.context() as patch:
        patch.setattr('pathlib.Path.write_bytes', fail)
        with pytest.raises(OSError, match='disk full'):
            random_recommender(seed=1).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    torch.testing.assert_close(Recommender.load(tmp_path).user_x, older.user_x)


@pytest.mark.parametrize('name', ['model.safetensors', 'card.json', 'config.json'])
@pytest.mark.parametrize('damage', ['truncated', 'empty', 'missing', 'changed'])
def test_damaged_files_are_refused_by_name(tmp_path, name, damage):
    random_recommender().save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'missing':
        path.unlink()
    else:
        path.write_bytes(content.replace(b'1', b'2'))
    with pytest.raises(ValueError, match=name):
        Recommender.load(tmp_path)


def test_a_flipped_bit_of_an_embedding_is_refused(tmp_path):
    random_recommender().save(tmp_path)
    path = tmp_path / 'model.safetensors'
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r'model\.safetensors.*Save the recommender'):
        Recommender.load(tmp_path)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('version', 2, r'config\.json.*version 3.*version 2 is unknown'),
        ('format', 'other', r"config\.json.*'other' version 3 is unknown"),
        ('files', {}, r'config\.json.*its files are \[\]'),
        ('files', 3, r'config\.json.*must be the configuration'),
    ],
)
def test_another_configuration_is_refused(tmp_path, key, value, message):
    random_recommender().save(tmp_path)
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=message):
        Recommender.load(tmp_path)


def test_a_pickle_in_place_of_the_tensors_is_never_opened(tmp_path):
    random_recommender().save(tmp_path)
    torch.save({'user_x': torch.ones(1)}, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='safetensors'):
        Recommender.load(tmp_path)


def test_saving_over_a_file_raises(tmp_path):
    path = tmp_path / 'file'
    path.touch()
    with pytest.raises(ValueError, match="'path' must be a folder"):
        random_recommender().save(path)


def test_the_closest_ids_of_an_unknown_user_are_named(checkerboard):
    with pytest.raises(ValueError, match=r"'users'.*'usr 4'.*closest.*'user 4'"):
        checkerboard.recommend('usr 4')
    with pytest.raises(ValueError, match=r"got '?zzz'?\). The model has no"):
        checkerboard.recommend(['user 4', 'zzz'])


def test_ids_are_matched_by_their_text():
    model = random_recommender()
    assert model.recommend('3').ids.tolist() == model.recommend(3).ids.tolist()
    with pytest.raises(ValueError, match=r"got '03'\). The closest are \[3, "):
        model.recommend('03')


@pytest.mark.parametrize('user', [True, 1.0, None])
def test_only_strings_and_integers_are_ids(user):
    with pytest.raises(ValueError, match="'users' must contain known ids"):
        random_recommender().recommend([user])


def test_errors_of_requests(checkerboard):
    with pytest.raises(ValueError, match=r"'allow' and 'deny'.*\(got both\)"):
        checkerboard.recommend('user 4', allow=[1001], deny=[1002])
    with pytest.raises(ValueError, match=r"'allow' must contain known ids \(got 7\)"):
        checkerboard.recommend('user 4', allow=[7])
    with pytest.raises(ValueError, match=r"'deny' must contain known ids \(got 7\)"):
        checkerboard.recommend('user 4', deny=[7])
    with pytest.raises(ValueError, match=r"'items'.*\(got 100\). The closest"):
        checkerboard.similar_items(100)
    with pytest.raises(ValueError, match="'k' must be positive"):
        checkerboard.recommend('user 4', k=0)
    with pytest.raises(ValueError, match="'k' must be positive"):
        checkerboard.similar_items(1001, k=0)


def test_errors_of_construction():
    x, ids = torch.ones(2, 1), [0, 1]

    def build(user_x=x, item_x=x, user_ids=ids, item_ids=ids, seen=None, titles=None):
        Recommender(
            user_x, item_x, user_ids=user_ids, item_ids=item_ids, seen=seen,
            titles=titles,
        )  # fmt: skip

    with pytest.raises(ValueError, match=r'one width \(got \[2, 1\] and \[2, 3\]\)'):
        build(item_x=torch.ones(2, 3))
    with pytest.raises(ValueError, match="'item_x' must be finite"):
        build(item_x=torch.tensor([[1.0], [float('nan')]]))
    with pytest.raises(ValueError, match=r"'user_ids'.*each of 2 rows.*\(got 1\)"):
        build(user_ids=[0])
    with pytest.raises(ValueError, match=r"'item_ids'.*unique \(got 3 twice\)"):
        build(item_ids=[3, 3])
    with pytest.raises(ValueError, match=r"'item_ids'.*\(got 1.5 of type float\)"):
        build(item_ids=[1, 1.5])
    with pytest.raises(ValueError, match=r"'seen'.*\(got 2 x 3 instead of 2 x 2\)"):
        build(seen=SeenItems.from_edge_index(torch.tensor([[0], [2]]), 2, 3))
    with pytest.raises(ValueError, match="'edge_index' requires target ids"):
        build(seen=torch.tensor([[0], [2]]))
    with pytest.raises(ValueError, match=r"'titles' must contain known ids \(got 5\)"):
        build(titles={5: 'x'})


def test_repr():
    assert str(random_recommender()) == 'Recommender(6 users, 9 items, 3 channels)'
