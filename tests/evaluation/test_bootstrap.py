import pytest
import torch

from promptmm_pyg.evaluation import holm, paired_bootstrap


def per_user(num_users=300, num_seeds=None, mean=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (num_users,) if num_seeds is None else (num_seeds, num_users)
    return torch.randn(size, generator=generator) + mean


def test_equal_inputs_give_an_interval_of_zero():
    a = per_user()
    interval = paired_bootstrap(a, a.clone(), num_samples=100)
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)
    assert not interval.significant


def test_a_constant_gain_has_no_spread_since_users_are_paired():
    a = per_user().double()
    interval = paired_bootstrap(a, a - 0.01, num_samples=100)
    assert interval.difference == pytest.approx(0.01)
    assert interval.low == pytest.approx(0.01)
    assert interval.high == pytest.approx(0.01)
    assert interval.significant


def test_swapping_the_models_mirrors_the_interval():
    a, b = per_user(mean=0.3), per_user(seed=1)
    first, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert first.difference == pytest.approx(-other.difference)
    assert first.low == pytest.approx(-other.high)
    assert first.high == pytest.approx(-other.low)
    assert first.significant
    assert other.significant


def test_width_is_that_of_the_normal_approximation():
    a, b = per_user(num_users=2000), per_user(num_users=2000, seed=1)
    interval = paired_bootstrap(a, b)
    half = 1.96 * float((a - b).std()) / 2000**0.5
    mean = float((a - b).mean())
    # The bootstrap's own noise at 10,000 samples is about two percent.
    assert interval.difference == pytest.approx(mean, rel=1e-5)
    assert interval.low == pytest.approx(mean - half, abs=0.05 * half)
    assert interval.high == pytest.approx(mean + half, abs=0.05 * half)


def test_more_confidence_widens_the_interval():
    a, b = per_user(), per_user(seed=1)
    narrow = paired_bootstrap(a, b, confidence=0.5)
    wide = paired_bootstrap(a, b, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (narrow.confidence, wide.confidence) == (0.5, 0.99)


@pytest.mark.parametrize('resample_seeds', [False, True])
def test_nominal_coverage(resample_seeds):
    generator = torch.Generator().manual_seed(2)
    repeats, num_seeds, truth, hits = 400, 10, 0.2, 0
    for repeat in range(repeats):
        hardness = torch.randn(150, generator=generator)
        noise = torch.randn(2, num_seeds, 150, generator=generator)
        luck = torch.randn(2, num_seeds, 1, generator=generator) * 0.1
        luck = luck if resample_seeds else torch.zeros(2, 1, 1)
        a = hardness + truth + noise[0] + luck[0]
        b = hardness + noise[1] + luck[1]
        interval = paired_bootstrap(
            a, b, num_samples=500, seed=repeat, resample_seeds=resample_seeds
        )
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / repeats <= 0.98


def test_seeds_are_averaged_user_by_user():
    a, b = per_user(num_seeds=3), per_user(num_seeds=2, seed=1)
    expected = paired_bootstrap(a.mean(0), b.mean(0))
    got = paired_bootstrap(list(a), b)
    assert got.difference == pytest.approx(expected.difference, abs=1e-6)
    assert got.low == pytest.approx(expected.low, abs=1e-6)
    assert got.high == pytest.approx(expected.high, abs=1e-6)


def test_resampling_seeds_sees_lucky_trainings():
    # The seeds of `a` differ by as much as `a` and `b`: not significant any more.
    luck = torch.tensor([[-0.5], [0.0], [1.0]])
    a, b = per_user(num_seeds=1) + luck, per_user(num_seeds=1) + torch.zeros(3, 1)
    fixed = paired_bootstrap(a, b)
    drawn = paired_bootstrap(a, b, resample_seeds=True)
    assert fixed.significant
    assert not drawn.significant
    assert drawn.low < fixed.low < fixed.high < drawn.high
    swapped = paired_bootstrap(b, a, resample_seeds=True)
    assert swapped.low == pytest.approx(-drawn.high, abs=0.05)
    assert swapped.high == pytest.approx(-drawn.low, abs=0.05)


def test_one_seed_resampled_is_one_seed():
    a, b = per_user(), per_user(seed=1)
    plain = paired_bootstrap(a, b)
    drawn = paired_bootstrap(a, b, resample_seeds=True)
    assert drawn.low == pytest.approx(plain.low)
    assert drawn.high == pytest.approx(plain.high)


def test_equal_seeds_give_equal_intervals():
    a, b = per_user(), per_user(seed=1)
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_chunks_do_not_matter(monkeypatch):
    a, b = per_user(num_users=20), per_user(num_users=20, seed=1)
    entire = paired_bootstrap(a, b, num_samples=101)
    monkeypatch.setattr('promptmm_pyg.evaluation.bootstrap._CHUNK', 50)
    parts = paired_bootstrap(a, b, num_samples=101)
    assert parts.low == pytest.approx(entire.low)
    assert parts.high == pytest.approx(entire.high)


def test_one_user_has_no_spread():
    interval = paired_bootstrap(torch.tensor([2.0]), torch.tensor([-1.0]))
    assert (interval.low, interval.high) == (3, 3)


def test_errors():
    a = per_user()
    with pytest.raises(ValueError, match=r'same users \(got 300 and 299 of them\)'):
        paired_bootstrap(a, a[1:])
    with pytest.raises(ValueError, match=r"'num_samples' must be positive"):
        paired_bootstrap(a, a, num_samples=0)
    with pytest.raises(ValueError, match=r"'confidence' must be positive"):
        paired_bootstrap(a, a, confidence=0.0)
    with pytest.raises(ValueError, match=r"'confidence' must be in \[0, 1\)"):
        paired_bootstrap(a, a, confidence=1.0)
    with pytest.raises(ValueError, match=r"'b'.*\[1, 300\], 1 not finite"):
        paired_bootstrap(a, a.clone().index_fill_(0, torch.tensor(3), float('nan')))
    with pytest.raises(ValueError, match=r"'a'.*finite values.*\[1, 0\]"):
        paired_bootstrap(a[:0], a)
    with pytest.raises(ValueError, match=r"'a'.*finite values.*\[1, 1, 300\]"):
        paired_bootstrap(a.view(1, 1, -1), a)


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
