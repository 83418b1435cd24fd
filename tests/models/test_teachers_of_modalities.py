"""What MMSSL, SMORE, PGL and PromptMMPlus have in common."""

import copy
from dataclasses import replace

import pytest
import torch

from promptmm_pyg import training
from promptmm_pyg.data import Split, modality_x_dict
from promptmm_pyg.distillation import distill
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.models.mmssl import MMSSL
from promptmm_pyg.models.pgl import PGL
from promptmm_pyg.models.promptmm_plus import PromptMMPlus
from promptmm_pyg.models.smore import SMORE
from promptmm_pyg.nn import csr_pair_dict
from promptmm_pyg.targets import TeacherOutput, soft_targets
from promptmm_pyg.training import TrainingConfig
from tests.models.setting import (
    NUM_NODES,
    USER_ITEM,
    edges,
    make,
    make_batch,
    make_features,
    one_row,
    weights,
)
from tests.training.setting import make_split, make_student

PLUS = {
    'item_graph_weight': 0.5,
    'alignment_weight': 0.1,
    'denoise': True,
    'edge_dropout': 0.5,
}
NEAR = {'num_neighbors': 3}
CASES = {
    'mmssl': (MMSSL, {'num_heads': 2}),
    'smore': (SMORE, NEAR),
    'pgl-local': (PGL, NEAR),
    'pgl-global': (PGL, {**NEAR, 'subgraph': 'global', 'rank': 2}),
    'plus': (PromptMMPlus, {**NEAR, **PLUS}),
}
# Attention over one view is one, whatever its weights are.
WITHOUT_GRADIENT = {('mmssl', 1): {'attention.query.weight', 'attention.key.weight'}}


def build(name, modalities=('audio', 'image', 'text'), **kwargs):
    cls, options = CASES[name]
    return make(cls, modalities, **{**options, **kwargs})


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.mark.parametrize('modalities', [('text',), ('audio', 'image', 'text')])
def test_gradients_reach_every_parameter(name, modalities):
    model = build(name, modalities).train()
    terms = model.losses(model(edges(), weights()), make_batch())
    assert set(terms) == set(model.loss_weights)
    weighted_sum(terms, model.loss_weights).backward()
    idle = WITHOUT_GRADIENT.get((name, len(modalities)), set())
    for key, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == (key not in idle), key


@pytest.mark.parametrize('modalities', [('text',), ('audio', 'image', 'text')])
def test_every_node_gets_finite_vectors_and_the_views_are_named(name, modalities):
    model = build(name, modalities).eval()
    out = model(edges(), weights())
    assert isinstance(out, TeacherOutput)
    width = 4 * (len(modalities) + 1) if name.startswith('pgl') else 4
    for x_dict, channels in [
        (out.x_dict, width),
        *((out.modality_x_dict[m], 4) for m in modalities),
    ]:
        assert {key: tuple(x.shape) for key, x in x_dict.items()} == {
            'user': (5, channels),
            'item': (7, channels),
        }
        assert all(bool(x.isfinite().all()) for x in x_dict.values())
    assert set(out.modality_x_dict) == set(modalities)
    assert out.x_dict['user'][4].abs().sum() > 0  # Isolated.


def test_eval_is_deterministic_and_its_input_untouched(name):
    model = build(name).eval()
    graph = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    before = dict(graph)
    first = model(graph)
    torch.testing.assert_close(model(graph), first, rtol=0, atol=0)
    torch.testing.assert_close(model(edges(), weights()), first)
    assert graph == before


def test_one_interaction_makes_a_batch(name):
    model = build(name).train()
    terms = model.losses(model(edges(), weights()), one_row(make_batch()))
    weighted_sum(terms, model.loss_weights).backward()
    assert all(bool(term.isfinite()) for term in terms.values())


def test_a_graph_without_edges_is_fine(name):
    none = {key: index[:, :0] for key, index in edges().items()}
    for mode in (True, False):
        out = build(name).train(mode)(none)
        assert all(bool(x.isfinite().all()) for x in out.x_dict.values())


def test_the_state_holds_parameters_alone_and_is_enough(name):
    model = build(name).eval()
    graph = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    out = model(graph)
    parameters = dict(model.named_parameters())
    assert set(model.state_dict()) == set(parameters)
    twin = build(name).eval()
    twin.reset_parameters()
    assert not torch.equal(twin(graph).x_dict['user'], out.x_dict['user'])
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(graph), out, rtol=0, atol=0)


def test_a_copy_is_a_model_of_its_own(name):
    model = build(name).train()
    graph = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    model(graph)  # What is remembered of a graph must not stand in the way.
    twin = copy.deepcopy(model).eval()
    torch.testing.assert_close(twin(graph), model.eval()(graph), rtol=0, atol=0)
    shared = {p.data_ptr() for p in model.parameters()}
    assert not shared & {p.data_ptr() for p in twin.parameters()}


def test_it_follows_a_change_of_precision(name):
    model = build(name).eval()
    expected = model(edges(), weights())
    out = model.double()(edges(), weights())
    assert out.x_dict['item'].dtype == torch.double
    torch.testing.assert_close(out.x_dict['item'].float(), expected.x_dict['item'])


def test_no_matrix_of_nodes_by_nodes_is_made(name):
    generator = torch.Generator().manual_seed(0)
    num_nodes = {'user': 53, 'item': 71}
    pairs = torch.stack(
        [torch.randint(num, (90,), generator=generator) for num in num_nodes.values()]
    )
    features = {'text': {'item': torch.randn(71, 5, generator=generator)}}
    cls, options = CASES[name]
    model = cls(
        num_nodes, features, edge_type=USER_ITEM, embedding_dim=4, **options
    ).train()
    graph = csr_pair_dict(
        {USER_ITEM: pairs, ('item', 'rev_interacts', 'user'): pairs.flip([0])},
        num_nodes_dict=num_nodes,
    )
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(
                tuple(x.shape)
                for x in (out if isinstance(out, tuple | list) else [out])
                if isinstance(x, torch.Tensor) and x.layout == torch.strided
            )
            return out

    with Watch():
        terms = model.losses(model(graph), make_batch())
        weighted_sum(terms, model.loss_weights).backward()
    assert (71, 4) in seen
    assert not {(53, 71), (71, 53), (53, 53), (71, 71), (124, 124)} & set(seen)


def test_it_trains_and_then_teaches(name):
    train, val, _ = make_split()
    cls, options = CASES[name]
    torch.manual_seed(0)
    features = {m: {'item': x['item']} for m, x in modality_x_dict(train).items()}
    teacher = cls(
        train.num_nodes_dict, features, edge_type=USER_ITEM, embedding_dim=8, **options
    )
    schedule = TrainingConfig(epochs=4, progress=False)
    history = training.train(
        teacher,
        Split(train, val, val),
        config=replace(schedule, learning_rate=0.01, batch_size=128),
    )
    assert history.records[-1]['loss'] < history.records[0]['loss']
    distilled = distill(
        make_student(train),
        teacher,
        Split(train, val, val),
        baseline=False,
        config=schedule,
    )
    assert set(distilled.targets.modality_x_dict) == set(features)
    targets = soft_targets(teacher, normalized_adj_dict(train))
    for x_dict in [targets.x_dict, *targets.modality_x_dict.values()]:
        assert all(bool(x.isfinite().all()) for x in x_dict.values())


@pytest.mark.parametrize(
    ('name', 'bad', 'match'),
    [
        ('mmssl', {'num_layers': 0}, "'num_layers' must be positive"),
        ('mmssl', {'num_heads': 3}, r"'num_heads' must divide the width 4 \(got 3"),
        ('mmssl', {'num_heads': 0}, "'num_heads' must be positive"),
        ('mmssl', {'fused_weight': -1.0}, "'fused_weight' must be zero or more"),
        ('mmssl', {'modality_weight': -1.0}, "'modality_weight' must be zero or"),
        ('mmssl', {'dropout': 1.0}, r"'dropout' must be in \[0, 1\)"),
        ('mmssl', {'temperature': 0.0}, "'temperature' must be positive"),
        ('smore', {'num_layers': 0}, "'num_layers' must be positive"),
        ('smore', {'num_item_layers': 0}, "'num_layers' must be positive"),
        ('smore', {'num_neighbors': 0}, "'num_neighbors' must be positive"),
        ('smore', {'temperature': 0.0}, "'temperature' must be positive"),
        ('pgl-local', {'num_layers': 0}, "'num_layers' must be positive"),
        ('pgl-local', {'subgraph': 'both'}, "'subgraph' must be one of.*'both'"),
        ('pgl-local', {'keep_ratio': 0.0}, r"'keep_ratio' must be in \(0, 1\]"),
        ('pgl-local', {'keep_ratio': 1.1}, r"'keep_ratio' must .*\(got 1.1\)"),
        ('pgl-global', {'rank': 0}, "'rank' must be positive"),
        ('pgl-local', {'mask_rate': 1.0}, r"'mask_rate' must be in \[0, 1\)"),
        ('pgl-local', {'temperature': 0.0}, "'temperature' must be positive"),
        ('plus', {'item_graph_weight': -1.0}, "'item_graph_weight' must be zero"),
        ('plus', {'alignment_weight': -1.0}, "'alignment_weight' must be zero or"),
        ('plus', {'temperature': 0.0}, "'temperature' must be positive"),
        ('plus', {'edge_dropout': 1.0}, r"'edge_dropout' must be in \[0, 1\)"),
        ('plus', {'num_neighbors': 0}, "'num_neighbors' must be positive"),
    ],
)
def test_errors_of_options(name, bad, match):
    with pytest.raises(ValueError, match=match):
        build(name, **bad)


def test_errors_of_sides_and_features(name):
    cls, options = CASES[name]
    with pytest.raises(ValueError, match=r"'edge_type' must .*\('item', 'is', 'item"):
        cls(NUM_NODES, make_features(), edge_type=('item', 'is', 'item'), **options)
    with pytest.raises(ValueError, match=r'modality_x_dict.*\[7, F\]'):
        cls(
            NUM_NODES,
            {'text': {'item': torch.ones(6, 2)}},
            edge_type=USER_ITEM,
            **options,
        )
    with pytest.raises(ValueError, match=r"'edge_index_dict' must have .*interacts"):
        build(name).train()({('user', 'visits', 'item'): edges()[USER_ITEM]})


@pytest.mark.parametrize('name', [name for name in CASES if name != 'plus'])
def test_errors_of_features_for_models_of_items(name):
    cls, options = CASES[name]
    with pytest.raises(ValueError, match=r"'modality_x_dict' must have at least one"):
        cls(NUM_NODES, {}, edge_type=USER_ITEM, **options)
    with pytest.raises(ValueError, match=r"features of 'item' .*\['user'\]"):
        cls(
            NUM_NODES,
            {'text': {'user': torch.ones(5, 2)}},
            edge_type=USER_ITEM,
            **options,
        )


def test_repr_names_modalities(name):
    shown = str(build(name))
    assert shown.startswith(CASES[name][0].__name__)
    assert all(repr(modality) in shown for modality in ('audio', 'image', 'text'))
