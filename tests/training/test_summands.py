"""What all processes add is what one computes; their number is played here."""

import pytest
import torch

import promptmm_pyg.training.summands as module
from promptmm_pyg._distributed import Share
from promptmm_pyg.distillation import (
    DistillationObjective,
    JoinedTerms,
    ListTerm,
    PairTerm,
    RowTerm,
)
from promptmm_pyg.distillation.adapters import _BY_ROW
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    BidirectionalKDLoss,
    DecoupledKDLoss,
    DistanceKDLoss,
    FixedViewWeights,
    HierarchicalTopologyKDLoss,
    LearnedViewWeights,
    ListwiseKDLoss,
    PairwiseKDLoss,
    ScaledCosineLoss,
    SimilarityKDLoss,
    SoftLabelKDLoss,
    UnitMSELoss,
)
from promptmm_pyg.models import FREEDOM, LATTICE, MGCN, NGCF
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training import bpr_terms, by_example, promptmm_terms
from promptmm_pyg.training.summands import (
    is_by_example,
    summands,
    summands_of_objective,
)
from tests.models.contract import build, operators
from tests.nn.graphs import NUM_NODES, USER_ITEM

SIZES = [1, 2, 3, 20]


def table(rows, width, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=g, dtype=torch.double)


def x_dict(width, seed):
    return {'user': table(5, width, seed), 'item': table(7, width, seed + 1)}


def make_batch(size=11):
    g = torch.Generator().manual_seed(1)
    high = (5, 7, 7)
    return Triplets(*(torch.randint(n, (size,), generator=g) for n in high))


def make_lists(batch, masked=True):
    size = batch.user.numel()
    g = torch.Generator().manual_seed(2)
    items = torch.cat(
        [batch.positive[:, None], torch.randint(7, (size, 4), generator=g)], dim=1
    )
    target = torch.zeros_like(items, dtype=torch.bool)
    target[:, 0] = True
    mask = torch.rand(size, 5, generator=g) < 0.6
    mask[:, :2] = True
    return CandidateLists(items, target, mask if masked else None)


def targets():
    views = {'image': x_dict(6, 30), 'text': x_dict(4, 40)}
    return SoftTargets(x_dict(5, 20), views)


def with_gradients(terms, leaves):
    """Values of the terms, and the gradient of a sum in which no two count alike."""
    loss = sum((1 + k) * terms[name] for k, name in enumerate(sorted(terms)))
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    zeros = [
        torch.zeros_like(x) if g is None else g
        for x, g in zip(leaves, grads, strict=True)
    ]
    return {name: value.detach() for name, value in terms.items()}, zeros


def added(all_parts):
    first, *rest = all_parts
    values, grads = dict(first[0]), list(first[1])
    for other, others in rest:
        values = {name: value + other[name] for name, value in values.items()}
        grads = [a + b for a, b in zip(grads, others, strict=True)]
    return values, grads


def of_all_ranks(monkeypatch, size, compute, leaves):
    parts = []
    for rank in range(size):
        share = Share(rank, size)
        monkeypatch.setattr(Share, 'current', lambda share=share: share)
        parts.append(with_gradients(compute(share), leaves))
    return added(parts)


def objectives():
    def made(**kwargs):
        torch.manual_seed(0)
        return DistillationObjective(targets(), 3, **kwargs)

    class ByProduct(torch.nn.Module):
        """No linear function of the means."""

        def forward(self, means):
            return torch.stack(list(means.values())).prod()

    class Doubled(DistillationObjective):
        """Overrides what ``summands`` knows nothing of."""

        def forward(self, student, teacher, batch, lists):
            terms = super().forward(student, teacher, batch, lists)
            return {**terms, 'more': 2 * student['user'][batch.user].square().sum()}

    class Marked(torch.nn.Module):
        def forward(self, student, teacher, batch, lists):
            x = student['user'][batch.user] - student['item'][lists.item_index[:, 1]]
            return {'gap': x.square().sum(-1).mean()}

    group = {'user': torch.arange(5) % 2, 'item': torch.arange(7) % 3}
    views = [*targets().modality_x_dict, 'fused']
    losses = dict.fromkeys(views, 0.5)
    torch.manual_seed(0)
    return {
        'default': made(),
        'agreement': made(view_weights='agreement', sides='items'),
        'fixed': made(view_weights=FixedViewWeights({**losses, 'text': 2.0})),
        'learned': made(view_weights=LearnedViewWeights(views)),
        'any weights': made(view_weights=ByProduct(), embedding_loss='unit_mse'),
        'subclass': Doubled(targets(), 3),
        'joined': JoinedTerms(
            PairTerm(PairwiseKDLoss(2.0)),
            ListTerm(ListwiseKDLoss(), view='text'),
            ListTerm(SoftLabelKDLoss(), name='soft'),
            ListTerm(BidirectionalKDLoss(), name='both'),
            ListTerm(SumOfLists(), name='own'),
            RowTerm(ScaledCosineLoss(), project=(3, 5)),
            RowTerm(UnitMSELoss(), project=(3, 6), view='image', name='unit'),
            RowTerm(SimilarityKDLoss(), max_rows=3, name='similarity'),
            RowTerm(DistanceKDLoss(), sides='users', name='distance'),
            RowTerm(HierarchicalTopologyKDLoss(), group_dict=group, name='groups'),
            RowTerm(UnitMSELoss(reduction='sum'), project=(3, 5), name='sum'),
        ),
        'marked': by_example(Marked()),
        'unmarked': Marked(),
    }


class SumOfLists(torch.nn.Module):
    """A sum over the batch, of which half the batch would be half."""

    def forward(self, student, teacher, mask=None):
        return (student - teacher).square().sum() ** 2


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', objectives())
@pytest.mark.parametrize('masked', [True, False])
def test_summands_of_an_objective_add_up(monkeypatch, name, size, masked):
    objective = objectives()[name].double()
    student = {key: x.requires_grad_() for key, x in x_dict(3, 5).items()}
    leaves = [*student.values(), *objective.parameters()]
    batch = make_batch()
    arguments = student, targets(), batch, make_lists(batch, masked)
    expected = with_gradients(objective(*arguments), leaves)
    ours = of_all_ranks(
        monkeypatch,
        size,
        lambda share: summands_of_objective(objective, *arguments, share),
        leaves,
    )
    torch.testing.assert_close(ours, expected)


def test_only_a_part_of_the_examples_is_looked_at():
    batch = make_batch(8)
    seen = []

    class Looks(PairwiseKDLoss):
        def forward(self, student, teacher):
            seen.append(student.numel())
            return super().forward(student, teacher)

    known, own = PairTerm(PairwiseKDLoss()), PairTerm(Looks())
    known.loss.register_forward_hook(lambda _, args, __: seen.append(args[0].numel()))
    for term in (known, own, by_example(PairTerm(Looks()))):
        summands_of_objective(
            term, x_dict(3, 5), targets(), batch, make_lists(batch), Share(1, 4)
        )
    assert seen == [2, 8, 2]


def test_losses_that_are_known_are_means_over_rows():
    g = torch.Generator().manual_seed(0)
    for cls in _BY_ROW:
        size = (6,) if cls is PairwiseKDLoss else (6, 4)
        one, two = (torch.randn(size, generator=g, dtype=torch.double) for _ in '12')
        more = ()
        if cls is DecoupledKDLoss:
            target = torch.zeros(size, dtype=torch.bool)
            target[:, 0] = True
            more = (target,)
        whole = cls()(one, two, *more)
        parts = [
            cls()(one[rows], two[rows], *(x[rows] for x in more))
            for rows in (slice(0, 2), slice(2, 6))
        ]
        torch.testing.assert_close((2 * parts[0] + 4 * parts[1]) / 6, whole)


def make_model(cls):
    if cls is NGCF:
        torch.manual_seed(0)
        return NGCF(NUM_NODES, edge_type=USER_ITEM, embedding_dim=4)
    return build(cls, **({'num_neighbors': 2} if cls in (FREEDOM, LATTICE) else {}))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('cls', module._BY_EXAMPLE, ids=lambda cls: cls.__name__)
def test_terms_of_models_that_are_divided_add_up(monkeypatch, cls, size):
    model = make_model(cls).eval()
    assert is_by_example(model.losses)
    output, leaves = model(operators()), list(model.parameters())
    check(monkeypatch, lambda batch: model.losses(output, batch), True, leaves, size)


def check(monkeypatch, terms, divide, leaves, size):
    batch = make_batch()

    def gradients(compute):
        values = compute()
        loss = sum((1 + k) * values[name] for k, name in enumerate(sorted(values)))
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
        zeros = [
            torch.zeros_like(x) if g is None else g
            for x, g in zip(leaves, grads, strict=True)
        ]
        return {name: value.detach() for name, value in values.items()}, zeros

    expected = gradients(lambda: terms(batch))
    parts = []
    for rank in range(size):
        monkeypatch.setattr(Share, 'current', lambda rank=rank: Share(rank, size))
        parts.append(gradients(lambda: summands(terms, batch, divide)))
    torch.testing.assert_close(added(parts), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', SIZES)
def test_the_terms_of_this_package_add_up(monkeypatch, size):
    user, item = (x.requires_grad_() for x in x_dict(3, 5).values())
    x = {'user': user, 'item': item}
    views = {'image': {'user': user.tanh(), 'item': item * 2}}
    output = TeacherOutput(x, views, {'user': user.sin(), 'item': item.cos()})
    for terms, given in ((bpr_terms, x), (promptmm_terms, output)):
        assert is_by_example(terms)
        check(
            monkeypatch,
            lambda batch, terms=terms, given=given: terms(given, batch),
            True,
            [user, item],
            size,
        )


def test_terms_in_which_examples_meet_are_whole(monkeypatch):
    model = build(MGCN, num_neighbors=2).eval()
    assert not is_by_example(model.losses)
    output = model(operators())
    leaves = list(model.parameters())
    check(monkeypatch, lambda batch: model.losses(output, batch), False, leaves, 3)


def test_a_model_that_changes_known_terms_is_not_known():
    class Own(NGCF):
        def terms(self, output, batch):
            return super().losses(output, batch)

    torch.manual_seed(0)
    assert is_by_example(make_model(NGCF).losses)
    assert not is_by_example(
        Own(NUM_NODES, edge_type=USER_ITEM, embedding_dim=4).losses
    )


def test_a_subclass_of_a_term_is_whole_unless_it_says_otherwise():
    class Own(PairTerm):
        pass

    assert is_by_example(PairTerm(PairwiseKDLoss()))
    assert not is_by_example(Own(PairwiseKDLoss()))
    assert not is_by_example(PairTerm(PairwiseKDLoss(reduction='sum')))
    assert is_by_example(by_example(Own(PairwiseKDLoss())))


def test_alone_a_batch_is_handed_on_as_it_is():
    batch, seen = make_batch(), []

    def terms(given):
        seen.append(given)
        return {}

    summands(terms, batch, True)
    assert seen[0] is batch
