"""Simulated rejection rates: ``python -m tests.evaluation.test_significance``."""

import math

import pytest
import torch
from scipy import stats

from promptmm_pyg.evaluation import holm, largest_gap, paired_test
from promptmm_pyg.evaluation.significance import difference_variance

USERS = 100


def per_user(num_users=300, num_seeds=None, mean=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (num_users,) if num_seeds is None else (num_seeds, num_users)
    return torch.randn(size, generator=generator) + mean


def simulate(repeats, seeds, ratio, both=0.0, *, share=0.5, repeat_seed=0):
    """Values ``[repeats, seeds, users]`` of two models of equal quality. The std of the
    effect on the mean difference is 1 for users, ``ratio`` for seeds (``share`` of its
    variance is that of the first model), ``both`` per model for their interaction.
    """
    generator = torch.Generator().manual_seed(repeat_seed)

    def draw(*size):
        return torch.randn(repeats, *size, generator=generator)

    out = []
    for num_seeds, part in zip(seeds, (share, 1 - share), strict=True):
        values = draw(num_seeds, USERS) * both * (num_seeds * USERS) ** 0.5
        if num_seeds > 1:
            alone = 1.0 if 1 in seeds else part
            values += draw(num_seeds, 1) * ratio * (alone * num_seeds) ** 0.5
        out.append(values if num_seeds > 1 else torch.zeros_like(values))
    out[0] += draw(1, USERS) * USERS**0.5
    return out


def rejected(a, b, level=0.05):
    """The share of repeats with a p-value below the level."""
    variance, df = difference_variance(a, b)
    difference = a.mean((1, 2)) - b.mean((1, 2))
    statistic = (difference / variance.sqrt()).double()
    p = 2 * stats.t.sf(statistic.abs(), df.double())
    return float((p < level).mean())


@pytest.mark.parametrize('both', [0.0, 0.5])
@pytest.mark.parametrize('ratio', [0.25, 0.5, 1.0, 2.0, 4.0])
def test_a_true_null_is_rejected_at_the_level(ratio, both):
    a, b = simulate(5000, (5, 5), ratio, both)
    assert rejected(a, b) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize('ratio', [0.25, 1.0, 4.0])
def test_seeds_of_one_model_may_differ_more(ratio):
    a, b = simulate(3000, (5, 5), ratio, share=0.05)
    assert rejected(a, b) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize('ratio', [0.25, 1.0, 4.0])
def test_a_closed_form_has_no_noise(ratio):
    a, b = simulate(3000, (1, 5), ratio)
    assert rejected(a, b) == pytest.approx(0.055, abs=0.02)


@pytest.mark.parametrize('ratio', [0.25, 1.0, 4.0])
def test_intervals_cover_the_difference(ratio):
    a, b = simulate(1500, (5, 5), ratio, both=0.3, repeat_seed=1)
    tests = [paired_test(x + 0.7, y) for x, y in zip(a, b, strict=True)]
    covered = [test.low <= 0.7 <= test.high for test in tests]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.02)


def test_strong_interaction_makes_it_conservative():
    for ratio in (0.25, 4.0):
        assert 0.03 < rejected(*simulate(5000, (5, 5), ratio, both=1.0)) < 0.055


def test_the_former_test_ignored_training_noise():
    a, b = simulate(1000, (3, 3), 1.0)
    averaged = [x.mean(1, keepdim=True) for x in (a, b)]
    assert rejected(*averaged) > 0.15
    assert rejected(a, b) < 0.07


def test_recall_like_values_are_no_exception():
    generator = torch.Generator().manual_seed(0)
    hardness = torch.rand(2000, 1, 400, generator=generator) ** 8
    luck = 1 + 0.15 * torch.randn(2, 2000, 5, 1, generator=generator)
    chance = torch.rand(2, 2000, 5, 400, generator=generator)
    a, b = (chance < (hardness * luck).clamp(0, 1)).float()
    assert rejected(a, b) == pytest.approx(0.05, abs=0.015)


def test_one_training_each_is_the_paired_t_test():
    a, b = per_user(40, mean=0.3), per_user(40, seed=1)
    test = paired_test(a, b, confidence=0.9)
    expected = stats.ttest_rel(a.double().numpy(), b.double().numpy())
    low, high = expected.confidence_interval(0.9)
    assert test.p_value == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == (pytest.approx(low), pytest.approx(high))
    assert not test.includes_training_noise


def test_equal_users_leave_the_welch_test_of_seeds():
    a, b = per_user(1, 5) + torch.zeros(1, 30), per_user(1, 3, seed=1).expand(3, 30)
    test = paired_test(a, b)
    one, two = a[:, 0].double().numpy(), b[:, 0].double().numpy()
    expected = stats.ttest_ind(one, two, equal_var=False)
    low, high = expected.confidence_interval()
    assert test.p_value == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == (pytest.approx(low), pytest.approx(high))
    assert test.num_seeds == (5, 3)
    assert test.includes_training_noise


def test_the_variance_by_hand():
    # Users' means 3, 5 and 10 (a - b: 3, 4, 8), seeds' means 5 and 7 of 'a'.
    a = torch.tensor([[2.0, 5.0, 8.0], [4.0, 5.0, 12.0]]).double()
    b = torch.tensor([[0.0, 1.0, 2.0]]).double()
    of_users, of_seeds = 7 / 3, 2 / 2
    # Residuals 0, 1, -1 and 0, -1, 1: 4 on two degrees of freedom, over 2 * 3 values.
    of_both = 4 / 2 / 6
    variance = of_users - of_both + of_seeds
    squares = of_users**2 / 2 + of_seeds**2 + of_both**2 / 2
    got = difference_variance(a, b)
    assert [float(x) for x in got] == pytest.approx([variance, variance**2 / squares])
    test = paired_test(a, b)
    assert test.difference == pytest.approx(5)
    half = stats.t.ppf(0.975, variance**2 / squares) * variance**0.5
    assert test.high == pytest.approx(5 + half)


def test_seeds_that_agree_by_chance_add_the_interaction_at_least():
    a = torch.tensor([[2.0, 5.0, 8.0], [4.0, 5.0, 6.0]]).double()
    b = torch.zeros(1, 3).double()
    # Users' means 3, 5 and 7; residuals -1, 0 and 1.
    variance, df = difference_variance(a, b)
    assert float(variance) == pytest.approx(4 / 3)
    assert float(df) == pytest.approx((4 / 3) ** 2 / ((4 / 3) ** 2 / 2 + 1 / 9 / 2))


def test_a_repeated_row_is_a_closed_form():
    a, b = per_user(num_seeds=5), per_user(seed=1)
    one, repeated = paired_test(a, b), paired_test(a, b.expand(5, -1))
    assert (one.low, one.p_value) == (
        pytest.approx(repeated.low),
        pytest.approx(repeated.p_value),
    )


def test_equal_inputs_give_an_interval_of_zero():
    a = per_user(num_seeds=2)
    test = paired_test(a, a[:1].expand(3, -1) * 0 + a.mean(0))
    assert test.difference == pytest.approx(0, abs=1e-7)
    same = paired_test(a[0], a[0].clone())
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.significant


def test_a_constant_gain_has_no_spread_since_users_are_paired():
    a = torch.tensor([0.5, 0.25, 1.0, 0.0])
    test = paired_test(a + 0.5, a)
    assert (test.difference, test.low, test.high, test.p_value) == (0.5, 0.5, 0.5, 0)
    assert test.significant


def test_swapping_the_models_mirrors_the_interval():
    a, b = per_user(num_seeds=3, mean=0.3), per_user(num_seeds=2, seed=1)
    first, other = paired_test(list(a), b), paired_test(b, list(a))
    assert first.low == pytest.approx(-other.high)
    assert first.p_value == pytest.approx(other.p_value)
    assert other.num_seeds == (2, 3)


def test_more_confidence_widens_the_interval():
    a, b = per_user(), per_user(seed=1)
    narrow, wide = (paired_test(a, b, confidence=x) for x in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (narrow.confidence, wide.confidence) == (0.5, 0.99)


def test_one_user_has_no_bounds():
    test = paired_test(torch.tensor([2.0]), torch.tensor([-1.0]))
    assert (test.low, test.high, test.p_value) == (-math.inf, math.inf, 1)
    assert not test.significant
    values = test.to_dict()
    assert (values['difference'], values['low'], values['num_seeds']) == (
        3,
        None,
        [1, 1],
    )


def test_errors():
    a = per_user()
    with pytest.raises(ValueError, match=r'same users \(got 300 and 299 of them\)'):
        paired_test(a, a[1:])
    with pytest.raises(ValueError, match=r"'confidence' must be positive"):
        paired_test(a, a, confidence=0.0)
    with pytest.raises(ValueError, match=r"'confidence' must be in \[0, 1\)"):
        paired_test(a, a, confidence=1.0)
    with pytest.raises(ValueError, match=r"'b'.*\[1, 300\], 1 not finite"):
        paired_test(a, a.clone().index_fill_(0, torch.tensor(3), float('nan')))
    with pytest.raises(ValueError, match=r"'a'.*finite values.*\[1, 0\]"):
        paired_test(a[:0], a)
    with pytest.raises(ValueError, match=r"'a'.*finite values.*\[1, 1, 300\]"):
        paired_test(a.view(1, 1, -1), a)


def test_values_by_hand_come_in_the_order_given():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04.
    expected = torch.tensor([0.06, 0.04, 0.06, 0.06], dtype=torch.double)
    torch.testing.assert_close(holm([0.03, 0.01, 0.04, 0.02]), expected)


def test_none_exceeds_one():
    expected = torch.tensor([1.0, 1.0, 0.75], dtype=torch.double)
    torch.testing.assert_close(holm([0.9, 0.6, 0.25]), expected)


def test_ties_get_one_value():
    expected = torch.tensor([0.3, 0.3, 0.3], dtype=torch.double)
    torch.testing.assert_close(holm([0.1, 0.1, 0.1]), expected)


def test_one_test_and_no_test_need_no_correction():
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


def test_is_the_sequential_procedure():
    p = torch.rand(20, generator=torch.Generator().manual_seed(0)).double() * 0.05
    for alpha in (0.01, 0.03, 0.2):
        rejected = []
        for step, index in enumerate(p.argsort().tolist()):
            if p[index] > alpha / (20 - step):
                break
            rejected.append(index)
        assert (holm(p) <= alpha).nonzero().view(-1).tolist() == sorted(rejected)


def test_tensors_of_any_precision_are_accepted_and_unchanged():
    p = torch.tensor([0.5, 0.125])
    assert holm(p).tolist() == [0.5, 0.25]
    assert p.tolist() == [0.5, 0.125]


@pytest.mark.parametrize('wrong', [float('nan'), -0.1, 1.1, float('inf')])
def test_values_that_are_no_p_values_are_named(wrong):
    with pytest.raises(ValueError, match=r"'p_values' must be in \[0, 1\] \(got"):
        holm([0.5, wrong])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"'p_values' must have shape \[m\]"):
        holm(torch.full((2, 2), 0.5))


def main():
    """Prints how often a true null is rejected at 5 %."""
    ratios = (0.25, 0.5, 1.0, 2.0, 4.0)
    print('| seeds | interaction |', ' | '.join(f'{x:g}' for x in ratios), '|')
    print('|---|---|' + '---|' * len(ratios))
    for seeds in ((5, 5), (1, 5), (4, 4), (3, 3), (2, 2), (1, 4), (1, 3), (1, 2)):
        for both in (0.0, 0.5, 1.0):
            shares = [
                rejected(*simulate(10_000, seeds, ratio, both)) for ratio in ratios
            ]
            cells = ' | '.join(f'{100 * share:.1f}' for share in shares)
            print(f'| {seeds[0]}, {seeds[1]} | {both:g} |', cells, '|', flush=True)


def test_the_largest_gap_of_groups():
    torch.manual_seed(0)
    groups = {
        'a': torch.randn(50).double(),
        'b': torch.randn(40).double() + 1,
        'c': torch.randn(30).double() + 0.4,
    }
    gap = largest_gap({**groups, 'one': torch.tensor([9.0])})
    welch = stats.ttest_ind(groups['b'], groups['a'], equal_var=False)
    assert (gap.high_group, gap.low_group) == ('b', 'a')
    assert gap.p_value == pytest.approx(3 * welch.pvalue)
    ends = welch.confidence_interval(1 - 0.05 / 3)
    assert (gap.low, gap.high) == pytest.approx((ends.low, ends.high))
    assert largest_gap({'a': groups['a']}) is None
    same = largest_gap({'a': torch.ones(3), 'b': torch.ones(3)})
    assert (same.difference, same.p_value) == (0, 1)


if __name__ == '__main__':
    main()
