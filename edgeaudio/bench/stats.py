"""Latency statistics that refuse to say more than the samples can carry.

A percentile is only given when a distribution-free 95 % upper confidence bound for it exists. The
largest of n independent samples lies above the p-quantile with probability `1 - p**n`; asking for
95 % gives n >= ln(0.05) / ln(p): 5 samples for p50, 29 for p90, 59 for p95, 299 for p99.
Source: order-statistic intervals, Hahn and Meeker, "Statistical Intervals", 5.2. The largest sample has no
interval: what was not observed may lie anywhere above it, and a bootstrap never draws above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.bench.schema import Percentile, Summary
from edgeaudio.errors import ConfigError

CONFIDENCE = 0.95
BOOTSTRAP_SEED = 20_240_601
PERCENTILES = (0.50, 0.90, 0.95, 0.99)
# Fewer of a long run, whose intervals are narrow anyway: 1e7 values take a third of a second, on a small board three.
BOOTSTRAP_RESAMPLES, BOOTSTRAP_RESAMPLES_MIN = 1_000, 200
_BOOTSTRAP_WORK = 10_000_000
_TAILS = [0.025, 0.975]
_MIN_BEYOND = 10
# Resamples drawn at once: bounds memory at 50 * n indices.
_BOOTSTRAP_BATCH = 50


def min_samples(p: float) -> int:
    """Fewest samples for which the largest bounds the p-quantile with 95 % confidence.

    Raises:
        ConfigError: `p` is not strictly between 0 and 1.
    """
    if not 0 < p < 1:
        raise ConfigError(f"percentile {p} must lie strictly between 0 and 1")
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(p))


def upper_bound_rank(n: int, p: float) -> int | None:
    """Rank k (1-based) of the smallest order statistic that bounds the p-quantile from above at 95 %.

    P(X_(k) >= q_p) = P(Binomial(n, p) <= k - 1). None when even the largest sample does not suffice.
    """
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)
    # Twelve standard deviations below the mean lies less mass than rounding shows.
    first = max(0, math.floor(n * p - 12 * math.sqrt(n * p * (1 - p))))
    below = 0.0
    for successes in range(first, n):
        log_term = log_n - math.lgamma(successes + 1) - math.lgamma(n - successes + 1)
        below += math.exp(log_term + successes * log_p + (n - successes) * log_q)
        # 1e-9: lgamma's rounding must not push a bound that is exactly reached one rank up.
        if below >= CONFIDENCE - 1e-9:
            return successes + 1
    return None


def percentile(sorted_us: NDArray[np.float64], p: float, interval_us: tuple[float, float] | None = None) -> Percentile:
    """The nearest-rank percentile (a value that was observed) with its upper bound, or the reason for none.

    Args:
        sorted_us: `(n,)` ascending, microseconds. interval_us: as `intervals_us` has it.
    """
    n = len(sorted_us)
    rank = upper_bound_rank(n, p)
    if rank is None:
        return Percentile(p=p, reason=f"{n} samples, p{p * 100:g} needs {min_samples(p)}")
    value, upper = sorted_us[nearest_rank(n, p)], sorted_us[rank - 1]
    return Percentile(p=p, value_us=float(value), upper95_us=float(upper), interval_us=interval_us)


def nearest_rank(n: int, p: float) -> int:
    """Index of the p-quantile among `n` values in order."""
    # 1e-9: p * n must not come out a hair above a whole number.
    return max(math.ceil(p * n - 1e-9), 1) - 1


def intervals_us(
    values_us: ArrayLike, percentiles: Sequence[float] = PERCENTILES, *, seed: int = BOOTSTRAP_SEED
) -> dict[float, tuple[float, float] | None]:
    """95 % bootstrap intervals of `percentiles`; None where `carries_interval` says no. Equal inputs give equal ones.

    Consecutive hops are not independent (cache, clock and scheduler states last), so whole blocks of
    n**(1/3) neighbours are drawn: the circular block bootstrap of Politis and Romano (1992). The upper bounds of
    `percentile` take hops for independent, but hold for any tail; of the two the wider is the one to believe.
    """
    values = np.asarray(values_us, dtype=np.float64)
    n = len(values)
    wanted = [p for p in percentiles if carries_interval(n, p)]
    found: dict[float, tuple[float, float] | None] = dict.fromkeys(percentiles)
    if not wanted:
        return found
    ranks = [nearest_rank(n, p) for p in wanted]
    draws = [
        np.partition(values[index], ranks, axis=1)[:, ranks]
        for (index,) in _block_draws([n], round(n ** (2 / 3)), np.random.default_rng(seed))
    ]
    low, high = np.quantile(np.concatenate(draws), _TAILS, axis=0)
    return found | {p: (float(a), float(b)) for p, a, b in zip(wanted, low, high, strict=True)}


def carries_interval(n: int, p: float) -> bool:
    """Whether resampling `n` values says something about their p-quantile: at least ten must lie beyond a tail.

    With fewer the same few values come back in every resample, and the interval is far too narrow.
    """
    return n >= min_samples(p) and (p <= 0.5 or n - 1 - nearest_rank(n, p) >= _MIN_BEYOND)


def ratio_interval(values: ArrayLike, baseline: ArrayLike, *, seed: int = BOOTSTRAP_SEED) -> tuple[float, float] | None:
    """95 % bootstrap interval of median(values) / median(baseline), two series that took turns; None below p50's
    minimum.

    The same stretches of the run are drawn from both: what the machine did then belongs to both.
    """
    series = [np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)]
    lengths = [len(one) for one in series]
    if min(lengths) < min_samples(0.5):
        return None
    ratios = []
    for indices in _block_draws(lengths, round(min(lengths) ** (2 / 3)), np.random.default_rng(seed)):
        own, other = (np.median(one[index], axis=1) for one, index in zip(series, indices, strict=True))
        if not other.min() > 0:
            return None
        ratios.append(own / other)
    low, high = np.quantile(np.concatenate(ratios), _TAILS)
    return float(low), float(high)


def _block_draws(lengths: Sequence[int], n_blocks: int, rng: np.random.Generator) -> Iterator[list[NDArray[np.int64]]]:
    """Batches of resamples: for each series `(batch, about its length)` indices, `n_blocks` stretches at equal places
    in all."""
    resamples = min(max(BOOTSTRAP_RESAMPLES_MIN, _BOOTSTRAP_WORK // max(lengths)), BOOTSTRAP_RESAMPLES)
    for _ in range(math.ceil(resamples / _BOOTSTRAP_BATCH)):
        starts = rng.random((_BOOTSTRAP_BATCH, n_blocks, 1))
        drawn = []
        for n in lengths:
            index = ((starts * n).astype(np.int64) + np.arange(math.ceil(n / n_blocks))) % n
            drawn.append(index.reshape(_BOOTSTRAP_BATCH, -1)[:, :n])
        yield drawn


def summarise(values_us: ArrayLike, *, interval: bool = True) -> Summary:
    """All statistics of one stage.

    Args:
        values_us: `(n,)` in the order they were measured, microseconds, n >= 1.
        interval: also bootstrap the percentiles, the only costly part.
    Raises:
        ConfigError: no samples.
    """
    values = np.asarray(values_us, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ConfigError(f"statistics need a list of at least one sample, given shape {values.shape}")
    ordered = np.sort(values)
    bounds = intervals_us(values) if interval else dict.fromkeys(PERCENTILES)
    p50, p90, p95, p99 = (percentile(ordered, p, bounds[p]) for p in PERCENTILES)
    return Summary(
        n=len(values),
        mean_us=float(values.mean()),
        min_us=float(ordered[0]),
        max_us=float(ordered[-1]),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        p50_interval_us=p50.interval_us,
    )


def drift_share(values_us: ArrayLike) -> float | None:
    """Median of the last third over that of the first third, minus 1; None below 15 samples.

    15: each third then holds the 5 samples that a median needs.
    """
    values = np.asarray(values_us, dtype=np.float64)
    third = len(values) // 3
    if third < min_samples(0.5):
        return None
    first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
    return last / first - 1 if first > 0 else None
