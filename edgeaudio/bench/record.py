"""From a candidate to its record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bench import stats
from edgeaudio.bench.candidate import Candidate, load_state
from edgeaudio.bench.hop import HopTimer
from edgeaudio.bench.schema import (
    ArtefactResult,
    Energy,
    ExitShare,
    GpuTime,
    StageName,
    StageResult,
    Turn,
)
from edgeaudio.runtime.engines.base import GpuTimes

_STAGE_NAMES: tuple[StageName, ...] = ("wait", "resample", "frontend", "inference", "decision", "total")


def artefact_result(
    candidate: Candidate, hop_ms: float, watch_start_s: float, *, intervals: bool = True
) -> ArtefactResult:
    """All that was measured; the verdict is for those who see the whole result.

    Args:
        watch_start_s: when the watch of the board began, by `time.perf_counter`.
        intervals: also bootstrap them, which takes a slow board longer than all the rest.
    """
    subject, timer = candidate.subject, candidate.timer
    timed = timer is not None and len(timer) > 0
    stages = stage_results(timer, intervals=intervals) if timer is not None and timed else ()
    total = stages[-1].summary if stages else None
    median_us, hop_us = total.p50.value_us if total else None, hop_ms * 1e3
    return ArtefactResult(
        artefact=subject.name,
        form=subject.form,
        engine=subject.engine,
        engine_info=candidate.loaded.info() if candidate.loaded else {},
        precision=subject.precision,
        size_bytes=subject.size_bytes,
        sha256=subject.sha256,
        hop_ms=hop_ms,
        parity=candidate.parity,
        accuracy=candidate.accuracy,
        load_ms=candidate.load_ms,
        first_inference_ms=candidate.first_inference_ms,
        n_hops=total.n if total else 0,
        timed_s=candidate.meter.wall_s,
        stages=stages,
        rtf_p50=median_us / hop_us if median_us is not None else None,
        rtf_mean=total.mean_us / hop_us if total else None,
        rtf_max=total.max_us / hop_us if total else None,
        drift_share=stats.drift_share(stages[-1].samples_us) if stages else None,
        load=load_state(candidate.meter) if timed else None,
        turns=tuple(
            Turn(start_s=start - watch_start_s, end_s=end - watch_start_s, n_hops=n)
            for start, end, n in candidate.turns
            if n
        ),
        exits=_timed_exits(candidate, timer, intervals) if timer is not None and timed else candidate.exits,
        gpu=_gpu_time(timer.gpu_us, intervals) if timer is not None and timer.gpu_us else None,
        catch_up_share=timer.catch_up_macs / timer.macs if timer is not None and timer.macs else None,
        paced=candidate.paced,
        cold_start=candidate.cold_start,
        sound_to_event=candidate.sound_to_event,
        failures=candidate.failures,
        energy=candidate.energy or Energy(reason="not timed"),
    )


def stage_results(timer: HopTimer, *, intervals: bool = True) -> tuple[StageResult, ...]:
    """All stages of a timer that has hops, `total` last; one that is not in the path says why."""
    columns, results = timer.columns_us(), []
    for name in _STAGE_NAMES:
        if name in timer.stages.left_out:
            results.append(StageResult(name=name, in_path=False, reason=timer.stages.left_out[name]))
        elif name in columns:
            samples_us = tuple(int(value) for value in columns[name].round())
            summary = stats.summarise(columns[name], interval=intervals)
            results.append(StageResult(name=name, in_path=True, summary=summary, samples_us=samples_us))
    return tuple(results)


def _gpu_time(gpu_us: Sequence[GpuTimes], intervals: bool) -> GpuTime:
    kernels, copies = zip(*gpu_us, strict=True)
    return GpuTime(
        kernels=stats.summarise(kernels, interval=intervals),
        copies=stats.summarise(copies, interval=intervals),
        kernels_us=tuple(round(value, 1) for value in kernels),
        copies_us=tuple(round(value, 1) for value in copies),
    )


def exit_shares(
    candidate: Candidate,
    taken: Sequence[int],
    inference_us: NDArray[np.float64] | None = None,
    *,
    intervals: bool = True,
) -> tuple[ExitShare, ...]:
    """One for each exit, the final one last; none without exits.

    Args:
        taken: the exit of each window. inference_us: `(windows,)`; None where they were not timed.
    """
    classifier = candidate.loaded.classifier if candidate.loaded else None
    shares = []
    for exit in range(classifier.n_exits if classifier and taken else 0):
        here = np.array([one == exit for one in taken], bool)
        inference = None
        if inference_us is not None and here.any():
            inference = stats.summarise(inference_us[here], interval=intervals)
        shares.append(ExitShare(exit=exit, share=float(here.mean()), inference=inference))
    return tuple(shares)


def _timed_exits(candidate: Candidate, timer: HopTimer, intervals: bool) -> tuple[ExitShare, ...]:
    inference_us = timer.columns_us()["inference"]
    return exit_shares(candidate, timer.exits[: len(inference_us)], inference_us, intervals=intervals)
