"""The members of an ensemble, on tables whose errors are known."""

import pytest
import torch

from promptmm_pyg.auto.ensemble import ScoreLists, choose_ensemble
from promptmm_pyg.data import INTERACTS, ITEM, USER, make_synthetic_dataset
from promptmm_pyg.data.split import split_per_user
from promptmm_pyg.evaluation import evaluate


@pytest.fixture(scope='module')
def split():
    graph = make_synthetic_dataset(num_users=300, num_items=60, seed=0)
    return split_per_user(graph, val_ratio=0.4, test_ratio=0.1, seed=0)


def truth(split):
    """Tables that score a validation positive 1 and all else 0."""
    items = torch.eye(60)
    users = torch.zeros(300, 60)
    users[tuple(split.val[INTERACTS].edge_label_index)] = 1.0
    return {USER: users, ITEM: items}


def noise(seed, width=8):
    generator = torch.Generator().manual_seed(seed)
    return {
        USER: torch.randn(300, width, generator=generator),
        ITEM: torch.randn(60, width, generator=generator),
    }


def blurred(x_dict, other, weight):
    """The sum of two scores."""
    return {key: torch.cat([x_dict[key], weight * other[key]], 1) for key in x_dict}


def test_teachers_of_noise_have_no_weight(split):
    trials = {'good': blurred(truth(split), noise(0), 0.5)}
    trials |= {f'noise-{n}': noise(n) for n in range(1, 7)}
    choice = choose_ensemble(trials, split.train, split.val, k=5)
    assert choice.weights == {'good': 1.0}
    assert choice.judged == choice.fitted == choice.single


def test_teachers_with_independent_errors_are_added_up(split):
    trials = {
        'a': blurred(truth(split), noise(1), 0.7),
        'b': blurred(truth(split), noise(2), 0.7),
        'noise': noise(3),
    }
    choice = choose_ensemble(trials, split.train, split.val, k=5)
    assert set(choice.weights) == {'a', 'b'}
    assert choice.weights['a'] == pytest.approx(0.5, abs=0.1)
    assert choice.judged > choice.single + 0.05
    assert choice.fitted == pytest.approx(choice.judged, abs=0.05)


def test_the_recall_of_a_sum_is_that_of_full_ranking(split):
    trials = {'a': noise(1), 'b': noise(2)}
    lists = ScoreLists(trials, split.train, split.val, k=5)
    every = torch.arange(lists.num_users)
    for number, tables in enumerate(trials.values()):
        expected = evaluate(tables, split.val, ks=(5,)).metrics['Recall@5']
        weights = torch.eye(2)[number]
        assert lists.recall(weights, every) == pytest.approx(expected, abs=1e-6)


def test_the_most_likely_weights_are_at_a_minimum_of_a_naive_likelihood(split):
    trials = {'a': blurred(truth(split), noise(1), 0.7), 'b': noise(2), 'c': noise(3)}
    trials['b'] = blurred(truth(split), trials['b'], 0.9)
    lists = ScoreLists(trials, split.train, split.val, k=5)
    rows = torch.arange(0, lists.num_users, 2)
    weights = lists.most_likely(rows)
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)

    def loss(scale):
        total = norm = 0.0
        for number, user in enumerate(lists.row.tolist()):
            if user % 2 == 0:
                share = float(lists.share[number])
                margins = lists.margins[:, number].clamp(min=-1e9)  # Of fillers.
                sums = (scale[:, None] * margins).sum(dim=0)
                total += share * float(sums.exp().sum().log())
                norm += share
        return total / norm

    # The sum of the weights is free: the best one is searched first.
    scales = [weights * 2 ** (n / 32) for n in range(-64, 160)]
    best = min(scales, key=loss)
    for change in torch.eye(3):
        for step in (-0.05, 0.05):
            moved = (best + step * best.sum() * change).clamp(min=0.0)
            assert loss(moved) >= loss(best) - 5e-3
