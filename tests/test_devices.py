"""The same numbers on every device; what needs a GPU is skipped where there is none."""

import pytest
import torch

from promptmm_pyg import LightGCN, PromptMMTeacher, distill, evaluate, train_teacher
from promptmm_pyg.data import (
    modality_x_dict,
    num_nodes_dict,
    planted_dataset,
    split_per_user,
)
from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.nn import CSRPair
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.training import Candidates, Schedule, message_operators
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')

CUDA = pytest.param(
    'cuda',
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
)
on_every_device = pytest.mark.parametrize('device', ['cpu', CUDA])
QUICK = Schedule(epochs=2, progress=False)


@pytest.fixture(scope='module')
def split():
    train, val, test = split_per_user(planted_dataset(60, 50, 6, seed=0))
    return AddModalityPCA(4)(StandardizeModalities()(train)), val, test


def make_teacher(train):
    torch.manual_seed(0)
    start = {key: train[key].prompt_start for key in ('user', 'item')}
    return PromptMMTeacher(
        num_nodes_dict(train), modality_x_dict(train), start, embedding_dim=8, dropout=0
    )


def outcome(model, train):
    """Outputs and gradients of one loss, on the CPU."""
    out = model(message_operators(train))
    x_dict = getattr(out, 'x_dict', out)
    user, item = x_dict['user'], x_dict['item']
    scores = user[:20] @ item.t()
    bpr_loss(scores[:, 0], scores[:, 1]).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    return [x.detach().cpu() for x in (user, item, *grads)]


@on_every_device
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_operators(device, dtype):
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(9, (2, 30), generator=generator).unique(dim=1)
    weight = torch.rand(edge_index.size(1), generator=generator)
    pair = CSRPair.from_edge_index(edge_index, weight, size=(9, 9))
    x = torch.randn(9, 5, generator=generator, dtype=dtype)
    outs = []
    for where in ('cpu', device):
        here = x.to(where).requires_grad_()
        adj = pair.to(where)
        out = adj @ here
        out.square().sum().backward()
        there = torch.ones_like(out)
        outs.append([out.cpu(), here.grad.cpu(), adj.add_product_(there, here).cpu()])
    torch.testing.assert_close(*outs)


@on_every_device
def test_models_and_their_gradients(device, split):
    train = split[0]
    for make in (
        make_teacher,
        lambda train: LightGCN(num_nodes_dict(train), 8, 3),
    ):
        outs = []
        for where in ('cpu', device):
            torch.manual_seed(0)
            outs.append(outcome(make(train).to(where), train.clone().to(where)))
        torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)


@on_every_device
def test_rankings_with_ties(device):
    generator = torch.Generator().manual_seed(0)
    # Few values, so that most scores are equal.
    user_x, item_x = (
        torch.randint(-1, 2, (n, 2), generator=generator).float() for n in (40, 70)
    )
    edge_index = torch.stack([torch.arange(40), torch.arange(40)])
    seen = SeenItems.from_edge_index(edge_index, 40, 70)
    users = torch.arange(40)
    lists = [
        rank_items((user_x.to(where), item_x.to(where)), users, 10, seen=seen)
        for where in ('cpu', device)
    ]
    assert torch.equal(lists[0].item_index, lists[1].item_index.cpu())


@on_every_device
def test_a_teacher_and_its_student_are_trained(device, split):
    train, val, test = split
    there = train.clone().to(device)
    teacher = make_teacher(there).to(device)
    train_teacher(teacher, there, val, batch_size=64, schedule=QUICK)
    out = distill(
        LightGCN(num_nodes_dict(train), 4).to(device),
        teacher,
        there,
        val,
        candidates=Candidates(num_random=4, num_teacher=2),
        batch_size=64,
        schedule=QUICK,
    )
    x_dict = out.student(message_operators(there))
    assert all(x.device.type == device for x in x_dict.values())
    found = [
        evaluate({k: x.detach().to(where) for k, x in x_dict.items()}, test).metrics
        for where in ('cpu', device)
    ]
    assert found[0] == pytest.approx(found[1], abs=0.02)
