import copy

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import SoftPrompt, csr_pair_dict
from tests.nn.graphs import NUM_NODES, around, dense, edges, features, weights


def make_features():
    return {
        'audio': {'item': features(3, seed=4)},
        'image': {'item': features(6, seed=2)},
        'text': {'item': features(9, seed=3), 'user': features(9, seed=5, num=5)},
    }


def make_start():
    return {'user': features(2, seed=6, num=5), 'item': features(2, seed=7)}


def make_teacher(**kwargs):
    torch.manual_seed(0)
    kwargs.setdefault('prompt_start_dict', make_start())
    return PromptMM(NUM_NODES, make_features(), embedding_dim=4, **kwargs)


def naive_encode(teacher, modality, node_type, prompt):
    """The prompted features as the paper writes them, every matrix in full."""
    x = make_features()[modality][node_type]
    lin = teacher.encoders[f'{modality}__{node_type}'].lin
    weight = teacher.encoders[f'{modality}__{node_type}'].prompt_weight
    prompted = x + weight * F.normalize(prompt @ (prompt.t() @ x), dim=-1)
    return prompted @ lin.weight.t() + lin.bias


@pytest.mark.parametrize('num_prompt_tokens', [1, 3])
def test_agrees_with_the_paper_written_with_dense_matrices(num_prompt_tokens):
    teacher = make_teacher(
        dropout=0.0,
        prompt_feature_weight=0.7,
        num_layers=2,
        num_prompt_tokens=num_prompt_tokens,
        isolated_features=False,
    )
    A = dense()
    if num_prompt_tokens == 1:
        prompt = {k: teacher.prompt.lins[k](x) for k, x in make_start().items()}
    else:
        prompt = teacher.prompt()
    user = teacher.embeddings()['user'] + 0.1 * F.normalize(prompt['user'], dim=-1)
    item = teacher.embeddings()['item'] + 0.1 * F.normalize(prompt['item'], dim=-1)
    e_user = (user + A @ item + A @ A.t() @ user) / 3
    e_item = (item + A.t() @ user + A.t() @ A @ item) / 3
    modality_x = {}
    for modality in ('audio', 'image', 'text'):
        own = naive_encode(teacher, modality, 'item', prompt['item'])
        f_user, f_item = A @ own, A.t() @ (A @ own)
        if modality == 'text':  # Users carry this one too.
            own = naive_encode(teacher, modality, 'user', prompt['user'])
            f_item, f_user = f_item + A.t() @ own, f_user + A @ (A.t() @ own)
        modality_x[modality] = {'user': f_user, 'item': f_item}
        e_user = e_user + 0.5 * F.normalize(f_user, dim=-1)
        e_item = e_item + 0.5 * F.normalize(f_item, dim=-1)

    out = teacher(edges(), weights())
    torch.testing.assert_close(out.x_dict, {'user': e_user, 'item': e_item})
    torch.testing.assert_close(out.modality_x_dict, modality_x)
    torch.testing.assert_close(out.prompt_dict, prompt)


@pytest.mark.parametrize(('num_layers', 'num_modality_layers'), [(1, 2), (5, 1)])
def test_every_hop_starts_from_the_last(num_layers, num_modality_layers):
    teacher = make_teacher(
        dropout=0.0,
        num_layers=num_layers,
        num_modality_layers=num_modality_layers,
        prompt_start_dict=None,
        self_loop_weight=0.25,
    )
    A = dense()
    own = teacher.encoders['image__item'].lin(make_features()['image']['item'])
    user, item, sums = torch.zeros(5, 4), own, [torch.zeros(5, 4), 0.25 * own]
    for _ in range(2 * num_modality_layers):
        user, item = A @ item, A.t() @ user
        sums = [sums[0] + user, sums[1] + item]
    out = teacher(edges(), weights())
    torch.testing.assert_close(out.modality_x_dict['image']['user'], sums[0])
    torch.testing.assert_close(out.modality_x_dict['image']['item'], sums[1])


def test_converted_operators_give_the_same_output():
    teacher = make_teacher().eval()
    pairs = csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)
    torch.testing.assert_close(teacher(pairs), teacher(edges(), weights()))


@pytest.mark.parametrize('inference', [False, True])
def test_items_without_edges_have_their_own_features(inference):
    paper = make_teacher(isolated_features=False).eval()
    teacher = make_teacher().eval()
    teacher.load_state_dict(paper.state_dict())
    isolated = (dense() == 0).all(0)
    assert isolated.any()

    def outputs(model):
        if inference:
            return model.inference(edges(), weights())
        return model(edges(), weights()).x_dict

    before, after = outputs(paper), outputs(teacher)
    assert torch.equal(after['item'][~isolated], before['item'][~isolated])
    reached = (dense() != 0).any(1)
    assert torch.equal(after['user'][reached], before['user'][reached])
    prompt = teacher.prompt()['item']
    own = [
        F.normalize(naive_encode(teacher, modality, 'item', prompt), dim=-1)
        for modality in ('audio', 'image', 'text')
    ]
    expected = before['item'] + 0.5 * sum(own)
    torch.testing.assert_close(after['item'][isolated], expected[isolated])


def test_without_prompt_no_prompt_parameters_exist():
    teacher = make_teacher(prompt_start_dict=None)
    assert not any('prompt' in name for name in teacher.state_dict())
    assert teacher(edges(), weights()).prompt_dict == {}


def test_without_modalities_it_is_light_gcn():
    teacher = PromptMM(NUM_NODES, {}, embedding_dim=4, num_layers=2)
    tables, A = teacher.embeddings(), dense()
    out = teacher(edges(), weights())
    expected = (tables['user'] + A @ tables['item'] + A @ A.t() @ tables['user']) / 3
    torch.testing.assert_close(out.x_dict['user'], expected)


def test_parameters_count_no_feature_and_the_state_holds_none():
    teacher = make_teacher()
    tables = 4 * (5 + 7)
    reduction = 4 * (3 + 6 + 9 + 9) + 4 * 4
    prompt = 2 * (2 * 4 + 4)
    count = sum(p.numel() for p in teacher.parameters())
    assert count == tables + reduction + prompt
    assert not any(name.startswith('x_') for name in teacher.state_dict())


def test_no_matrix_as_large_as_the_prompted_features_is_made():
    # 40 columns belong to the features alone: no intermediate result has them.
    wide = {'image': {'item': features(40)}}
    teacher = PromptMM(NUM_NODES, wide, prompt_start_dict=make_start(), embedding_dim=4)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            views = ('view', 'detach', 't.default', 'alias', 'expand')
            if isinstance(out, torch.Tensor) and not any(v in str(func) for v in views):
                seen.append(tuple(out.shape))
            return out

    with Watch():
        teacher(edges(), weights()).x_dict['item'].sum().backward()
    assert (7, 40) not in seen
    assert (40, 7) not in seen
    assert (4, 40) in seen  # The watch does see: prompt^T X passed by.


def test_dropout_acts_in_training_only():
    teacher = make_teacher(dropout=0.5)
    initial, second = (teacher(edges(), weights()).x_dict['item'] for _ in range(2))
    assert not torch.equal(initial, second)
    teacher.eval()
    initial, second = (teacher(edges(), weights()).x_dict['item'] for _ in range(2))
    torch.testing.assert_close(initial, second, rtol=0, atol=0)


def test_state_dict_round_trip():
    source, target = make_teacher().eval(), make_teacher().eval()
    target.reset_parameters()
    assert not torch.equal(target.embeddings()['user'], source.embeddings()['user'])
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(edges(), weights()), source(edges(), weights()))


def test_every_parameter_gets_a_gradient():
    teacher = make_teacher()
    out = teacher(edges(), weights())
    (out.x_dict['user'].square().sum() + out.x_dict['item'].square().sum()).backward()
    for name, parameter in teacher.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_node_names_are_free():
    nodes = {'reader': 5, 'book': 7}
    edge_index = edges()['user', 'interacts', 'item']
    teacher = PromptMM(nodes, {'cover': {'book': features(3)}}, embedding_dim=4)
    out = teacher(
        {
            ('reader', 'reads', 'book'): edge_index,
            ('book', 'read_by', 'reader'): edge_index.flip([0]),
        }
    )
    assert out.modality_x_dict['cover']['reader'].shape == (5, 4)


def make_masks():
    return {
        'image': {'item': torch.tensor([True, False, True, True, False, True, True])},
        'text': {'user': torch.tensor([True, True, False, True, True])},
    }


def own_rows(teacher, modality, node_type):
    """What a node sends: encoded without a prompt, absent rows replaced."""
    key = f'{modality}__{node_type}'
    x = make_features()[modality][node_type]
    out = teacher.encoders[key].lin(x)
    mask = make_masks().get(modality, {}).get(node_type)
    if mask is not None:
        token = getattr(teacher.missing_rows[key], 'token', None)
        out[~mask] = torch.zeros(4) if token is None else token
    return out


@pytest.mark.parametrize('missing', ['zero', 'token'])
def test_absent_rows_send_nothing_or_their_token(missing):
    kwargs = {'dropout': 0.0, 'prompt_start_dict': None, 'self_loop_weight': 0.5}
    teacher = make_teacher(modality_mask_dict=make_masks(), missing=missing, **kwargs)
    for rows in teacher.missing_rows.values():
        if missing == 'token':
            torch.nn.init.normal_(rows.token)
    A = dense()
    image = own_rows(teacher, 'image', 'item')
    text_item = own_rows(teacher, 'text', 'item')
    text_user = own_rows(teacher, 'text', 'user')
    f_image = A @ image, 0.5 * image + A.t() @ A @ image
    f_text = (
        0.5 * text_user + A @ text_item + A @ A.t() @ text_user,
        0.5 * text_item + A.t() @ text_user + A.t() @ A @ text_item,
    )
    out = teacher(edges(), weights()).modality_x_dict
    for modality, (user, item) in {'image': f_image, 'text': f_text}.items():
        torch.testing.assert_close(out[modality], {'user': user, 'item': item})


def test_what_an_absent_row_holds_reaches_neither_features_nor_recall():
    spoilt = make_features()
    for modality, masks in make_masks().items():
        for node_type, mask in masks.items():
            spoilt[modality][node_type][~mask] = float('nan')
    outputs = []
    for x in (make_features(), spoilt):
        torch.manual_seed(0)
        teacher = PromptMM(
            NUM_NODES,
            x,
            prompt_start_dict=make_start(),
            embedding_dim=4,
            modality_mask_dict=make_masks(),
        )
        outputs.append(teacher.eval()(edges(), weights()))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    assert outputs[1].x_dict['user'].isfinite().all()
    assert spoilt['image']['item'][1].isnan().all()  # The caller's stay as they are.


def test_a_mask_of_present_rows_changes_nothing():
    masks = {'image': {'item': torch.ones(7, dtype=torch.bool)}}
    masked = make_teacher(modality_mask_dict=masks).eval()
    torch.testing.assert_close(
        masked(edges(), weights()), make_teacher().eval()(edges(), weights()),
        rtol=0, atol=0,
    )  # fmt: skip


def test_tokens_are_trained_one_per_modality_and_node_type():
    teacher = make_teacher(modality_mask_dict=make_masks(), missing='token')
    names = {name for name, _ in teacher.named_parameters() if 'token' in name}
    tokens = {f'missing_rows.{k}.token' for k in ('image__item', 'text__user')}
    assert names == tokens
    out = teacher(edges(), weights())
    sum(x.square().sum() for x in out.x_dict.values()).backward()
    for rows in teacher.missing_rows.values():
        assert rows.token.grad.abs().sum() > 0
        torch.nn.init.ones_(rows.token)
    teacher.reset_parameters()
    assert all((rows.token == 0).all() for rows in teacher.missing_rows.values())


def test_modality_dropout_acts_in_training_only_and_on_every_modality():
    teacher = make_teacher(dropout=0.0, modality_dropout=0.5)
    plain = make_teacher(dropout=0.0).eval()
    assert set(teacher.missing_rows) == set(teacher.encoders)
    draws = [teacher(edges(), weights()) for _ in range(5)]
    for modality in make_features():
        items = [draw.modality_x_dict[modality]['item'] for draw in draws]
        assert not all(torch.equal(items[0], x) for x in items)
    torch.testing.assert_close(
        teacher.eval()(edges(), weights()), plain(edges(), weights()), rtol=0, atol=0
    )


def test_without_masks_and_modality_dropout_there_is_nothing_new_in_the_state():
    teacher = make_teacher(missing='token')
    assert len(teacher.missing_rows) == 0
    assert not any(
        name.startswith(('missing', 'other')) for name in teacher.state_dict()
    )


@pytest.mark.parametrize('num_prompt_tokens', [1, 3])
def test_with_its_prompt_disabled_it_is_the_teacher_without_one(num_prompt_tokens):
    teacher = make_teacher(num_prompt_tokens=num_prompt_tokens).eval()
    without = make_teacher(prompt_start_dict=None).eval()
    without.load_state_dict(
        {k: x for k, x in teacher.state_dict().items() if not k.startswith('prompt.')}
    )
    prompted = teacher(edges(), weights())
    teacher.disable_prompt()
    out = teacher(edges(), weights())
    torch.testing.assert_close(out, without(edges(), weights()), rtol=0, atol=0)
    assert out.prompt_dict == {}
    assert not torch.equal(out.x_dict['item'], prompted.x_dict['item'])
    teacher.enable_prompt()
    torch.testing.assert_close(teacher(edges(), weights()), prompted, rtol=0, atol=0)


@pytest.mark.parametrize('num_tokens', [1, 3])
def test_another_prompt_in_use_is_the_teacher_built_with_it(num_tokens):
    other_start = {'item': features(3, seed=11)}  # Narrower, and users have none.
    kwargs = {'prompt_start_dict': other_start, 'num_prompt_tokens': num_tokens}
    built = make_teacher(**kwargs).eval()
    teacher = make_teacher().eval()
    for part in ('embeddings', 'encoders'):
        getattr(teacher, part).load_state_dict(getattr(built, part).state_dict())
    first = teacher(edges(), weights())
    teacher.add_prompt('other', copy.deepcopy(built.prompt))
    torch.testing.assert_close(teacher(edges(), weights()), first, rtol=0, atol=0)
    teacher.set_prompt('other')
    torch.testing.assert_close(teacher(edges(), weights()), built(edges(), weights()))
    assert teacher.prompt_names == ['default', 'other']
    assert teacher.num_prompt_parameters == built.prompt.num_parameters
    teacher.set_prompt('default')
    torch.testing.assert_close(teacher(edges(), weights()), first, rtol=0, atol=0)


def test_a_new_prompt_starts_where_the_one_in_use_does_and_is_reset_too():
    teacher = make_teacher(num_prompt_tokens=2)
    teacher.add_prompt('other')
    other = teacher.get_prompt('other')
    assert other.describe() == teacher.prompt.describe()
    assert torch.equal(other.start('item'), teacher.prompt.start('item'))
    before = other.lins['item'].weight.clone()
    assert not torch.equal(before, teacher.prompt.lins['item'].weight)
    teacher.reset_parameters()
    assert not torch.equal(other.lins['item'].weight, before)


def test_a_loaded_state_with_another_start_renews_what_is_computed_once():
    source = make_teacher().eval()
    start = {key: 2 * x.flip(0) for key, x in make_start().items()}
    target = make_teacher(prompt_start_dict=start).eval()
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(edges(), weights()), source(edges(), weights()))


def test_a_copy_renews_its_own():
    teacher = make_teacher().eval()
    twin = copy.deepcopy(teacher)
    before = teacher(edges(), weights())
    state = twin.prompt.state_dict()
    state['start_item'] = state['start_item'].flip(0)
    twin.prompt.load_state_dict(state)
    torch.testing.assert_close(teacher(edges(), weights()), before, rtol=0, atol=0)
    fresh = make_teacher(
        prompt_start_dict={**make_start(), 'item': state['start_item']}
    )
    fresh.load_state_dict(twin.state_dict())
    torch.testing.assert_close(
        twin(edges(), weights()), fresh.eval()(edges(), weights())
    )


def test_a_teacher_built_without_a_prompt_can_be_given_one():
    teacher = make_teacher(prompt_start_dict=None).eval()
    assert (teacher.num_prompt_parameters, teacher.prompt_kilobytes) == (0, 0.0)
    before = teacher(edges(), weights())
    with pytest.raises(ValueError, match=r"'prompt' must be a 'SoftPrompt'.*None"):
        teacher.add_prompt('first')
    teacher.add_prompt('first', SoftPrompt(make_start(), 4))
    teacher.set_prompt('first')
    assert teacher.prompt_names == ['first']
    out = teacher(edges(), weights())
    assert set(out.prompt_dict) == {'user', 'item'}
    assert not torch.equal(out.x_dict['item'], before.x_dict['item'])


def test_every_parameter_of_all_parts_gets_a_gradient():
    teacher = make_teacher(
        num_prompt_tokens=3, modality_mask_dict=make_masks(), missing='token'
    )
    out = teacher(edges(), weights())
    (out.x_dict['user'].square().sum() + out.x_dict['item'].square().sum()).backward()
    for name, parameter in teacher.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ('masks', 'match'),
    [
        (
            {'video': {'item': torch.ones(7, dtype=torch.bool)}},
            r"\['video'\].*got none",
        ),
        ({'image': {'user': torch.ones(5, dtype=torch.bool)}}, r"\['user'\].*got none"),
        ({'image': {'item': torch.ones(7)}}, r'bool tensor \[7\].*float32 \[7\]'),
        ({'image': {'item': torch.ones(6).bool()}}, r'bool tensor \[7\].*\[6\]'),
    ],
)
def test_errors_of_masks(masks, match):
    with pytest.raises(ValueError, match=rf"'modality_mask_dict.*{match}"):
        make_teacher(modality_mask_dict=masks)


def test_errors_of_prompts_and_of_what_is_missing():
    teacher = make_teacher()
    with pytest.raises(ValueError, match=r"'name' must be one of.*'night'"):
        teacher.set_prompt('night')
    with pytest.raises(ValueError, match=r"'name' must be new.*'default' beside"):
        teacher.add_prompt('default')
    with pytest.raises(ValueError, match=r"'prompt' must .*out_channels=4.*with 5"):
        teacher.add_prompt('night', SoftPrompt(make_start(), 5))
    short = SoftPrompt({'item': features(2, num=6)}, 4)
    with pytest.raises(ValueError, match=r"one row per node, \[7, F\] for 'item'"):
        teacher.add_prompt('night', short)
    with pytest.raises(ValueError, match=r"'missing' must be one of.*'neighbors'"):
        make_teacher(missing='neighbors')
    with pytest.raises(ValueError, match=r"'modality_dropout' must be in \[0, 1"):
        make_teacher(modality_dropout=1.0)
    with pytest.raises(ValueError, match="'num_tokens' must be positive"):
        make_teacher(num_prompt_tokens=0)


def test_errors_and_repr():
    teacher = make_teacher()
    assert str(teacher) == (
        'PromptMM(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "modalities=['audio', 'image', 'text'], num_layers=2, prompt=True)"
    )
    with pytest.raises(ValueError, match=r"modality_x_dict\['image'\].*\[7, F\]"):
        PromptMM(NUM_NODES, {'image': {'item': features(3)[:6]}})
    with pytest.raises(ValueError, match=r"must have node types of .*'shop'"):
        PromptMM(NUM_NODES, {'image': {'shop': features(3)}})
    with pytest.raises(
        ValueError, match=r"'prompt_start_dict' must have one row per node"
    ):
        PromptMM(NUM_NODES, {}, prompt_start_dict={'user': features(3)})
    with pytest.raises(ValueError, match=r'points to .*user'):
        teacher({('user', 'interacts', 'item'): edges()['user', 'interacts', 'item']})


PARTS = [
    {},
    {'num_prompt_tokens': 3},
    {'prompt_start_dict': None},
    {'num_layers': 3, 'num_modality_layers': 2, 'self_loop_weight': 0.5},
    {
        'missing': 'token',
        'modality_mask_dict': {
            'image': {'item': torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool()}
        },
    },
]


@pytest.mark.parametrize('kwargs', PARTS)
def test_rows_and_gradients_of_a_neighborhood_are_those_of_the_graph(kwargs):
    seeds = {'user': torch.tensor([1, 4]), 'item': torch.tensor([0, 1, 6])}
    teacher = make_teacher(dropout=0.0, **kwargs).double()
    batch = around(seeds, teacher.num_hops)
    assert batch['item'].num_nodes < 7  # A part it is.
    part = teacher(
        batch.edge_index_dict, batch.collect('edge_weight'), batch.collect('n_id')
    )
    full = teacher(edges(), {key: w.double() for key, w in weights().items()})
    grads = []
    for output, index in (
        (full, seeds),
        (part, {key: slice(ids.numel()) for key, ids in seeds.items()}),
    ):
        views = [output.x_dict, output.prompt_dict, *output.modality_x_dict.values()]
        rows = [{key: x[index[key]] for key, x in view.items()} for view in views]
        loss = sum(x.pow(3).sum() for view in rows for x in view.values())
        grads.append(torch.autograd.grad(loss, teacher.parameters()))
        if output is full:
            expected = rows
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(grads[1], grads[0])
    assert all(grad.any() for grad in grads[0])


@pytest.mark.parametrize('block_size', [2, 100])
@pytest.mark.parametrize('kwargs', PARTS)
def test_inference_in_blocks_is_the_forward_in_eval_mode(kwargs, block_size):
    teacher = make_teacher(dropout=0.5, modality_dropout=0.5, **kwargs).train()
    out = teacher.inference(edges(), weights(), block_size=block_size)
    assert teacher.training
    with torch.no_grad():
        expected = teacher.eval()(edges(), weights()).x_dict
    torch.testing.assert_close(out, expected)
    assert not any(x.requires_grad for x in out.values())


def test_inference_without_the_prompt_is_the_forward_without():
    teacher = make_teacher().eval()
    teacher.disable_prompt()
    expected = teacher(edges(), weights()).x_dict
    out = teacher.inference(edges(), weights(), block_size=3)
    torch.testing.assert_close(out, {key: x.detach() for key, x in expected.items()})
    with pytest.raises(ValueError, match="'block_size' must be positive"):
        teacher.inference(edges(), block_size=0)


def test_a_part_reads_the_features_of_its_nodes_only():
    teacher = make_teacher().eval()
    batch = around({'user': torch.tensor([1]), 'item': torch.tensor([0])}, 2)
    absent = torch.ones(7, dtype=torch.bool)
    absent[batch['item'].n_id] = False
    assert absent.any()
    teacher.get_buffer('x_image__item')[absent] = float('nan')
    out = teacher(batch.edge_index_dict, None, batch.collect('n_id'))
    assert out.x_dict['item'].isfinite().all()
