import copy

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.data import Split
from promptmm_pyg.distillation import distill
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models import PromptMM, promptmm_plus
from promptmm_pyg.models.promptmm_plus import PromptMMPlus, content_reliability
from promptmm_pyg.nn import csr_pair_dict
from promptmm_pyg.training import TrainingConfig
from tests.models.setting import (
    BATCH,
    ONE,
    dense_knn,
    make,
    make_features,
    naive_contrast,
)
from tests.models.test_content_trust import SIZE, make_world, operator
from tests.nn.graphs import (
    EDGE_INDEX,
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    dense,
    edges,
    features,
    weights,
)
from tests.training.setting import make_split, make_student

K, GAMMA = 3, 0.5
GRAPH = {'item_graph_weight': 0.3, 'num_item_layers': 2, 'num_neighbors': K}


def simple_trust(x, adj):
    """A gate of features and graph; ``adj`` may be dense. Item 1 is trusted not."""
    degree = adj.t() @ torch.ones(5, 1) if adj.shape[0] == 5 else adj @ torch.ones(5, 1)
    out = (x.sum(dim=1) + degree[:, 0]).sigmoid()
    out[1] = 0.0
    return out


@pytest.fixture
def trust(monkeypatch):
    """Gates that differ on few items, where the mixture has one component."""
    monkeypatch.setattr(promptmm_plus, 'content_reliability', simple_trust)


def make_start():
    return {'user': features(2, seed=6, num=5), 'item': features(2, seed=7)}


def make_plus(*modalities, **kwargs):
    kwargs.setdefault('prompt_start_dict', make_start())
    kwargs.setdefault('isolated_features', False)  # As the dense matrices below.
    return make(PromptMMPlus, *modalities, **kwargs)


def graph():
    return csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)


def unit_sum(out, key):
    return sum(F.normalize(x[key], dim=-1) for x in out.modality_x_dict.values())


@pytest.mark.parametrize('start', [None, make_start()])
@pytest.mark.parametrize('training', [True, False])
def test_without_options_it_equals_the_teacher_bit_for_bit(start, training):
    plus = make(PromptMMPlus, prompt_start_dict=start, dropout=0.3, num_layers=3)
    torch.manual_seed(0)
    teacher = PromptMM(
        NUM_NODES,
        make_features(),
        prompt_start_dict=start,
        embedding_dim=4,
        dropout=0.3,
        num_layers=3,
    )
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, plus.get_parameter(f'teacher.{name}')), name
    assert len(list(plus.parameters())) == len(list(teacher.parameters()))
    outputs = []
    for model in (plus.train(training), teacher.train(training)):
        torch.manual_seed(1)
        outputs.append(model(edges(), weights()))
        model.zero_grad()
        outputs[-1].x_dict['user'].square().sum().backward()
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter.grad, plus.get_parameter(f'teacher.{name}').grad)


def test_terms_are_those_of_training_and_the_alignment():
    plus = make_plus(alignment_weight=0.2).eval()
    out, batch = plus(edges(), weights()), BATCH
    terms = plus.losses(out, batch)
    alignment = terms.pop('alignment')
    torch.testing.assert_close(terms, plus.teacher.losses(out, batch))
    losses = []
    for key, rows in (('user', [0, 1, 2, 3]), ('item', [0, 3, 5])):
        part = unit_sum(out, key)
        rest = out.x_dict[key] - GAMMA * part
        losses.append(naive_contrast(rest[rows], part[rows], 0.2, True))
    torch.testing.assert_close(alignment, torch.stack(losses).mean())
    assert plus.losses(out, ONE)['alignment'] == 0


def test_terms_without_prompt_and_without_modalities_are_those_of_training():
    for modalities in ((), ('text',)):
        plus = make(PromptMMPlus, *modalities).eval()
        out, batch = plus(edges(), weights()), BATCH
        terms = plus.losses(out, batch)
        assert terms.pop('alignment') == 0
        torch.testing.assert_close(terms, plus.teacher.losses(out, batch))


def test_weights_are_those_of_training_and_the_one_of_the_alignment():
    assert PromptMMPlus.loss_weights == {**PromptMM.loss_weights, 'alignment': 0.0}
    plus = make_plus(alignment_weight=0.2)
    assert plus.loss_weights == {**PromptMM.loss_weights, 'alignment': 0.2}
    assert PromptMMPlus.loss_weights['alignment'] == 0.0


def features_out(key, teacher):
    """The reduced features of one modality, before they travel."""
    return PromptMM._encode(teacher, key, 'item', teacher.prompt()['item'])


def naive_denoised(plus, inside, A):
    """From the output of the ungated teacher (one hop pair, self_loop_weight 0)."""
    views = {}
    x_dict = {
        key: inside.x_dict[key] - GAMMA * unit_sum(inside, key)
        for key in ('user', 'item')
    }
    for m, x in make_features().items():
        trust = simple_trust(x['item'], A)
        reduced = trust[:, None] * features_out(f'{m}__item', plus.teacher)
        views[m] = {'user': A @ reduced, 'item': A.t() @ (A @ reduced)}
        for key, part in views[m].items():
            x_dict[key] = x_dict[key] + GAMMA * F.normalize(part, dim=-1)
    return x_dict, views


def naive_neighbors(x_dict, views):
    """What the item graph adds to ``x_dict``."""
    ids = x_dict['item'] - GAMMA * sum(
        F.normalize(x['item'], dim=-1) for x in views.values()
    )
    brought = []
    for m, x in make_features().items():
        S = dense_knn(x['item'], K, weighted=False, self_loops=False)
        own = ids + GAMMA * F.normalize(views[m]['item'], dim=-1)
        brought.append(S @ S @ own)
    item = 0.3 * sum(brought) / len(brought)
    return {'user': x_dict['user'] + dense() @ item, 'item': x_dict['item'] + item}


@pytest.mark.usefixtures('trust')
def test_features_of_items_are_gated_before_propagation():
    plus = make_plus(denoise=True).eval()
    index = torch.cat([EDGE_INDEX, torch.tensor([[0, 0, 1, 2], [1, 5, 5, 6]])], dim=1)
    given = {USER_ITEM: index, ITEM_USER: index.flip([0])}
    A = torch.zeros(5, 7)
    A[index[0], index[1]] = 1.0
    out, inside = plus(given), plus.teacher(given)
    x_dict, views = naive_denoised(plus, inside, A)
    torch.testing.assert_close(out.modality_x_dict, views)
    torch.testing.assert_close(out.x_dict, x_dict)
    ungated = inside.modality_x_dict['text']['user']
    assert not torch.allclose(out.modality_x_dict['text']['user'], ungated)


@pytest.mark.usefixtures('trust')
def test_content_with_gate_zero_is_not_propagated():
    plus = make_plus(denoise=True).eval()
    index = torch.cat([EDGE_INDEX, torch.tensor([[2, 2], [2, 4]])], dim=1)
    given = {USER_ITEM: index, ITEM_USER: index.flip([0])}
    before = plus(given).modality_x_dict['text']
    plus.teacher.x_text__item[1] *= 100.0  # Of user 2.
    after = plus(given).modality_x_dict['text']
    torch.testing.assert_close(after, before)
    assert (before['user'][2] != 0).all()


def test_gates_are_the_trust_of_raw_features():
    x, index, foreign = make_world()
    sizes = dict(zip(('user', 'item'), SIZE, strict=True))
    plus = PromptMMPlus(
        sizes, {'text': {'item': x}}, edge_type=USER_ITEM, embedding_dim=4, denoise=True
    )
    pairs = csr_pair_dict(
        {USER_ITEM: index, ITEM_USER: index.flip([0])}, num_nodes_dict=sizes
    )
    plus(pairs).x_dict['user'].square().sum().backward()
    gate = plus._gates(pairs[USER_ITEM])['text__item']
    torch.testing.assert_close(gate, content_reliability(x, operator(index)))
    assert gate[foreign].mean() < 0.3 < 0.8 < gate[~foreign].mean()
    assert all(p.grad is not None for p in plus.parameters())


def test_features_in_half_precision_get_the_gates_of_their_rounded_values():
    x, index, _ = make_world()
    sizes = dict(zip(('user', 'item'), SIZE, strict=True))
    pairs = csr_pair_dict(
        {USER_ITEM: index, ITEM_USER: index.flip([0])}, num_nodes_dict=sizes
    )
    mask = torch.arange(SIZE[1]) % 5 > 0
    gates = []
    for given in (x.half(), x.half().float()):
        plus = PromptMMPlus(
            sizes,
            {'text': {'item': given}},
            edge_type=USER_ITEM,
            modality_mask_dict={'text': {'item': mask}},
            embedding_dim=4,
            denoise=True,
        )
        plus(pairs)
        gates.append(plus._gates(pairs[USER_ITEM])['text__item'])
    assert torch.equal(*gates)
    assert gates[0].unique().numel() > 2


def make_copy(plus):
    """It remembers no graph."""
    return copy.deepcopy(plus)


@pytest.mark.usefixtures('trust')
def test_gates_are_computed_once_per_graph_and_copy():
    plus = make_plus(denoise=True).eval()
    pairs = graph()
    plus(pairs)
    selected = plus._gates(pairs[USER_ITEM])
    known = dict(selected)
    plus(pairs)
    assert plus._gates(pairs[USER_ITEM]) is selected
    assert all(selected[key] is gate for key, gate in known.items())
    twin = make_copy(plus)
    twin.teacher.x_text__item.neg_()
    twin.teacher.x_text__item[0] *= -1
    twin(pairs)
    assert not torch.equal(
        twin._gates(pairs[USER_ITEM])['text__item'], known['text__item']
    )


@pytest.mark.usefixtures('trust')
def test_gates_use_all_edges_in_training():
    plus = make_plus(denoise=True, edge_dropout=0.5, dropout=0.0).train()
    pairs = graph()
    plus(pairs)
    expected = simple_trust(make_features()['text']['item'], dense())
    torch.testing.assert_close(plus._gates(pairs[USER_ITEM])['text__item'], expected)


def test_denoising_adds_no_parameters():
    plain, denoised = make_plus(), make_plus(denoise=True)
    assert list(plain.state_dict()) == list(denoised.state_dict())


@pytest.mark.usefixtures('trust')
def test_features_of_users_are_not_gated():
    given = {**make_features(), 'age': {'user': features(2, num=5)}}
    outputs = []
    for denoise in (False, True):
        torch.manual_seed(0)
        plus = PromptMMPlus(
            NUM_NODES, given, edge_type=USER_ITEM, embedding_dim=4, denoise=denoise
        ).eval()
        outputs.append(plus(edges(), weights()).modality_x_dict)
    torch.testing.assert_close(outputs[0]['age'], outputs[1]['age'], rtol=0, atol=0)
    assert not torch.equal(outputs[0]['text']['user'], outputs[1]['text']['user'])


def test_errors_of_denoise_without_edges():
    plus = make_plus(denoise=True)
    with pytest.raises(ValueError, match=r"'edge_index_dict' must have .* for denoise"):
        plus({ITEM_USER: edges()[ITEM_USER], ('user', 'x', 'item'): EDGE_INDEX})


@pytest.mark.usefixtures('trust')
@pytest.mark.parametrize('denoise', [False, True])
def test_the_item_graph_agrees_with_dense_matrices(denoise):
    plus = make_plus(denoise=denoise, **GRAPH).eval()
    inside = plus.teacher(edges(), weights())
    x_dict, views = inside.x_dict, inside.modality_x_dict
    if denoise:
        x_dict, views = naive_denoised(plus, inside, dense())
    out = plus(edges(), weights())
    torch.testing.assert_close(
        out.x_dict, naive_neighbors(x_dict, views), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(out.modality_x_dict, views)
    torch.testing.assert_close(out.prompt_dict, inside.prompt_dict)


def test_absent_items_have_no_neighbors():
    mask = torch.ones(7, dtype=torch.bool)
    mask[6] = False
    masks = {m: {'item': mask} for m in make_features()}
    plus = make_plus(modality_mask_dict=masks, **GRAPH).eval()
    out, inside = plus(edges(), weights()), plus.teacher(edges(), weights())
    changed = (out.x_dict['item'] != inside.x_dict['item']).any(dim=-1)
    assert changed.tolist() == [True] * 6 + [False]


def test_masks_are_passed_to_the_teacher():
    mask = torch.tensor([True] * 5 + [False] * 2)
    masks = {'text': {'item': mask}}
    plus = make_plus(
        modality_mask_dict=masks, missing='token', isolated_features=True
    ).eval()
    torch.manual_seed(0)
    teacher = PromptMM(
        NUM_NODES,
        make_features(),
        prompt_start_dict=make_start(),
        embedding_dim=4,
        modality_mask_dict=masks,
        missing='token',
    ).eval()
    out, expected = plus(edges(), weights()), teacher(edges(), weights())
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    without = make_plus().eval()(edges(), weights())
    assert not torch.allclose(out.x_dict['user'], without.x_dict['user'])


def test_features_of_users_travel_but_have_no_item_graph():
    given = {**make_features(), 'age': {'user': features(2, num=5)}}
    plus = PromptMMPlus(
        NUM_NODES, given, edge_type=USER_ITEM, embedding_dim=4, **GRAPH
    ).eval()
    assert set(plus.graphs) == set(make_features())
    assert plus(edges(), weights()).x_dict['user'].isfinite().all()


def test_edges_are_dropped_in_training_only():
    plus = make_plus(edge_dropout=0.5, dropout=0.0, **GRAPH)
    pairs = graph()
    torch.manual_seed(2)
    out = plus.train()(pairs)
    torch.manual_seed(2)
    adj = plus._sampler(pairs[USER_ITEM]).sample(0.5)
    assert adj.num_edges == 3
    fewer = {USER_ITEM: adj, ITEM_USER: adj.t()}
    same = make_plus(dropout=0.0, **GRAPH).eval()
    torch.testing.assert_close(out, same(fewer), rtol=0, atol=0)
    torch.testing.assert_close(plus.eval()(pairs), same(pairs), rtol=0, atol=0)


def test_the_reverse_may_have_a_name_of_its_own():
    other = ('item', 'read_by', 'user')
    given = {USER_ITEM: edges()[USER_ITEM], other: edges()[ITEM_USER]}
    plus = make_plus(edge_dropout=0.5, dropout=0.0).train()
    torch.manual_seed(2)
    out = plus(given)
    torch.manual_seed(2)
    torch.testing.assert_close(out, plus(edges()), rtol=0, atol=0)


def test_its_prompt_is_that_of_the_teacher_and_tuned_jointly():
    train, val, _ = make_split()
    torch.manual_seed(0)
    plus = PromptMMPlus(
        {'user': 60, 'item': 40},
        {'text': {'item': features(5, num=40)}},
        edge_type=USER_ITEM,
        prompt_start_dict={key: train[key].prompt_start for key in ('user', 'item')},
        embedding_dim=8,
        denoise=True,
        **GRAPH,
    )
    assert plus.prompt is plus.teacher.prompt
    assert plus.prompt_enabled
    before = {key: x.clone() for key, x in plus.state_dict().items()}
    distill(
        make_student(train),
        plus,
        Split(train, val, val),
        prompt='joint',
        baseline=False,
        # Without a validation, after which a worse prompt would be restored.
        config=TrainingConfig(epochs=1, validate_every=0, progress=False),
    )
    for key, x in plus.state_dict().items():
        tuned = 'prompt' in key and 'start' not in key
        assert torch.equal(x, before[key]) != tuned, key
    plus.teacher.disable_prompt()
    assert not plus.prompt_enabled


def test_errors_of_options_without_modalities():
    for name, option in (
        ('item_graph_weight', 0.1),
        ('alignment_weight', 0.1),
        ('denoise', True),
    ):
        with pytest.raises(ValueError, match=f"'{name}' requires 'modality_x_dict'"):
            make_plus(modality_x_dict={}, **{name: option})
    only = {'age': {'user': features(2, num=5)}}
    with pytest.raises(ValueError, match=r"'denoise' requires.*'age': \['user'\]"):
        PromptMMPlus(NUM_NODES, only, edge_type=USER_ITEM, denoise=True)
    with pytest.raises(
        ValueError, match=r"'item_graph_weight' requires.*'age': \['user'\]"
    ):
        PromptMMPlus(NUM_NODES, only, edge_type=USER_ITEM, item_graph_weight=0.1)


def test_errors_of_edge_dropout_without_a_reverse():
    plus = make_plus(edge_dropout=0.5).train()
    index = edges()[ITEM_USER]
    given = {**edges(), ('item', 'a', 'user'): index, ('item', 'b', 'user'): index}
    del given[ITEM_USER]
    with pytest.raises(ValueError, match=r"'edge_index_dict' must have .*its reverse"):
        plus(given)


def test_alignment_over_a_batch_of_one_item_is_that_of_users():
    plus = make_plus(alignment_weight=0.2).eval()
    out = plus(edges(), weights())
    batch = Triplets(torch.tensor([0, 1]), torch.tensor([3, 3]), torch.tensor([1, 0]))
    part = unit_sum(out, 'user')[:2]
    rest = out.x_dict['user'][:2] - GAMMA * part
    expected = naive_contrast(rest, part, 0.2, True) / 2
    torch.testing.assert_close(plus.losses(out, batch)['alignment'], expected)


def test_item_graphs_are_cached_by_their_features(tmp_path):
    outputs = [
        make_plus(item_graph_weight=0.5, **folder).eval()(edges(), weights())
        for folder in ({}, {'graph_folder': tmp_path}, {'graph_folder': tmp_path})
    ]
    assert len(list(tmp_path.iterdir())) == 3  # One of each modality.
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=0)
