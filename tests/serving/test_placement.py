"""Users and items without training interactions."""

import itertools

import numpy as np
import pytest
import torch

from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_cold_items
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import VBPR, LightGCN
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving import FeatureMapper, Recommender, place_cold
from promptmm_pyg.training import TrainingConfig, train

# Users 0 to 3 and items 0 to 11 are trained. User 4 has other interactions, user 5
# none.
TRAIN = torch.stack([torch.arange(12) % 4, torch.arange(12)])
KNOWN = torch.cat([TRAIN, torch.tensor([[4, 4, 0], [1, 7, 12]])], dim=1)


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(6, 3, generator=generator),
        torch.randn(15, 3, generator=generator),
        {'text': torch.randn(15, 2, generator=generator)},
    )


@pytest.fixture
def mapper(tables):
    user_x, item_x, features = tables
    return FeatureMapper.fit(
        features, item_x, user_x=user_x, seen=SeenItems.from_edge_index(TRAIN, 6, 15)
    )


def test_trained_rows_stay_bitwise_the_same(tables, mapper):
    user_x, item_x, features = tables
    placed = place_cold(
        user_x, item_x, TRAIN, feature_mapper=mapper, modality_x=features
    )
    assert torch.equal(placed.user_x[:4], user_x[:4])
    assert torch.equal(placed.item_x[:12], item_x[:12])
    assert not torch.equal(placed.item_x[12:], item_x[12:])


def test_a_cold_item_is_the_prediction_from_its_features_or_the_mean(tables, mapper):
    user_x, item_x, features = tables
    mask = torch.arange(15) != 13
    placed = place_cold(
        user_x,
        item_x,
        TRAIN,
        feature_mapper=mapper,
        modality_x=features,
        modality_mask={'text': mask},
    )
    part = mapper.maps[0]
    x = features['text'].numpy().astype(float)
    warm = x[:12]
    # Columns of mean 0, rows of mean squared norm 1.
    z = (x - warm.mean(0)) / warm.std(0) / 2**0.5
    expected = z @ part.weight.double().numpy() + part.bias.double().numpy()
    for item in (12, 14):
        assert np.allclose(placed.item_x[item].numpy(), expected[item], atol=1e-5)
    assert torch.allclose(placed.item_x[13], item_x[:12].mean(0))
    assert placed.counts == {
        'items_by_features': 2,
        'items_at_mean': 1,
        'users_by_history': 0,
        'users_at_mean': 2,
    }


def test_a_cold_user_is_folded_in_or_the_average_user(tables):
    user_x, item_x, _ = tables
    placed = place_cold(user_x, item_x, TRAIN, known=KNOWN)
    v = placed.item_x.double().numpy()
    gram = 0.1 * (v.T @ v + 10.0 * np.trace(v.T @ v) / 3 * np.eye(3))
    matrix = gram + sum(np.outer(v[item], v[item]) for item in (1, 7))
    expected = np.linalg.solve(matrix, v[1] + v[7])
    assert np.allclose(placed.user_x[4].numpy(), expected, atol=1e-5)
    assert torch.allclose(placed.user_x[5], user_x[:4].mean(0))
    assert placed.users_by_history.tolist() == [False] * 4 + [True, False]


def test_without_cold_rows_nothing_is_copied(tables):
    user_x, item_x, _ = tables
    edges = torch.stack([torch.arange(15) % 6, torch.arange(15)])
    placed = place_cold(user_x, item_x, edges)
    assert placed.user_x is user_x
    assert placed.item_x is item_x


def test_no_training_interactions_raise(tables):
    user_x, item_x, _ = tables
    with pytest.raises(ValueError, match="'train' must contain at least one"):
        place_cold(user_x, item_x, torch.empty(2, 0, dtype=torch.long))


@pytest.fixture(scope='module')
def cold():
    graph = make_synthetic_dataset(600, 400, mean_degree=12, affinity=0.9, seed=0)
    return split_cold_items(graph, 0.1, 0.2, seed=0)


def trained_student(data):
    torch.manual_seed(0)
    student = LightGCN.from_data(data, embedding_dim=16)
    config = TrainingConfig(
        epochs=20, batch_size=2048, validate_every=1, learning_rate=0.02, progress=False
    )
    train(student, data, loss_weights={'l2': 0.01}, config=config)
    return student


def test_new_items_are_found_by_their_features(cold):
    student = trained_student(cold)
    x_dict = get_embeddings(student, cold.train)
    recommender = Recommender.from_model(student, cold)
    placed = {'user': recommender.user_x, 'item': recommender.item_x}
    new = torch.bincount(cold.train[INTERACTS].edge_index[1], minlength=400) == 0
    assert recommender.placed['items_by_features'] > 20
    without, with_placement = (
        evaluate(x, cold.test, ks=(5,), candidates=new).metrics['NDCG@5']
        for x in (x_dict, placed)
    )
    assert with_placement > 4 * without
    untouched = Recommender.from_model(student, cold, place_cold=False)
    assert torch.equal(untouched.item_x, x_dict['item'])


def test_new_items_are_no_negatives_by_default(cold):
    drawn = []

    def losses(output, batch):
        drawn.append(batch.negative)
        return {'zero': output['user'].sum() * 0.0}

    torch.manual_seed(0)
    student = LightGCN.from_data(cold, embedding_dim=4)
    train(student, cold, losses=losses, config=TrainingConfig(epochs=2, progress=False))
    degree = torch.bincount(cold.train[INTERACTS].edge_index[1], minlength=400)
    assert int(degree[torch.cat(drawn)].min()) > 0
    assert int((degree == 0).sum()) > 20


def test_every_item_is_a_negative_where_a_user_has_all_trained_ones():
    data = split_cold_items(make_synthetic_dataset(20, 30, seed=1), 0.1, 0.2, seed=0)
    store = data.train[INTERACTS]
    warm = store.edge_index[1].unique()
    full = torch.stack([torch.zeros_like(warm), warm])
    store.edge_index = torch.cat([store.edge_index, full], 1).unique(dim=1)
    student = LightGCN.from_data(data, embedding_dim=4)
    history = train(student, data, config=TrainingConfig(epochs=1, progress=False))
    assert history.num_epochs == 1


def test_models_that_read_features_keep_their_new_items(cold):
    torch.manual_seed(0)
    model = VBPR.from_data(cold, embedding_dim=4)
    recommender = Recommender.from_model(model, cold)
    assert torch.equal(recommender.item_x, get_embeddings(model, cold.train)['item'])
    assert recommender.placed['items_by_features'] == 0


def test_scale_and_offset_are_the_best_of_a_naive_search(tables):
    user_x, item_x, features = tables
    generator = torch.Generator().manual_seed(3)
    user_x = torch.randn(40, 3, generator=generator)
    edges = torch.stack([torch.arange(120) % 40, torch.arange(120) % 12])
    positives = torch.stack([torch.arange(40), 12 + torch.arange(40) % 3])
    mapper = FeatureMapper.fit(
        features,
        item_x,
        user_x=user_x,
        seen=SeenItems.from_edge_index(edges, 40, 15),
    )
    options = {'feature_mapper': mapper, 'modality_x': features}
    raw = place_cold(user_x, item_x, edges, **options)
    placed = place_cold(user_x, item_x, edges, validation=positives, **options)
    assert (raw.scale, raw.offset) == (1.0, 0.0)
    assert placed.offset > 0

    users, mean = user_x.double(), item_x[:12].mean(0).double()
    direction = torch.linalg.lstsq(users, torch.ones(40, 1).double()).solution[:, 0]
    direction *= (user_x @ item_x[:12].t()).std()
    seen = set(map(tuple, edges.t().tolist()))

    def gain(scale, offset):
        x = item_x.double().clone()
        x[12:] = mean + scale * (raw.item_x[12:].double() - mean) + offset * direction
        total = 0.0
        for user, item in positives.t().tolist():
            scores = (x @ users[user]).tolist()
            rank = 1 + sum(
                scores[other] > scores[item] + 1e-9
                for other in range(15)
                if (user, other) not in seen
            )
            total += 1 / np.log2(1 + rank)
        return total

    grid = itertools.product((1.0, 1.5, 2.0, 3.0), (-1, -0.5, 0, 0.5, 1, 1.5, 2, 3))
    best = max(gain(*setting) for setting in grid)
    assert gain(placed.scale, placed.offset) == pytest.approx(best, rel=0.01)
    expected = mean + placed.scale * (raw.item_x[12:].double() - mean)
    expected += placed.offset * direction
    torch.testing.assert_close(placed.item_x[12:].double(), expected, rtol=1e-3, atol=0)


def test_few_new_positives_choose_nothing(tables, mapper):
    user_x, item_x, features = tables
    placed = place_cold(
        user_x,
        item_x,
        TRAIN,
        validation=torch.tensor([[0, 1], [12, 13]]),
        feature_mapper=mapper,
        modality_x=features,
    )
    assert (placed.scale, placed.offset) == (1.0, 0.0)


def test_validation_raises_new_items_that_everybody_goes_on_to(cold):
    student = trained_student(cold)
    recall = []
    for data in (cold.train, cold):
        model = Recommender.from_model(student, data)
        x_dict = {'user': model.user_x, 'item': model.item_x}
        recall.append(evaluate(x_dict, cold.test, ks=(20,)).metrics['Recall@20'])
    assert recall[1] > recall[0] + 0.1
