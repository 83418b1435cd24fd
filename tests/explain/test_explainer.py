import pytest
import torch

from promptmm_pyg.explain import Explainer
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.targets import TeacherOutput
from tests.nn.graphs import (
    EDGE_INDEX,
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    dense,
    edges,
    features,
    weights,
)

DEAD_USER, DEAD_ITEM = 4, 6


def make_teacher(prompt=True, mask=None, **kwargs):
    torch.manual_seed(0)
    x = {
        'image': {'item': features(6, seed=2)},
        'text': {'item': features(9, seed=3), 'user': features(9, seed=5, num=5)},
    }
    start = {'user': features(2, seed=6, num=5), 'item': features(2, seed=7)}
    return PromptMM(
        NUM_NODES,
        x,
        prompt_start_dict=start if prompt else None,
        embedding_dim=4,
        modality_mask_dict=mask,
        **kwargs,
    )


def teacher_explainer(teacher=None):
    return Explainer(make_teacher() if teacher is None else teacher, edges(), weights())


def outputs(model):
    with torch.no_grad():
        out = model.eval()(edges(), weights())
    return out.x_dict if isinstance(out, TeacherOutput) else out


VARIANTS = [
    {},
    {'isolated_features': False},
    {'prompt': False},
    {'self_loop_weight': 0.3},
    {'num_layers': 5, 'num_modality_layers': 2},
    {'num_layers': 1, 'num_prompt_tokens': 3},
    {'prompt_id_weight': 0.0},
    {'modality_weight': 0.0},
]


def sums(explanation):
    return [
        sum(explanation.by_source.values()),
        float(explanation.pairs.sum()),
        explanation.user_side.total,
        explanation.item_side.total,
    ]


@pytest.mark.parametrize('kwargs', VARIANTS, ids=str)
@pytest.mark.parametrize(('user', 'item'), [(0, 0), (2, 3), (4, 1), (1, 6), (4, 6)])
def test_every_sum_of_a_teachers_parts_is_its_score(kwargs, user, item):
    teacher = make_teacher(**kwargs)
    explanation = teacher_explainer(teacher).explain(user, item)
    x_dict = outputs(teacher)
    score = float(x_dict['user'][user] @ x_dict['item'][item])
    assert explanation.score == pytest.approx(score, abs=1e-6)
    assert sums(explanation) == pytest.approx([score] * 4, abs=1e-5)


def test_in_double_the_sums_are_exact_to_twelve_digits():
    teacher = make_teacher(self_loop_weight=0.2).double()
    explanation = teacher_explainer(teacher).explain(2, 1)
    x_dict = outputs(teacher)
    score = float(x_dict['user'][2] @ x_dict['item'][1])
    assert sums(explanation) == pytest.approx([score] * 4, rel=1e-12)


@pytest.mark.parametrize('kwargs', VARIANTS, ids=str)
def test_the_parts_of_all_nodes_add_up_to_the_embeddings(kwargs):
    teacher = make_teacher(**kwargs)
    explainer = teacher_explainer(teacher)
    for key, x in outputs(teacher).items():
        torch.testing.assert_close(sum(explainer.parts(key).values()), x)


@pytest.fixture
def by_hand():
    """Two users and two items; user 0 has both items, user 1 has item 0 only."""
    teacher = PromptMM(
        {'user': 2, 'item': 2},
        {'image': {'item': torch.tensor([[1.0, 0.0], [0.0, 1.0]])}},
        embedding_dim=2,
        num_layers=1,
        modality_weight=0.5,
    )
    with torch.no_grad():
        teacher.embeddings.tables['user'].copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        teacher.embeddings.tables['item'].copy_(torch.tensor([[0.0, 4.0], [2.0, -2.0]]))
        lin = teacher.encoders['image__item'].lin
        lin.weight.copy_(torch.eye(2))
        lin.bias.zero_()
    index = torch.tensor([[0, 0, 1], [0, 1, 0]])
    return Explainer(teacher, {USER_ITEM: index, ITEM_USER: index.flip([0])})


def test_two_users_and_two_items_by_hand(by_hand):
    # Ids of user 1: ([0, 2] + [0, 4]) / 2. Image of user 1: f = [1, 0], so [0.5, 0].
    # Ids of item 1: ([2, -2] + [1, 0]) / 2. Image of item 1: the row of user 0,
    # [1, 1] after one hop, f = [1, 1], so [0.5, 0.5] / sqrt(2).
    half = 0.5 / 2**0.5
    found = by_hand.explain(user=1, item=1)
    pairs = torch.tensor([[-3.0, 3 * half], [0.75, 0.5 * half]]).double()
    torch.testing.assert_close(found.pairs, pairs, atol=1e-6, rtol=0)
    assert found.sources == ('id', 'image')
    # Interaction terms are split equally.
    assert found.by_source['id'] == pytest.approx(-3 + (3 * half + 0.75) / 2)
    assert found.score == pytest.approx(-3 + 3 * half + 0.75 + 0.5 * half)


def test_the_neighbors_of_two_users_and_two_items_by_hand(by_hand):
    # Item 1 is [1.5, -1] + [0.5, 0.5] / sqrt(2), user 0 its only neighbor. User 0:
    # itself [0.5, 0]; of item 0 [0, 2] and image [1, 0] * 0.5 / |f|, of item 1 [1, -1]
    # and [0, 1] * 0.5 / |f|, with f = [1, 1].
    half = 0.5 / 2**0.5
    x = torch.tensor([1.5 + half, -1 + half]).double()
    side = by_hand.explain(user=0, item=1).user_side
    zero = torch.zeros(()).double()
    torch.testing.assert_close(side.own, torch.stack([0.5 * x[0], zero]))
    assert side.n_id_dict[ITEM_USER].tolist() == [0, 1]
    expected = torch.stack(
        [
            torch.stack([2 * x[1], half * x[0]]),
            torch.stack([x[0] - x[1], half * x[1]]),
        ]
    )
    values = side.value_dict[ITEM_USER]
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


def test_the_prompt_is_the_difference_that_its_numerators_make():
    teacher = make_teacher()
    with torch.no_grad():
        with_prompt = teacher.eval()(edges(), weights())
        teacher.disable_prompt()
        without = teacher(edges(), weights())
        teacher.enable_prompt()
        shift = {k: 0.1 * l2_normalize(x) for k, x in with_prompt.prompt_dict.items()}
    A = dense()
    moved = A @ shift['item'] + A @ A.t() @ shift['user']
    expected = (shift['user'] + moved) / 3
    for modality, x_dict in with_prompt.modality_x_dict.items():
        length = x_dict['user'].norm(dim=1, keepdim=True).clamp_min(1e-9)
        plain = without.modality_x_dict[modality]['user']
        expected = expected + 0.5 * (x_dict['user'] - plain) / length
    torch.testing.assert_close(
        teacher_explainer(teacher).parts('user')['prompt'], expected
    )


def test_the_id_part_is_that_of_a_light_gcn_on_the_tables():
    teacher = make_teacher()
    student = LightGCN(NUM_NODES, embedding_dim=4, num_layers=2)
    student.load_state_dict(
        {f'embeddings.{key}': x for key, x in teacher.embeddings.state_dict().items()}
    )
    found = teacher_explainer(teacher).parts('item')['id']
    torch.testing.assert_close(found, outputs(student)['item'])


def test_a_disabled_prompt_has_a_part_of_zero_and_stays_disabled():
    teacher = make_teacher()
    teacher.disable_prompt()
    explainer = teacher_explainer(teacher)
    assert explainer.sources == ('id', 'image', 'text', 'prompt')
    assert explainer.explain(0, 0).by_source['prompt'] == 0.0
    assert not teacher.prompt_enabled


def test_an_enabled_prompt_has_a_part_and_stays_enabled():
    teacher = make_teacher()
    assert teacher_explainer(teacher).explain(0, 0).by_source['prompt'] != 0.0
    assert teacher.prompt_enabled


def test_a_teacher_without_a_prompt_has_no_such_part():
    assert teacher_explainer(make_teacher(prompt=False)).sources == (
        'id',
        'image',
        'text',
    )


def test_the_model_keeps_its_mode_and_its_dropout_is_off():
    teacher = make_teacher(dropout=0.9).train()
    explainer = teacher_explainer(teacher)
    assert teacher.training
    torch.testing.assert_close(explainer.x_dict, outputs(teacher))


def test_a_node_without_edges_is_its_id_and_the_shift_of_its_prompt():
    teacher = make_teacher(isolated_features=False)
    explanation = teacher_explainer(teacher).explain(DEAD_USER, DEAD_ITEM)
    assert explanation.by_source['image'] == 0.0
    assert explanation.by_source['text'] == 0.0
    assert explanation.by_source['id'] != 0.0
    for side in (explanation.user_side, explanation.item_side):
        assert side.num_neighbors == 0
        assert float(side.own.sum()) == pytest.approx(explanation.score)


def test_a_missing_modality_has_no_part_beside_its_token():
    mask = {'image': {'item': torch.zeros(7, dtype=torch.bool)}}
    explanation = teacher_explainer(make_teacher(mask=mask)).explain(2, 1)
    assert explanation.by_source['image'] == 0.0
    teacher = make_teacher(mask=mask, missing='token')
    with torch.no_grad():
        teacher.missing_rows['image__item'].token.fill_(1.0)
    assert teacher_explainer(teacher).explain(2, 1).by_source['image'] != 0.0


def test_a_missing_modality_of_a_neighbor_adds_nothing():
    mask = {'image': {'item': torch.tensor([True] * 7)}}
    mask['image']['item'][1] = False
    teacher = make_teacher(mask=mask, num_layers=1)
    full = teacher_explainer(make_teacher(num_layers=1)).explain(0, 1)
    assert full.by_source['image'] != 0.0
    explanation = teacher_explainer(teacher).explain(2, 1)
    assert sums(explanation) == pytest.approx([explanation.score] * 4, abs=1e-5)


@pytest.mark.parametrize('model', ['teacher', 'student'])
def test_the_order_of_edges_does_not_matter(model):
    one = make_teacher() if model == 'teacher' else LightGCN(NUM_NODES, embedding_dim=4)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    mixed = EDGE_INDEX[:, order]
    weight = weights()[USER_ITEM][order]
    a = Explainer(one, edges(), weights()).explain(2, 5)
    b = Explainer(
        one,
        {USER_ITEM: mixed, ITEM_USER: mixed.flip([0])},
        {USER_ITEM: weight, ITEM_USER: weight},
    ).explain(2, 5)
    torch.testing.assert_close(a.pairs, b.pairs, atol=1e-6, rtol=1e-5)
    assert a.item_side.n_id_dict[USER_ITEM].tolist() == [2, 3]
    for side_a, side_b in ((a.user_side, b.user_side), (a.item_side, b.item_side)):
        assert {k: x.tolist() for k, x in side_a.n_id_dict.items()} == {
            k: x.tolist() for k, x in side_b.n_id_dict.items()
        }
        torch.testing.assert_close(
            side_a.value_dict, side_b.value_dict, atol=1e-6, rtol=1e-5
        )


def test_a_repeated_edge_is_one_neighbor():
    twice = EDGE_INDEX[:, [0, 0, 1, 2, 3, 4, 5]]
    model = LightGCN(NUM_NODES, embedding_dim=4)
    found = Explainer(model, {USER_ITEM: twice, ITEM_USER: twice.flip([0])})
    explanation = found.explain(0, 0)
    assert explanation.user_side.n_id_dict[ITEM_USER].tolist() == [0, 3]
    assert explanation.user_side.total == pytest.approx(explanation.score, abs=1e-6)


def test_the_neighbors_of_a_light_gcn_equal_a_loop_over_edges():
    model = LightGCN(NUM_NODES, embedding_dim=4, num_layers=1)
    explanation = Explainer(model, edges(), weights()).explain(0, 5)
    tables = {key: x.detach() for key, x in model.embeddings().items()}
    x = outputs(model)['item'][5]
    assert explanation.sources == ('id',)
    own = tables['user'][0] @ x / 2
    assert float(explanation.user_side.own) == pytest.approx(float(own), abs=1e-7)
    for n_id, value in zip(
        explanation.user_side.n_id_dict[ITEM_USER].tolist(),
        explanation.user_side.value_dict[ITEM_USER][:, 0].tolist(),
        strict=True,
    ):
        expected = dense()[0, n_id] * (tables['item'][n_id] @ x) / 2
        assert value == pytest.approx(float(expected), abs=1e-7)


def test_matrix_factorization_has_one_source_and_no_neighbors():
    model = MatrixFactorization(NUM_NODES, embedding_dim=4)
    explanation = Explainer(model).explain(1, 2)
    tables = {key: x.detach() for key, x in model.embeddings().items()}
    score = float(tables['user'][1] @ tables['item'][2])
    assert sums(explanation) == pytest.approx([score] * 4, abs=1e-7)
    assert explanation.by_source == pytest.approx({'id': score}, abs=1e-7)
    assert explanation.user_side.num_neighbors == 0


def test_a_further_relation_brings_neighbors_of_its_type():
    similar = ('item', 'similar', 'item')
    graph = {**edges(), similar: torch.tensor([[2, 4], [0, 0]])}
    model = LightGCN(NUM_NODES, embedding_dim=4)
    explanation = Explainer(model, graph).explain(1, 0)
    assert explanation.item_side.n_id_dict[similar].tolist() == [2, 4]
    assert explanation.item_side.num_neighbors == 3
    assert explanation.item_side.total == pytest.approx(explanation.score, abs=1e-6)
    top = explanation.item_side.top(3)
    assert sorted((kind, node) for kind, node, _ in top) == [
        ('item', 2),
        ('item', 4),
        ('user', 0),
    ]


def test_a_modality_may_be_called_prompt():
    teacher = PromptMM(NUM_NODES, {'prompt': {'item': features(3)}})
    explainer = teacher_explainer(teacher)
    assert explainer.sources == ('id', 'prompt (modality)')


def test_further_training_has_no_effect():
    model = MatrixFactorization(NUM_NODES, embedding_dim=4)
    explainer = Explainer(model)
    before = explainer.explain(0, 0).score
    with torch.no_grad():
        model.embeddings.tables['user'].zero_()
    assert explainer.explain(0, 0).score == before != 0.0


def test_another_model_is_refused():
    with pytest.raises(TypeError, match=r"'model' must be .* \(got 'Linear'\)"):
        Explainer(torch.nn.Linear(2, 2))


def test_other_node_types_are_refused():
    with pytest.raises(ValueError, match=r"must have the node types 'user' and 'item'"):
        Explainer(MatrixFactorization({'reader': 2, 'book': 2}))


def test_a_model_that_propagates_requires_edges():
    with pytest.raises(ValueError, match="'edge_index_dict' must contain the edges"):
        Explainer(LightGCN(NUM_NODES, embedding_dim=4))


def test_a_subclass_that_computes_something_else_is_refused():
    class Doubled(LightGCN):
        def forward(self, *args):
            return {key: 2 * x for key, x in super().forward(*args).items()}

    with pytest.raises(ValueError, match=r"\(got 'Doubled', which differs on 'user'\)"):
        Explainer(Doubled(NUM_NODES, embedding_dim=4), edges(), weights())


@pytest.mark.parametrize(('user', 'item', 'name'), [(5, 0, 'user'), (0, -1, 'item')])
def test_a_position_outside_is_refused(user, item, name):
    with pytest.raises(ValueError, match=f"'{name}' must be in"):
        teacher_explainer().explain(user, item)


def test_an_unknown_node_type_is_refused():
    with pytest.raises(ValueError, match="'node_type' must be one of"):
        teacher_explainer().parts('shop')


def test_embeddings_that_are_not_finite_have_no_explanation():
    model = MatrixFactorization(NUM_NODES, embedding_dim=4)
    with torch.no_grad():
        model.embeddings.tables['user'][1, 0] = float('nan')
    explainer = Explainer(model)
    with pytest.raises(FloatingPointError, match="'score' must be the sum"):
        explainer.explain(1, 0)
    explainer.explain(0, 0)
