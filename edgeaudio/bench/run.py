"""One run: check, load, warm up, prove, measure, record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from edgeaudio import __version__
from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.board import BoardRecord
from edgeaudio.bench.candidate import Candidate, load_candidate, warm_up
from edgeaudio.bench.cold_start import run_cold_starts
from edgeaudio.bench.environment import MachineState, describe_environment
from edgeaudio.bench.marked_sounds import run_marked_sounds
from edgeaudio.bench.memory import peak_rss_bytes
from edgeaudio.bench.paced import run_paced
from edgeaudio.bench.ratios import ratios
from edgeaudio.bench.record import artefact_result
from edgeaudio.bench.rounds import garbage_collector, measure_overhead, run_rounds
from edgeaudio.bench.schema import ArtefactResult, BenchOptions, BenchResult, Energy, NotRun
from edgeaudio.bench.subjects import BundleSubject, Subject
from edgeaudio.bench.verdict import judge
from edgeaudio.bundle import Bundle
from edgeaudio.errors import UnsupportedError
from edgeaudio.frontend.choice import choose_frontend
from edgeaudio.runtime.selfcheck import check_bundle

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a benchmark is: `check`, `warm-up`, `timing`, `paced`, `cold-start` or `marked-sounds`.

    artefact: whose turn it is; None where it is nobody's.
    """

    stage: str
    artefact: str | None
    done: int
    total: int


class BoardWatch(Protocol):
    """Notes the state of the board while it is open."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def rest(self, seconds: float) -> None:
        """Do nothing for so long, to learn what that takes."""

    def timing(self) -> None:
        """What comes now is timed."""

    def energy(self, work: Callable[[], object], seconds: float) -> Energy:
        """Of one call of `work`, repeated for so long; or why it cannot be told."""
        ...

    def record(self) -> BoardRecord | None:
        """What it has seen."""
        ...


class Unwatched:
    """A `BoardWatch` that looks at nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """See `BoardWatch`."""

    def rest(self, seconds: float) -> None:
        """See `BoardWatch.rest`."""

    def timing(self) -> None:
        """See `BoardWatch.timing`."""

    def energy(self, work: Callable[[], object], seconds: float) -> Energy:
        """See `BoardWatch.energy`."""
        return Energy(reason="the board was not watched")

    def record(self) -> None:
        """See `BoardWatch.record`."""


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

    def result(
        self, subjects: Sequence[Subject], device: str, run_id: str, *, skip: bool, board: BoardWatch | None
    ) -> BenchResult:
        """All of it."""
        bundle, options, manifest = self.bundle, self.options, self.bundle.manifest
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        before, incomplete = MachineState.now(), None
        candidates, not_run = self.load(subjects, skip=skip)
        timed = [candidate for candidate in candidates if candidate.loaded is not None]
        with board or Unwatched() as watch:
            watch.rest(options.idle_s)
            with garbage_collector(enabled=options.gc_enabled):
                overhead = measure_overhead(bundle, self.input_rate_hz)
            watch.timing()
            try:
                self.measure(timed, watch)
            except KeyboardInterrupt:
                incomplete = "broken off by Ctrl-C"
        result = BenchResult(
            run_id=run_id,
            started_at=started_at,
            incomplete=incomplete,
            edgeaudio_version=__version__,
            bundle_name=manifest.name,
            bundle_sha256=bundle.sha256,
            threads=self.threads,
            options=options,
            input_rate_hz=self.input_rate_hz,
            model_rate_hz=manifest.frontend.sample_rate,
            hop_ms=manifest.window.hop_s(manifest.frontend) * 1e3,
            window_ms=manifest.window.duration_s(manifest.frontend) * 1e3,
            stream_s=bundle.golden.waveform.size / manifest.frontend.sample_rate,
            gc_note="on" if options.gc_enabled else "collected before each turn, off while timing",
            overhead=overhead,
            peak_rss_bytes=peak_rss_bytes(),
            environment=describe_environment(device, before, MachineState.now()),
            board=watch.record(),
            artefacts=tuple(artefact_result(candidate, self.hop_ms(candidate)) for candidate in candidates),
            not_run=tuple(not_run),
            ratios=ratios(timed),
        )
        return _judged(result)

    def hop_ms(self, candidate: Candidate) -> float:
        return 1e3 * candidate.subject.hop_samples / self.bundle.manifest.frontend.sample_rate

    def load(self, subjects: Sequence[Subject], *, skip: bool) -> tuple[list[Candidate], list[NotRun]]:
        """Check, load and warm up; whose answers are wrong is kept, but not loaded."""
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
            if self.clips is not None:
                self.tell("check", subject.name, number, len(subjects))
                self.prove(candidate, self.clips)
            if candidate.loaded is not None:
                warm_up(candidate, bundle, options)
        if not candidates:
            raise UnsupportedError("no artefact can run here: " + "; ".join(item.reason for item in not_run))
        self.tell("warm-up", None, len(subjects), len(subjects))
        return candidates, not_run

    def prove(self, candidate: Candidate, clips: AccuracyClips) -> None:
        """Hold its answers to clips against the host's; whose are others is not timed."""
        if candidate.loaded is None or candidate.loaded.classifier is None:
            return
        candidate.accuracy = clips.check(candidate.subject, candidate.loaded.classifier)
        if not candidate.accuracy.passed:
            logger.warning("%s is not timed: %s", candidate.name, candidate.accuracy.detail)
            candidate.loaded = candidate.timer = candidate.audio = None

    def measure(self, timed: Sequence[Candidate], watch: BoardWatch) -> None:
        """Everything that is about time, the runs that were asked for last."""
        options, sample_rate = self.options, self.bundle.manifest.frontend.sample_rate
        with garbage_collector(enabled=options.gc_enabled):
            run_rounds(timed, options, self.tell)
            if options.paced_s:
                run_paced(timed, options.paced_s, sample_rate, self.tell)
            for candidate in timed:
                assert candidate.loaded is not None
                candidate.energy = watch.energy(candidate.loaded.infer, options.idle_s)
        if options.cold_starts:
            run_cold_starts(timed, self.bundle, options, self.threads, self.tell)
        if options.marked_sounds:
            run_marked_sounds(timed, self.bundle, options.marked_sounds, self.input_rate_hz, self.clips, self.tell)


def _judged(result: BenchResult) -> BenchResult:
    """With a verdict on each artefact, from what was recorded."""

    def judged(item: ArtefactResult) -> ArtefactResult:
        total = item.stage("total")
        verdict = judge(
            parity=item.parity,
            total=total.summary if total else None,
            min_hops=result.options.min_hops,
            drift_share=item.drift_share,
            load=item.load,
            overhead_p50_us=result.overhead.p50_us,
            threads=result.threads,
        )
        return item.model_copy(update={"verdict": verdict})

    return result.model_copy(update={"artefacts": tuple(map(judged, result.artefacts))})
