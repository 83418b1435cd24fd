import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.loader import Triplets
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training import (
    AmortizedTerms,
    Schedule,
    bpr_terms,
    promptmm_terms,
    train_teacher,
)
from promptmm_pyg.training.row_tables import RowTable
from promptmm_pyg.training.teacher import TEACHER_WEIGHTS
from tests.training.setting import LightGCN, make_split, make_student, make_teacher


class Smoothed(torch.nn.Module):
    """A model in double whose terms have parameters, and graphs, of their own."""

    weights = {'bpr': 1.0, 'pull': 0.3, 'constant': 0.5}  # noqa: RUF012

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
        self.kept = (self.user * 2).tanh()  # Not part of the output.
        user, item = self.user.tanh() + mean, self.item - 0.5 * mean
        return TeacherOutput({'user': user, 'item': item}, {'m': {'item': item}})

    def losses(self, output, batch):
        x = output.x_dict
        user, item = x['user'][batch.user], x['item'].index_select(0, batch.positive)
        kept = self.kept.index_select(0, batch.user)
        return {
            'bpr': bpr_terms(x, batch)['bpr'],
            'pull': ((user * self.own - item + kept) ** 2).sum(-1).mean(),
            'constant': output.modality_x_dict['m']['item'].square().mean(),
        }


def make_batch(size=11, seed=3):
    g = torch.Generator().manual_seed(seed)
    return Triplets(
        torch.randint(6, (size,), generator=g),
        torch.randint(9, (size,), generator=g),
        torch.randint(9, (size,), generator=g),
    )


def total(terms, weights):
    return sum(weights[name] * value for name, value in terms.items())


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def amortized(model, batch_size, **kwargs):
    kwargs = {'terms': model.losses, 'weights': model.weights, **kwargs}
    return AmortizedTerms(
        model, parameters=model.parameters(), batch_size=batch_size, **kwargs
    )


@pytest.mark.parametrize('batch_size', [1, 4, 11, 100])
@pytest.mark.parametrize('size', [1, 11])
def test_values_and_gradients_are_those_of_the_whole_batch(batch_size, size):
    # With 4 of 11 the last piece is smaller, and has to count less.
    batch, whole, pieces = make_batch(size), Smoothed(), Smoothed()
    expected = whole.losses(whole(), batch)
    total(expected, whole.weights).backward()
    terms = amortized(pieces, batch_size)(batch)
    total(terms, pieces.weights).backward()
    torch.testing.assert_close(dict(terms), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        gradients(pieces), gradients(whole), rtol=1e-6, atol=1e-7
    )
    assert pieces.calls == 1


def test_the_gradient_follows_a_scaled_loss():
    one, half = Smoothed(), Smoothed()
    batch = make_batch()
    total(amortized(one, 4)(batch), one.weights).backward()
    (-0.5 * total(amortized(half, 4)(batch), half.weights)).backward()
    for name, grad in gradients(half).items():
        torch.testing.assert_close(grad, -0.5 * gradients(one)[name])


def test_a_term_without_weight_has_no_gradient():
    model, batch = Smoothed(), make_batch()
    weights = {'bpr': 1.0, 'pull': 0.0, 'constant': 0.0}
    total(amortized(model, 4, weights=weights)(batch), weights).backward()
    assert model.own.grad is None
    assert (model.user.grad != 0).any()


def test_examples_of_a_batch_meet_those_of_their_piece_alone():
    model, batch = Smoothed(), make_batch(8)

    def in_batch(output, batch):
        x = output.x_dict
        logits = x['user'][batch.user] @ x['item'][batch.positive].t()
        return {'softmax': F.cross_entropy(logits, torch.arange(len(logits)))}

    weights = {'softmax': 1.0}
    value = amortized(model, 4, terms=in_batch, weights=weights)(batch)['softmax']
    halves = [Triplets(*(x[part] for x in batch)) for part in (slice(4), slice(4, 8))]
    by_piece = [in_batch(model(), half)['softmax'] for half in halves]
    torch.testing.assert_close(value, sum(by_piece) / 2, rtol=1e-6, atol=0)
    whole = in_batch(model(), batch)['softmax']
    assert whole > value + 0.1


@pytest.mark.parametrize('wrap', [list, tuple, lambda x: {'a': x[0], 'b': x[1:]}])
def test_outputs_may_be_any_container_and_hold_what_is_no_table(wrap):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.double))
    constant = torch.ones(2, dtype=torch.double)

    def forward():
        return wrap([weight * 3, constant, 'name', weight.sum()])

    def terms(output, batch):
        first, rest = (
            (output['a'], output['b'])
            if isinstance(output, dict)
            else (output[0], output[1:])
        )
        assert rest[1] == 'name'
        assert not rest[0].requires_grad
        return {'t': ((first + rest[0]) * rest[2] * batch.user.double().mean()).sum()}

    shared = AmortizedTerms(forward, terms, {'t': 2.0}, [weight], 1)
    batch = Triplets(*[torch.tensor([1, 3])] * 3)
    (2 * shared(batch)['t']).backward()
    ours, weight.grad = weight.grad, None
    (2 * terms(forward(), batch)['t']).backward()
    torch.testing.assert_close(ours, weight.grad)


def test_a_step_of_two_tables_is_the_same_though_one_is_returned_twice():
    # `item` stands in two places of the output; the gradients of both must count.
    model, batch = Smoothed(), make_batch()
    weights = {'bpr': 0.0, 'pull': 0.0, 'constant': 1.0}
    total(amortized(model, 4, weights=weights)(batch), weights).backward()
    assert model.item.grad.abs().sum() > 0


def test_names_of_terms_and_weights_have_to_agree():
    model = Smoothed()
    with pytest.raises(
        ValueError, match="'terms' and 'weights' requires the same names"
    ):
        amortized(model, 4, weights={'bpr': 1.0})(make_batch())


WEIGHTS = {'bpr': 1.0, 'l2': 0.1}


def trained(model, *, terms=promptmm_terms, weights=TEACHER_WEIGHTS, **kwargs):
    train, val, _ = make_split()
    history = train_teacher(
        model,
        train,
        val,
        terms=terms,
        weights=weights,
        learning_rate=0.01,
        schedule=Schedule(epochs=2, progress=False),
        **kwargs,
    )
    return dict(model.state_dict()), [r['loss'] for r in history.records]


def test_training_is_that_with_as_many_times_larger_batches_dropout_included():
    train, _, _ = make_split()
    whole = trained(make_teacher(train), batch_size=120)
    shared = trained(make_teacher(train), batch_size=40, propagate_every=3)
    # Adam magnifies rounding where gradients are tiny.
    torch.testing.assert_close(shared, whole, rtol=1e-3, atol=1e-4)
    single = trained(make_teacher(train), batch_size=40)
    start = dict(make_teacher(train).state_dict())
    for name in ('embeddings.tables.user', 'embeddings.tables.item'):
        moved = (whole[0][name] - start[name]).abs().mean()
        assert (single[0][name] - whole[0][name]).abs().mean() > 0.1 * moved


def test_embedding_models_share_their_forward_too():
    train, _, _ = make_split()
    kwargs = {'terms': bpr_terms, 'weights': WEIGHTS}
    make = [make_student(train, cls=LightGCN) for _ in range(2)]
    whole = trained(make[0], batch_size=150, **kwargs)
    shared = trained(make[1], batch_size=50, propagate_every=3, **kwargs)
    torch.testing.assert_close(shared, whole, rtol=1e-3, atol=1e-4)


def test_the_forward_runs_once_for_so_many_batches():
    train, _, _ = make_split()
    model, calls = make_student(train, cls=LightGCN), []
    model.register_forward_hook(lambda *_: calls.append(model.training))
    trained(model, batch_size=10, propagate_every=7, terms=bpr_terms, weights=WEIGHTS)
    num = train['user', 'interacts', 'item'].edge_index.size(1)
    assert sum(calls) == 2 * -(-num // 70)


def test_lookups_in_an_output_cost_their_rows():
    model, seen = Smoothed(), []

    def terms(output, batch):
        seen.extend([output.x_dict['user'], output.modality_x_dict['m']['item']])
        return model.losses(output, batch)

    amortized(model, 4, terms=terms)(make_batch())
    assert {type(x) for x in seen} == {RowTable}


def test_errors():
    train, val, _ = make_split()
    for value in (0, -1):
        with pytest.raises(ValueError, match="'propagate_every' must be positive"):
            train_teacher(make_teacher(train), train, val, propagate_every=value)
    with pytest.raises(ValueError, match=r"'propagate_every' must be 1 .* \(got 2"):
        train_teacher(
            make_student(train), train, val, propagate_every=2, optimizer='lazy'
        )
