"""Statistics say no more than the samples carry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from edgeaudio.bench import stats
from edgeaudio.errors import ConfigError


@pytest.mark.parametrize(("p", "n"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_a_percentile_is_given_from_its_smallest_supported_sample_on(p: float, n: int) -> None:
    assert stats.min_samples(p) == n
    assert 1 - p**n >= 0.95 > 1 - p ** (n - 1)
    refused = stats.percentile(np.arange(n - 1.0), p)
    assert refused.value_us is None
    assert refused.upper95_us is None
    assert refused.reason == f"{n - 1} samples, p{p * 100:g} needs {n}"
    given_ = stats.percentile(np.arange(float(n)), p)
    assert given_.reason is None
    assert given_.upper95_us == n - 1


@given(n=st.integers(1, 3000), p=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_upper_bound_is_the_smallest_rank_that_covers_at_95_percent(n: int, p: float) -> None:
    rank = stats.upper_bound_rank(n, p)
    if rank is None:
        assert binom.cdf(n - 1, n, p) < 0.95
    else:
        assert binom.cdf(rank - 1, n, p) >= 0.95 - 1e-8
        assert rank == 1 or binom.cdf(rank - 2, n, p) < 0.95


@given(values=st.lists(st.floats(0, 1e6), min_size=60, max_size=400))
def test_a_percentile_was_observed_and_splits_the_samples(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    result = stats.percentile(ordered, 0.95)
    assert result.value_us in values
    assert np.mean(ordered <= result.value_us) >= 0.95
    assert np.mean(ordered < result.value_us) < 0.95
    assert result.upper95_us is not None
    assert result.upper95_us >= result.value_us


def test_intervals_are_repeatable_and_cover_what_they_are_of() -> None:
    values = np.random.default_rng(1).gamma(3, 40, 1200)
    found = stats.intervals_us(values)
    assert found == stats.intervals_us(values)
    assert found != stats.intervals_us(values, seed=2)
    for p, interval in found.items():
        assert interval is not None
        assert interval[0] < np.quantile(values, p) < interval[1]
    summary = stats.summarise(values)
    assert summary.p50_interval_us == summary.p50.interval_us == found[0.5]
    assert summary.p99.interval_us == found[0.99]
    assert stats.summarise(values, interval=False).p50.interval_us is None


@pytest.mark.parametrize(("p", "n"), [(0.5, 5), (0.9, 100), (0.95, 200), (0.99, 1000)])
def test_a_tail_has_an_interval_where_ten_samples_lie_beyond_it(p: float, n: int) -> None:
    values = np.random.default_rng(0).exponential(1, n)
    assert stats.intervals_us(values)[p] is not None
    assert stats.intervals_us(values[:-1])[p] is None


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = dict.fromkeys(stats.PERCENTILES, 0)
    for seed in range(60):
        found = stats.intervals_us(np.random.default_rng(seed).exponential(1, 1200))
        for p, interval in found.items():
            assert interval is not None
            covered[p] += interval[0] <= -np.log(1 - p) <= interval[1]
    # 95 % of 60 is 57; below 51 is a chance of one in a thousand.
    assert min(covered.values()) >= 51, covered


def test_a_ratio_keeps_together_what_happened_at_the_same_time() -> None:
    def series(seed: int, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(state * np.random.default_rng(seed).uniform(0.95, 1.05, len(state)))

    slow = np.repeat(np.random.default_rng(0).uniform(0.6, 1.6, 20), 40)
    own, other = series(1, 10 * slow), series(2, 5 * slow[::2])
    together = stats.ratio_interval(own, other)
    apart = stats.ratio_interval(own, np.random.default_rng(3).permutation(other))
    assert together is not None
    assert apart is not None
    assert together[0] < 2 < together[1]
    assert together[1] - together[0] < apart[1] - apart[0]
    assert stats.ratio_interval(own[:4], other) is None
    assert stats.ratio_interval(own, np.zeros(30)) is None


def test_neighbours_that_resemble_each_other_widen_the_median_interval() -> None:
    level = np.repeat(np.random.default_rng(3).normal(100, 10, 40), 20)
    together = stats.intervals_us(level)[0.5]
    apart = stats.intervals_us(np.random.default_rng(4).permutation(level))[0.5]
    assert together is not None
    assert apart is not None
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])


def test_a_summary_refuses_an_empty_list() -> None:
    with pytest.raises(ConfigError, match="at least one sample"):
        stats.summarise([])
    assert stats.summarise([3.0]).max_us == 3.0


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert stats.drift_share([10.0] * 10 + [99.0] * 10 + [12.0] * 10) == pytest.approx(0.2)
    assert stats.drift_share([10.0] * 14) is None
    assert stats.drift_share([0.0] * 30) is None


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0, 95.0])
def test_a_percentile_outside_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        stats.min_samples(p)
