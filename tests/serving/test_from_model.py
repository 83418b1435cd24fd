"""From a trained model and its data to a recommender."""

import pytest
import torch

from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.models import EASE, LightGCN
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.serving import FeatureMapper, Recommender


@pytest.fixture(scope='module')
def data():
    return split_per_user(make_synthetic_dataset(30, 40))


@pytest.fixture(scope='module')
def student(data):
    torch.manual_seed(0)
    return LightGCN.from_data(data, embedding_dim=8, num_layers=2)


def features_of(graph, prefix='x_'):
    return {
        key.removeprefix(prefix): x
        for key, x in graph['item'].items()
        if key.startswith(prefix)
    }


def known_pairs(*graphs):
    edges = [graph[INTERACTS].edge_index for graph in graphs]
    edges += [graph[INTERACTS].edge_label_index for graph in graphs]
    return set(map(tuple, torch.cat(edges, 1).t().tolist()))


def test_lists_are_those_of_the_embeddings_without_known_items(data, student):
    titles = {data.train['item'].raw_id[3]: 'Third'}
    model = Recommender.from_model(student, data, titles=titles, place_cold=False)
    x_dict = get_embeddings(student, data.train)
    scores = x_dict['user'] @ x_dict['item'].t()
    for user, item in known_pairs(*data):
        scores[user, item] = -torch.inf
    expected = scores.argsort(dim=1, descending=True, stable=True)[:, :5]
    ids = data.train['item'].raw_id
    users = data.train['user'].raw_id
    assert model.recommend(users, 5).ids.tolist() == ids[expected.numpy()].tolist()
    assert model.titles == titles
    assert model.user_ids == users.tolist()


def test_the_feature_mapper_is_that_of_the_present_features(data, student):
    features, masks = (features_of(data.train, prefix) for prefix in ('x_', 'mask_'))
    assert any(not mask.all() for mask in masks.values())
    graph = data.train.clone()
    for name, mask in masks.items():
        graph['item'][f'x_{name}'][~mask] = float('nan')
    model = Recommender.from_model(student, graph, place_cold=False)
    expected = FeatureMapper.fit(
        features,
        model.item_x,
        user_x=model.user_x,
        seen=data.train[INTERACTS].edge_index,
        modality_mask=masks,
    )
    torch.testing.assert_close(
        model.feature_mapper(features, masks), expected(features, masks)
    )
    bare = Recommender.from_model(student, data, fit_features=False)
    assert bare.feature_mapper is None


@pytest.mark.parametrize('parts', [('train', 'val', 'test'), ('test',), ('train',)])
def test_seen_items_are_all_interactions_of_the_data(data, student, parts):
    graphs = [getattr(data, name) for name in parts]
    model = Recommender.from_model(student, data if len(parts) > 1 else graphs[0])
    row, item = model.seen.pairs(torch.arange(30))
    assert set(zip(row.tolist(), item.tolist(), strict=True)) == known_pairs(*graphs)
    ids = data.train['item'].raw_id
    for row, recommended in enumerate(model.recommend(model.user_ids, 40).ids):
        known = {ids[item] for user, item in known_pairs(*graphs) if user == row}
        assert not known & set(recommended)
        assert len(known | set(recommended) - {None}) == 40


def test_negatives_of_a_graph_are_not_seen(data, student):
    graph = data.val.clone()
    labels = torch.ones(graph[INTERACTS].edge_label_index.size(1))
    labels[0] = 0
    graph[INTERACTS].edge_label = labels
    user, item = graph[INTERACTS].edge_label_index[:, 0]
    model = Recommender.from_model(student, graph)
    assert int(item) not in model.seen.pairs(user[None])[1].tolist()
    assert model.seen.col.numel() == len(known_pairs(data.val)) - 1


def test_the_feature_mapper_is_fitted_on_training_interactions(data, student):
    features, masks = (features_of(data.train, prefix) for prefix in ('x_', 'mask_'))
    model = Recommender.from_model(student, data, place_cold=False)
    train = data.train[INTERACTS].edge_index
    options = {'user_x': model.user_x, 'modality_mask': masks}
    first, second = (
        FeatureMapper.fit(features, model.item_x, seen=seen, **options)
        for seen in (train, model.seen)
    )
    x = model.feature_mapper(features, masks)
    torch.testing.assert_close(x, first(features, masks))
    assert not torch.allclose(x, second(features, masks))


def test_inputs_replace_the_edges_of_the_data(data, student):
    graph = data.train.clone()
    for edge_type in graph.edge_types:
        graph[edge_type].edge_weight = torch.ones(graph[edge_type].num_edges)
    inputs = (normalized_adj_dict(graph),)
    model = Recommender.from_model(student, data, inputs=inputs, place_cold=False)
    torch.testing.assert_close(model.item_x, get_embeddings(student, inputs)['item'])
    usual = Recommender.from_model(student, data)
    assert not torch.allclose(model.item_x, usual.item_x)


def test_embeddings_and_closed_forms_are_served(data):
    ease = EASE({'user': 30, 'item': 40}).fit(data.train[INTERACTS].edge_index)
    model = Recommender.from_model(ease.as_output(30), data, place_cold=False)
    scores = ease.scores(torch.arange(30))
    torch.testing.assert_close(model.user_x @ model.item_x.t(), scores)
    x_dict = {'user': torch.ones(30, 2), 'item': torch.ones(40, 2)}
    assert Recommender.from_model(x_dict, data).item_x.shape == (40, 2)


def test_rows_are_ids_where_data_have_none(data, student):
    graph = data.train.clone()
    for node_type in ('user', 'item'):
        del graph[node_type]['raw_id']
    model = Recommender.from_model(student, graph)
    assert (model.user_ids, model.item_ids) == (list(range(30)), list(range(40)))


def test_too_few_items_for_a_mapper_are_a_warning(data, student, monkeypatch):
    monkeypatch.setattr('promptmm_pyg.serving._feature_fit.MIN_ITEMS', 1000)
    with pytest.warns(UserWarning, match='no items can be added later: '):
        model = Recommender.from_model(student, data)
    assert model.feature_mapper is None


def test_data_and_training_mode_stay_as_they_are(data, student):
    student.train()
    before = {key: x.clone() for key, x in features_of(data.train).items()}
    Recommender.from_model(student, data)
    assert student.training
    for key, x in features_of(data.train).items():
        torch.testing.assert_close(x, before[key])


def test_embeddings_of_other_data_are_refused(student):
    other = make_synthetic_dataset(30, 20)
    with pytest.raises(ValueError, match="'item_ids' must contain one id for each"):
        Recommender.from_model(
            {'user': torch.ones(30, 2), 'item': torch.ones(40, 2)}, other
        )
