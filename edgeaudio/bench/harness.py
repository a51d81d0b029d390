"""The benchmark: self-check, warm-up, rounds in which the artefacts take turns, statistics, verdict.

Turns, because a machine that grows warm or busy half-way then slows all artefacts alike. Hops run back to
back: a live stream rests between hops and finds colder caches and a lower clock, so it can be slower.
"""

from __future__ import annotations

import gc
import logging
import math
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from edgeaudio import __version__
from edgeaudio.bench import stats
from edgeaudio.bench.environment import LoadMeter, describe_environment, peak_rss_bytes
from edgeaudio.bench.governor import performance_governor
from edgeaudio.bench.hop import HopTimer, LoopedAudio, hops_to_first_window, live_stages, null_stages
from edgeaudio.bench.probes import BoardWatch
from edgeaudio.bench.schema import (
    ArtefactResult,
    BenchOptions,
    BenchResult,
    Energy,
    LoadState,
    NotRun,
    Overhead,
    ParityCheck,
    StageName,
    StageResult,
    Summary,
)
from edgeaudio.bench.verdict import judge
from edgeaudio.bundle import Artefact, Bundle
from edgeaudio.catalog import ENGINES, resolve
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.frontend.choice import choose_frontend
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.selfcheck import CheckReport, check_bundle

logger = logging.getLogger(__name__)

# Hops after each change of artefact that only fetch code and weights back into the caches.
_REWARM_HOPS = 5
_OVERHEAD_HOPS = 2_000
_STAGE_NAMES: tuple[StageName, ...] = ("resample", "frontend", "inference", "decision", "total")


def run_bench(
    bundle: Bundle, engine: str, precision: str, threads: int = 1, options: BenchOptions | None = None
) -> BenchResult:
    """Benchmark one artefact on one engine.

    Raises:
        ConfigError: unknown engine, or the bundle has no such artefact.
        UnsupportedError: the engine's library is not installed.
    """
    artefact = bundle.manifest.artefact(resolve("engines", engine).format, precision)
    options = options or BenchOptions()
    with performance_governor(enabled=options.set_performance):
        return _bench(bundle, [(artefact, engine)], threads, options, "local", skip=False)


def bench_bundle(
    bundle: Bundle,
    artefacts: Literal["all"] | Sequence[str] = "all",
    *,
    engine: str | None = None,
    threads: int = 1,
    options: BenchOptions | None = None,
    device: str = "local",
    run_id: str | None = None,
    board: BoardWatch | None = None,
) -> BenchResult:
    """Benchmark several artefacts of a bundle in turns.

    Args:
        artefacts: names such as `onnx-int8`. With "all", those that cannot run here are listed in `not_run`.
        engine: what runs them; "all" are then those of its format. None is the first engine of each format.
        board: watches the board meanwhile; None watches this machine.
    Raises:
        ConfigError: the bundle has no artefact of that name or for that engine, or a name comes twice.
        UnsupportedError: a named artefact, or all of them, cannot run here.
    """
    format = None if engine is None else resolve("engines", engine).format
    known = {item.name: item for item in bundle.manifest.artefacts if format in (None, item.format)}
    if not known:
        has = ", ".join(item.name for item in bundle.manifest.artefacts)
        raise ConfigError(
            f"bundle {bundle.manifest.name!r} has no {format} artefact for engine {engine!r}; it has: {has}"
        )
    names = list(known) if artefacts == "all" else list(artefacts)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ConfigError(f"artefacts {names} of bundle {bundle.manifest.name!r}: wanted each once of {list(known)}")
    pairs = [(known[name], engine or _engine_for(known[name])) for name in names]
    options, skip = options or BenchOptions(), artefacts == "all"
    with performance_governor(enabled=options.set_performance):
        return _bench(bundle, pairs, threads, options, device, skip=skip, run_id=run_id, board=board)


def new_run_id() -> str:
    """Unique, in order of time, and fit for a file name."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def _engine_for(artefact: Artefact) -> str:
    for name in ENGINES:
        if resolve("engines", name).format == artefact.format:
            return name
    raise UnsupportedError(f"no engine runs {artefact.name}; engines: {', '.join(ENGINES)}")


@dataclass
class _Candidate:
    """One artefact on its way through the benchmark."""

    artefact: Artefact
    engine: str
    parity: ParityCheck
    classifier: Classifier | None = None
    load_ms: float | None = None
    first_inference_ms: float | None = None
    timer: HopTimer | None = None
    audio: LoopedAudio | None = None
    meter: LoadMeter = field(default_factory=LoadMeter)


def _bench(
    bundle: Bundle,
    pairs: Sequence[tuple[Artefact, str]],
    threads: int,
    options: BenchOptions,
    device: str,
    *,
    skip: bool,
    run_id: str | None = None,
    board: BoardWatch | None = None,
) -> BenchResult:
    if threads < 1:
        raise ConfigError(f"threads is {threads}, wanted at least 1")
    input_rate_hz = options.input_rate_hz or bundle.manifest.frontend.sample_rate
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    frontend = choose_frontend(bundle.manifest.frontend, options.frontend).name
    check = check_bundle(bundle, sorted({engine for _, engine in pairs}), [frontend])
    candidates, not_run = [], []
    for artefact, engine in pairs:
        try:
            candidates.append(_prepare(bundle, artefact, engine, threads, input_rate_hz, options, check))
        except UnsupportedError as error:
            if not skip:
                raise
            not_run.append(NotRun(artefact=artefact.name, reason=str(error)))
    if not candidates:
        raise UnsupportedError("no artefact can run here: " + "; ".join(item.reason for item in not_run))
    timed = [candidate for candidate in candidates if candidate.timer is not None]
    with board or BoardWatch() as watch, _garbage_collector(enabled=options.gc_enabled):
        watch.rest(options.idle_s)
        overhead = _overhead(bundle, input_rate_hz)
        watch.timing()
        _run_rounds(timed, options)
        energies = [_energy(watch, candidate, bundle, options.idle_s) for candidate in candidates]
    peak = peak_rss_bytes()
    manifest = bundle.manifest
    hop_s = manifest.window.hop_s(manifest.frontend)
    return BenchResult(
        run_id=run_id or new_run_id(),
        started_at=started_at,
        edgeaudio_version=__version__,
        bundle_name=manifest.name,
        bundle_sha256=bundle.sha256,
        threads=threads,
        options=options,
        input_rate_hz=input_rate_hz,
        model_rate_hz=manifest.frontend.sample_rate,
        hop_ms=hop_s * 1e3,
        window_ms=manifest.window.duration_s(manifest.frontend) * 1e3,
        stream_s=bundle.golden.waveform.size / manifest.frontend.sample_rate,
        gc_note="on" if options.gc_enabled else "collected before each turn, off while timing",
        overhead=overhead,
        peak_rss_bytes=peak,
        environment=describe_environment(device),
        board=watch.record(),
        artefacts=tuple(
            _result(candidate, options, overhead, hop_s * 1e6, threads, energy)
            for candidate, energy in zip(candidates, energies, strict=True)
        ),
        not_run=tuple(not_run),
    )


def _prepare(
    bundle: Bundle,
    artefact: Artefact,
    engine: str,
    threads: int,
    input_rate_hz: int,
    options: BenchOptions,
    check: CheckReport,
) -> _Candidate:
    """Load and warm up; an artefact whose golden vectors do not replay is not timed at all."""
    candidate = _Candidate(artefact, engine, _parity(check, artefact, engine, len(bundle.golden)))
    if not candidate.parity.passed:
        logger.warning("%s is not timed: %s", artefact.name, candidate.parity.detail)
        return candidate
    start = time.perf_counter_ns()
    classifier = Classifier(
        bundle, engine=engine, precision=artefact.precision, threads=threads, frontend=options.frontend
    )
    loaded = time.perf_counter_ns()
    classifier.window_probs(bundle.golden.log_mel[0])
    candidate.load_ms = (loaded - start) / 1e6
    candidate.first_inference_ms = (time.perf_counter_ns() - loaded) / 1e6
    candidate.classifier = classifier
    candidate.timer = HopTimer(live_stages(classifier, input_rate_hz))
    candidate.audio = LoopedAudio(bundle, input_rate_hz)
    for _ in range(hops_to_first_window(bundle) + options.warmup_hops):
        candidate.timer.feed(candidate.audio.next_hop())
    candidate.timer.forget()
    return candidate


def _parity(check: CheckReport, artefact: Artefact, engine: str, n_vectors: int) -> ParityCheck:
    items = [item for item in check.items if item.subject in ("frontend", artefact.name)]
    items = [item for item in items if item.subject == "frontend" or item.engine == engine]
    for item in items:
        if item.status == "not run":
            raise UnsupportedError(item.reason)
    passed = len(items) == 2 and all(item.status == "passed" for item in items)
    return ParityCheck(passed=passed, n_vectors=n_vectors, detail="; ".join(map(str, items)))


@contextmanager
def _garbage_collector(*, enabled: bool) -> Iterator[None]:
    """Hold the collector in the wanted state, then give back the state that was found."""
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        yield
    finally:
        (gc.enable if was_enabled else gc.disable)()


def _overhead(bundle: Bundle, input_rate_hz: int) -> Overhead:
    manifest = bundle.manifest
    timer = HopTimer(null_stages(manifest.window.frames, manifest.frontend.n_mels, len(manifest.task.labels)))
    audio = LoopedAudio(bundle, input_rate_hz)
    for _ in range(_OVERHEAD_HOPS):
        timer.feed(audio.next_hop())
    summary = stats.summarise(timer.columns_us()["total"], interval=False)
    assert summary.p50.value_us is not None
    return Overhead(p50_us=summary.p50.value_us, max_us=summary.max_us, n_hops=_OVERHEAD_HOPS)


def _run_rounds(candidates: Sequence[_Candidate], options: BenchOptions) -> None:
    hops, seconds = math.ceil(options.min_hops / options.rounds), options.min_seconds / options.rounds
    for number in range(options.rounds):
        # Nobody is always the one who comes after the same neighbour.
        first = number % len(candidates) if candidates else 0
        for candidate in [*candidates[first:], *candidates[:first]]:
            gc.collect()
            _run_turn(candidate, hops, seconds)
        logger.info("round %d of %d done", number + 1, options.rounds)


def _run_turn(candidate: _Candidate, hops: int, seconds: float) -> None:
    """At least `hops` hops and at least `seconds`."""
    timer, audio = candidate.timer, candidate.audio
    assert timer is not None
    assert audio is not None
    rewarm = HopTimer(timer.stages)
    for _ in range(_REWARM_HOPS):
        rewarm.feed(audio.next_hop())
    wanted = len(timer) + hops
    candidate.meter.start()
    end = time.perf_counter() + seconds
    while len(timer) < wanted or time.perf_counter() < end:
        timer.feed(audio.next_hop())
    candidate.meter.stop()


def _energy(watch: BoardWatch, candidate: _Candidate, bundle: Bundle, seconds: float) -> Energy:
    """Of the inference alone, the same window again and again."""
    if (classifier := candidate.classifier) is None:
        return Energy(reason="not timed")
    return watch.energy(lambda: classifier.window_probs(bundle.golden.log_mel[0]), seconds)


def _result(
    candidate: _Candidate, options: BenchOptions, overhead: Overhead, hop_us: float, threads: int, energy: Energy
) -> ArtefactResult:
    artefact, meter = candidate.artefact, candidate.meter
    stages: tuple[StageResult, ...] = ()
    total: Summary | None = None
    drift = load = None
    if candidate.timer is not None and len(candidate.timer):
        stages = _stage_results(candidate.timer)
        total = stages[-1].summary
        drift = stats.drift_share(stages[-1].samples_us)
        load = LoadState(
            cpu_share=meter.cpu_share,
            other_busy_cores=meter.other_busy_cores,
            involuntary_switches=meter.involuntary_switches,
        )
    median_us = total.p50.value_us if total else None
    return ArtefactResult(
        artefact=artefact.name,
        engine=candidate.engine,
        engine_info=candidate.classifier.engine_info if candidate.classifier else {},
        precision=artefact.precision,
        size_bytes=artefact.size_bytes,
        sha256=artefact.sha256,
        parity=candidate.parity,
        load_ms=candidate.load_ms,
        first_inference_ms=candidate.first_inference_ms,
        n_hops=total.n if total else 0,
        timed_s=meter.wall_s,
        stages=stages,
        rtf_p50=median_us / hop_us if median_us is not None else None,
        rtf_mean=total.mean_us / hop_us if total else None,
        rtf_max=total.max_us / hop_us if total else None,
        drift_share=drift,
        load=load,
        energy=energy,
        verdict=judge(
            parity=candidate.parity,
            total=total,
            min_hops=options.min_hops,
            drift_share=drift,
            load=load,
            overhead_p50_us=overhead.p50_us,
            threads=threads,
        ),
    )


def _stage_results(timer: HopTimer) -> tuple[StageResult, ...]:
    columns = timer.columns_us()
    results = []
    for name in _STAGE_NAMES:
        if name == "resample" and timer.stages.resample is None:
            reason = "not in path: the input already has the model's sample rate"
            results.append(StageResult(name=name, in_path=False, reason=reason))
            continue
        results.append(
            StageResult(
                name=name,
                in_path=True,
                summary=stats.summarise(columns[name]),
                samples_us=tuple(int(value) for value in columns[name].round()),
            )
        )
    return tuple(results)
