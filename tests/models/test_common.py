"""What holds for every trainable model of this list."""

import copy

import pytest
import torch

from promptmm_pyg import training
from promptmm_pyg.data import Split
from promptmm_pyg.distillation import distill
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.models.bm3 import BM3
from promptmm_pyg.models.clcrec import CLCRec
from promptmm_pyg.models.light_gcn_m import LightGCNM
from promptmm_pyg.models.ngcf import NGCF
from promptmm_pyg.models.vbpr import VBPR
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import TrainingConfig
from tests.models.world import batch, make, one, operators, total, without_gradient
from tests.nn.graphs import NUM_NODES, USER_ITEM
from tests.training.setting import make_split

CONTENT = [VBPR, LightGCNM, CLCRec, BM3]
ALL = [NGCF, *CONTENT]
GRAPH = [NGCF, LightGCNM, BM3]


def build(cls, **kwargs):
    if cls is not NGCF:
        return make(cls, **kwargs)
    torch.manual_seed(0)
    return NGCF(NUM_NODES, edge_type=USER_ITEM, embedding_dim=4, **kwargs)


@pytest.mark.parametrize('cls', ALL)
def test_gradients_reach_every_parameter(cls):
    assert without_gradient(build(cls).train()) == []


@pytest.mark.parametrize('cls', ALL)
def test_eval_is_deterministic_and_finite_for_isolated_nodes_too(cls):
    model = build(cls).eval()
    first, second = (soft_targets(model, operators()) for _ in range(2))
    for node_type, x in first.x_dict.items():
        assert x.shape[0] == NUM_NODES[node_type]
        assert bool(x.isfinite().all())
        assert torch.equal(x, second.x_dict[node_type])
    for modality, x_dict in first.modality_x_dict.items():
        assert set(x_dict) == {'user', 'item'}
        for node_type, x in x_dict.items():
            assert bool(x.isfinite().all())
            assert torch.equal(x, second.modality_x_dict[modality][node_type])


@pytest.mark.parametrize('cls', ALL)
def test_a_batch_of_one_has_a_finite_loss_and_gradient(cls):
    model = build(cls).train()
    total(model, one()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.parametrize('cls', CONTENT)
def test_one_modality_will_do(cls):
    model = make(cls, 'text')
    assert torch.isfinite(total(model))
    assert len(model.features.modalities) == 1


@pytest.mark.parametrize('cls', ALL)
def test_the_state_holds_parameters_and_nothing_else(cls):
    model = build(cls)
    model(operators())
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize('cls', ALL)
def test_state_goes_to_another_instance(cls):
    model, other = build(cls).eval(), build(cls).eval()
    other.reset_parameters()
    a, b = (m(operators()).x_dict['item'] for m in (model, other))
    assert not torch.equal(a, b)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(operators()).x_dict['item'], a)


@pytest.mark.parametrize('cls', ALL)
def test_a_copy_after_a_call_works_on_its_own(cls):
    model = build(cls).eval()
    expected = model(operators()).x_dict['user']
    twin = copy.deepcopy(model)
    assert torch.equal(twin(operators()).x_dict['user'], expected)
    assert torch.isfinite(
        weighted_sum(twin.losses(twin(operators()), batch()), twin.loss_weights)
    )


@pytest.mark.parametrize('cls', ALL)
def test_no_dense_matrix_between_nodes_is_made(cls, monkeypatch):
    # 500 x 600: its dense matrix would be the largest tensor by far.
    num_nodes = {'user': 500, 'item': 600}
    g = torch.Generator().manual_seed(0)
    index = torch.stack(
        [torch.randint(n, (900,), generator=g) for n in num_nodes.values()]
    )
    edges = {USER_ITEM: index, ('item', 'rev_interacts', 'user'): index.flip([0])}
    features = {'text': {'item': torch.randn(600, 3, generator=g)}}
    model = cls(num_nodes, features, edge_type=USER_ITEM, embedding_dim=4)
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.layout == torch.strided:
                sizes.append(out.numel())
            return out

    with Watch():
        total_of = model.losses(model(edges), batch())
        weighted_sum(total_of, model.loss_weights).backward()
    assert sizes
    assert max(sizes) < 500 * 600 / 1.5


@pytest.mark.parametrize('cls', ALL)
def test_is_trained_and_teaches(cls):
    train, val, _ = make_split()
    num_nodes = {'user': 60, 'item': 40}
    features = {
        key.removeprefix('x_'): {'item': x}
        for key, x in train['item'].items()
        if key.startswith('x_')
    }
    torch.manual_seed(0)
    teacher = cls(num_nodes, features, edge_type=USER_ITEM, embedding_dim=4)
    quick = TrainingConfig(epochs=2, patience=5, progress=False)
    history = training.train(
        teacher,
        Split(train, val, val),
        config=quick,
    )
    assert set(history.records[0]['losses']) == set(cls.loss_weights)
    student = MatrixFactorization(num_nodes, embedding_dim=4)
    result = distill(
        student, teacher, Split(train, val, val), baseline=False, config=quick
    )
    assert all(bool(x.isfinite().all()) for x in result.targets.x_dict.values())


@pytest.mark.parametrize('cls', ALL)
def test_wrong_ends_are_named(cls):
    x_dict = {'text': {'item': torch.ones(7, 3)}}
    with pytest.raises(ValueError, match=r"'edge_type' must connect two different"):
        cls(NUM_NODES, x_dict, edge_type=('user', 'likes', 'song'))
    with pytest.raises(ValueError, match=r"'edge_type' must connect two different"):
        cls(NUM_NODES, x_dict, edge_type=('item', 'like', 'item'))
    with pytest.raises(ValueError, match=r"'edge_type' must be a triple"):
        cls(NUM_NODES, x_dict, edge_type=('user', 'item'))


@pytest.mark.parametrize('cls', CONTENT)
def test_wrong_features_are_named(cls):
    with pytest.raises(ValueError, match='at least one modality'):
        cls(NUM_NODES, {}, edge_type=USER_ITEM)
    with pytest.raises(ValueError, match='must have one row per node'):
        cls(NUM_NODES, {'text': {'item': torch.ones(6, 3)}}, edge_type=USER_ITEM)
    both = {'text': {'item': torch.ones(7, 3), 'user': torch.ones(5, 3)}}
    with pytest.raises(ValueError, match="must have features of 'item'"):
        cls(NUM_NODES, both, edge_type=USER_ITEM)
    with pytest.raises(ValueError, match=r"'embedding_dim' must be positive"):
        make(cls, embedding_dim=0)


@pytest.mark.parametrize('cls', GRAPH)
def test_a_direction_without_edges_is_named(cls):
    forward = {USER_ITEM: operators()[USER_ITEM]}
    with pytest.raises(ValueError, match=r"'user' to 'item' and back"):
        build(cls)(forward)
