"""Models at their defaults against numbers of published implementations.

``models.npz`` holds inputs, parameters and outputs; it is read from
``PROMPTMM_GOLDEN``, or from ``golden`` beside ``PROMPTMM_DATA``.
"""

import os
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import torch

from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models import MODELS
from promptmm_pyg.models.base import unsquared_norm
from tests.nn.graphs import USER_ITEM

CLOSE = {'rtol': 1e-5, 'atol': 1e-6}
SIZES = {'user': 40, 'item': 30}


def folder():
    if 'PROMPTMM_GOLDEN' in os.environ:
        return Path(os.environ['PROMPTMM_GOLDEN'])
    return Path(os.environ.get('PROMPTMM_DATA', 'data')).parent / 'golden'


@pytest.fixture(scope='module')
def arrays():
    path = folder() / 'models.npz'
    if not path.is_file():
        pytest.skip(f'{path} does not exist (PROMPTMM_GOLDEN)')
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def linear(ours, theirs):
    return {f'{ours}.{part}': f'{theirs}.{part}' for part in ('weight', 'bias')}


def lins(pairs):
    out = {}
    for ours, theirs in pairs.items():
        out |= linear(ours, theirs)
    return out


IDS = {
    'embeddings.tables.user': 'user_embedding.weight',
    'embeddings.tables.item': 'item_id_embedding.weight',
}
PROJECTIONS = lins(
    {'features.lins.lin_image': 'image_trs', 'features.lins.lin_text': 'text_trs'}
)


def joint(name):
    """Both tables in one array, users above items."""
    return {
        'embeddings.tables.user': (name, slice(0, 40)),
        'embeddings.tables.item': (name, slice(40, 70)),
    }


def mmgcn():
    out = joint('id_embedding') | linear('features.lins.lin_image', 'v_gcn.MLP')
    for modality, gcn in (('image', 'v_gcn'), ('text', 't_gcn')):
        out[f'preferences.user_{modality}.tables.user'] = f'{gcn}.preference'
        for layer in range(3):
            ours, n = f'convs.conv_{modality}.{layer}', layer + 1
            out[f'{ours}.neighbor_lin.weight'] = (f'{gcn}.conv_embed_{n}.weight', 'T')
            out |= linear(f'{ours}.self_lin', f'{gcn}.linear_layer{n}')
            out |= linear(f'{ours}.out_lin', f'{gcn}.g_layer{n}')
    return out


class Case(NamedTuple):
    """How a published implementation is mapped to a model."""

    parameters: dict
    """The published name of each of our parameters; with a slice or a transpose."""
    losses: dict
    """The published losses whose sum is one of ours."""
    options: dict = MappingProxyType({'num_neighbors': 5})
    """All that differs from the defaults: the golden numbers have 5 neighbors."""


def lgmrec():
    out = dict(IDS)
    for modality, hyper in (('image', 'v_hyper'), ('text', 't_hyper')):
        out[f'features.lins.lin_{modality}.weight'] = (f'item_{modality}_trs', 'T')
        out[f'hyperedges.lins.lin_{modality}.weight'] = (hyper, 'T')
    return out


def dual_gnn(*mixes):
    out = {
        f'{ours}_mix': (theirs, (slice(None), slice(None), 0)) for ours, theirs in mixes
    }
    for number, (modality, key) in enumerate((('image', 'v'), ('text', 't'))):
        out[f'preferences.tables.user_{modality}'] = f'{key}_preference'
        out |= linear(f'features.lins.lin_{modality}', f'{key}_gcn.MLP')
        out |= linear(f'lins.{number}', f'{key}_gcn.MLP_1')
    return out


def mmgcf(fusion, weighting):
    layers = {}
    if fusion == 'concat':
        theirs = ('mm', 'id_mm') if weighting == 'equal' else ('all',)
        layers = {f'lins.{i}': f'{x}_concat_layer' for i, x in enumerate(theirs)}
    gate = {'gate': 'mm_alpha'} if weighting == 'alpha' else {}
    return Case(
        IDS | PROJECTIONS | lins(layers) | gate,
        {'bpr': ['bpr'], 'l2': ['reg_unweighted']},
        {'fusion': fusion, 'weighting': weighting},
    )


REGULARIZED = ['reg_image_preference', 'reg_text_preference', 'reg_user_weight']
CASES = {
    'LayerGCN': Case(
        {
            'embeddings.tables.user': 'user_embeddings',
            'embeddings.tables.item': 'item_embeddings',
        },
        {'bpr': ['bpr_sum'], 'l2': ['reg_unweighted']},
        {},
    ),
    'DualGNN': Case(
        dual_gnn(('user', 'weight_u'), ('item', 'weight_i')),
        {'bpr': ['bpr_log2'], 'l2': [*REGULARIZED, 'reg_item_weight']},
        {'embedding_dim': 64},
    ),
    'DRAGON': Case(
        dual_gnn(('user', 'weight_u')),
        {'bpr': ['bpr_log2'], 'l2': REGULARIZED},
        {'embedding_dim': 64, 'num_neighbors': 5},
    ),
    'LGMRec': Case(
        lgmrec(),
        {
            'bpr': ['bpr'],
            'contrast': ['contrast_user', 'contrast_item'],
            'l2': ['reg_unweighted'],
        },
        {},
    ),
    **{
        f'MMGCF_{fusion}_{weighting}': mmgcf(fusion, weighting)
        for fusion in ('mean', 'sum', 'concat')
        for weighting in ('equal', 'alpha', 'normalized')
    },
    'LightGCN': Case(
        {
            'embeddings.tables.user': 'embedding_dict.user_emb',
            'embeddings.tables.item': 'embedding_dict.item_emb',
        },
        {'bpr': ['bpr']},
        {},
    ),
    'BM3': Case(
        IDS | PROJECTIONS | linear('predictor', 'predictor'),
        {
            'reconstruction': ['user_item', 'item_user'],
            'alignment': ['text_item', 'image_item'],
            'masked': ['text_text', 'image_image'],
            'l2': ['reg_unweighted'],
        },
        {},
    ),
    'FREEDOM': Case(
        IDS
        | {  # Their biases have no effect.
            ours: theirs
            for ours, theirs in PROJECTIONS.items()
            if ours.endswith('weight')
        },
        {'bpr': ['bpr'], 'modality_bpr': ['bpr_text', 'bpr_image']},
    ),
    'MGCN': Case(
        IDS
        | PROJECTIONS
        | lins(
            {
                'purifiers.0': 'gate_v.0',
                'purifiers.1': 'gate_t.0',
                'preferences.0': 'gate_image_prefer.0',
                'preferences.1': 'gate_text_prefer.0',
                'query.0': 'query_common.0',
            }
        )
        | {'query.2.weight': 'query_common.2.weight'},
        {
            'bpr': ['bpr'],
            'l2': ['reg_unweighted'],
            'contrast': ['contrast_item', 'contrast_user'],
        },
    ),
    'SMORE': Case(
        IDS
        | PROJECTIONS
        | lins(
            {
                **{f'gates.{i}': f'gate_{x}.0' for i, x in enumerate('vtf')},
                'preferences.0': 'gate_image_prefer.0',
                'preferences.1': 'gate_text_prefer.0',
                'preferences.2': 'gate_fusion_prefer.0',
                'shares.0.0': 'query_v.0',
                'shares.1.0': 'query_t.0',
            }
        )
        | {
            'shares.0.2.weight': 'query_v.2.weight',
            'shares.1.2.weight': 'query_t.2.weight',
            'fusion.filters.filter_image': ('image_complex_weight', 0),
            'fusion.filters.filter_text': ('text_complex_weight', 0),
            'fusion.fusion_filter': ('fusion_complex_weight', 0),
        },
        {
            'bpr': ['bpr'],
            'l2': ['reg_unweighted'],
            'contrast': ['contrast_item', 'contrast_user'],
        },
    ),
    'LATTICE': Case(
        IDS | PROJECTIONS | {'modality_logits': 'modal_weight'},
        {'bpr': ['bpr'], 'l2': ['reg_unweighted']},
    ),
    'GRCN': Case(
        joint('id_gcn.id_embedding')
        | {
            'prototypes.tables.user_image': 'v_gcn.preference',
            'prototypes.tables.user_text': 't_gcn.preference',
            'user_confidence': ('model_specific_conf', slice(0, 40)),
            'item_confidence': ('model_specific_conf', slice(40, 70)),
        }
        | lins(
            {
                'features.lins.lin_image': 'v_gcn.MLP',
                'features.lins.lin_text': 't_gcn.MLP',
            }
        ),
        {
            'bpr': ['bpr'],
            'l2': [
                'reg_id',
                'reg_image_preference_all',
                'reg_image_preference_batch',
                'reg_text_preference_batch',
            ],
        },
        {},
    ),
    'MMGCN': Case(
        mmgcn(), {'bpr': ['bpr'], 'l2': ['reg_id', 'reg_image_preference']}, {}
    ),
    'SLMRec': Case(
        {
            'embeddings.tables.user': 'embedding_user.weight',
            'embeddings.tables.item': 'embedding_item.weight',
        }
        | lins(
            {
                'features.lins.lin_image': 'v_dense',
                'features.lins.lin_text': 't_dense',
                'fusions.0': 'embedding_user_after_GCN',
                'fusions.1': 'embedding_item_after_GCN',
                'chain.to_image': 'g_i_iv',
                'chain.to_audio': 'g_iv_iva',
                'chain.to_text': 'g_iva_ivat',
            }
        )
        | {  # Their biases have no effect.
            'heads.to_image.weight': 'g_v_iv.weight',
            'heads.to_text.weight': 'g_t_ivat.weight',
        },
        {'infonce': ['infonce'], 'alignment': ['ssl_image', 'ssl_text']},
        {},
    ),
    'PGL': Case(
        PROJECTIONS
        | {
            'preferences.tables.user_image': 'user_image.weight',
            'preferences.tables.user_text': 'user_text.weight',
        },
        {'bpr': ['bpr'], 'contrast': ['contrast_unweighted']},
        {'num_neighbors': 5, 'mask_rate': 0.0},
    ),
}


def value_of(arrays, name, source):
    source, *part = source if isinstance(source, tuple) else (source,)
    x = torch.from_numpy(arrays[f'{name}/param/{source}'].copy())
    for index in part:
        x = x.t() if index == 'T' else x[index]
    return x


def graph_of(matrix):
    """The edges and weights of a dense operator, users then items."""
    block = torch.from_numpy(matrix[:40, 40:].copy())
    edge_index = block.nonzero().t()
    return edge_index, block[tuple(edge_index)]


def build(arrays, name):
    case = CASES.get(name, Case({}, {}, {}))
    x_dict = {
        m: {'item': torch.from_numpy(arrays[f'input/{m}'])} for m in ('image', 'text')
    }
    options = {'embedding_dim': 8, **case.options}
    model = MODELS[name.split('_')[0]](SIZES, x_dict, edge_type=USER_ITEM, **options)
    state = {
        ours: value_of(arrays, name, source) for ours, source in case.parameters.items()
    }
    model.load_state_dict(state, strict=name in CASES)
    if hasattr(model, 'user_graph'):
        graph = published_user_graph(arrays, name, model)
        model.user_graph.forward = lambda _: graph
    return model


def published_user_graph(arrays, name, model):
    """Our graph of users, with the repeats that the published code has drawn."""
    index = torch.from_numpy(arrays[f'{name}/graph/user_neighbour_index'])
    rows = torch.arange(40)[:, None].expand(40, 40)
    drawn = torch.zeros(40, 40).index_put((rows, index), torch.ones(40, 40), True)
    graph = model.user_graph
    neighbors = graph._search(model.bipartite(*edges_of(arrays)).to_user)
    repeats = drawn[neighbors.pattern.target, neighbors.pattern.source] - 1
    return graph.operator(neighbors, repeats)


def batch_of(arrays):
    names = ('user', 'positive', 'negative')
    return Triplets(*(torch.from_numpy(arrays[f'input/batch_{x}']) for x in names))


def edges_of(arrays):
    """Normalized symmetrically by us, to compare that, too."""
    edge_index = torch.from_numpy(
        np.stack([arrays['input/edge_user'], arrays['input/edge_item']])
    )
    user, item = (x.bincount().float() for x in edge_index)
    weight = (user[edge_index[0]] * item[edge_index[1]]).rsqrt()
    return edge_index, weight


def check(arrays, name, key, x):
    expected = torch.from_numpy(np.asarray(arrays[f'{name}/{key}']))
    torch.testing.assert_close(
        x.detach(), expected, msg=lambda m: f'{key}: {m}', **CLOSE
    )


@pytest.mark.parametrize('name', CASES)
def test_embeddings_scores_and_losses_equal_the_published_ones(arrays, name):
    model, case = build(arrays, name).eval(), CASES[name]
    output = model(*edges_of(arrays))
    x_dict = getattr(output, 'x_dict', output)
    user, item = x_dict['user'], x_dict['item']
    if name == 'BM3':
        check(arrays, name, 'out/user_predicted', user)
        check(arrays, name, 'out/item_predicted', item)
    elif name == 'GRCN':
        parts = torch.cat([user, item]).split(8, dim=1)
        for part, x in zip(('id', 'image', 'text'), parts, strict=True):
            check(arrays, name, f'out/{part}_part', x)
    else:
        check(arrays, name, 'out/user', user)
        check(arrays, name, 'out/item', item)
    scores = user @ item.t()
    check(arrays, name, 'out/score', scores.sigmoid() if name == 'SLMRec' else scores)

    losses = model.losses(output, batch_of(arrays))
    for ours, parts in case.losses.items():
        expected = sum(arrays[f'{name}/loss/{part}'] for part in parts)
        expected = torch.tensor(expected, dtype=torch.float)
        torch.testing.assert_close(losses[ours].detach(), expected, **CLOSE)


@pytest.mark.parametrize('name', [name for name in CASES if name != 'LightGCN'])
def test_total_loss_and_its_gradients_equal_the_published_ones(arrays, name):
    # LATTICE builds its graph with gradients in the first step of an epoch; nothing is
    # drawn or dropped out at random by the others in eval mode.
    model = build(arrays, name).train(name == 'LATTICE')
    losses = model.losses(model(*edges_of(arrays)), batch_of(arrays))
    total = weighted_sum(losses, model.loss_weights)
    check(arrays, name, 'loss/total', total)
    total.backward()
    norms = {}
    parameters = dict(model.named_parameters())
    for ours, source in CASES[name].parameters.items():
        source = source[0] if isinstance(source, tuple) else source
        grad = parameters[ours].grad
        square = 0.0 if grad is None else float(grad.double().square().sum())
        norms[source] = norms.get(source, 0.0) + square
    for source, square in norms.items():
        expected = float(arrays[f'{name}/gradnorm/{source}'])
        assert square**0.5 == pytest.approx(expected, rel=1e-4, abs=1e-6), source


def test_light_gcn_has_the_papers_penalty_in_place_of_the_published_norm(arrays):
    model, batch = build(arrays, 'LightGCN').eval(), batch_of(arrays)
    losses, ids = model.losses(model(*edges_of(arrays)), batch), model.embeddings()
    parts = [ids['user'][batch.user], *(ids['item'][x] for x in batch[1:])]
    parts = [x.detach() for x in parts]
    norm = unsquared_norm(*parts)
    check(arrays, 'LightGCN', 'loss/reg_unweighted', norm)
    check(arrays, 'LightGCN', 'loss/total', losses['bpr'] + 1e-4 * norm)
    half = sum(float(x.square().sum()) for x in parts) / 32
    assert losses['l2'].item() == pytest.approx(half)


def test_vbpr_ranks_as_the_published_one_with_one_user_factor_for_all_content(arrays):
    model = build(arrays, 'VBPR')
    state = model.state_dict()
    users = value_of(arrays, 'VBPR', 'u_embedding')
    projection = value_of(arrays, 'VBPR', 'item_linear.weight')
    state['embeddings.tables.user'] = users[:, :8]
    state['embeddings.tables.item'] = value_of(arrays, 'VBPR', 'i_embedding')
    for modality, columns in (('text', slice(20)), ('image', slice(20, 32))):
        state[f'tastes.tables.user_{modality}'] = users[:, 8:]
        weight = torch.cat(
            [projection[:, columns], torch.zeros(1, len(projection[0, columns]))]
        )
        state[f'features.lins.lin_{modality}.weight'] = weight  # Last, our item bias.
    model.load_state_dict(state)
    x_dict = model().x_dict
    scores = x_dict['user'] @ x_dict['item'].t()
    shift = users[:, 8:] @ value_of(arrays, 'VBPR', 'item_linear.bias')
    check(arrays, 'VBPR', 'out/score', scores + shift[:, None])
    check(arrays, 'VBPR', 'loss/bpr', model.losses(model(), batch_of(arrays))['bpr'])


@pytest.mark.parametrize(
    ('name', 'key'),
    [('FREEDOM', 'user_item_pruned'), ('PGL', 'user_item_subgraph')],
)
def test_the_loss_on_a_drawn_subgraph_equals_the_published_one(arrays, name, key):
    model = build(arrays, name).eval()
    output = model(*graph_of(arrays[f'{name}/graph/{key}']))
    suffix = key.rsplit('_')[-1]
    suffix = 'pruned_graph' if suffix == 'pruned' else suffix
    check(arrays, name, f'out/user_on_{suffix}', output.x_dict['user'])
    losses = model.losses(output, batch_of(arrays))
    total = weighted_sum(losses, model.loss_weights)
    check(arrays, name, f'loss/total_on_{suffix}', total)


@pytest.mark.parametrize('name', ['FREEDOM', 'PGL', 'MGCN', 'SMORE'])
def test_item_graphs_equal_the_published_ones(arrays, name):
    model = build(arrays, name)
    graphs = getattr(model, 'graphs', None) or [model.graph]
    names = (
        ['item_image', 'item_text', 'item_fusion'] if len(graphs) > 1 else ['item_item']
    )
    for graph, key in zip(graphs, names, strict=False):
        check(arrays, name, f'graph/{key}', graph(torch.eye(30)))


@pytest.mark.parametrize('name', ['DualGNN', 'DRAGON'])
def test_graphs_of_users_equal_the_published_ones(arrays, name):
    model = build(arrays, name)
    index, weight = (
        torch.from_numpy(arrays[f'{name}/graph/user_neighbour_{x}'])
        for x in ('index', 'weight')
    )
    rows = torch.arange(40)[:, None].expand(40, 40)
    expected = torch.zeros(40, 40).index_put((rows, index), weight, True)
    graph = published_user_graph(arrays, name, model)
    torch.testing.assert_close(graph @ torch.eye(40), expected, **CLOSE)


@pytest.mark.parametrize('name', ['DualGNN', 'DRAGON', 'LGMRec'])
def test_vectors_of_modalities_equal_the_published_ones(arrays, name):
    model = build(arrays, name).eval()
    for modality, x_dict in model(*edges_of(arrays)).modality_x_dict.items():
        if name == 'LGMRec':
            for key, x in x_dict.items():
                check(arrays, name, f'out/{key}_{modality}_hyper', x[:, 8:])
        else:
            check(arrays, name, f'out/{modality}_part', torch.cat([*x_dict.values()]))
