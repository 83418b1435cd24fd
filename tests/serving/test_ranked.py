import sys

import pytest
import torch

from promptmm_pyg.ranking import ApproximateItems
from promptmm_pyg.serving import Recommender


def same(found, expected):
    assert found.ids.tolist() == expected.ids.tolist()
    torch.testing.assert_close(*(torch.from_numpy(x.scores) for x in (found, expected)))


def test_a_bound_on_memory_changes_no_list(synthetic):
    model, _ = synthetic(num_items=3000)
    users = model.user_ids
    options = {'deny': model.item_ids[:900]}
    exact = model.recommend(users, 7, **options)
    same(model.recommend(users, 7, **options, memory_limit='300 KB'), exact)
    histories = [model.item_ids[5:9], model.item_ids[40:42]]
    exact = model.recommend_from_history(histories, 7)
    same(model.recommend_from_history(histories, 7, memory_limit=200_000), exact)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_a_bound_on_memory_keeps_the_lists_of_any_precision(synthetic, dtype):
    full, _ = synthetic(num_items=2000)
    model = Recommender(
        full.user_x.to(dtype),
        full.item_x.to(dtype),
        user_ids=full.user_ids,
        item_ids=full.item_ids,
        seen=full.seen,
    )
    history = full.item_ids[3:7]
    exact = model.recommend_from_history(history, 5)
    same(model.recommend_from_history(history, 5, memory_limit='1MiB'), exact)


def test_a_bound_on_memory_that_holds_nothing_is_refused(synthetic):
    model, _ = synthetic()
    with pytest.raises(ValueError, match=r"'memory_limit' must be at least \d+ bytes"):
        model.recommend('u0', memory_limit=100)
    with pytest.raises(ValueError, match="'memory_limit' must be a positive number"):
        model.recommend_from_history([100], memory_limit='much')


def test_an_index_that_compares_all_clusters_gives_the_exact_lists(synthetic):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model, _ = synthetic(num_items=300)
    index = model.index_items(num_lists=9, nprobe=9)
    users, allow = model.user_ids[::-1], model.item_ids[::2]
    for options in ({}, {'allow': allow}, {'exclude_seen': False}):
        exact = model.recommend(users, 12, **options)
        same(model.recommend(users, 12, **options, index=index), exact)
    exact = model.recommend_from_history([100, 104], 12)
    same(model.recommend_from_history([100, 104], 12, index=index), exact)


def test_recall_is_the_part_of_the_exact_items_that_are_found(synthetic):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model, _ = synthetic(num_items=300)
    index = model.index_items(num_lists=6, nprobe=1)
    options = {'deny': model.item_ids[:20], 'exclude_seen': False}
    users = model.user_ids[3:30]
    exact = model.recommend(users, 9, **options).ids.tolist()
    found = model.recommend(users, 9, **options, index=index).ids.tolist()
    hits = [len({*a} & {*b}) / 9 for a, b in zip(exact, found, strict=True)]
    shares = model.index_recall(index, users, 9, **options)
    assert 0 < min(hits) < 1
    torch.testing.assert_close(torch.from_numpy(shares), torch.tensor(hits))
    assert model.index_recall(index, users[0], 9, **options) == shares[:1]


def test_an_index_of_other_items_is_refused(synthetic):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model, features = synthetic()
    index = model.index_items()
    model.fit_feature_mapper(features)
    model.add_items([7], {name: x[:1] for name, x in features.items()})
    match = r"'index' must be built from the current items .*got one of 60"
    with pytest.raises(ValueError, match=match):
        model.recommend('u0', index=index)
    with pytest.raises(ValueError, match=match):
        model.index_recall(index, 'u0')
    twin = ApproximateItems(model.item_x.clone())
    with pytest.raises(ValueError, match=r"Build it anew with 'index_items'"):
        model.recommend_from_history([100], index=twin)


def test_memory_and_index_come_one_at_a_time(synthetic):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model, _ = synthetic()
    with pytest.raises(
        ValueError, match="'memory_limit' and 'index' must be given one"
    ):
        model.recommend('u0', memory_limit='1GiB', index=model.index_items())


def test_mistakes_about_an_index_are_named(synthetic):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model, _ = synthetic()
    with pytest.raises(ValueError, match=r"'num_lists' .* at most the number of items"):
        model.index_items(num_lists=61)
    with pytest.raises(ValueError, match=r"'k' must be positive \(got 0\)"):
        model.index_recall(model.index_items(), 'u0', 0)
    with pytest.raises(ValueError, match=r"'users' .* 'nobody'"):
        model.index_recall(model.index_items(), 'nobody')


def test_without_faiss_the_extra_is_named(synthetic, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    model, _ = synthetic()
    with pytest.raises(ImportError, match=r"requires 'faiss'.*\[ann\]"):
        model.index_items()
