import pytest
import torch

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.distillation import CandidateSampling, DistillationObjective
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.loader import TripletLoader
from promptmm_pyg.losses import (
    FixedViewWeights,
    LearnedViewWeights,
    decoupled_kd_terms,
    listwise_kd_loss,
    pairwise_kd_loss,
    scaled_cosine_loss,
    unit_mse_loss,
)
from promptmm_pyg.targets import SoftTargets
from tests.training.setting import make_split


def rows(width, seed):
    g = torch.Generator().manual_seed(seed)
    return {
        'user': torch.randn(60, width, generator=g),
        'item': torch.randn(40, width, generator=g),
    }


def make_setting(student_width=4):
    train, _, _ = make_split()
    targets = SoftTargets(rows(4, 0), {'image': rows(4, 1), 'text': rows(4, 2)})
    source = CandidateSampler(CandidateSampling(num_uniform=3), train, targets, seed=0)
    batch = next(iter(TripletLoader(train[INTERACTS].edge_index, 60, 40, 32)))
    return rows(student_width, 3), targets, batch, source.lists(batch)


def scores(x, user, item_index):
    return torch.stack(
        [
            x['item'][items] @ x['user'][u]
            for u, items in zip(user, item_index, strict=True)
        ]
    )


def test_pairwise_follows_the_fused_teacher():
    student, targets, batch, lists = make_setting()
    terms = DistillationObjective(targets, 4, temperature=2.0)(
        student, targets, batch, lists
    )
    index = torch.stack([batch.positive, batch.negative], dim=1)
    margins = [
        scores(x, batch.user, index) @ torch.tensor([1.0, -1.0])
        for x in (student, targets.x_dict)
    ]
    torch.testing.assert_close(terms['pairwise'], pairwise_kd_loss(*margins, 2.0))


def test_listwise_averages_the_views_chosen():
    student, targets, batch, lists = make_setting()
    objective = DistillationObjective(
        targets, 4, list_views=('image', 'text'), reweight='coupled', temperature=2.0
    )
    terms = objective(student, targets, batch, lists)
    student_logits = scores(student, batch.user, lists.item_index)
    expected = [
        listwise_kd_loss(
            student_logits,
            scores(targets.modality_x_dict[name], batch.user, lists.item_index),
            temperature=2.0,
        )
        for name in ('image', 'text')
    ]
    torch.testing.assert_close(terms['listwise'], torch.stack(expected).mean())


def test_listwise_weighs_its_parts_when_decoupled():
    student, targets, batch, lists = make_setting()
    objective = DistillationObjective(
        targets, 4, list_views=('fused',), alpha=2.0, beta=8.0
    )
    terms = objective(student, targets, batch, lists)
    parts = decoupled_kd_terms(
        scores(student, batch.user, lists.item_index),
        scores(targets.x_dict, batch.user, lists.item_index),
        lists.target_mask,
    )
    expected = (2 * parts.target + 8 * parts.non_target).mean()
    torch.testing.assert_close(terms['listwise'], expected)


def views(student, targets, batch, lists):
    """The list-wise loss of every view ``[3, B]``, and the scores it compares."""
    mine = scores(student, batch.user, lists.item_index)
    every = [*targets.modality_x_dict.values(), targets.x_dict]
    theirs = [scores(x, batch.user, lists.item_index) for x in every]
    losses = [listwise_kd_loss(mine, x, reduction='none') for x in theirs]
    return torch.stack(losses), torch.stack(theirs)


@pytest.mark.parametrize('chosen', [('image', 'text'), ('image', 'text', 'fused')])
def test_views_that_agree_with_the_teacher_count_more(chosen):
    setting = make_setting()
    losses, theirs = views(*setting)
    objective = DistillationObjective(
        setting[1],
        4,
        list_views=chosen,
        view_weights='agreement',
        reweight='coupled',
    )
    num = len(chosen)
    trust = torch.stack(
        [
            torch.nn.functional.kl_div(
                x.log_softmax(-1), theirs[2].softmax(-1), reduction='none'
            ).sum(-1)
            for x in theirs[:num]
        ]
    )
    expected = ((-trust).softmax(0) * losses[:num]).sum(0).mean()
    torch.testing.assert_close(objective(*setting)['listwise'], expected)


def test_views_are_weighted_by_a_module():
    setting = make_setting()
    losses, _ = views(*setting)
    fixed = FixedViewWeights({'image': 3, 'text': 0, 'fused': 1})
    objective = DistillationObjective(
        setting[1], 4, view_weights=fixed, reweight='coupled'
    )
    expected = 0.75 * losses[0].mean() + 0.25 * losses[2].mean()
    torch.testing.assert_close(objective(*setting)['listwise'], expected)


def test_learned_view_weights_are_parameters_of_the_objective():
    setting = make_setting()
    learned = LearnedViewWeights(['image', 'text', 'fused'])
    objective = DistillationObjective(setting[1], 4, view_weights=learned)
    objective(*setting)['listwise'].backward()
    assert any(p is learned.logits for p in objective.parameters())
    assert bool(learned.logits.grad.any())


@pytest.mark.parametrize(
    ('sides', 'names'),
    [('items', ['item']), ('users', ['user']), ('both', ['user', 'item'])],
)
def test_embedding_compares_each_node_of_the_batch_once(sides, names):
    student, targets, batch, lists = make_setting()
    terms = DistillationObjective(
        targets, 4, embedding_views=('image',), sides=sides, gamma=3.0
    )(student, targets, batch, lists)
    nodes = {
        'user': sorted(set(batch.user.tolist())),
        'item': sorted({*batch.positive.tolist(), *batch.negative.tolist()}),
    }
    image = targets.modality_x_dict['image']
    losses = [
        scaled_cosine_loss(student[n][nodes[n]], image[n][nodes[n]], 3.0) for n in names
    ]
    torch.testing.assert_close(terms['embedding'], torch.stack(losses).mean())


def test_unit_mse_is_used_when_asked_for():
    student, targets, batch, lists = make_setting()
    terms = DistillationObjective(
        targets,
        4,
        embedding_views=('fused',),
        sides='users',
        embedding_loss='unit_mse',
    )(student, targets, batch, lists)
    users = batch.user.unique()
    torch.testing.assert_close(
        terms['embedding'],
        unit_mse_loss(student['user'][users], targets.x_dict['user'][users]),
    )


def test_a_student_equal_to_a_single_view_loses_nothing():
    _, targets, batch, lists = make_setting()
    objective = DistillationObjective(
        targets, 4, list_views=('fused',), embedding_views=('fused',)
    )
    for name, value in objective(targets.x_dict, targets, batch, lists).items():
        assert abs(float(value)) < 1e-6, name


def test_projectors_exist_only_where_widths_differ():
    _, targets, _, _ = make_setting()
    assert not list(DistillationObjective(targets, 4).parameters())
    objective = DistillationObjective(targets, 3)
    assert sorted(objective.projectors) == ['fused', 'image', 'text']
    assert objective.projectors['image'].weight.shape == (4, 3)


def test_projectors_and_student_get_gradients():
    student, targets, batch, lists = make_setting(student_width=3)
    student = {key: x.requires_grad_() for key, x in student.items()}
    objective = DistillationObjective(targets, 3)
    objective(student, targets, batch, lists)['embedding'].backward()
    assert student['item'].grad.abs().sum() > 0
    for parameter in objective.parameters():
        assert parameter.grad.abs().sum() > 0


def test_errors():
    _, targets, _, _ = make_setting()
    with pytest.raises(ValueError, match=r"'list_views' requires some of.*\['audio'\]"):
        DistillationObjective(targets, 4, list_views=['audio'])
    with pytest.raises(ValueError, match="'embedding_views' requires some of"):
        DistillationObjective(targets, 4, embedding_views=[])
    with pytest.raises(ValueError, match="'sides' must be one of"):
        DistillationObjective(targets, 4, sides='all')
    with pytest.raises(ValueError, match="'view_weights' must be one of"):
        DistillationObjective(targets, 4, view_weights='best')
    only_items = targets._replace(
        modality_x_dict={'image': {'item': torch.ones(40, 4)}}
    )
    with pytest.raises(ValueError, match=r"view 'image' \(missing \['user'\]\)"):
        DistillationObjective(only_items, 4)
