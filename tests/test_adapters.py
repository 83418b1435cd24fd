from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from promptmm_pyg import LightGCN, TrainingConfig, evaluate, load_dataset, train
from promptmm_pyg.adapters import FrameModel, MatrixModel, retrieval_inputs
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.serving import Recommender


def make_recommender(num_users=6, num_items=9):
    g = torch.Generator().manual_seed(0)
    return Recommender(
        torch.randn(num_users, 3, generator=g),
        torch.randn(num_items, 3, generator=g),
        user_ids=list(range(10, 10 + num_users)),
        item_ids=[f'i{number}' for number in range(num_items)],
        seen=None,
    )


def quick(data):
    model = LightGCN.from_data(data, embedding_dim=4)
    config = TrainingConfig(epochs=1, progress=False)
    train(model, data, config=config)
    return SimpleNamespace(student=model)


def test_a_frame_model_recommends_as_rectools_does():
    model = make_recommender()
    frame = pd.DataFrame({'user_id': [10, 10, 12], 'item_id': ['i0', 'i1', 'x']})
    for dataset in (frame, SimpleNamespace(get_raw_interactions=lambda: frame)):
        found = FrameModel(recommender=model).recommend(
            [12, 10], dataset, 4, filter_viewed=True, items_to_recommend=['i0', 'i2']
        )
        expected = model.recommend(12, 2, allow=['i0', 'i2'])
        assert found.columns.tolist() == ['user_id', 'item_id', 'score', 'rank']
        assert found['user_id'].tolist() == [12, 12, 10]
        assert found['item_id'].tolist() == [*expected.ids.tolist(), 'i2']
        assert found['rank'].tolist() == [1, 2, 1]
        np.testing.assert_allclose(found['score'][:2], expected.scores, rtol=1e-5)


def test_a_frame_model_is_fitted_on_a_frame():
    graph = make_synthetic_dataset(30, 20, 4)
    user, item = graph[INTERACTS].edge_index.tolist()
    frame = pd.DataFrame({'user_id': user, 'item_id': item})
    model = FrameModel(quick)
    with pytest.raises(ValueError, match="'FrameModel' must be fitted"):
        model.recommend([0], frame, 3, filter_viewed=True)
    assert model.fit(frame) is model
    lists = model.recommend(user[:1], frame, 5, filter_viewed=True, add_rank_col=False)
    expected = model.recommender.recommend(user[0], 5)  # All of the frame is seen.
    assert lists['item_id'].tolist() == expected.ids.tolist()
    with pytest.raises(ValueError, match="'users' must contain known ids"):
        model.recommend(['nobody'], frame, 3, filter_viewed=True)
    ignored = model.recommend(
        ['nobody'], frame, 3, filter_viewed=False, on_unsupported_targets='ignore'
    )
    assert ignored.empty


def test_a_matrix_model_recommends_as_implicit_does():
    """implicit's own class on the same tables is the oracle."""
    als = pytest.importorskip('implicit.cpu.als', reason='requires implicit')
    source = make_recommender(40, 60)
    model = MatrixModel(recommender=source)
    oracle = als.AlternatingLeastSquares(factors=3)
    oracle.user_factors, oracle.item_factors = model.user_factors, model.item_factors
    seen = csr_matrix(np.random.default_rng(0).random((40, 60)) < 0.2, dtype=np.float32)
    users = np.array([5, 0, 39])
    for options in (
        {},
        {'filter_already_liked_items': False},
        {'filter_items': [3, 4]},
        {'items': [7, 8, 9, 30, 31], 'filter_already_liked_items': False},
    ):
        found = model.recommend(users, seen[users], 5, **options)
        expected = oracle.recommend(users, seen[users], 5, **options)
        assert np.array_equal(found[0], expected[0]), options
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    alone = model.recommend(5, seen[[5]], 5)
    assert np.array_equal(alone[0], model.recommend([5], seen[[5]], 5)[0][0])
    similar, expected = model.similar_items(4, 5), oracle.similar_items(4, 5)
    assert np.array_equal(similar[0], expected[0])
    np.testing.assert_allclose(similar[1], expected[1], rtol=1e-4)


def test_a_matrix_model_is_fitted_and_evaluated_by_implicit():
    evaluation = pytest.importorskip('implicit.evaluation', reason='requires implicit')
    data = split_per_user(make_synthetic_dataset(60, 40, 4), 0.2, 0.2)
    parts = [data.train[INTERACTS].edge_index, data.test[INTERACTS].edge_label_index]
    ones = [np.ones(part.size(1), np.float32) for part in parts]
    known, held_out = (
        csr_matrix((values, part.numpy()), shape=(60, 40))
        for values, part in zip(ones, parts, strict=True)
    )
    model = MatrixModel(quick)
    model.fit(known)
    metrics = evaluation.ranking_metrics_at_k(
        model, known, held_out, K=10, show_progress=False
    )
    tables = {'user': model.recommender.user_x, 'item': model.recommender.item_x}
    data.test[INTERACTS].edge_index = parts[0]
    expected = evaluate(tables, data.test, ks=[10]).metrics
    assert metrics['ndcg'] == pytest.approx(expected['NDCG@10'], abs=1e-5)


def test_short_lists_and_folded_users_and_mistakes():
    source = make_recommender()
    model, liked = MatrixModel(recommender=source), csr_matrix([[1] * 7 + [0, 0]])
    ids, scores = model.recommend(0, liked, 4)
    assert sorted(ids[:2].tolist()) == [7, 8]
    assert ids[2:].tolist() == [-1, -1]
    assert np.isneginf(scores[2:]).all()
    liked = csr_matrix([[2, 0, 0, 1, 0, 0, 0, 0, 0]])
    ids, scores = model.recommend(0, liked, 4, recalculate_user=True)
    expected = source.recommend_from_history(['i0', 'i3'], 4, weights=[2, 1])
    assert [f'i{row}' for row in ids] == expected.ids.tolist()
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'user_items' must have the shape \(2, 9\)"):
        model.recommend([0, 1], liked)
    with pytest.raises(ValueError, match="'items' and 'filter_items'"):
        model.recommend(0, liked, items=[1], filter_items=[2])
    with pytest.raises(IndexError):
        model.recommend(6, liked)


def test_torchmetrics_agrees_with_evaluate():
    retrieval = pytest.importorskip('torchmetrics.retrieval')
    data = split_per_user(make_synthetic_dataset(60, 40, 4), 0.2, 0.3)
    result = evaluate(LightGCN.from_data(data, embedding_dim=4), data.test, ks=[5, 10])
    preds, target, indexes = retrieval_inputs(result, data.test)
    classes = {
        'Recall': retrieval.RetrievalRecall,
        'NDCG': retrieval.RetrievalNormalizedDCG,
        'Precision': retrieval.RetrievalPrecision,
        'HitRatio': retrieval.RetrievalHitRate,
        'MRR': retrieval.RetrievalMRR,
    }
    for name, metric in classes.items():
        for k in (5, 10):
            value = metric(top_k=k)(preds, target, indexes=indexes)
            expected = result.metrics[f'{name}@{k}']
            assert float(value) == pytest.approx(expected, abs=1e-5), name


def test_arrow_streams_and_datasets_are_read():
    pa = pytest.importorskip('pyarrow', reason='requires promptmm_pyg[frames]')
    graph = make_synthetic_dataset(30, 20, 4)
    user, item = graph[INTERACTS].edge_index.tolist()
    table = pa.table({'user_id': user, 'item_id': item})

    like_hugging_face = SimpleNamespace(with_format={'arrow': table}.__getitem__)
    for frame in (table.to_reader(), like_hugging_face):
        data = load_dataset(frame)
        expected = load_dataset(table).train[INTERACTS].edge_index
        assert torch.equal(data.train[INTERACTS].edge_index, expected)
