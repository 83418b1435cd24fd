import numpy as np
import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    build_graph,
    make_synthetic_dataset,
    split_per_user,
    validate,
)
from promptmm_pyg.data.validate_order import (
    _between,
    _modalities,
    _of_users,
    _sampled_interactions,
)

PROBLEM = 'is no more alike for two items of one user than for any two'


@pytest.fixture(scope='module')
def graph():
    return make_synthetic_dataset(1500, 400, 8)


@pytest.fixture(scope='module')
def small():
    return make_synthetic_dataset(120, 100, 5)


def warnings(graph):
    issues = validate(split_per_user(graph, 0.1, 0.1))
    return {issue.where: issue.fix for issue in issues if issue.problem == PROBLEM}


def changed(graph, **features):
    graph = graph.clone()
    for name, value in features.items():
        graph[ITEM][name] = value
    return graph


def shuffled(x, seed=1):
    perm = torch.randperm(x.size(0), generator=torch.Generator().manual_seed(seed))
    return x[perm]


def test_rows_in_the_order_of_the_items_have_no_warning(graph, small):
    assert warnings(graph) == {}
    assert warnings(small) == {}


@pytest.mark.parametrize('modality', ['text', 'image'])
@pytest.mark.parametrize('size', ['graph', 'small'])
def test_rows_in_another_order_have_a_warning(size, modality, request):
    graph = request.getfixturevalue(size)
    x = graph[ITEM][f'x_{modality}']
    result = warnings(changed(graph, **{f'x_{modality}': shuffled(x)}))
    assert set(result) == {f"train['item'].x_{modality}"}
    assert 'Compare a few rows' in result[f"train['item'].x_{modality}"]


def test_a_modality_that_users_ignore_is_compared_with_the_others(small):
    # Unrelated to taste, but each is a noisy copy of the other.
    generator = torch.Generator().manual_seed(0)
    graph = only_text(small)
    random = torch.randn(100, 8, generator=generator)
    mixed = torch.cat([graph[ITEM].x_text, 8 * random], dim=1)
    assert set(warnings(changed(graph, x_other=random))) == {"train['item'].x_other"}
    assert warnings(changed(graph, x_text=mixed, x_other=random)) == {}


def test_missing_rows_are_left_out(graph):
    edges = graph[INTERACTS].edge_index
    mask = torch.arange(400) % 2 == 0
    values = []
    for fill in (0.0, 99.0):
        x = torch.where(mask.unsqueeze(1), graph[ITEM].x_text, fill)
        other = changed(graph, x_text=x, mask_text=mask)
        modality = dict(_modalities(other))['text']
        statistic = _of_users(*_sampled_interactions(edges), modality)
        assert bool(mask[statistic.items].all())
        values.append(statistic.of(modality.x[statistic.items]))
    assert values[0] == values[1]


def test_half_precision_is_read(graph):
    assert warnings(changed(graph, x_text=graph[ITEM].x_text.half())) == {}


def test_few_interactions_prove_nothing():
    tiny = make_synthetic_dataset(6, 12, 3)
    x = shuffled(tiny[ITEM].x_text)
    assert warnings(changed(tiny, x_text=x)) == {}


def test_constant_features_have_no_order(graph):
    assert warnings(changed(graph, x_text=torch.ones(400, 3))) == {}


def only_text(graph):
    graph = graph.clone()
    for name in ('image', 'audio'):
        del graph[ITEM][f'x_{name}'], graph[ITEM][f'mask_{name}']
    del graph[ITEM].mask_text
    return graph


@pytest.mark.parametrize(
    ('reorder', 'fix'),
    [
        (lambda x, _: x.roll(1, 0), 'one row further down: the first row may be padd'),
        (lambda x, _: x.roll(-1, 0), 'one row further up'),
        (lambda x, _: x.flip(0), 'reverse'),
        (
            lambda x, ids: x[np.argsort(ids).tolist()],
            "sorted as text ('10' before '9')",
        ),
    ],
)
def test_the_usual_orders_are_recognized(small, reorder, fix):
    graph = only_text(small)
    x = reorder(graph[ITEM].x_text, graph[ITEM].raw_id.astype(str))
    (text,) = warnings(changed(graph, x_text=x)).values()
    assert fix in text


def test_the_statistic_is_the_mean_over_all_pairs_of_items_of_a_user():
    edges = torch.tensor([[0, 1, 0, 2, 1, 1, 0], [5, 6, 7, 0, 1, 2, 3]])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=generator)
    mask = torch.arange(8) != 3
    graph = build_graph(
        edges, item_features={'text': x}, item_masks={'text': mask}, num_items=8
    )
    modality = dict(_modalities(graph))['text']
    centered = x - x[mask].mean(dim=0)
    unit = centered / centered.norm(dim=1, keepdim=True)
    # User 0 has items 5 and 7 (item 3 is missing), user 1 items 6, 1 and 2.
    first = float(unit[5] @ unit[7])
    second = [float(unit[a] @ unit[b]) for a, b in ((6, 1), (6, 2), (1, 2))]
    expected = (2 * first + 3 * sum(second) / 3) / 5
    statistic = _of_users(*_sampled_interactions(edges), modality)
    assert statistic.of(modality.x[statistic.items]) == pytest.approx(expected)


def test_modalities_agree_where_the_products_of_similarities_are_high(small):
    text, image = (dict(_modalities(small))[name] for name in ('text', 'image'))
    both = (text.present & image.present).nonzero()[:, 0]
    products = (text.x[both] @ text.x[both].t()) * (image.x[both] @ image.x[both].t())
    statistic = _between(text, image)
    value = statistic.of(text.x[statistic.items])
    assert value == pytest.approx(float(products.sum()), rel=1e-4)


def test_ids_that_differ_in_spaces_or_case_have_a_warning():
    graph = make_synthetic_dataset(40, 60, 4)
    ids = graph[ITEM].raw_id.astype(object)
    ids[:3] = ['A7', 'a7', ' a7']
    graph[ITEM].raw_id = np.array(ids.tolist())
    problems = [issue.problem for issue in validate(graph)]
    expected = '2 ids differ from another in spaces or case only (such as '
    assert any(problem.startswith(expected) for problem in problems)
    assert not any(
        'differ from' in x.problem for x in validate(make_synthetic_dataset(40, 60, 4))
    )
