"""Intervals and paired tests for accuracies: how far a difference between two models reaches."""

from __future__ import annotations

import math
from typing import Literal

from scipy.stats import binomtest, norm

from edgeaudio.errors import ConfigError


def accuracy_interval(
    n_correct: int, n: int, *, confidence: float = 0.95, method: Literal["wilson", "exact"] = "wilson"
) -> tuple[float, float]:
    """Interval of a share of `n` clips: Wilson's score interval, or Clopper and Pearson's exact one.

    Both treat clips as independent; several clips cut from one recording are not, and the true interval
    is then wider.

    Raises:
        ConfigError: no clips, or a count outside 0..n.
    """
    if n < 1 or not 0 <= n_correct <= n:
        raise ConfigError(
            f"accuracy interval of {n_correct} right out of {n} clips: wanted 0 <= right <= clips, clips > 0"
        )
    interval = binomtest(n_correct, n).proportion_ci(confidence_level=confidence, method=method)
    return float(interval.low), float(interval.high)


def mcnemar_exact_p(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that two models, wrong on different clips, are equally good.

    Args:
        only_a: clips that only the first got right.
        only_b: clips that only the second got right.
    Source: McNemar (1947) with the binomial tail instead of the chi-square approximation.
    """
    if only_a < 0 or only_b < 0:
        raise ConfigError(f"McNemar counts must not be negative, given {only_a} and {only_b}")
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_difference_interval(only_a: int, only_b: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of accuracy(a) - accuracy(b) on the same `n` clips.

    Source: Bonett and Price (2012), adjusted Wald interval for paired proportions.

    Raises:
        ConfigError: more differing clips than clips.
    """
    if n < 1 or min(only_a, only_b) < 0 or only_a + only_b > n:
        raise ConfigError(f"paired counts {only_a} and {only_b} do not fit {n} clips")
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    z = float(norm.ppf(0.5 + confidence / 2))
    reach = z * math.sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    return max(-1.0, p_a - p_b - reach), min(1.0, p_a - p_b + reach)
