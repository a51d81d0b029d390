"""Latency statistics that refuse to say more than the samples can carry.

A percentile is only given when a distribution-free 95 % upper confidence bound for it exists. The
largest of n independent samples lies above the p-quantile with probability `1 - p**n`; asking for
95 % gives n >= ln(0.05) / ln(p): 5 samples for p50, 29 for p90, 59 for p95, 299 for p99.
Source: order-statistic intervals, Hahn and Meeker, "Statistical Intervals", 5.2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.bench.schema import Percentile, Summary
from edgeaudio.errors import ConfigError

CONFIDENCE = 0.95
BOOTSTRAP_SEED = 20_240_601
BOOTSTRAP_RESAMPLES = 1_000
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


def percentile(sorted_us: NDArray[np.float64], p: float) -> Percentile:
    """The nearest-rank percentile (a value that was observed) with its upper bound, or the reason for none.

    Args:
        sorted_us: `(n,)` ascending, microseconds.
    """
    n = len(sorted_us)
    rank = upper_bound_rank(n, p)
    if rank is None:
        return Percentile(p=p, reason=f"{n} samples, p{p * 100:g} needs {min_samples(p)}")
    value = sorted_us[max(math.ceil(p * n - 1e-9), 1) - 1]
    return Percentile(p=p, value_us=float(value), upper95_us=float(sorted_us[rank - 1]))


def median_interval_us(values_us: ArrayLike, *, seed: int = BOOTSTRAP_SEED) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median; None below the p50 minimum. Equal inputs give equal intervals.

    Consecutive hops are not independent (cache, clock and scheduler states last), so whole blocks of
    n**(1/3) neighbours are drawn: the circular block bootstrap of Politis and Romano (1992).
    """
    values = np.asarray(values_us, dtype=np.float64)
    n = len(values)
    if n < min_samples(0.5):
        return None
    block = max(1, round(n ** (1 / 3)))
    blocks = math.ceil(n / block)
    rng = np.random.default_rng(seed)
    medians = []
    for _ in range(BOOTSTRAP_RESAMPLES // _BOOTSTRAP_BATCH):
        starts = rng.integers(0, n, size=(_BOOTSTRAP_BATCH, blocks, 1))
        index = ((starts + np.arange(block)) % n).reshape(_BOOTSTRAP_BATCH, -1)[:, :n]
        medians.append(np.median(values[index], axis=1))
    low, high = np.quantile(np.concatenate(medians), [0.025, 0.975])
    return float(low), float(high)


def summarise(values_us: ArrayLike, *, interval: bool = True) -> Summary:
    """All statistics of one stage.

    Args:
        values_us: `(n,)` in the order they were measured, microseconds, n >= 1.
        interval: also bootstrap the median, the only costly part.
    Raises:
        ConfigError: no samples.
    """
    values = np.asarray(values_us, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ConfigError(f"statistics need a list of at least one sample, given shape {values.shape}")
    ordered = np.sort(values)
    return Summary(
        n=len(values),
        mean_us=float(values.mean()),
        min_us=float(ordered[0]),
        max_us=float(ordered[-1]),
        p50=percentile(ordered, 0.50),
        p90=percentile(ordered, 0.90),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        p50_interval_us=median_interval_us(values) if interval else None,
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
