"""What holds for every model of ``MODELS``: one constructor, one way to be called."""

import copy
import inspect
import pickle

import pytest
import torch
import torch_geometric

from promptmm_pyg import models
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.data.schema import modality_x_dict
from promptmm_pyg.models import MODELS, ClosedForm, PromptMM
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.nn import CSRPair
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    StandardizeModalities,
)

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
    with pytest.raises(TypeError, match=r"'modality_x_dict' must be .*by keyword"):
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
    with pytest.raises(ValueError, match="'modality_x_dict' must have at least one"):
        models.VBPR.from_data(data)
    assert (
        models.LightGCN.from_data(data, embedding_dim=4).embeddings.embedding_dim == 4
    )


CLOSED = [name for name in MODELS if name not in TRAINED]


def x_dict_of(output):
    return output.x_dict if isinstance(output, TeacherOutput) else output


def make(name, split, seed=0):
    torch.manual_seed(seed)
    return MODELS[name].from_data(split, embedding_dim=4)


def batch_of(split):
    user, item = split.train[INTERACTS].edge_index[:, ::7]
    return models.base.Triplets(user, item, item.flip(0))


def sparse_of(edge_index, weight):
    """Destinations by sources, as PyG's transposed adjacency."""
    return torch.sparse_coo_tensor(edge_index.flip(0), weight, (40, 60)).coalesce()


EDGES = {
    'edge_index': lambda index, weight: (index, weight),
    'EdgeIndex': lambda index, weight: (
        torch_geometric.EdgeIndex(index, sparse_size=(60, 40)),
        weight,
    ),
    'torch.sparse_coo': lambda index, weight: (sparse_of(index, weight),),
    'torch.sparse_csr': lambda index, weight: (
        sparse_of(index, weight).to_sparse_csr(),
    ),
    'CSRPair': lambda index, weight: (
        CSRPair.from_edge_index(index, weight, size=(60, 40)),
    ),
    'SparseTensor': lambda index, weight: (
        torch_geometric.typing.SparseTensor(
            row=index[1], col=index[0], value=weight, sparse_sizes=(40, 60)
        ),
    ),
}


@pytest.mark.parametrize('kind', EDGES)
@pytest.mark.parametrize('name', TRAINED)
def test_the_edges_of_one_type_are_enough_in_every_form(name, kind, split):
    if kind == 'SparseTensor' and not torch_geometric.typing.WITH_TORCH_SPARSE:
        pytest.skip('requires torch-sparse')
    model = make(name, split).eval()
    expected = x_dict_of(model(normalized_adj_dict(split.train)))
    train = AddBipartiteNorm()(split.train)[INTERACTS]
    x_dict = x_dict_of(model(*EDGES[kind](train.edge_index, train.edge_weight)))
    for key, x in expected.items():
        torch.testing.assert_close(x_dict[key], x)


@pytest.mark.parametrize(
    'name', [n for n in TRAINED if n not in ('MatrixFactorization', 'VBPR')]
)
def test_edges_of_another_form_are_an_error(name, split):
    model = make(name, split)
    for edges in ([[0, 1], [1, 0]], split.train):
        with pytest.raises(TypeError, match=r"'adjacency' must be an edge_index"):
            model(edges)
    if name not in ('CLCRec', 'GRCN'):  # They read no weights.
        weight = torch.ones(split.train[INTERACTS].num_edges)
        edge_index_dict = {INTERACTS: split.train[INTERACTS].edge_index}
        with pytest.raises(TypeError, match="'edge_weight_dict' must be a dictionary"):
            model(edge_index_dict, weight)


@pytest.mark.parametrize('name', TRAINED)
def test_gradients_reach_every_parameter(name, split):
    model = make(name, split).train()
    losses = model.losses(model(normalized_adj_dict(split.train)), batch_of(split))
    sum(losses.values()).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert bool(p.grad.isfinite().all()), key
        assert bool((p.grad != 0).any()), key


@pytest.mark.parametrize('name', TRAINED)
def test_a_reset_draws_every_parameter_anew_from_the_seed(name, split):
    model, other = make(name, split), make(name, split)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(7.0)
    for m in (model, other):
        torch.manual_seed(3)
        m.reset_parameters()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    before = [p.clone() for p in model.parameters()]
    model.reset_parameters()
    pairs = zip(before, model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize('name', TRAINED)
def test_copies_and_pickles_after_a_call_compute_the_same(name, split):
    model = make(name, split).train()
    adj_dict = normalized_adj_dict(split.train)
    model(adj_dict)
    expected = x_dict_of(model.eval()(adj_dict))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        x_dict = x_dict_of(other.eval()(adj_dict))
        for key, x in expected.items():
            assert torch.equal(x_dict[key], x)
        shared = {p.data_ptr() for p in model.parameters()}
        assert not shared & {p.data_ptr() for p in other.parameters()}


@pytest.mark.parametrize('name', TRAINED)
def test_the_state_is_enough_and_holds_no_features(name, split):
    model, other = make(name, split).eval(), make(name, split, seed=5).eval()
    adj_dict = normalized_adj_dict(split.train)
    other.load_state_dict(model.state_dict())
    expected, x_dict = x_dict_of(model(adj_dict)), x_dict_of(other(adj_dict))
    for key, x in expected.items():
        assert torch.equal(x_dict[key], x)
    starts = {key for key in model.state_dict() if 'prompt' in key}
    parameters = {key for key, _ in model.named_parameters()}
    assert set(model.state_dict()) - starts <= parameters


@pytest.mark.parametrize('name', TRAINED)
def test_every_parameter_and_buffer_follows_to_another_device(name, split):
    model = make(name, split).to('meta')
    for x in (*model.parameters(), *model.buffers()):
        assert x.device.type == 'meta'


@pytest.mark.parametrize('name', MODELS)
def test_the_printed_form_begins_with_the_name(name, split):
    assert repr(make(name, split)).startswith(f'{name}(')


@pytest.mark.parametrize('name', CLOSED)
def test_closed_forms_fit_score_and_become_embeddings(name, split):
    model, edge_index = make(name, split), split.train[INTERACTS].edge_index
    users = torch.tensor([5, 0, 5])
    for call in (lambda: model.scores(users), model.as_output):
        with pytest.raises(RuntimeError, match=r"not fitted\. Call 'fit"):
            call()
    assert model.fit(edge_index) is model
    scores = model.scores(users)
    assert scores.shape == (3, 40)
    assert bool(scores.isfinite().all())
    assert torch.equal(scores[0], scores[2])
    repeated = torch.cat([edge_index, edge_index[:, :9]], dim=1)
    assert torch.equal(make(name, split).fit(repeated).scores(users), scores)
    for width, columns in ((None, 4), (3, 3)):
        output = model.as_output(width)
        extra = sum(x['item'].size(1) for x in output.modality_x_dict.values())
        for key, num in (('user', 60), ('item', 40)):
            assert output.x_dict[key].shape == (num, columns + extra)
    for bad in (torch.tensor([60]), torch.tensor([-1]), torch.tensor([[0]])):
        with pytest.raises(ValueError, match="'users'"):
            model.scores(bad)
    with pytest.raises(ValueError, match="'edge_index'"):
        model.fit(torch.tensor([[0], [40]]))


def test_only_raw_features_are_standardized(split):
    changed = StandardizeModalities()(split.train)
    changed['item'].x_image = 3 * changed['item'].x_image
    x_dict = modality_x_dict(changed)
    model = models.VBPR.from_data(changed, embedding_dim=4)
    assert torch.equal(model.features.feature_rows('image'), x_dict['image']['item'])
    changed['item'].x_new = torch.arange(80.0).view(40, 2)
    model = models.VBPR.from_data(changed, embedding_dim=4)
    assert model.features.feature_rows('new').mean().abs() < 1e-6
