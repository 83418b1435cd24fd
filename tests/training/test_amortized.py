"""One forward for several batches (``propagate_every``)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.loader import Triplets
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training import TrainingConfig, bpr_losses, train
from promptmm_pyg.training.loop import amortized
from tests.training.setting import LightGCN, make_split, make_student, make_teacher


class Smoothed(torch.nn.Module):
    """A model in double whose losses use its parameters, and tensors of its forward,
    directly.
    """

    loss_weights = {'bpr': 1.0, 'pull': 0.3, 'constant': 0.5}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.user = torch.nn.Parameter(torch.randn(6, 3, generator=g).double())
        self.item = torch.nn.Parameter(torch.randn(9, 3, generator=g).double())
        self.own = torch.nn.Parameter(torch.randn(3, generator=g).double())
        self.calls = 0

    def forward(self):
        self.calls += 1
        mean = self.item.mean(dim=0)
        self.state = (self.user * 2).tanh()  # Not part of the output.
        user, item = self.user.tanh() + mean, self.item - 0.5 * mean
        return TeacherOutput({'user': user, 'item': item}, {'m': {'item': item}})

    def losses(self, output, batch):
        x = output.x_dict
        user, item = x['user'][batch.user], x['item'].index_select(0, batch.positive)
        state = self.state.index_select(0, batch.user)
        return {
            'bpr': bpr_losses(x, batch)['bpr'],
            'pull': ((user * self.own - item + state) ** 2).sum(-1).mean(),
            'constant': output.modality_x_dict['m']['item'].square().mean(),
        }


def make_batch(size=11):
    g = torch.Generator().manual_seed(3)
    return Triplets(*(torch.randint(n, (size,), generator=g) for n in (6, 9, 9)))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def step(model, batch_size, batch, losses=None, weights=None):
    weights = model.loss_weights if weights is None else weights
    losses = model.losses if losses is None else losses
    return amortized(model, losses, weights, model.parameters(), batch_size)(
        batch, None
    )


@pytest.mark.parametrize('batch_size', [1, 4, 11, 100])
@pytest.mark.parametrize('size', [1, 11])
def test_values_and_gradients_are_those_of_the_batch_at_once(batch_size, size):
    # With 4 of 11 the last piece is smaller, and counts less.
    batch, at_once, pieces = make_batch(size), Smoothed(), Smoothed()
    expected = at_once.losses(at_once(), batch)
    total = sum(at_once.loss_weights[name] * x for name, x in expected.items())
    total.backward()
    out = step(pieces, batch_size, batch)
    out.backward.backward()
    torch.testing.assert_close(out.losses, {k: x.detach() for k, x in expected.items()})
    torch.testing.assert_close(out.loss, total.detach())
    torch.testing.assert_close(gradients(pieces), gradients(at_once))
    assert pieces.calls == 1


def test_a_loss_of_weight_zero_has_no_gradient():
    model = Smoothed()
    weights = {'bpr': 1.0, 'pull': 0.0, 'constant': 0.0}
    step(model, 4, make_batch(), weights=weights).backward.backward()
    assert model.own.grad is None
    assert (model.user.grad != 0).any()


def test_in_batch_losses_see_their_piece():
    model, batch = Smoothed(), make_batch(8)

    def in_batch(output, batch):
        x = output.x_dict
        logits = x['user'][batch.user] @ x['item'][batch.positive].t()
        return {'softmax': F.cross_entropy(logits, torch.arange(len(logits)))}

    value = step(model, 4, batch, in_batch, {'softmax': 1.0}).losses['softmax']
    halves = [Triplets(*(x[part] for x in batch)) for part in (slice(4), slice(4, 8))]
    by_piece = [in_batch(model(), half)['softmax'] for half in halves]
    torch.testing.assert_close(value, (sum(by_piece) / 2).detach())
    assert in_batch(model(), batch)['softmax'] > value + 0.1


@pytest.mark.parametrize('wrap', [list, tuple, lambda x: {'a': x[0], 'b': x[1:]}])
def test_outputs_may_be_any_container_of_tensors_and_others(wrap):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.double))
    constant = torch.ones(2, dtype=torch.double)

    def losses(output, batch):
        first, *rest = output.values() if isinstance(output, dict) else output
        rest = rest[0] if len(rest) == 1 else rest
        assert rest[1] == 'name'
        assert not rest[0].requires_grad
        return {'loss': (first * rest[0]).sum() * rest[2]}

    out = amortized(
        lambda: wrap([weight * 3, constant, 'name', weight.sum()]),
        losses,
        None,
        [weight],
        4,
    )(make_batch(), None)
    out.backward.backward()
    # Of 3 (w1 + w2)^2.
    torch.testing.assert_close(weight.grad, torch.full_like(weight.detach(), 18.0))
    assert out.loss == 27


def test_lookups_in_an_output_have_sparse_gradients():
    model, seen = Smoothed(), []

    def losses(output, batch):
        seen.extend([output.x_dict['user'], output.modality_x_dict['m']['item']])
        return model.losses(output, batch)

    step(model, 4, make_batch(), losses)
    assert all(x.sparse_grad for x in seen)


CONFIG = TrainingConfig(epochs=2, learning_rate=0.01, progress=False)


def trained(model, data, **options):
    history = train(model, data, config=replace(CONFIG, **options))
    losses = [record['loss'] for record in history.records]
    return dict(model.state_dict()), losses


@pytest.mark.parametrize('kind', ['teacher', 'student'])
def test_shared_forwards_take_the_steps_of_the_large_batch(kind):
    data = make_split()

    def make():
        if kind == 'teacher':
            return make_teacher(data.train, dropout=0.3)
        return make_student(data.train, cls=LightGCN)

    large = trained(make(), data, batch_size=120)
    shared = trained(make(), data, batch_size=40, propagate_every=3)
    # Adam magnifies rounding where gradients are tiny.
    torch.testing.assert_close(shared, large, rtol=1e-3, atol=1e-4)
    single = trained(make(), data, batch_size=40)
    start = dict(make().state_dict())
    for name in ('embeddings.tables.user', 'embeddings.tables.item'):
        moved = (large[0][name] - start[name]).abs().mean()
        assert (single[0][name] - large[0][name]).abs().mean() > 0.1 * moved


def test_the_forward_runs_once_for_so_many_batches():
    data = make_split()
    model, calls = make_student(data.train, cls=LightGCN), []
    model.register_forward_hook(lambda *_: calls.append(model.training))
    trained(model, data, batch_size=10, propagate_every=7)
    num = data.train['user', 'interacts', 'item'].edge_index.size(1)
    assert sum(calls) == 2 * -(-num // 70)
