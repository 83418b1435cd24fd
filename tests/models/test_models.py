"""What holds for every model of ``MODELS``: one constructor, one way to be called."""

import inspect

import pytest
import torch

from promptmm_pyg import models
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.data.schema import modality_x_dict
from promptmm_pyg.models import MODELS, ClosedForm, PromptMM
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities

TRAINED = [name for name, cls in MODELS.items() if not issubclass(cls, ClosedForm)]


@pytest.fixture(scope='module')
def split():
    return split_per_user(make_synthetic_dataset(60, 40, 4, seed=0))


def test_every_model_of_the_package_is_listed():
    classes = {
        name
        for name in models.__all__
        if inspect.isclass(getattr(models, name))
        and name not in ('ClosedForm', 'GraphRecommender')
    }
    assert set(MODELS) == classes
    assert all(MODELS[name] is getattr(models, name) for name in MODELS)


@pytest.mark.parametrize('name', MODELS)
def test_constructors_have_one_shape(name):
    parameters = list(inspect.signature(MODELS[name]).parameters.values())
    first, second, *rest = parameters
    assert (first.name, second.name, second.default) == (
        'num_nodes_dict',
        'modality_x_dict',
        None,
    )
    by_name = {p.name: p for p in rest}
    assert by_name['edge_type'].default == INTERACTS
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in rest)
    if name != 'PromptMMPlus':
        assert 'embedding_dim' in by_name


@pytest.mark.parametrize('name', MODELS)
def test_a_width_by_position_is_no_features(name):
    with pytest.raises(
        TypeError, match=r"'modality_x_dict' must be a dictionary.*named"
    ):
        MODELS[name]({'user': 3, 'item': 4}, 32)


@pytest.mark.parametrize('name', TRAINED)
def test_from_data_builds_a_model_whose_losses_have_weights(name, split):
    torch.manual_seed(0)
    model = MODELS[name].from_data(split, embedding_dim=8)
    output = model(normalized_adj_dict(split.train))
    x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
    assert {key: x.size(0) for key, x in x_dict.items()} == {'user': 60, 'item': 40}
    user, item = split.train[INTERACTS].edge_index[:, :8]
    batch = models.base.Triplets(user, item, item.flip(0))
    losses = model.losses(output, batch)
    assert list(losses) == list(model.loss_weights)
    assert all(x.shape == () and x.isfinite() for x in losses.values())


@pytest.mark.parametrize('name', MODELS)
def test_a_training_graph_does_as_well_as_a_split(name, split):
    torch.manual_seed(0)
    first = MODELS[name].from_data(split)
    torch.manual_seed(0)
    second = MODELS[name].from_data(split.train)
    assert repr(first) == repr(second)
    if isinstance(first, torch.nn.Module):
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)


def test_features_and_prompt_are_prepared_once(split):
    train = AddModalityPCA(5)(StandardizeModalities()(split.train))
    ready = PromptMM.from_data(train, embedding_dim=4)
    assert ready.prompt.start('item').size(1) == 5
    for name, x_dict in modality_x_dict(train).items():
        for key, x in x_dict.items():
            assert torch.equal(ready.feature_rows(f'{name}__{key}'), x)
    # The same from raw features, and the graph of the caller stays as it is.
    before = {k: v['item'].clone() for k, v in modality_x_dict(split.train).items()}
    raw = PromptMM.from_data(split, embedding_dim=4)
    for name, x_dict in modality_x_dict(train).items():
        for key, x in x_dict.items():
            assert torch.equal(raw.feature_rows(f'{name}__{key}'), x)
    assert 'prompt_start' not in split.train['item']
    for name, x in before.items():
        assert torch.equal(modality_x_dict(split.train)[name]['item'], x)


def test_a_model_of_content_requires_features():
    data = make_synthetic_dataset(30, 20)
    for key in [key for key in data['item'] if key.startswith('x_')]:
        del data['item'][key]
    with pytest.raises(ValueError, match="'modality_x_dict' requires at least one"):
        models.VBPR.from_data(data)
    assert (
        models.LightGCN.from_data(data, embedding_dim=4).embeddings.embedding_dim == 4
    )
