import pytest
import torch

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.distillation import (
    CollaborativeTerm,
    RankAwareTerm,
    RankingTerm,
    RelaxedRankingTerm,
    distill,
)
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    CollaborativeKDLoss,
    RankAwareKDLoss,
    RankingDistillationLoss,
    RelaxedRankingLoss,
    collaborative_kd_loss,
    rank_aware_kd_loss,
    ranking_distillation_loss,
    relaxed_ranking_loss,
)
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.ranking import Ranking, SeenItems
from promptmm_pyg.targets import SoftTargets, soft_targets, topk_targets
from promptmm_pyg.training import Schedule
from tests.training.setting import make_split, make_student, make_teacher

# User 1 has two items left, user 2 none.
TOP = Ranking(
    torch.tensor([[3, 0, 5], [4, 2, -1], [-1, -1, -1], [1, 0, 2]], dtype=torch.int32),
    torch.zeros(4, 3),
)
BATCH = Triplets(
    torch.tensor([3, 1, 2, 0]), torch.tensor([2, 0, 1, 2]), torch.tensor([4, 4, 0, 1])
)
LISTS = CandidateLists(
    torch.tensor([[5, 3, 0], [0, 5, 3], [1, 0, 2], [2, 1, 4]]),
    torch.tensor([[True, False, False]] * 4),
    torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool),
)
USERS = torch.tensor([3, 1, 0])  # Those of the batch with an item left.
BEST = torch.tensor([[1, 0, 2], [4, 2, 0], [3, 0, 5]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)


@pytest.fixture
def models():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        {
            'user': torch.randn(4, width, generator=generator),
            'item': torch.randn(6, width, generator=generator),
        }
        for width in (3, 5)
    )
    return student, SoftTargets(teacher, {})


def scores(x_dict):
    return x_dict['user'] @ x_dict['item'].t()


def test_ranking_term_takes_the_best_items_in_their_order(models):
    student, _ = models
    term = RankingTerm(RankingDistillationLoss(), TOP)
    expected = ranking_distillation_loss(
        scores(student)[USERS].gather(1, BEST), mask=MASK
    )
    torch.testing.assert_close(
        term(*models, BATCH, LISTS), {'ranking': expected}, rtol=1e-5, atol=1e-6
    )


def test_ranking_term_estimates_where_the_student_ranks_them(models):
    student, _ = models
    term = RankingTerm(RankingDistillationLoss(), TOP, num_sampled=4000)
    torch.manual_seed(0)
    out = term(*models, BATCH, LISTS)['ranking']
    every = scores(student)[USERS]
    mine = every.gather(1, BEST)
    exact = (every[:, None] > mine[:, :, None]).sum(-1)
    # Of 4,000 draws with repeats a share above; (I - 1) of them is the estimate.
    estimated = torch.floor(exact / 6 * 5).long() + 1
    expected = ranking_distillation_loss(mine, estimated, mask=MASK)
    torch.testing.assert_close(out, expected, rtol=0.2, atol=0)
    assert out != ranking_distillation_loss(mine, mask=MASK)


def test_relaxed_term_puts_the_best_above_the_other_candidates(models):
    student, _ = models
    # User 3: others 3 and 0, but 0 is among the best. User 1: 5, as 3 is masked.
    # User 0: 1 and 4.
    others = torch.tensor([[3, 0], [5, 3], [1, 4]])
    counts = torch.tensor([[1, 0], [1, 0], [1, 1]], dtype=torch.bool)
    every = scores(student)[USERS]
    expected = relaxed_ranking_loss(
        every.gather(1, BEST), every.gather(1, others), MASK, counts
    )
    out = RelaxedRankingTerm(RelaxedRankingLoss(), TOP)(*models, BATCH, LISTS)
    torch.testing.assert_close(out, {'ranking': expected})


def test_relaxed_term_leaves_lists_without_others_out(models):
    student, _ = models
    lists = LISTS._replace(
        mask=torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    )
    # User 3 keeps 0 alone, which is among the best; user 0 keeps nothing.
    expected = relaxed_ranking_loss(
        scores(student)[[1]].gather(1, BEST[[1]]),
        scores(student)[[1]][:, [5]],
        MASK[[1]],
    )
    out = RelaxedRankingTerm(RelaxedRankingLoss(), TOP)(*models, BATCH, lists)
    torch.testing.assert_close(out, {'ranking': expected})


def test_collaborative_term_of_all_places_is_the_loss_of_the_whole_list(models):
    student, teacher = models
    lists = [scores(x)[USERS].gather(1, BEST) for x in (student, teacher.x_dict)]
    term = CollaborativeTerm(CollaborativeKDLoss(), TOP, num_samples=3)
    out = term(*models, BATCH, LISTS)
    expected = collaborative_kd_loss(*lists, mask=MASK)
    torch.testing.assert_close(out, {'ranking': expected})


def test_collaborative_term_never_holds_an_empty_list(models):
    # With one place of three, user 1 would draw the padding now and then.
    term = CollaborativeTerm(CollaborativeKDLoss(), TOP, num_samples=1, decay=100.0)
    for seed in range(20):
        torch.manual_seed(seed)
        assert term(*models, BATCH, LISTS)['ranking'].isfinite()


def test_rank_aware_term_joins_both_models_best(models):
    student, teacher = models
    seen = SeenItems.from_edge_index(torch.tensor([[3, 1], [5, 1]]), 4, 6)
    mine = scores(student)[USERS].clone()
    mine[0, 5] = mine[1, 1] = -torch.inf
    own = mine.topk(3).indices
    every = torch.arange(6).expand(3, 6)
    of_teacher = torch.zeros(3, 6, dtype=torch.bool)
    for row in range(3):
        of_teacher[row, BEST[row][MASK[row]]] = True
    of_student = torch.zeros(3, 6, dtype=torch.bool).scatter(1, own, True)
    expected = rank_aware_kd_loss(
        scores(student)[USERS].gather(1, every),
        scores(teacher.x_dict)[USERS].gather(1, every),
        of_teacher,
        of_student,
    )
    out = RankAwareTerm(RankAwareKDLoss(), TOP, seen)(*models, BATCH, LISTS)
    torch.testing.assert_close(out, {'ranking': expected})


def test_rank_aware_term_looks_again_when_it_is_time_to(models):
    student, teacher = models
    seen = SeenItems.from_edge_index(torch.tensor([[3], [5]]), 4, 6)
    term = RankAwareTerm(RankAwareKDLoss(), TOP, seen, refresh_every=2)
    term(*models, BATCH, LISTS)
    first = term.own.clone()
    other = {**student, 'user': -student['user']}
    resumed = RankAwareTerm(RankAwareKDLoss(), TOP, seen, refresh_every=2)
    resumed.load_state_dict(term.state_dict())
    for each in (term, resumed):
        each(other, teacher, BATCH, LISTS)
        assert torch.equal(each.own, first)
        each(other, teacher, BATCH, LISTS)
        assert not torch.equal(each.own, first)


@pytest.mark.parametrize(
    'make',
    [
        lambda top, seen: RankingTerm(RankingDistillationLoss(), top, num_sampled=9),
        lambda top, seen: RelaxedRankingTerm(RelaxedRankingLoss(), top),
        lambda top, seen: CollaborativeTerm(CollaborativeKDLoss(), top, num_samples=2),
        lambda top, seen: RankAwareTerm(RankAwareKDLoss(), top, seen),
    ],
    ids=['RD', 'RRD', 'CD', 'rank-aware'],
)
def test_a_term_alone_teaches_a_student(make):
    train, val, _ = make_split()
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    seen = SeenItems.from_edge_index(train[INTERACTS].edge_index, 60, 40)
    out = distill(
        make_student(train),
        targets,
        train,
        val,
        objective=make(topk_targets(targets, train, 5), seen),
        weights={'bpr': 0.1, 'l2': 0.0, 'ranking': 1.0},
        control=False,
        learning_rate=0.03,
        schedule=Schedule(epochs=12, patience=20, progress=False),
    )
    terms = [record['terms']['ranking'] for record in out.history.records]
    assert terms[-1] < terms[0]


def test_the_lists_are_not_saved_with_the_term():
    assert RankingTerm(RankingDistillationLoss(), TOP).state_dict() == {}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'depth': 4}, "'depth' must be at most the 3 items .*got 4"),
        ({'depth': 0}, "'depth' must be positive"),
        ({'num_samples': 0}, "'num_samples' must be positive"),
        ({'decay': 0.0}, "'decay' must be positive"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CollaborativeTerm(CollaborativeKDLoss(), TOP, **arguments)
