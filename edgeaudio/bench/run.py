"""One run: check, load, warm up, prove, measure, record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from edgeaudio import __version__
from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.candidate import Candidate, load_candidate, warm_up
from edgeaudio.bench.cold_start import run_cold_starts
from edgeaudio.bench.environment import describe_environment
from edgeaudio.bench.marked_sounds import run_marked_sounds
from edgeaudio.bench.memory import peak_rss_bytes
from edgeaudio.bench.paced import run_paced
from edgeaudio.bench.probes import BoardWatch
from edgeaudio.bench.ratios import ratios
from edgeaudio.bench.record import artefact_result
from edgeaudio.bench.rounds import garbage_collector, measure_overhead, run_rounds
from edgeaudio.bench.schema import BenchOptions, BenchResult, Energy, NotRun
from edgeaudio.bench.subjects import BundleSubject, Subject
from edgeaudio.bench.verdict import judged
from edgeaudio.bundle import Bundle
from edgeaudio.errors import UnsupportedError
from edgeaudio.frontend.choice import choose_frontend
from edgeaudio.runtime.selfcheck import check_bundle

logger = logging.getLogger(__name__)

_BROKEN_OFF = "broken off by Ctrl-C"


@dataclass(frozen=True)
class Progress:
    """Where a benchmark is: `check`, `warm-up`, `timing`, `paced`, `cold-start` or `marked-sounds`.

    artefact: whose turn it is; None where it is nobody's.
    """

    stage: str
    artefact: str | None
    done: int
    total: int


@dataclass(frozen=True)
class Measured:
    """What a run has found. `about`: fields of `BenchResult` that are known already."""

    candidates: Sequence[Candidate]
    not_run: Sequence[NotRun]
    incomplete: str | None
    about: dict[str, Any]

    def broken_off(self) -> Measured:
        """The same of a run that Ctrl-C ended."""
        return replace(self, incomplete=_BROKEN_OFF)


@dataclass(frozen=True)
class Run:
    """What holds for a whole run."""

    bundle: Bundle
    options: BenchOptions
    threads: int
    clips: AccuracyClips | None
    on_progress: Callable[[Progress], None]

    @property
    def input_rate_hz(self) -> int:
        return self.options.input_rate_hz or self.bundle.manifest.frontend.sample_rate

    def tell(self, stage: str, artefact: str | None, done: int, total: int) -> None:
        self.on_progress(Progress(stage, artefact, done, total))

    def measured(self, subjects: Sequence[Subject], device: str, *, skip: bool, watch: BoardWatch) -> Measured:
        """All that needs the machine as the options want it; from nothing of it anything is computed yet."""
        options, incomplete = self.options, None
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        watch.rest(options.idle_s)
        candidates, not_run = self.load(subjects, skip=skip)
        self.warm_up(candidates)
        timed = [candidate for candidate in candidates if candidate.loaded is not None]
        with garbage_collector(enabled=options.gc_enabled):
            overhead = measure_overhead(self.bundle, self.input_rate_hz)
        try:
            watch.timing()
            self.measure(timed)
            for candidate in timed:
                candidate.energy = self.energy(candidate, watch)
        except KeyboardInterrupt:
            incomplete = _BROKEN_OFF
        about = {
            "started_at": started_at,
            "gc_note": "on" if options.gc_enabled else "collected before each turn, off while timing",
            "overhead": overhead,
            "peak_rss_bytes": peak_rss_bytes(),
            "environment": describe_environment(device),
        }
        return Measured(candidates, not_run, incomplete, about)

    def result(self, measured: Measured, watch: BoardWatch, run_id: str) -> BenchResult:
        """Statistics and verdict. Broken off, it has no intervals: whoever breaks off does not wait for them."""
        result = self.record(
            measured.candidates,
            measured.not_run,
            watch.start_s,
            incomplete=measured.incomplete,
            run_id=run_id,
            board=watch.record(),
            ratios=ratios(measured.candidates) if measured.incomplete is None else (),
            **measured.about,
        )
        return judged(result)

    def record(
        self,
        candidates: Sequence[Candidate],
        not_run: Sequence[NotRun],
        start_s: float,
        *,
        incomplete: str | None = None,
        **measured: Any,
    ) -> BenchResult:
        """Times of turns count from `start_s`."""
        bundle, manifest = self.bundle, self.bundle.manifest
        return BenchResult(
            edgeaudio_version=__version__,
            bundle_name=manifest.name,
            bundle_sha256=bundle.sha256,
            threads=self.threads,
            options=self.options,
            input_rate_hz=self.input_rate_hz,
            model_rate_hz=manifest.frontend.sample_rate,
            hop_ms=manifest.window.hop_s(manifest.frontend) * 1e3,
            window_ms=manifest.window.duration_s(manifest.frontend) * 1e3,
            stream_s=bundle.golden.waveform.size / manifest.frontend.sample_rate,
            artefacts=tuple(
                artefact_result(candidate, self.hop_ms(candidate), start_s, intervals=incomplete is None)
                for candidate in candidates
            ),
            not_run=tuple(not_run),
            incomplete=incomplete,
            **measured,
        )

    def hop_ms(self, candidate: Candidate) -> float:
        return 1e3 * candidate.subject.hop_samples / self.bundle.manifest.frontend.sample_rate

    def load(self, subjects: Sequence[Subject], *, skip: bool) -> tuple[list[Candidate], list[NotRun]]:
        """Check and load; whose answers are wrong is kept, but not loaded."""
        bundle, options = self.bundle, self.options
        self.tell("check", None, 0, 1)
        frontend = choose_frontend(bundle.manifest.frontend, options.frontend).name
        engines = sorted({subject.engine for subject in subjects if isinstance(subject, BundleSubject)})
        check = check_bundle(bundle, engines, [frontend])
        self.tell("check", None, 1, 1)
        candidates, not_run = [], []
        for number, subject in enumerate(subjects):
            self.tell("warm-up", subject.name, number, len(subjects))
            try:
                candidate = load_candidate(subject, bundle, check, options, self.threads)
            except UnsupportedError as error:
                if not skip:
                    raise
                not_run.append(NotRun(artefact=subject.name, reason=str(error)))
                continue
            candidates.append(candidate)
        if not candidates:
            raise UnsupportedError("no artefact can run here: " + "; ".join(item.reason for item in not_run))
        self.tell("warm-up", None, len(subjects), len(subjects))
        if self.clips is not None:
            self.prove(candidates, self.clips)
        return candidates, not_run

    def warm_up(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            if candidate.loaded is not None:
                warm_up(candidate, self.bundle, self.options)

    def prove(self, candidates: Sequence[Candidate], clips: AccuracyClips) -> None:
        """Hold their answers to clips against the host's; whose are others is not timed."""
        for number, candidate in enumerate(candidates):
            if candidate.loaded is None or candidate.loaded.classifier is None:
                continue
            self.tell("check", candidate.name, number, len(candidates))
            candidate.accuracy = clips.check(candidate.subject, candidate.loaded.classifier)
            if not candidate.accuracy.passed:
                logger.warning("%s is not timed: %s", candidate.name, candidate.accuracy.detail)
                candidate.loaded = candidate.timer = candidate.audio = None

    def measure(self, timed: Sequence[Candidate]) -> None:
        """Everything that is about time, the runs that were asked for last."""
        options, sample_rate = self.options, self.bundle.manifest.frontend.sample_rate
        with garbage_collector(enabled=options.gc_enabled):
            run_rounds(timed, options, self.tell)
            if options.paced_s:
                run_paced(timed, options.paced_s, sample_rate, self.tell)
        if options.cold_starts:
            run_cold_starts(timed, self.bundle, options, self.threads, self.tell)
        if options.marked_sounds:
            run_marked_sounds(timed, self.bundle, options.marked_sounds, self.input_rate_hz, self.clips, self.tell)

    def energy(self, candidate: Candidate, watch: BoardWatch) -> Energy:
        """Of the inference alone, the same window again and again."""
        assert candidate.loaded is not None
        return watch.energy(candidate.loaded.infer, self.options.idle_s)
