"""What holds for every model of ``MODELS``, also for new ones."""

import copy
import inspect
import math
import pickle

import pytest
import torch
import torch_geometric
from torch.utils._python_dispatch import TorchDispatchMode

from promptmm_pyg import models, training
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.data.schema import modality_x_dict
from promptmm_pyg.distillation import distill, promptmm_losses
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models import MODELS, ClosedForm, MatrixFactorization, PromptMM
from promptmm_pyg.models.base import Triplets
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.nn import CSRPair, csr_pair_dict
from promptmm_pyg.targets import TeacherOutput, soft_targets
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    StandardizeModalities,
)
from tests.models.setting import BATCH, ONE, make, make_features, operators
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, USER_ITEM, edges, weights

CLOSED = [name for name, cls in MODELS.items() if issubclass(cls, ClosedForm)]
TRAINED = [name for name in MODELS if name not in CLOSED]
# Further options of a model that take another path through its code.
VARIANTS = {
    'MMGCF-alpha': {'fusion': 'concat', 'weighting': 'alpha'},
    'MMGCF-normalized': {'weighting': 'normalized'},
    'PGL-global': {'subgraph': 'global', 'rank': 2},
    'PromptMM-tokens': {'missing': 'token', 'modality_dropout': 0.3},
    'PromptMMPlus-options': {
        'item_graph_weight': 0.5,
        'alignment_weight': 0.1,
        'denoise': True,
        'edge_dropout': 0.5,
    },
    'GRCN-routings': {'num_routings': 3},
}
CASES = [*TRAINED, *VARIANTS]
NO_IDS = ('PGL', 'DualGNN', 'DRAGON')  # Without ids of items.
CONTENT = [
    case
    for case in CASES
    if case.split('-')[0] in TRAINED
    and issubclass(MODELS[case.split('-')[0]], models.base.ContentRecommender)
]
# Parameters without a gradient where there is one modality: its softmax is one.
IDLE = {
    'LATTICE': {'modality_logits'},
    'MGCN': {'query.0.bias', 'query.0.weight', 'query.2.weight'}
    | {f'preferences.0.{x}' for x in ('bias', 'weight')},
    'MMSSL': {'attention.key.weight', 'attention.query.weight'},
}
QUICK = TrainingConfig(epochs=2, patience=5, progress=False)


def class_of(case):
    return MODELS[case.split('-')[0]]


def build(case, *modalities, seed=0, **kwargs):
    options = {**VARIANTS.get(case, {}), **kwargs}
    return make(class_of(case), *modalities, seed=seed, **options)


def from_split(name, split, seed=0):
    torch.manual_seed(seed)
    return MODELS[name].from_data(split, embedding_dim=4)


def x_dict_of(output):
    return output.x_dict if isinstance(output, TeacherOutput) else output


def views_of(output):
    return output.modality_x_dict if isinstance(output, TeacherOutput) else {}


def all_finite(tensors):
    return all(bool(x.isfinite().all()) for x in tensors)


def gradients(model):
    return [p.grad for p in model.parameters() if p.grad is not None]


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


# Options, and a value outside of the range of each.
BAD = {
    **dict.fromkeys(
        ('embedding_dim', 'num_layers', 'num_item_layers', 'num_neighbors', 'rank'), 0
    ),
    **dict.fromkeys(('hidden_channels', 'num_heads', 'refresh_interval', 'k'), 0),
    **dict.fromkeys(('num_negatives', 'image_channels'), 0),
    **dict.fromkeys(('temperature', 'init_std', 'keep_ratio', 'l2'), 0.0),
    **dict.fromkeys(('dropout', 'mask_rate', 'edge_dropout'), 1.0),
    **dict.fromkeys(('prune_ratio', 'frozen_weight', 'modality_dropout'), 1.0),
    **dict.fromkeys(('fused_weight', 'modality_weight', 'item_graph_weight'), -1.0),
    **dict.fromkeys(('alignment_weight', 'prompt_id_weight', 'self_loop_weight'), -1.0),
    **dict.fromkeys(('negative_slope', 'num_routings', 'shrink', 'popularity'), -1.0),
    **dict.fromkeys(('num_user_neighbors', 'num_hyperedges', 'num_hyper_layers'), 0),
    **dict.fromkeys(('num_modality_layers', 'similarity_exponent'), 0),
    **dict.fromkeys(('global_weight', 'degree_exponent'), -1.0),
    **dict.fromkeys(('hybrid_rate',), 1.1),
    **dict.fromkeys(('subgraph', 'missing'), 'other'),
    **dict.fromkeys(('fusion', 'weighting'), 'other'),
}


@pytest.mark.parametrize('name', MODELS)
def test_options_out_of_range_are_errors(name):
    options = set(inspect.signature(MODELS[name]).parameters) & set(BAD)
    assert options
    variant = VARIANTS.get(f'{name}-options', {})
    for option in options:
        # Layers of an item graph are those of a part of the model.
        named = option.replace('_item', '(_item)?')
        with pytest.raises(ValueError, match=f"'{named}' must"):
            make(MODELS[name], **{**variant, option: BAD[option]})


@pytest.mark.parametrize('name', MODELS)
def test_a_width_by_position_is_no_features(name):
    with pytest.raises(TypeError, match=r"'modality_x_dict' must be .*by keyword"):
        MODELS[name]({'user': 3, 'item': 4}, 32)


@pytest.mark.parametrize('name', MODELS)
def test_errors_of_edge_types_and_features(name):
    cls, x_dict = MODELS[name], make_features()
    for edge_type in (('user', 'likes', 'song'), ('item', 'is', 'item')):
        if not (getattr(cls, 'any_graph', False) and edge_type[2] == 'song'):
            with pytest.raises(ValueError, match="'edge_type' must connect two differ"):
                cls(NUM_NODES, x_dict, edge_type=edge_type)
    with pytest.raises(ValueError, match="'edge_type' must be a triple"):
        cls(NUM_NODES, x_dict, edge_type=('user', 'item'))
    if cls.reads_features:
        with pytest.raises(ValueError, match=r'must have one row per node.*\[7, F\]'):
            make(cls, modality_x_dict={'text': {'item': torch.ones(6, 2)}})


@pytest.mark.parametrize('case', CONTENT)
def test_errors_of_features_for_models_of_items(case):
    with pytest.raises(ValueError, match="'modality_x_dict' must have at least one"):
        build(case, modality_x_dict={})
    for node_types in (('user',), ('item', 'user')):
        x_dict = {key: torch.ones(NUM_NODES[key], 2) for key in node_types}
        with pytest.raises(ValueError, match=r"features of 'item' only .*'user'"):
            build(case, modality_x_dict={'text': x_dict})


@pytest.mark.parametrize('name', TRAINED)
def test_from_data_builds_a_model_whose_losses_have_weights(name, split):
    torch.manual_seed(0)
    model = MODELS[name].from_data(split, embedding_dim=8)
    output = model(normalized_adj_dict(split.train))
    sizes = {key: x.size(0) for key, x in x_dict_of(output).items()}
    assert sizes == {'user': 60, 'item': 40}
    user, item = split.train[INTERACTS].edge_index[:, :8]
    losses = model.losses(output, Triplets(user, item, item.flip(0)))
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
    before = {k: v['item'].clone() for k, v in modality_x_dict(split.train).items()}
    raw = PromptMM.from_data(split, embedding_dim=4)
    for name, x_dict in modality_x_dict(train).items():
        for key, x in x_dict.items():
            assert torch.equal(ready.feature_rows(f'{name}__{key}'), x)
            assert torch.equal(raw.feature_rows(f'{name}__{key}'), x)
    # The graph of the caller is unchanged.
    assert 'prompt_start' not in split.train['item']
    for name, x in before.items():
        assert torch.equal(modality_x_dict(split.train)[name]['item'], x)


def test_only_raw_features_are_standardized(split):
    changed = StandardizeModalities()(split.train)
    changed['item'].x_image = 3 * changed['item'].x_image
    x_dict = modality_x_dict(changed)
    model = models.VBPR.from_data(changed, embedding_dim=4)
    assert torch.equal(model.features.feature_rows('image'), x_dict['image']['item'])
    changed['item'].x_new = torch.arange(80.0).view(40, 2)
    model = models.VBPR.from_data(changed, embedding_dim=4)
    assert model.features.feature_rows('new').mean().abs() < 1e-6


def test_a_model_of_content_requires_features():
    data = make_synthetic_dataset(30, 20)
    for key in [key for key in data['item'] if key.startswith('x_')]:
        del data['item'][key]
    with pytest.raises(ValueError, match="'modality_x_dict' must have at least one"):
        models.VBPR.from_data(data)
    model = models.LightGCN.from_data(data, embedding_dim=4)
    assert model.embeddings.embedding_dim == 4


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
    model = from_split(name, split).eval()
    expected = x_dict_of(model(normalized_adj_dict(split.train)))
    train = AddBipartiteNorm()(split.train)[INTERACTS]
    x_dict = x_dict_of(model(*EDGES[kind](train.edge_index, train.edge_weight)))
    for key, x in expected.items():
        torch.testing.assert_close(x_dict[key], x)


@pytest.mark.parametrize('case', CASES)
def test_edges_and_weights_are_read_as_declared(case):
    """``reads_edges`` and ``reads_weights`` are what the embeddings depend on."""
    cls, model = class_of(case), build(case).eval()
    expected = x_dict_of(model(operators()))

    def same(index, weight):
        x_dict = x_dict_of(
            model(
                {USER_ITEM: index, ('item', 'rev_interacts', 'user'): index.flip([0])},
                {USER_ITEM: weight, ('item', 'rev_interacts', 'user'): weight},
            )
        )
        return all(torch.allclose(x_dict[key], x) for key, x in expected.items())

    index, weight = EDGE_INDEX.clone(), weights()[USER_ITEM]
    assert same(index, weight)
    assert same(index, 2 * weight) == (not (cls.reads_edges and cls.reads_weights))
    index[1, 0] = 6
    assert same(index, weight) == (not cls.reads_edges)


@pytest.mark.parametrize('case', [case for case in CASES if class_of(case).reads_edges])
def test_errors_of_edges(case):
    model = build(case).train()
    data = make_synthetic_dataset(30, 20)
    for wrong in ([[0, 1], [1, 0]], data):
        with pytest.raises(TypeError, match="'adjacency' must be an edge_index"):
            model(wrong)
    if class_of(case).reads_weights:
        with pytest.raises(TypeError, match="'edge_weight_dict' must be a dictionary"):
            model({USER_ITEM: EDGE_INDEX}, torch.ones(6))
    with pytest.raises(ValueError, match="'edge_index_dict' must have"):
        model({('item', 'x', 'user'): EDGE_INDEX.flip([0])})


@pytest.mark.parametrize('case', CASES)
def test_without_reverse_edges_they_are_the_transpose_or_an_error(case):
    model, error = build(case).eval(), None
    try:
        x_dict = x_dict_of(model({USER_ITEM: EDGE_INDEX}))
    except ValueError as raised:
        error = str(raised)
    if error is None:
        torch.testing.assert_close(x_dict, x_dict_of(model(edges())))
    else:
        assert 'Add reverse edges' in error or 'its reverse' in error


@pytest.mark.parametrize('modalities', [('text',), ('audio', 'image', 'text')])
@pytest.mark.parametrize('case', CASES)
def test_every_node_gets_finite_vectors_and_the_views_are_named(case, modalities):
    output = build(case, *modalities).eval()(operators())
    cls, views = class_of(case), views_of(output)
    named = {'CLCRec': ['content']}.get(cls.__name__, list(modalities))
    assert list(views) == (named if cls.reads_features else [])
    for x_dict in (x_dict_of(output), *views.values()):
        assert {key: x.size(0) for key, x in x_dict.items()} == NUM_NODES
        assert x_dict['user'].size(1) == x_dict['item'].size(1)
        assert all_finite(x_dict.values())
    if case != 'LayerGCN':  # It leaves out the ids.
        assert x_dict_of(output)['user'][4].abs().sum() > 0  # Isolated.


@pytest.mark.parametrize('case', CASES)
def test_eval_is_deterministic_and_leaves_its_input_unchanged(case):
    model, adj_dict = build(case).eval(), operators()
    state, before = torch.get_rng_state(), dict(adj_dict)
    first, second = model(adj_dict), model(adj_dict)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(model(edges(), weights()), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert adj_dict == before


@pytest.mark.parametrize('case', CASES)
def test_the_order_of_edges_does_not_matter(case):
    model, order = build(case).eval(), torch.tensor([5, 2, 0, 4, 1, 3])
    out = model(
        {key: index[:, order] for key, index in edges().items()},
        {key: weight[order] for key, weight in weights().items()},
    )
    torch.testing.assert_close(x_dict_of(out), x_dict_of(model(operators())))


@pytest.mark.parametrize('case', CASES)
def test_node_types_may_have_any_name(case):
    torch.manual_seed(0)
    cls, edge_type = class_of(case), ('reader', 'borrows', 'book')
    x_dict = {m: {'book': x['item']} for m, x in make_features().items()}
    num_nodes = {'reader': 5, 'book': 7}
    options = {'embedding_dim': 4, **VARIANTS.get(case, {})}
    model = cls(num_nodes, x_dict, edge_type=edge_type, **options).eval()
    expected, state = build(case).eval(), {}
    for name, value in expected.state_dict().items():
        parts = [{'user': 'reader', 'item': 'book'}.get(x, x) for x in name.split('.')]
        state['.'.join(parts).replace('__item', '__book')] = value
    model.load_state_dict(state)
    weight, reverse = weights()[USER_ITEM], ('book', 'lent_to', 'reader')
    out = model(
        {edge_type: EDGE_INDEX, reverse: EDGE_INDEX.flip([0])},
        {edge_type: weight, reverse: weight},
    )
    reference = x_dict_of(expected(operators()))
    torch.testing.assert_close(x_dict_of(out)['reader'], reference['user'])
    torch.testing.assert_close(x_dict_of(out)['book'], reference['item'])


@pytest.mark.parametrize('case', CONTENT)
def test_other_node_types_are_ignored(case):
    options = {'edge_type': USER_ITEM, 'embedding_dim': 4, **VARIANTS.get(case, {})}
    model = class_of(case)({**NUM_NODES, 'shelf': 2}, make_features(), **options)
    if case in ('BM3', 'LightGCNM'):
        assert 'shelf' in model.embeddings.tables
    else:
        assert x_dict_of(model(operators())).keys() == NUM_NODES.keys()


@pytest.mark.parametrize('case', CONTENT)
def test_a_modality_may_have_the_name_of_a_method(case):
    output = build(case, 'type').eval()(operators())
    assert all_finite(output.x_dict.values())


@pytest.mark.parametrize('case', CASES)
def test_a_graph_without_edges_has_finite_embeddings(case):
    empty = {key: index[:, :0] for key, index in edges().items()}
    for mode in (True, False):
        assert all_finite(x_dict_of(build(case).train(mode)(empty)).values())


@pytest.mark.parametrize('case', CASES)
def test_it_follows_a_change_of_precision(case):
    model = build(case).eval()
    expected = x_dict_of(model(edges(), weights()))['item'].detach().clone()
    x = x_dict_of(model.double()(edges(), weights()))['item']
    assert x.dtype == torch.double
    torch.testing.assert_close(x.float(), expected)


@pytest.mark.parametrize('modalities', [('text',), ('audio', 'image', 'text')])
@pytest.mark.parametrize('case', CASES)
def test_gradients_reach_every_parameter(case, modalities):
    model = build(case, *modalities).train()
    losses = model.losses(model(operators()), BATCH)
    assert set(losses) == set(model.loss_weights)
    sum(losses.values()).backward()
    idle = {
        name
        for name, p in model.named_parameters()
        if p.grad is None or bool((p.grad.abs() < 1e-9).all())
    }
    if class_of(case) is models.MMGCF:  # A bias of all items changes no ranking.
        idle = {name for name in idle if not name.endswith('bias')}
    expected = IDLE.get(case, set()) if len(modalities) == 1 else set()
    if case == 'PromptMM-tokens':
        expected = {name for name, _ in model.named_parameters() if 'token' in name}
        idle = expected & idle | idle - expected
        expected = idle & expected
    assert idle == expected
    assert all_finite(gradients(model))


@pytest.mark.parametrize('case', CASES)
def test_one_interaction_makes_a_batch(case):
    model = build(case).train()
    losses = model.losses(model(operators()), ONE)
    weighted_sum(losses, model.loss_weights).backward()
    assert all(x.shape == () and x.isfinite() for x in losses.values())
    assert gradients(model)
    assert all_finite(gradients(model))


@pytest.mark.parametrize('case', [c for c in CASES if class_of(c).reads_features])
def test_absent_features_of_an_item_leave_everything_finite(case):
    x_dict = make_features()
    x_dict['image']['item'][3] = 0.0
    x_dict['text']['item'][:] = 0.0
    model = build(case, modality_x_dict=x_dict).train()
    output = model(operators())
    sum(model.losses(output, BATCH).values()).backward()
    assert all_finite(output.x_dict.values())
    assert all_finite(gradients(model))


@pytest.mark.parametrize('case', CASES)
def test_a_reset_redraws_every_parameter_from_the_seed(case):
    model, other = build(case), build(case)
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


@pytest.mark.parametrize('case', CASES)
def test_copies_and_pickles_after_a_call_compute_the_same(case):
    model, adj_dict = build(case).train(), operators()
    model(adj_dict)
    copies = [copy.deepcopy(model)]
    expected = model.eval()(adj_dict)
    copies.append(pickle.loads(pickle.dumps(model)))
    for other in copies:
        torch.testing.assert_close(other.eval()(adj_dict), expected, rtol=0, atol=0)
        shared = {p.data_ptr() for p in model.parameters()}
        assert not shared & {p.data_ptr() for p in other.parameters()}
        assert all_finite(other.losses(other(adj_dict), BATCH).values())


@pytest.mark.parametrize('case', CASES)
def test_the_state_holds_parameters_alone_and_is_enough(case):
    model, other = build(case).eval(), build(case, seed=5).eval()
    state = model.state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}
    expected = x_dict_of(model(operators()))
    assert not torch.equal(x_dict_of(other(operators()))['user'], expected['user'])
    other.load_state_dict(state)
    torch.testing.assert_close(x_dict_of(other(operators())), expected)


@pytest.mark.parametrize('name', TRAINED)
def test_every_parameter_and_buffer_follows_to_another_device(name, split):
    model = from_split(name, split).to('meta')
    for x in (*model.parameters(), *model.buffers()):
        assert x.device.type == 'meta'


@pytest.mark.parametrize('name', MODELS)
def test_the_printed_form_names_the_model_and_its_modalities(name, split):
    model = from_split(name, split)
    shown = repr(model)
    assert shown.startswith(f'{name}(')
    if MODELS[name].reads_features:
        assert all(repr(m) in shown for m in ('audio', 'image', 'text'))
    if name in TRAINED and name != 'PromptMMPlus':
        assert 'NodeEmbeddings(user=60, item=40' in shown or name in NO_IDS
        printed = {x: getattr(model, x) for x in MODELS[name].printed}
        assert all(f', {key}={value!r}' in shown for key, value in printed.items())


class Largest(TorchDispatchMode):
    """The sizes of all dense tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor) and x.layout == torch.strided:
                self.sizes.add(tuple(x.shape))
        return out


@pytest.mark.parametrize('case', CASES)
def test_no_matrix_of_all_pairs_is_computed(case):
    # Neighbors are searched in blocks of 1,024 rows: fewer than all.
    num_nodes = {'user': 2500, 'item': 3000}
    g = torch.Generator().manual_seed(0)
    edge_index = torch.stack(
        [torch.randint(n, (4000,), generator=g) for n in num_nodes.values()]
    )
    adj_dict = csr_pair_dict(
        {USER_ITEM: edge_index, ('item', 'rev', 'user'): edge_index.flip([0])},
        num_nodes_dict=num_nodes,
    )
    options = {'embedding_dim': 4, **VARIANTS.get(case, {})}
    with Largest() as watch:
        x_dict = make_features('audio', num=3000)
        model = class_of(case)(num_nodes, x_dict, edge_type=USER_ITEM, **options)
        sum(model.losses(model.train()(adj_dict), BATCH).values()).backward()
    assert (3000, 4) in watch.sizes
    assert max(map(math.prod, watch.sizes)) <= 1024 * 3000


@pytest.mark.parametrize('name', TRAINED)
def test_it_trains_and_a_resumed_run_is_the_same(name, split, tmp_path):
    def run(folder, epochs, resume=False):
        model = from_split(name, split)
        config = TrainingConfig(
            epochs=epochs,
            patience=99,
            validate_every=1,
            run_dir=tmp_path / folder,
            resume=resume,
            progress=False,
            learning_rate=0.01,
            batch_size=128,
        )
        return model, training.train(model, split, config=config)

    straight, history = run('a', 4)
    run('b', 2)
    resumed, _ = run('b', 4, resume=True)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(history.records[0]['losses']) == set(straight.loss_weights)
    assert history.records[-1]['loss'] < history.records[0]['loss']


@pytest.mark.parametrize('name', TRAINED)
def test_it_is_a_teacher(name, split):
    teacher = from_split(name, split)
    if not isinstance(teacher(normalized_adj_dict(split.train)), TeacherOutput):
        pytest.skip('a student')
    targets = soft_targets(teacher, normalized_adj_dict(split.train))
    for x_dict in (targets.x_dict, *targets.modality_x_dict.values()):
        assert all_finite(x_dict.values())
        assert not any(x.requires_grad for x in x_dict.values())
    for loss in promptmm_losses():
        loss.setup(targets, width=3)
    student = MatrixFactorization({'user': 60, 'item': 40}, embedding_dim=3)
    result = distill(student, teacher, split, baseline=False, config=QUICK)
    assert set(result.targets.modality_x_dict) == set(targets.modality_x_dict)


@pytest.mark.parametrize('name', CLOSED)
def test_closed_forms_fit_score_and_become_embeddings(name, split):
    model, edge_index = from_split(name, split), split.train[INTERACTS].edge_index
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
    assert torch.equal(from_split(name, split).fit(repeated).scores(users), scores)
    for width, columns in ((None, 4), (3, 3)):
        output = model.as_output(width)
        extra = sum(x['item'].size(1) for x in output.modality_x_dict.values())
        for key, num in (('user', 60), ('item', 40)):
            assert output.x_dict[key].shape == (num, columns + extra)
    if name != 'Popularity':
        with pytest.raises(ValueError, match="'width' must be at most 40"):
            model.as_output(41)
    for bad in (torch.tensor([60]), torch.tensor([-1]), torch.tensor([[0]])):
        with pytest.raises(ValueError, match="'users'"):
            model.scores(bad)
    with pytest.raises(ValueError, match="'edge_index'"):
        model.fit(torch.tensor([[0], [40]]))
