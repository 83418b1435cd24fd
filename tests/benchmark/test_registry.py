import inspect

import pytest
import torch

from promptmm_pyg.benchmark.registry import (
    build,
    is_trained,
    model_kind,
)
from promptmm_pyg.models import MODELS, PromptMM
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.nn import ChunkedFeatures
from promptmm_pyg.search_space import Choices
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.tuning import split_params
from tests.benchmark.setting import tiny_dataset

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
TRAINED = [name for name in MODELS if is_trained(name)]
CLOSED_FORMS = ['Popularity', 'ItemKNN', 'EASE', 'GraphFilter']


@pytest.fixture(scope='module')
def data():
    dataset = tiny_dataset()
    split = dataset.read()
    return split._replace(train=dataset.prepare(split.train))


def test_every_model_has_a_search_space_of_its_own():
    declared = {name for name, cls in MODELS.items() if 'search_space' in vars(cls)}
    assert declared == set(MODELS) - {'Popularity'}  # It has nothing to tune.
    assert set(MODELS) - set(TRAINED) == set(CLOSED_FORMS)
    assert {model_kind(name) for name in CLOSED_FORMS} == {'closed form'}
    ids = {name for name in MODELS if model_kind(name) == 'ids'}
    assert ids == {'MatrixFactorization', 'LightGCN', 'LayerGCN', 'NGCF'}
    with pytest.raises(ValueError, match="'model' must be one of"):
        is_trained('Other')


@pytest.mark.parametrize('name', MODELS)
def test_the_first_trial_is_the_default_of_the_model(name):
    cls = MODELS[name]
    space = cls.search_space
    known = _defaults(PromptMM) if name == 'PromptMMPlus' else {}
    known |= _defaults(cls)
    arguments, weights, training = split_params(name, space.defaults)
    assert arguments == {key: known[key] for key in arguments}
    if model_kind(name) == 'multi-modal':
        assert weights == {key: cls.loss_weights[key] for key in weights}
    assert set(training) == ({'learning_rate'} if is_trained(name) else set())
    for part in space.space.values():
        if isinstance(part, Choices):
            assert part.default in part.values
        else:
            assert part.low <= part.default <= part.high


def _defaults(cls):
    return {k: p.default for k, p in inspect.signature(cls).parameters.items()}


@pytest.mark.parametrize('name', MODELS)
def test_the_second_trial_has_a_stronger_penalty(name):
    first, *rest = MODELS[name].search_space.first_trials()
    assert first == MODELS[name].search_space.defaults
    assert len(rest) == is_trained(name)
    for trial in rest:
        assert {k for k, v in trial.items() if v != first[k]} == {'l2'}
        assert trial['l2'] > first['l2']


@pytest.mark.parametrize('name', TRAINED)
def test_every_model_trains_with_the_ends_of_its_space(name, data):
    params = {
        key: part.values[-1] if isinstance(part, Choices) else part.high
        for key, part in MODELS[name].search_space.space.items()
    }
    arguments, weights, training = split_params(name, params)
    assert {**arguments, **weights, **training} == params
    torch.manual_seed(0)
    model = build(name, data.train, {**arguments, 'embedding_dim': 8})
    before = [p.detach().clone() for p in model.parameters()]
    config = TrainingConfig(epochs=1, progress=False, batch_size=256, **training)
    train(model, data, config=config, loss_weights=weights)
    after = list(model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    x_dict = get_embeddings(model, (normalized_adj_dict(data.train),))
    assert x_dict['user'].shape[1] == x_dict['item'].shape[1] >= 8


def test_an_argument_of_the_model_is_not_a_field_of_training():
    split = split_params('LATTICE', {'num_neighbors': 5, 'learning_rate': 0.1, 'l2': 1})
    assert split == ({'num_neighbors': 5}, {'l2': 1}, {'learning_rate': 0.1})
    assert split_params('EASE', {'l2': 1.0}).arguments == {'l2': 1.0}


def test_options_of_the_features_reach_the_model(data, monkeypatch):
    given = {}

    class Recorded(PromptMM):
        def __init__(self, sizes, **arguments):
            given.update(arguments)
            super().__init__(sizes, **arguments)

    monkeypatch.setitem(MODELS, 'PromptMM', Recorded)
    item = data.train['item']
    build('PromptMM', data.train, {'embedding_dim': 4})
    assert torch.equal(given['prompt_start_dict']['item'], item.prompt_start)
    assert given['modality_mask_dict'] is None
    assert given['modality_x_dict']['text']['item'] is item.x_text
    build('PromptMM', data.train, {'prompt': False, 'masks': True})
    assert given['prompt_start_dict'] is None
    assert given['modality_mask_dict']['text']['item'] is item.mask_text
    build('PromptMM', data.train, {'feature_dtype': 'bfloat16'})
    assert given['modality_x_dict']['text']['item'].dtype == torch.bfloat16
    half = dict.fromkeys(('feature_dtype', 'product_dtype'), 'bfloat16')
    build('PromptMM', data.train, half)
    chunked = given['modality_x_dict']['text']['item']
    assert isinstance(chunked, ChunkedFeatures)
    assert chunked.products == torch.bfloat16
