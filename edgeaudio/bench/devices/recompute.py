"""What a device derives from its raw samples, derived here again; and what it says of an artefact, held to the job.

A device is believed what it alone can know: its samples, its state, its versions. Everything else must agree with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bench import stats
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.foreign_subject import ForeignSubject
from edgeaudio.bench.schema import ArtefactResult, BenchResult, Paced, Ratio, StageName, StageResult, Summary
from edgeaudio.bench.subjects import Subject, bundle_subjects
from edgeaudio.errors import VerificationError

# Samples are rounded to whole microseconds, those of a GPU to tenths; what is derived comes of them as they were.
_ROUNDING_US, _GPU_ROUNDING_US = 0.5, 0.05
# Sums in another order.
_RELATIVE = 1e-6
_TIMES = ("load_ms", "first_inference_ms", "rtf_p50", "rtf_mean", "rtf_max", "drift_share", "load", "gpu", "paced",
          "cold_start", "sound_to_event")  # fmt: skip


def subjects_of(job: BenchJob) -> dict[str, Subject]:
    """What is to be run of the bundle and beside it, by name."""
    found = bundle_subjects(job.bundle, job.engine, job.options.forms)
    chosen = [subject for subject in found if job.artefacts == "all" or subject.name in job.artefacts]
    subjects: list[Subject] = [*chosen, *(ForeignSubject(model, job.bundle) for model in job.foreign)]
    return {subject.name: subject for subject in subjects}


def check_derived(result: BenchResult, job: BenchJob, device: str) -> None:
    """Hold all that `result` says of its artefacts to the job and to its own samples.

    Raises:
        VerificationError: names the device, the artefact and the field.
    """
    subjects = subjects_of(job)
    for item in result.artefacts:
        where = f"{device}: {item.artefact}"
        _check_subject(item, subjects[item.artefact], job, where)
        if result.kind == "estimated":
            _check_timeless(item, where)
        _check_hops(item, where)
        if item.paced is not None:
            _check_paced(item.paced, item.hop_ms, f"{where}: paced")
        _check_asked(item, job, where)
    for ratio in result.ratios:
        _check_ratio(ratio, result, device)


def same(where: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise VerificationError unless each wanted field is as it is given."""
    for name, value in wanted.items():
        if given[name] != value:
            raise VerificationError(f"{where}: {name} is {given[name]!r:.80}, wanted {value!r:.80}")


def _check_subject(item: ArtefactResult, subject: Subject, job: BenchJob, where: str) -> None:
    rate_hz = job.bundle.manifest.frontend.sample_rate
    names = ("form", "engine", "precision", "size_bytes", "sha256")
    wanted = {name: getattr(subject, name) for name in names} | {"hop_ms": 1e3 * subject.hop_samples / rate_hz}
    # The host makes estimates, of the emulator's counts.
    same(where, vars(item), wanted | {"estimate": None})
    if (item.parity is None) != (item.form == "foreign"):
        raise VerificationError(f"{where}: parity is {'missing' if item.parity is None else 'of no golden vectors'}")
    if item.parity is not None and item.parity.passed:
        same(f"{where}: parity", vars(item.parity), {"n_vectors": len(job.bundle.golden)})
    _check_accuracy(item, job, where)


def _check_accuracy(item: ArtefactResult, job: BenchJob, where: str) -> None:
    check, clips = item.accuracy, job.clips
    heard = clips is not None and item.form != "foreign"
    if check is None:
        if heard and item.parity is not None and item.parity.passed:
            raise VerificationError(f"{where}: accuracy is missing")
        return
    if clips is None or not heard:
        raise VerificationError(f"{where}: accuracy of clips that it was not given")
    n = len(clips.labels)
    same(f"{where}: accuracy", vars(check), {"n_clips": n, "clips_sha256": clips.sha256})
    if max(check.n_correct, check.n_correct_on_host, check.n_same) > n:
        raise VerificationError(f"{where}: accuracy: more than all {n} clips")


def _check_timeless(item: ArtefactResult, where: str) -> None:
    same(where, vars(item), {"n_hops": 0, "timed_s": 0.0, "stages": (), "turns": ()} | dict.fromkeys(_TIMES))


def _check_hops(item: ArtefactResult, where: str) -> None:
    """What was timed back to back."""
    _check_stages(item.stages, item.n_hops, where)
    total = item.stage("total")
    summary, hop_us = total.summary if total else None, 1e3 * (item.hop_ms or 0.0)
    derived = (summary.p50.value_us, summary.mean_us, summary.max_us) if summary else (None,) * 3
    for name, value_us in zip(("rtf_p50", "rtf_mean", "rtf_max"), derived, strict=True):
        _near(where, name, getattr(item, name), None if value_us is None else value_us / hop_us)
    _near(where, "drift_share", item.drift_share, stats.drift_share(total.samples_us) if total else None)
    if item.turns:
        same(where, {"hops of turns": sum(turn.n_hops for turn in item.turns)}, {"hops of turns": item.n_hops})
    _check_exits(item, where)
    for name in ("kernels", "copies") if item.gpu is not None else ():
        samples_us = getattr(item.gpu, f"{name}_us")
        same(f"{where}: gpu", {name: len(samples_us)}, {name: item.n_hops})
        _check_summary(getattr(item.gpu, name), samples_us, f"{where}: gpu: {name}", _GPU_ROUNDING_US)


def _check_stages(stages: Sequence[StageResult], n_hops: int, where: str) -> None:
    names = [stage.name for stage in stages]
    timed = {stage.name: stage for stage in stages if stage.in_path}
    wanted = {"inference", "total"} if n_hops else set()
    if len(set(names)) != len(names) or not wanted <= set(timed) or (timed and not n_hops):
        raise VerificationError(f"{where}: {n_hops} hops with the stages {names}")
    for stage in stages:
        said = f"{where}: {stage.name}"
        n = n_hops if stage.in_path else 0
        same(said, {"samples": len(stage.samples_us)}, {"samples": n})
        if stage.in_path != (stage.summary is not None):
            raise VerificationError(f"{said}: in_path is {stage.in_path}, its summary is {stage.summary!r:.80}")
        if stage.summary is not None:
            _check_summary(stage.summary, stage.samples_us, said)
    if timed:
        _check_total(timed, where)


def _check_total(timed: Mapping[StageName, StageResult], where: str) -> None:
    parts = [stage.samples_us for name, stage in timed.items() if name != "total"]
    off_us = np.abs(np.sum(parts, axis=0) - np.array(timed["total"].samples_us))
    if off_us.max() > _ROUNDING_US * (len(parts) + 1):
        raise VerificationError(f"{where}: total of hop {int(off_us.argmax())} is not the sum of its stages")


def _check_summary(
    summary: Summary, samples_us: Sequence[float], where: str, rounding_us: float = _ROUNDING_US
) -> None:
    """Percentiles are values that were observed: rounding moves none of them further than it moves a sample."""
    values = np.asarray(samples_us, np.float64)
    same(where, {"n": summary.n}, {"n": len(values)})
    if not len(values) or values.min() < 0:
        raise VerificationError(f"{where}: samples_us took less than no time")
    given, wanted = dict(_figures(summary)), dict(_figures(stats.summarise(values, interval=False)))
    for name in given.keys() | wanted.keys():
        _near(where, name, given.get(name), wanted.get(name), 0.0 if name.endswith(".p") else rounding_us)
    percentiles = (summary.p50, summary.p90, summary.p95, summary.p99)
    for bounds in (summary.p50_interval_us, *(one.interval_us for one in percentiles)):
        # By chance drawn from the samples, and not the same ones in every version of NumPy.
        if bounds is not None and not summary.min_us <= bounds[0] <= bounds[1] <= summary.max_us:
            raise VerificationError(f"{where}: an interval of {bounds[0]:.6g} to {bounds[1]:.6g} us is not possible")


def _figures(summary: Summary) -> Iterator[tuple[str, Any]]:
    """All that a summary has but its intervals, by name."""
    yield from (("mean_us", summary.mean_us), ("min_us", summary.min_us), ("max_us", summary.max_us))
    for name in ("p50", "p90", "p95", "p99"):
        one = getattr(summary, name)
        yield f"{name}.p", one.p
        for field in ("value_us", "upper95_us"):
            if getattr(one, field) is not None:
                yield f"{name}.{field}", getattr(one, field)


def _near(where: str, name: str, given: Any, wanted: Any, absolute: float = 0.0) -> None:
    """Raise VerificationError unless both are missing, or as near as rounding allows."""
    if given is None and wanted is None:
        return
    if given is None or wanted is None or not np.allclose(given, wanted, rtol=_RELATIVE, atol=absolute + 1e-9):
        raise VerificationError(f"{where}: {name} is {given!r:.80}, its samples give {wanted!r:.80}")


def _check_exits(item: ArtefactResult, where: str) -> None:
    if not item.exits:
        return
    _near(where, "share of all exits", sum(one.share for one in item.exits), 1.0)
    stage, parts = item.stage("inference"), [(one.share, one.inference) for one in item.exits]
    if stage is None or stage.summary is None:
        return
    for share, part in parts:
        _near(where, "n of an exit", part.n if part else 0, share * item.n_hops)
    total_us = sum(part.n * part.mean_us for _, part in parts if part)
    _near(where, "mean_us of all exits", total_us / item.n_hops, stage.summary.mean_us)
    for part in (part for _, part in parts if part):
        if part.min_us < stage.summary.min_us or part.max_us > stage.summary.max_us:
            raise VerificationError(f"{where}: an exit took {part.max_us:.1f} us, which no hop did")


def _check_paced(paced: Paced, hop_ms: float | None, where: str) -> None:
    _check_stages(paced.stages, paced.n_hops, where)
    _near(where, "deadline_ms", paced.deadline_ms, hop_ms)
    total_us: NDArray[np.float64] = next(
        np.array(stage.samples_us, np.float64) for stage in paced.stages if stage.name == "total"
    )
    least, most = (int((total_us > 1e3 * paced.deadline_ms + off_us).sum()) for off_us in (0.5, -0.5 - 1e-9))
    if not least <= paced.deadline_misses <= most:
        raise VerificationError(f"{where}: deadline_misses is {paced.deadline_misses}, its samples give {least}")


def _check_asked(item: ArtefactResult, job: BenchJob, where: str) -> None:
    """As many cold starts and marked sounds as were asked for, unless the device says that they broke off."""
    cold = None if "cold_start" in item.failures else item.cold_start
    heard = None if "sound_to_event" in item.failures else item.sound_to_event
    options = job.options
    if cold is not None:
        for name in ("to_first_answer_ms", "import_ms", "load_ms", "first_inference_ms"):
            times_ms = getattr(cold, name)
            same(f"{where}: cold_start: {name}", {"length": len(times_ms)}, {"length": options.cold_starts})
            if min(times_ms, default=0) < 0:
                raise VerificationError(f"{where}: cold_start: {name} took less than no time")
    if heard is not None:
        able = heard.n_sounds if heard.n_able is None else heard.n_able
        if not heard.n_heard <= able <= heard.n_sounds:
            counts_said = f"{heard.n_heard} of {able} of {heard.n_sounds}"
            raise VerificationError(f"{where}: sound_to_event: n_heard of n_able of n_sounds is {counts_said}")
        counts = {"n_sounds": heard.n_sounds, "samples": len(heard.samples_us), "onsets": len(heard.onset_us)}
        n = heard.n_heard
        same(f"{where}: sound_to_event", counts, {"n_sounds": options.marked_sounds, "samples": n, "onsets": n})
        for summary, samples_us in ((heard.summary, heard.samples_us), (heard.onset_summary, heard.onset_us)):
            if (summary is None) != (not samples_us):
                raise VerificationError(f"{where}: sound_to_event: a summary of {len(samples_us)} samples")
            if summary is not None:
                _check_summary(summary, samples_us, f"{where}: sound_to_event")


def _check_ratio(ratio: Ratio, result: BenchResult, device: str) -> None:
    medians_us, hops_ms = [], []
    for name in (ratio.artefact, ratio.baseline):
        item = next((item for item in result.artefacts if item.artefact == name), None)
        stage = item.stage(ratio.stage) if item else None
        if item is None or stage is None or not stage.samples_us:
            raise VerificationError(f"{device}: a ratio of {ratio.stage} of {name!r:.80}, which has none")
        medians_us.append(float(np.median(stage.samples_us)))
        hops_ms.append(item.hop_ms or result.hop_ms)
    own_us, other_us = medians_us
    # Per second of sound the shorter hop comes more often.
    more = hops_ms[1] / hops_ms[0] if ratio.per == "second" else 1.0
    least = more * (own_us - _ROUNDING_US) / (other_us + _ROUNDING_US)
    most = more * (own_us + _ROUNDING_US) / max(other_us - _ROUNDING_US, 1e-9)
    if not least - _RELATIVE <= ratio.value <= most + _RELATIVE:
        where = f"{device}: {ratio.artefact}: ratio to {ratio.baseline} in {ratio.stage}"
        raise VerificationError(
            f"{where} is {ratio.value:.4g}, its samples give {more * own_us / max(other_us, 1e-9):.4g}"
        )
