import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.nn import PromptMMTeacher, csr_pair_dict
from tests.nn.graphs import NUM_NODES, dense, edges, features, weights


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
    return PromptMMTeacher(NUM_NODES, make_features(), embedding_dim=4, **kwargs)


def naive_encode(teacher, modality, node_type, prompt):
    """The prompted features as the paper writes them, every matrix in full."""
    x = make_features()[modality][node_type]
    lin = teacher.encoders[f'{modality}__{node_type}'].lin
    weight = teacher.encoders[f'{modality}__{node_type}'].prompt_weight
    prompted = x + weight * F.normalize(prompt @ (prompt.t() @ x), dim=-1)
    return prompted @ lin.weight.t() + lin.bias


def test_agrees_with_the_paper_written_with_dense_matrices():
    teacher = make_teacher(dropout=0.0, prompt_feature_weight=0.7, num_layers=2)
    A = dense()
    prompt = {k: teacher.prompt.lins[k](x) for k, x in make_start().items()}
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
def test_hops_go_on_from_where_they_are(num_layers, num_modality_layers):
    teacher = make_teacher(
        dropout=0.0,
        num_layers=num_layers,
        num_modality_layers=num_modality_layers,
        prompt_start_dict=None,
        self_weight=0.25,
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


def test_self_weight_reaches_items_without_edges():
    without = make_teacher().eval()(edges(), weights()).modality_x_dict['image']
    own = make_teacher(self_weight=1.0).eval()(edges(), weights())
    assert (without['item'][6] == 0).all()
    assert own.modality_x_dict['image']['item'][6].abs().sum() > 0


def test_without_prompt_no_prompt_parameters_exist():
    teacher = make_teacher(prompt_start_dict=None)
    assert not any('prompt' in name for name in teacher.state_dict())
    assert teacher(edges(), weights()).prompt_dict == {}


def test_without_modalities_it_is_light_gcn():
    teacher = PromptMMTeacher(NUM_NODES, {}, embedding_dim=4, num_layers=2)
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
    teacher = PromptMMTeacher(NUM_NODES, wide, make_start(), embedding_dim=4)
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
    one, two = (teacher(edges(), weights()).x_dict['item'] for _ in range(2))
    assert not torch.equal(one, two)
    teacher.eval()
    one, two = (teacher(edges(), weights()).x_dict['item'] for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


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
    teacher = PromptMMTeacher(nodes, {'cover': {'book': features(3)}}, embedding_dim=4)
    out = teacher(
        {
            ('reader', 'reads', 'book'): edge_index,
            ('book', 'read_by', 'reader'): edge_index.flip([0]),
        }
    )
    assert out.modality_x_dict['cover']['reader'].shape == (5, 4)


def test_errors_and_repr():
    teacher = make_teacher()
    assert str(teacher) == (
        'PromptMMTeacher(NodeEmbeddings(user=5, item=7, embedding_dim=4), '
        "modalities=['audio', 'image', 'text'], num_layers=2, prompt=True)"
    )
    with pytest.raises(ValueError, match=r"modality_x_dict\['image'\].*\[7, F\]"):
        PromptMMTeacher(NUM_NODES, {'image': {'item': features(3)[:6]}})
    with pytest.raises(ValueError, match=r"node types among .*'shop'"):
        PromptMMTeacher(NUM_NODES, {'image': {'shop': features(3)}})
    with pytest.raises(ValueError, match=r"'prompt_start_dict' needs one row per node"):
        PromptMMTeacher(NUM_NODES, {}, {'user': features(3)})
    with pytest.raises(ValueError, match=r'points to .*user'):
        teacher({('user', 'interacts', 'item'): edges()['user', 'interacts', 'item']})
