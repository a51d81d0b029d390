"""The figures of an artefact by name: what rules, CSV and reports call them. Units are in the names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np

from edgeaudio.bench.schema import ArtefactResult, BenchResult, Percentile, Ratio, StageName, StageResult, Summary
from edgeaudio.bench.stats import CONFIDENCE
from edgeaudio.errors import ConfigError, closest_match_hint

Interval = tuple[float, float]
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Figure:
    """One value with its 95 % interval where there is one; without a value, `reason` says why."""

    value: float | None = None
    interval: Interval | None = None
    reason: str = ""


MISSING: Final = Figure(reason="not measured")


@dataclass(frozen=True)
class Metric:
    """One thing to know about an artefact; `words` explain it."""

    name: str
    words: str
    read: Callable[[ArtefactResult, BenchResult], Figure]


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: there is none; names the closest.
    """
    if name not in METRICS:
        raise ConfigError(f"metric {name!r} is not known. {closest_match_hint(name, METRICS)}")
    return METRICS[name]


def own_hop_ms(item: ArtefactResult, result: BenchResult) -> float | None:
    """Its hop where that is not the run's: it answers more often, so its times per hop do not compare with others."""
    return None if item.hop_ms in (None, result.hop_ms) else item.hop_ms


def fair_ratios(result: BenchResult) -> Iterator[Ratio]:
    """The ratios of `result`, per second of sound where hops differ: older records have them per hop even there."""
    hops_ms = {item.artefact: item.hop_ms or result.hop_ms for item in result.artefacts}
    for ratio in result.ratios:
        hop_ms, baseline_ms = (hops_ms.get(name, result.hop_ms) for name in (ratio.artefact, ratio.baseline))
        yield ratio_by_hops(ratio, hop_ms, baseline_ms)


def ratio_by_hops(ratio: Ratio, hop: float, baseline_hop: float) -> Ratio:
    """`ratio`, per second of sound where the hops, of one unit, are not as long: the shorter one comes more often."""
    if ratio.per != "hop" or hop == baseline_hop or min(hop, baseline_hop) <= 0:
        return ratio
    more, bounds = baseline_hop / hop, ratio.interval
    interval = (bounds[0] * more, bounds[1] * more) if bounds else None
    return ratio.model_copy(update={"value": ratio.value * more, "interval": interval, "per": "second"})


def refusals(item: ArtefactResult) -> list[str]:
    """Why a percentile of the whole hop that tables have is not there."""
    total = item.stage("total")
    summary = total.summary if total else None
    percentiles = (summary.p50, summary.p95, summary.p99) if summary else ()
    return [percentile.reason for percentile in percentiles if percentile.reason]


def share_interval(n_right: int, n: int) -> Interval:
    """Wilson's 95 % score interval of a share of `n` >= 1 clips."""
    share, z2 = n_right / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _plain(value: float | None) -> Figure:
    return MISSING if value is None else Figure(float(value))


def _percentile(percentile: Percentile) -> Figure:
    if percentile.value_us is None:
        return Figure(reason=percentile.reason or MISSING.reason)
    return Figure(percentile.value_us / 1e3, _in_ms(percentile.interval_us))


def _median(summary: Summary) -> Figure:
    figure = _percentile(summary.p50)
    return replace(figure, interval=_in_ms(summary.p50_interval_us)) if figure.value is not None else figure


def _in_ms(interval_us: Interval | None) -> Interval | None:
    return None if interval_us is None else (interval_us[0] / 1e3, interval_us[1] / 1e3)


_STATISTICS: Final[dict[str, Callable[[Summary], Figure]]] = {
    "p50": _median,
    "p90": lambda summary: _percentile(summary.p90),
    "p95": lambda summary: _percentile(summary.p95),
    "p99": lambda summary: _percentile(summary.p99),
    "max": lambda summary: Figure(summary.max_us / 1e3),
}


def _times(prefix: str, words: str, find: Callable[[ArtefactResult], Summary | str | None]) -> Iterator[Metric]:
    """Statistics of one stage; `find` gives its summary, or why there is none."""
    for statistic, compute in _STATISTICS.items():

        def read(item: ArtefactResult, result: BenchResult, compute: Callable[[Summary], Figure] = compute) -> Figure:
            found = find(item)
            return compute(found) if isinstance(found, Summary) else Figure(reason=found or MISSING.reason)

        yield Metric(f"{prefix}_ms_{statistic}", f"{words}, {statistic}", read)


def _in(stages: Sequence[StageResult], name: StageName) -> Summary | str | None:
    stage = next((stage for stage in stages if stage.name == name), None)
    return (stage.summary or stage.reason) if stage else None


def _paced(item: ArtefactResult, name: StageName) -> Summary | str | None:
    return _in(item.paced.stages, name) if item.paced else None


def _miss_share(item: ArtefactResult, result: BenchResult) -> Figure:
    return _plain(item.paced.deadline_misses / item.paced.n_hops) if item.paced else MISSING


def _cold_start(item: ArtefactResult, result: BenchResult) -> Figure:
    times_ms = item.cold_start.to_first_answer_ms if item.cold_start else ()
    return _plain(float(np.median(times_ms))) if times_ms else MISSING


def _cold_start_rss(item: ArtefactResult, result: BenchResult) -> Figure:
    return _plain(item.cold_start.peak_rss_bytes if item.cold_start else None)


def _accuracy(item: ArtefactResult, result: BenchResult) -> Figure:
    check = item.accuracy
    if check is None:
        return MISSING
    return Figure(check.n_correct / check.n_clips, share_interval(check.n_correct, check.n_clips))


def _energy(item: ArtefactResult, result: BenchResult) -> Figure:
    energy = item.energy
    if energy is None or energy.per_inference_mj is None:
        return Figure(reason=(energy and energy.reason) or MISSING.reason)
    return Figure(energy.per_inference_mj)


def _instructions(item: ArtefactResult, result: BenchResult) -> Figure:
    if item.estimate is None:
        return MISSING
    n, spread = item.estimate.instructions_per_inference, item.estimate.spread_share
    return Figure(float(n), (n * (1 - spread), n * (1 + spread)))


def _all_metrics() -> Iterator[Metric]:
    yield from _times("latency", "processing time per hop", lambda item: _in(item.stages, "total"))
    yield from _times("resample", "resampling per hop", lambda item: _in(item.stages, "resample"))
    yield from _times("frontend", "log-mel per hop", lambda item: _in(item.stages, "frontend"))
    yield from _times("inference", "model per hop", lambda item: _in(item.stages, "inference"))
    yield from _times("decision", "decision per hop", lambda item: _in(item.stages, "decision"))
    yield from _times(
        "paced_latency", "last sample of a hop to its answer at real-time pace", lambda item: _paced(item, "total")
    )
    yield from _times("paced_wait", "how late a paced hop was taken up", lambda item: _paced(item, "wait"))
    yield Metric("paced_miss_share", "paced hops that missed the deadline", _miss_share)
    yield from _times(
        "sound_to_event",
        "end of a marked sound's window to its event",
        lambda item: item.sound_to_event.summary if item.sound_to_event else None,
    )
    yield Metric("cold_start_ms", "new process to its first answer, median", _cold_start)
    yield Metric("cold_start_rss_bytes", "largest resident set of a process with this artefact alone", _cold_start_rss)
    yield Metric("load_ms", "verified bytes to a ready classifier", lambda item, result: _plain(item.load_ms))
    yield Metric("first_inference_ms", "the first answer", lambda item, result: _plain(item.first_inference_ms))
    yield Metric("rtf_p50", "median processing time over hop duration", lambda item, result: _plain(item.rtf_p50))
    yield Metric("rtf_max", "longest processing time over hop duration", lambda item, result: _plain(item.rtf_max))
    yield Metric("size_bytes", "the model file", lambda item, result: _plain(item.size_bytes))
    yield Metric(
        "peak_rss_bytes",
        "largest resident set of the run, all artefacts",
        lambda item, result: _plain(result.peak_rss_bytes if result.kind == "measured" else None),
    )
    yield Metric("accuracy", "share of clips right", _accuracy)
    yield Metric("energy_mj", "of one inference, the idle board subtracted", _energy)
    yield Metric("instructions", "guest instructions per inference, emulated", _instructions)


#: Metric name -> metric, in the order of columns.
METRICS: Final[dict[str, Metric]] = {metric.name: metric for metric in _all_metrics()}


_BESIDE = {"cold_start": "cold starts", "sound_to_event": "sounds in a stream"}


def broken_off(result: BenchResult) -> list[str]:
    """What of an artefact was begun and could not be measured, and why, a sentence each."""
    return [
        f"{item.artefact}: {_BESIDE[what]} broke off: {why.rstrip('.')}."
        for item in result.artefacts
        for what, why in item.failures.items()
    ]
