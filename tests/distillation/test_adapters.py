import pytest
import torch

from promptmm_pyg.distillation import (
    CONTROL_WEIGHTS,
    DistillationObjective,
    JoinedTerms,
    ListTerm,
    PairTerm,
    RowTerm,
    distill,
)
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    BPRLoss,
    DistillationExperts,
    HierarchicalTopologyKDLoss,
    ListwiseKDLoss,
    PairwiseKDLoss,
    ScaledCosineLoss,
    SimilarityKDLoss,
    hierarchical_topology_kd_loss,
    listwise_kd_loss,
    pairwise_kd_loss,
    scaled_cosine_loss,
    similarity_kd_loss,
)
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, soft_targets
from tests.training.setting import QUICK, make_split, make_student, make_teacher

BATCH = Triplets(
    torch.tensor([3, 1, 3, 0]), torch.tensor([2, 0, 1, 2]), torch.tensor([4, 4, 0, 1])
)
ITEMS = torch.tensor([[2, 4, 1], [0, 4, 3], [1, 0, 2], [2, 1, 0]])
LISTS = CandidateLists(
    ITEMS,
    torch.tensor([[True, False, False]] * 4),
    torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 1]], dtype=torch.bool),
)


@pytest.fixture
def models():
    def tables(width, seed):
        generator = torch.Generator().manual_seed(seed)
        return {
            'user': torch.randn(4, width, generator=generator),
            'item': torch.randn(5, width, generator=generator),
        }

    student = {key: x.requires_grad_() for key, x in tables(3, 0).items()}
    return student, SoftTargets(tables(6, 1), {'text': tables(6, 2)})


def scores(x_dict):
    return x_dict['user'] @ x_dict['item'].t()


@pytest.mark.parametrize('view', ['fused', 'text'])
def test_pair_term_is_the_loss_of_both_margins(models, view):
    student, teacher = models
    target = teacher.x_dict if view == 'fused' else teacher.modality_x_dict['text']
    margins = [
        scores(x)[BATCH.user, BATCH.positive] - scores(x)[BATCH.user, BATCH.negative]
        for x in (student, target)
    ]
    term = PairTerm(PairwiseKDLoss(2.0), view, name='p')
    out = term(student, teacher, BATCH, LISTS)
    torch.testing.assert_close(out, {'p': pairwise_kd_loss(*margins, temperature=2.0)})


@pytest.mark.parametrize('view', ['fused', 'text'])
def test_list_term_is_the_loss_of_both_lists(models, view):
    student, teacher = models
    target = teacher.x_dict if view == 'fused' else teacher.modality_x_dict['text']
    lists = [scores(x)[BATCH.user].gather(1, ITEMS) for x in (student, target)]
    term = ListTerm(ListwiseKDLoss(), view)
    out = term(student, teacher, BATCH, LISTS)
    torch.testing.assert_close(
        out, {'listwise': listwise_kd_loss(*lists, mask=LISTS.mask)}
    )


def test_row_term_averages_both_sides_each_node_once(models):
    student, teacher = models
    users, items = torch.tensor([0, 1, 3]), torch.tensor([0, 1, 2, 4])
    expected = (
        similarity_kd_loss(student['user'][users], teacher.x_dict['user'][users])
        + similarity_kd_loss(student['item'][items], teacher.x_dict['item'][items])
    ) / 2
    out = RowTerm(SimilarityKDLoss())(student, teacher, BATCH, LISTS)
    torch.testing.assert_close(out, {'embedding': expected})


@pytest.mark.parametrize(
    ('side', 'nodes'), [('users', [0, 1, 3]), ('items', [0, 1, 2, 4])]
)
def test_row_term_of_one_side_projects_it(models, side, nodes):
    student, teacher = models
    term = RowTerm(ScaledCosineLoss(), project=(3, 6), view='text', sides=side)
    (projector,) = term.projectors.values()
    key = side[:-1]
    out = term(student, teacher, BATCH, LISTS)
    expected = scaled_cosine_loss(
        student[key][nodes] @ projector.weight.t(),
        teacher.modality_x_dict['text'][key][nodes],
    )
    torch.testing.assert_close(out, {'embedding': expected})


def test_at_most_so_many_rows_the_first_of_the_batch(models):
    student, teacher = models
    term = RowTerm(SimilarityKDLoss(), sides='items', max_rows=3)
    rows = [0, 1, 2]  # Of 2, 0, 1, 2, 4, 4, 0, 1.
    torch.testing.assert_close(
        term(student, teacher, BATCH, LISTS)['embedding'],
        similarity_kd_loss(student['item'][rows], teacher.x_dict['item'][rows]),
    )
    term = RowTerm(SimilarityKDLoss(), sides='users', max_rows=2)
    rows = [1, 3]  # Of 3, 1, 3, 0.
    torch.testing.assert_close(
        term(student, teacher, BATCH, LISTS)['embedding'],
        similarity_kd_loss(student['user'][rows], teacher.x_dict['user'][rows]),
    )


def test_groups_are_handed_to_the_loss_row_by_row(models):
    student, teacher = models
    groups = {'user': torch.tensor([0, 1, 0, 0]), 'item': torch.tensor([1, 0, 0, 1, 1])}
    term = RowTerm(HierarchicalTopologyKDLoss(), group_dict=groups)
    users, items = torch.tensor([0, 1, 3]), torch.tensor([0, 1, 2, 4])
    losses = [
        hierarchical_topology_kd_loss(
            student[key][rows], teacher.x_dict[key][rows], groups[key][rows]
        )
        for key, rows in (('user', users), ('item', items))
    ]
    out = term(student, teacher, BATCH, LISTS)
    torch.testing.assert_close(out['embedding'], torch.stack(losses).mean())
    assert not any('group' in name for name in term.state_dict())


def test_each_side_has_its_own_parameters(models):
    student, teacher = models
    term = RowTerm(DistillationExperts(3, 6, num_experts=2))
    term(student, teacher, BATCH, LISTS)['embedding'].backward()
    both = [term.losses['user'].router.weight, term.losses['item'].router.weight]
    assert both[0] is not both[1]
    assert all(bool(weight.grad.any()) for weight in both)


def test_joined_terms_are_those_of_the_parts(models):
    student, teacher = models
    parts = PairTerm(PairwiseKDLoss()), ListTerm(ListwiseKDLoss(), 'text', name='text')
    out = JoinedTerms(*parts)(student, teacher, BATCH, LISTS)
    assert list(out) == ['pairwise', 'text']
    for part in parts:
        for name, value in part(student, teacher, BATCH, LISTS).items():
            torch.testing.assert_close(out[name], value)


def test_the_pair_wise_term_is_that_of_the_whole_objective(models):
    student, teacher = models
    whole = DistillationObjective(teacher, 3)(student, teacher, BATCH, LISTS)
    part = PairTerm(PairwiseKDLoss())(student, teacher, BATCH, LISTS)
    torch.testing.assert_close(part['pairwise'], whole['pairwise'])


def test_a_term_alone_teaches_a_student_and_its_projector_is_trained():
    train, val, _ = make_split()
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    objective = RowTerm(ScaledCosineLoss(), project=(4, 8))
    before = objective.projectors['item'].weight.detach().clone()
    out = distill(
        make_student(train),
        targets,
        train,
        val,
        objective=objective,
        weights={**CONTROL_WEIGHTS, 'embedding': 1.0},
        control=False,
        schedule=QUICK,
    )
    assert set(out.history.records[0]['terms']) == {'bpr', 'l2', 'embedding'}
    assert not torch.equal(before, objective.projectors['item'].weight)


def test_a_weight_for_every_term_is_asked_for():
    train, val, _ = make_split()
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    with pytest.raises(
        ValueError, match="'terms' and 'weights' requires the same names"
    ):
        distill(
            make_student(train),
            targets,
            train,
            val,
            objective=ListTerm(ListwiseKDLoss()),
            control=False,
            schedule=QUICK,
        )


def test_two_terms_of_one_name_are_refused(models):
    joined = JoinedTerms(ListTerm(ListwiseKDLoss()), ListTerm(ListwiseKDLoss(), 'text'))
    with pytest.raises(ValueError, match=r"names \(got \['listwise'\] twice\)"):
        joined(*models, BATCH, LISTS)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'parts' requires at least one objective"):
        JoinedTerms()
    with pytest.raises(ValueError, match="'max_rows' must be positive"):
        RowTerm(SimilarityKDLoss(), max_rows=0)
    with pytest.raises(ValueError, match="'sides' must be one of"):
        RowTerm(BPRLoss(), sides='left')
