"""What each adapter compares, against dense scores."""

import pytest
import torch

from promptmm_pyg.distillation import (
    OnEmbeddings,
    OnLists,
    OnPairs,
    OnTopK,
    distill,
    promptmm_losses,
)
from promptmm_pyg.distillation.objective import Objective
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    AngleKDLoss,
    CollaborativeKDLoss,
    DecoupledKDLoss,
    DistillationExperts,
    FixedViewWeights,
    HierarchicalTopologyKDLoss,
    InfoNCELoss,
    LearnedViewWeights,
    ListwiseKDLoss,
    PairwiseKDLoss,
    RankAwareKDLoss,
    RankingDistillationLoss,
    RelaxedRankingLoss,
    ScaledCosineLoss,
    SimilarityKDLoss,
    UnitMSELoss,
    collaborative_kd_loss,
    decoupled_kd_terms,
    hierarchical_topology_kd_loss,
    listwise_kd_loss,
    pairwise_kd_loss,
    rank_aware_kd_loss,
    ranking_distillation_loss,
    relaxed_ranking_loss,
    scaled_cosine_loss,
    similarity_kd_loss,
)
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.ranking import Ranking, SeenItems
from promptmm_pyg.targets import SoftTargets, soft_targets
from promptmm_pyg.training import TrainingConfig
from tests.training.setting import make_split, make_student, make_teacher

BATCH = Triplets(
    torch.tensor([3, 1, 3, 0]), torch.tensor([2, 0, 1, 2]), torch.tensor([4, 4, 0, 1])
)
ITEMS = torch.tensor([[2, 4, 1], [0, 4, 3], [1, 0, 2], [2, 1, 0]])
LISTS = CandidateLists(
    ITEMS,
    torch.tensor([[True, False, False]] * 4),
    torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 1]], dtype=torch.bool),
)
DISTINCT = {'user': [0, 1, 3], 'item': [0, 1, 2, 4]}


def tables(width, seed, num_items=5):
    generator = torch.Generator().manual_seed(seed)
    return {
        'user': torch.randn(4, width, generator=generator),
        'item': torch.randn(num_items, width, generator=generator),
    }


@pytest.fixture
def models():
    student = {key: x.requires_grad_() for key, x in tables(3, 0).items()}
    return student, SoftTargets(
        tables(6, 1), {'text': tables(6, 2), 'image': tables(6, 4)}
    )


def value(adapter, models, batch=BATCH, lists=LISTS):
    (out,) = adapter(*models, batch, lists).values()
    return out


def view(teacher, name):
    return teacher.x_dict if name == 'fused' else teacher.modality_x_dict[name]


def scores(x_dict):
    return x_dict['user'] @ x_dict['item'].t()


def list_scores(x_dict):
    return scores(x_dict)[BATCH.user].gather(1, ITEMS)


@pytest.mark.parametrize('name', ['fused', 'text'])
def test_pairs_compare_the_margins(models, name):
    student, teacher = models
    margins = [
        scores(x)[BATCH.user, BATCH.positive] - scores(x)[BATCH.user, BATCH.negative]
        for x in (student, view(teacher, name))
    ]
    out = OnPairs(PairwiseKDLoss(2.0), view=name, name='p')(*models, BATCH, LISTS)
    torch.testing.assert_close(out, {'p': pairwise_kd_loss(*margins, temperature=2.0)})


@pytest.mark.parametrize(
    ('views', 'names'),
    [
        ('all', ['text', 'image', 'fused']),
        ('modalities', ['text', 'image']),
        ('fused', ['fused']),
        ('text', ['text']),
        (['image', 'fused'], ['image', 'fused']),
    ],
)
def test_lists_average_the_views(models, views, names):
    student, teacher = models
    expected = [
        listwise_kd_loss(
            list_scores(student), list_scores(view(teacher, name)), mask=LISTS.mask
        )
        for name in names
    ]
    out = OnLists(ListwiseKDLoss(), views=views)(*models, BATCH, LISTS)
    torch.testing.assert_close(out, {'listwise': torch.stack(expected).mean()})


@pytest.mark.parametrize('reduction', ['none', 'mean'])
def test_a_loss_with_a_target_mask_receives_it(models, reduction):
    student, teacher = models
    parts = decoupled_kd_terms(
        list_scores(student),
        list_scores(teacher.x_dict),
        LISTS.target_mask,
        mask=LISTS.mask,
    )
    loss = DecoupledKDLoss(alpha=2.0, beta=8.0, reduction=reduction)
    expected = (2 * parts.target + 8 * parts.non_target).mean()
    torch.testing.assert_close(value(OnLists(loss, views='fused'), models), expected)


@pytest.mark.parametrize('names', [['text', 'image'], ['text', 'image', 'fused']])
def test_views_that_agree_with_the_teacher_count_more(models, names):
    student, teacher = models
    lists = LISTS._replace(mask=None)
    logits = [list_scores(view(teacher, name)) for name in names]
    fused = list_scores(teacher.x_dict).softmax(-1)
    divergence = [
        torch.nn.functional.kl_div(x.log_softmax(-1), fused, reduction='none').sum(-1)
        for x in logits
    ]
    losses = [
        listwise_kd_loss(list_scores(student), x, reduction='none') for x in logits
    ]
    weights = (-torch.stack(divergence)).softmax(0)
    expected = (weights * torch.stack(losses)).sum(0).mean()
    adapter = OnLists(
        ListwiseKDLoss(reduction='none'), views=names, view_weights='agreement'
    )
    torch.testing.assert_close(value(adapter, models, lists=lists), expected)


def test_views_are_weighted_by_a_module_whose_parameters_are_trained(models):
    student, teacher = models
    losses = {
        name: listwise_kd_loss(
            list_scores(student), list_scores(view(teacher, name)), mask=LISTS.mask
        )
        for name in ('text', 'image', 'fused')
    }
    fixed = FixedViewWeights({'text': 3, 'image': 0, 'fused': 1})
    adapter = OnLists(ListwiseKDLoss(), view_weights=fixed)
    expected = 0.75 * losses['text'] + 0.25 * losses['fused']
    torch.testing.assert_close(value(adapter, models), expected)
    learned = LearnedViewWeights(list(losses))
    adapter = OnLists(ListwiseKDLoss(), view_weights=learned)
    value(adapter, models).backward()
    assert any(p is learned.logits for p in adapter.parameters())
    assert bool(learned.logits.grad.any())


@pytest.mark.parametrize('node_types', [['user', 'item'], ['user'], 'item'])
def test_embeddings_compare_each_node_of_the_batch_once(models, node_types):
    _, teacher = models
    student = tables(6, 5)
    losses = [
        scaled_cosine_loss(student[key][rows], view(teacher, name)[key][rows], 3.0)
        for name in ('text', 'image')
        for key, rows in DISTINCT.items()
        if key in node_types
    ]
    adapter = OnEmbeddings(
        ScaledCosineLoss(3.0), views='modalities', node_types=node_types
    )
    out = adapter(student, teacher, BATCH, LISTS)
    torch.testing.assert_close(out, {'embedding': torch.stack(losses).mean()})


@pytest.mark.parametrize('projection', ['shared', 'per_type'])
def test_projectors_lift_the_student_where_widths_differ(models, projection):
    student, teacher = models
    adapter = OnEmbeddings(
        ScaledCosineLoss(), views=['text', 'fused'], projection=projection
    )
    adapter.setup(teacher, 3)
    losses = []
    for name in ('text', 'fused'):
        for key, rows in DISTINCT.items():
            module = name if projection == 'shared' else f'{name}/{key}'
            lifted = student[key][rows] @ adapter.projectors[module].weight.t()
            losses.append(scaled_cosine_loss(lifted, view(teacher, name)[key][rows]))
    torch.testing.assert_close(value(adapter, models), torch.stack(losses).mean())
    value(adapter, models).backward()
    assert len(list(adapter.parameters())) == (2 if projection == 'shared' else 4)
    assert all(bool(p.grad.any()) for p in adapter.parameters())
    adapter.setup(teacher, 6)
    assert not list(adapter.parameters())  # One width: nothing to project.


def test_losses_of_two_widths_need_no_projector(models):
    student, teacher = models
    adapter = OnEmbeddings(SimilarityKDLoss(), views='fused', projection='none')
    adapter.setup(teacher, 3)
    losses = [
        similarity_kd_loss(student[key][rows], teacher.x_dict[key][rows])
        for key, rows in DISTINCT.items()
    ]
    torch.testing.assert_close(value(adapter, models), torch.stack(losses).mean())


@pytest.mark.parametrize(
    ('key', 'max_rows', 'rows'),
    # Items of the batch: 2, 0, 1, 2, 4, 4, 0, 1. Users: 3, 1, 3, 0.
    [('item', 3, [0, 1, 2]), ('user', 2, [1, 3])],
)
def test_at_most_max_rows_the_first_of_the_batch(models, key, max_rows, rows):
    student, teacher = models
    adapter = OnEmbeddings(
        SimilarityKDLoss(), views='fused', node_types=key, max_rows=max_rows
    )
    torch.testing.assert_close(
        value(adapter, models),
        similarity_kd_loss(student[key][rows], teacher.x_dict[key][rows]),
    )


@pytest.mark.parametrize('loss', [InfoNCELoss(), AngleKDLoss()])
def test_a_batch_with_fewer_nodes_than_the_loss_requires_costs_nothing(models, loss):
    student, teacher = tables(6, 5), models[1]
    single = Triplets(*(x[:1] for x in BATCH))  # One user and two items.
    adapter = OnEmbeddings(loss, views='fused')
    rows = [2, 4]
    expected = torch.zeros(())
    if loss.min_rows == 2:
        expected = loss(student['item'][rows], teacher.x_dict['item'][rows]) / 2
    out = adapter(student, teacher, single, LISTS)
    torch.testing.assert_close(out, {'embedding': expected})


def test_groups_are_passed_to_the_loss(models):
    student, teacher = models
    groups = {'user': torch.tensor([0, 1, 0, 0]), 'item': torch.tensor([1, 0, 0, 1, 1])}
    adapter = OnEmbeddings(
        HierarchicalTopologyKDLoss(), views='fused', group_dict=groups
    )
    losses = [
        hierarchical_topology_kd_loss(
            student[key][rows], teacher.x_dict[key][rows], groups[key][rows]
        )
        for key, rows in DISTINCT.items()
    ]
    torch.testing.assert_close(value(adapter, models), torch.stack(losses).mean())
    assert not any('group' in name for name in adapter.state_dict())


def test_a_loss_with_parameters_is_copied_per_view_and_node_type(models):
    _, teacher = models
    loss = DistillationExperts(3, 6, num_experts=2)
    adapter = OnEmbeddings(loss, views=['text', 'fused'], projection='none')
    adapter.setup(teacher, 3)
    value(adapter, models).backward()
    routers = [copy.router.weight for copy in adapter.copies.values()]
    assert len({id(weight) for weight in routers}) == 4
    assert all(bool(weight.grad.any()) for weight in routers)


# User 1 has two items left, user 2 none.
TOP = Ranking(
    torch.tensor([[3, 0, 5], [4, 2, -1], [-1, -1, -1], [1, 0, 2]], dtype=torch.int32),
    torch.zeros(4, 3),
)
TOP_BATCH = BATCH._replace(user=torch.tensor([3, 1, 2, 0]))
TOP_LISTS = CandidateLists(
    torch.tensor([[5, 3, 0], [0, 5, 3], [1, 0, 2], [2, 1, 4]]),
    LISTS.target_mask,
    torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool),
)
USERS = torch.tensor([3, 1, 0])  # Those of the batch with an item left.
BEST = torch.tensor([[1, 0, 2], [4, 2, 0], [3, 0, 5]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)


@pytest.fixture
def pair():
    return tables(3, 0, 6), SoftTargets(tables(5, 1, 6), {}, TOP)


def on_top_k(loss, teacher, edges=None, **options):
    adapter = OnTopK(loss, top_k=3, **options)
    adapter.setup(teacher, 3)
    if edges is not None:
        adapter.seen = SeenItems.from_edge_index(torch.tensor(edges), 4, 6)
    return adapter


def top_value(adapter, pair, lists=TOP_LISTS):
    return value(adapter, pair, TOP_BATCH, lists)


def test_ranking_uses_the_best_items_in_their_order(pair):
    expected = ranking_distillation_loss(
        scores(pair[0])[USERS].gather(1, BEST), mask=MASK
    )
    adapter = on_top_k(RankingDistillationLoss(), pair[1])
    out = adapter(*pair, TOP_BATCH, TOP_LISTS)
    torch.testing.assert_close(out, {'topk': expected}, rtol=1e-5, atol=1e-6)
    assert adapter.state_dict() == {}  # The items are not saved.


def test_ranking_estimates_the_students_ranks(pair):
    adapter = on_top_k(RankingDistillationLoss(), pair[1], num_sampled=4000)
    torch.manual_seed(0)
    out = top_value(adapter, pair)
    every = scores(pair[0])[USERS]
    best = every.gather(1, BEST)
    exact = (every[:, None] > best[:, :, None]).sum(-1)
    # A share of 4,000 draws with repeats is above; the estimate scales it to I - 1.
    estimated = torch.floor(exact / 6 * 5).long() + 1
    expected = ranking_distillation_loss(best, estimated, mask=MASK)
    torch.testing.assert_close(out, expected, rtol=0.2, atol=0)
    assert out != ranking_distillation_loss(best, mask=MASK)


def test_relaxed_ranks_the_best_above_the_other_candidates(pair):
    # User 3: others 3 and 0, but 0 is among the best. User 1: 5, as 3 is masked.
    # User 0: 1 and 4.
    others = torch.tensor([[3, 0], [5, 3], [1, 4]])
    mask = torch.tensor([[1, 0], [1, 0], [1, 1]], dtype=torch.bool)
    every = scores(pair[0])[USERS]
    expected = relaxed_ranking_loss(
        every.gather(1, BEST), every.gather(1, others), MASK, mask
    )
    adapter = on_top_k(RelaxedRankingLoss(), pair[1])
    torch.testing.assert_close(top_value(adapter, pair), expected)


def test_relaxed_leaves_out_lists_without_others(pair):
    lists = TOP_LISTS._replace(
        mask=torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    )
    # User 3 has only 0, which is among the best; user 0 has nothing.
    row = scores(pair[0])[[1]]
    expected = relaxed_ranking_loss(row.gather(1, BEST[[1]]), row[:, [5]], MASK[[1]])
    adapter = on_top_k(RelaxedRankingLoss(), pair[1])
    torch.testing.assert_close(top_value(adapter, pair, lists), expected)


def test_collaborative_with_all_places_is_the_loss_of_the_list(pair):
    student, teacher = pair
    lists = [scores(x)[USERS].gather(1, BEST) for x in (student, teacher.x_dict)]
    adapter = on_top_k(CollaborativeKDLoss(), teacher, num_samples=3)
    expected = collaborative_kd_loss(*lists, mask=MASK)
    torch.testing.assert_close(top_value(adapter, pair), expected)


def test_collaborative_never_has_an_empty_list(pair):
    # With one place of three, user 1 would draw the padding now and then.
    adapter = on_top_k(CollaborativeKDLoss(), pair[1], num_samples=1, decay=100.0)
    for seed in range(20):
        torch.manual_seed(seed)
        assert top_value(adapter, pair).isfinite()


def test_rank_aware_joins_the_best_items_of_both_models(pair):
    student, teacher = pair
    unseen = scores(student)[USERS].clone()
    unseen[0, 5] = unseen[1, 1] = -torch.inf
    of_teacher = torch.zeros(3, 6, dtype=torch.bool)
    for row in range(3):
        of_teacher[row, BEST[row][MASK[row]]] = True
    own = unseen.topk(3).indices
    of_student = torch.zeros(3, 6, dtype=torch.bool).scatter(1, own, True)
    expected = rank_aware_kd_loss(
        scores(student)[USERS], scores(teacher.x_dict)[USERS], of_teacher, of_student
    )
    adapter = on_top_k(RankAwareKDLoss(), teacher, edges=[[3, 1], [5, 1]])
    torch.testing.assert_close(top_value(adapter, pair), expected)


def test_rank_aware_ranks_again_every_refresh(pair):
    student, teacher = pair
    adapter, resumed = (
        on_top_k(RankAwareKDLoss(), teacher, edges=[[3], [5]], refresh_every=2)
        for _ in range(2)
    )
    top_value(adapter, pair)
    first = adapter.own.clone()
    other = {**student, 'user': -student['user']}, teacher
    resumed.load_state_dict(adapter.state_dict())
    for each in (adapter, resumed):
        top_value(each, other)
        assert torch.equal(each.own, first)
        top_value(each, other)
        assert not torch.equal(each.own, first)


TEACHING = {
    'ranking': OnTopK(RankingDistillationLoss(), 1.0, 5, num_sampled=9),
    'relaxed': OnTopK(RelaxedRankingLoss(), 1.0, 5),
    'collaborative': OnTopK(CollaborativeKDLoss(), 1.0, 5, num_samples=2),
    'rank_aware': OnTopK(RankAwareKDLoss(), 1.0, 5),
    'embeddings': OnEmbeddings(ScaledCosineLoss()),
    'mse': OnEmbeddings(UnitMSELoss(), views='fused'),
}


@pytest.mark.parametrize('name', TEACHING)
def test_an_adapter_alone_teaches_a_student(name):
    data = make_split()
    targets = soft_targets(make_teacher(data.train), normalized_adj_dict(data.train))
    adapter = TEACHING[name]
    out = distill(
        make_student(data.train),
        targets,
        data,
        start='random',
        losses=[adapter],
        loss_weights={'bpr': 0.1, 'l2': 0.0},
        baseline=False,
        config=TrainingConfig(
            epochs=12, patience=20, learning_rate=0.03, progress=False
        ),
    )
    values = [record['losses'][adapter.name] for record in out.history.records]
    assert values[-1] < values[0]
    if name in ('ranking', 'relaxed', 'collaborative', 'rank_aware'):
        assert adapter.mode == name


def test_the_papers_losses_are_these_three(models):
    _, teacher = models
    losses = promptmm_losses(
        pairwise_weight=2.0,
        listwise_weight=3.0,
        embedding_weight=4.0,
        list_views='modalities',
        embedding_views='fused',
        node_types=['item'],
        listwise='kl',
        temperature=2.0,
        embedding_loss='unit_mse',
    )
    expected = [
        OnPairs(PairwiseKDLoss(2.0), 2.0),
        OnLists(ListwiseKDLoss(2.0), 3.0, 'modalities'),
        OnEmbeddings(UnitMSELoss(), 4.0, 'fused', ['item']),
    ]
    torch.manual_seed(0)
    for loss in losses:
        loss.setup(teacher, 3)
    torch.manual_seed(0)
    for loss in expected:
        loss.setup(teacher, 3)
    for ours, theirs in zip(losses, expected, strict=True):
        assert (ours.name, ours.weight) == (theirs.name, theirs.weight)
        torch.testing.assert_close(value(ours, models), value(theirs, models))
    decoupled = promptmm_losses(alpha=2.0, beta=8.0, gamma=3.0)
    assert decoupled[1].loss.alpha == 2.0
    assert decoupled[1].loss.beta == 8.0
    assert decoupled[2].loss.gamma == 3.0


def test_a_student_equal_to_the_only_view_has_no_loss(models):
    _, teacher = models
    for loss in promptmm_losses(list_views='fused', embedding_views='fused'):
        loss.setup(teacher, 6)
        assert abs(float(value(loss, (teacher.x_dict, teacher)))) < 1e-6, loss.name


def test_a_list_of_losses_has_unique_names_and_each_its_weight(models):
    student, teacher = models

    def margin(student, teacher, batch, lists):
        return {'margin': student['user'].sum(), 'pairwise': student['item'].sum()}

    margin.weight = 0.25
    pairs = OnPairs(PairwiseKDLoss(), 0.5), OnPairs(PairwiseKDLoss(), 2.0, 'text')
    objective = Objective([*pairs, margin, lambda *_: {'one': torch.ones(())}])
    objective.setup(teacher, 3, None)
    values, weights = {'bpr': torch.zeros(())}, {'bpr': 1.0}
    objective.extend(values, weights, student, teacher, BATCH, LISTS)
    assert weights == {
        'bpr': 1.0,
        'pairwise': 0.5,
        'pairwise_2': 2.0,
        'margin': 0.25,
        'pairwise_3': 0.25,
        'one': 1.0,
    }
    assert list(values) == list(weights)
    for name, pair in zip(('pairwise', 'pairwise_2'), pairs, strict=True):
        torch.testing.assert_close(values[name], value(pair, models))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: OnPairs(PairwiseKDLoss(), -1.0), "'weight' must"),
        (lambda: OnLists(ListwiseKDLoss(), view_weights='x'), "'view_weights' must"),
        (
            lambda: OnLists(ListwiseKDLoss(), view_weights='agreement'),
            "reduction='none'",
        ),
        (lambda: OnEmbeddings(UnitMSELoss(), max_rows=0), "'max_rows' must"),
        (lambda: OnEmbeddings(UnitMSELoss(), node_types=['x']), "'node_types' must"),
        (lambda: OnEmbeddings(UnitMSELoss(), node_types=[]), "'node_types' must"),
        (lambda: OnEmbeddings(UnitMSELoss(), projection='x'), "'projection' must"),
        (lambda: OnTopK(ListwiseKDLoss()), "'mode' must"),
        (lambda: OnTopK(CollaborativeKDLoss(), top_k=0), "'top_k' must"),
        (lambda: OnTopK(CollaborativeKDLoss(), num_samples=0), "'num_samples' must"),
        (lambda: OnTopK(CollaborativeKDLoss(), decay=0.0), "'decay' must"),
        (lambda: promptmm_losses(listwise='x'), "'listwise' must"),
        (lambda: promptmm_losses(embedding_loss='x'), "'embedding_loss' must"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_views_that_the_teacher_lacks_are_named(models):
    _, teacher = models
    only_items = SoftTargets(tables(6, 1), {'text': {'item': torch.ones(5, 6)}})
    for make in (
        lambda view: OnPairs(PairwiseKDLoss(), view=view),
        lambda view: OnLists(ListwiseKDLoss(), views=[view]),
        lambda view: OnEmbeddings(UnitMSELoss(), views=[view]),
    ):
        with pytest.raises(ValueError, match=r"'views' must be some of.*\['audio'\]"):
            make('audio').setup(teacher, 3)
        with pytest.raises(ValueError, match=r"view 'text' \(missing \['user'\]\)"):
            make('text').setup(only_items, 3)
    with pytest.raises(ValueError, match="'views' must be some of"):
        OnLists(ListwiseKDLoss(), views=[]).setup(teacher, 3)


def test_top_k_must_be_set_up(models):
    with pytest.raises(RuntimeError, match='setup'):
        value(OnTopK(CollaborativeKDLoss()), models)
    with pytest.raises(ValueError, match="'train' must be a graph"):
        OnTopK(CollaborativeKDLoss()).setup(models[1], 3)
