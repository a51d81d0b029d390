"""May these figures be used? Pure functions from what was recorded to a verdict with reasons."""

from __future__ import annotations

from edgeaudio.bench.schema import LoadState, ParityCheck, Reason, Summary, Verdict
from edgeaudio.bench.stats import min_samples

# Each limit with the effect it guards against; measured effects are in the benchmark documentation.
MAX_OTHER_BUSY_CORES = 0.25
MIN_CPU_SHARE = 0.90
MIN_CPU_SHARE_VALID = 0.50
MAX_DRIFT_SHARE = 0.10
MAX_OVERHEAD_SHARE = 0.01


def judge(
    *,
    parity: ParityCheck | None,
    total: Summary | None,
    min_hops: int,
    drift_share: float | None,
    load: LoadState | None,
    overhead_p50_us: float,
    threads: int,
) -> Verdict:
    """The verdict on one artefact.

    Args:
        total: statistics of the whole hop; None when nothing was timed.
        min_hops: hops that were asked for.
    """
    reasons = [*_wrong_answers(parity), *_too_little(total, min_hops)]
    if total is not None:
        reasons += _unsteady(drift_share)
        reasons += _disturbed(load, threads)
        reasons += _own_weight(total, overhead_p50_us)
    return Verdict.of(tuple(reasons))


def _wrong_answers(parity: ParityCheck | None) -> list[Reason]:
    if parity is None or parity.passed:
        return []
    return [Reason(level="invalid", code="parity", message=f"golden vectors do not replay: {parity.detail}")]


def _too_little(total: Summary | None, min_hops: int) -> list[Reason]:
    n = 0 if total is None else total.n
    if n < max(min_hops, min_samples(0.5)):
        wanted = max(min_hops, min_samples(0.5))
        return [Reason(level="invalid", code="too-few-samples", message=f"{n} hops were timed, {wanted} are needed")]
    if n < min_samples(0.99):
        message = f"{n} hops carry no p99, which needs {min_samples(0.99)}"
        return [Reason(level="suspect", code="few-samples", message=message)]
    return []


def _unsteady(drift_share: float | None) -> list[Reason]:
    if drift_share is None or abs(drift_share) <= MAX_DRIFT_SHARE:
        return []
    message = f"the last third is {drift_share:+.0%} against the first, {MAX_DRIFT_SHARE:.0%} is allowed"
    return [Reason(level="suspect", code="drift", message=message)]


def _disturbed(load: LoadState | None, threads: int) -> list[Reason]:
    reasons: list[Reason] = []
    if load is None:
        return reasons
    if load.other_busy_cores is not None and load.other_busy_cores > MAX_OTHER_BUSY_CORES:
        message = f"other processes kept {load.other_busy_cores:.2f} cores busy, {MAX_OTHER_BUSY_CORES} are allowed"
        reasons.append(Reason(level="suspect", code="other-load", message=message))
    # With several threads the engine's pool works while this thread waits: its share says nothing.
    if threads == 1 and load.cpu_share < MIN_CPU_SHARE:
        level = "invalid" if load.cpu_share < MIN_CPU_SHARE_VALID else "suspect"
        message = f"the measuring thread held a core for only {load.cpu_share:.0%} of the timed span"
        reasons.append(Reason(level=level, code="off-cpu", message=message))
    return reasons


def _own_weight(total: Summary, overhead_p50_us: float) -> list[Reason]:
    median_us = total.p50.value_us
    if median_us is None or overhead_p50_us <= MAX_OVERHEAD_SHARE * median_us:
        return []
    message = f"the harness adds {overhead_p50_us:.2f} us to {median_us:.0f} us, above {MAX_OVERHEAD_SHARE:.0%}"
    return [Reason(level="suspect", code="overhead", message=message)]
