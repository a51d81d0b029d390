"""Counting in place of timing: the same hops on an emulated processor, marked stage by stage.

What the marks enclose the host reads from the emulator (`edgeaudio.bench.emulation.estimate`); on a device that is none
they do nothing. Nothing here has a time, and nothing is changed on the machine.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.candidate import Candidate
from edgeaudio.bench.emulation.marks import Segments
from edgeaudio.bench.environment import describe_environment
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.golden_audio import LoopedAudio, hops_to_first_window
from edgeaudio.bench.harness import chosen_subjects
from edgeaudio.bench.hop import Stages, live_stages
from edgeaudio.bench.record import exit_shares
from edgeaudio.bench.rounds import garbage_collector
from edgeaudio.bench.run import Progress, Run
from edgeaudio.bench.schema import BenchOptions, BenchResult, ExitShare, Overhead
from edgeaudio.bundle import Bundle
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.stateful import Answer, Stepper

#: Hops after the first full window that do not count: engines and Python's own optimiser have then seen all they do.
WARM_UP_HOPS = 8
_EMPTY_SEGMENTS = 9
#: Stages of a `Label` that are none of the hop.
NOTHING, OUTSIDE = "nothing", "outside"


class Label(NamedTuple):
    """What a segment is: a stage of a hop of an artefact, by its place in the result.

    `NOTHING` encloses nothing, which is what a mark costs; `OUTSIDE` is of no interest.
    """

    artefact: int
    hop: int
    stage: str


@dataclass(frozen=True)
class Counted:
    """The record without its estimates, and what lies between the marks that were set, in order."""

    result: BenchResult
    labels: list[Label]


def count_bundle(
    bundle: Bundle,
    artefacts: Literal["all"] | Sequence[str] = "all",
    *,
    hops: int,
    engine: str | None = None,
    options: BenchOptions | None = None,
    device: str = "local",
    run_id: str,
    foreign: Sequence[ForeignModel] = (),
    clips: AccuracyClips | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Counted:
    """Check artefacts as `bench_bundle` does, and mark `hops` hops of each. One thread.

    Raises:
        ConfigError, UnsupportedError: as of `bench_bundle`.
    """
    options = options or BenchOptions()
    run = Run(bundle, options, 1, clips, on_progress or (lambda progress: None))
    subjects = chosen_subjects(bundle, artefacts, engine, options, foreign)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    candidates, not_run = run.load(subjects, skip=artefacts == "all")
    segments: Segments[Label] = Segments()
    with garbage_collector(enabled=False):
        _count_nothing(segments)
        for number, candidate in enumerate(candidates):
            run.tell("counting", candidate.name, number, len(candidates))
            if candidate.loaded is not None:
                gc.collect()
                candidate.exits = _count(number, candidate, run, segments, hops)
            # No times: not even of what was on the way.
            candidate.load_ms = candidate.first_inference_ms = None
    run.tell("counting", None, len(candidates), len(candidates))
    result = run.record(
        candidates,
        not_run,
        0.0,
        kind="estimated",
        run_id=run_id,
        started_at=started_at,
        gc_note="off while counting",
        overhead=Overhead(p50_us=0, max_us=0, n_hops=1),
        peak_rss_bytes=0,
        environment=describe_environment(device),
    )
    return Counted(result, segments.labels)


class HopCounter:
    """Takes hops as `HopTimer` does, with marks in place of its clock."""

    def __init__(self, artefact: int, segments: Segments[Label]) -> None:
        self._artefact = artefact
        self._segments = segments
        self._answered = 0
        #: Windows so far, and the exits that answered them; no exits where the model has none.
        self.hop = 0
        self.exits: list[int] = []

    def begin(self, stage: str) -> None:
        """From here on it is `stage` of the next window, in a stateful form of the next that has no answer yet."""
        self._segments.begin(Label(self._artefact, self.hop + self._answered, stage))

    def answered(self) -> None:
        """A step of a stateful form was answered: what follows is of the next."""
        self._answered += 1

    def feed(self, chunk: Float32, stages: Stages) -> None:
        """Take `(samples,)` at the input rate through all stages."""
        self.begin("frontend")
        samples = stages.clean(chunk)
        if stages.resample is not None:
            self.begin("resample")
            samples = stages.resample(samples)
            self.begin("frontend")
        windows = stages.windows(samples)
        self._answered = 0
        for window in windows:
            self.begin("inference")
            scored = stages.score(window)
            self.begin("decision")
            stages.decide(scored)
            self.hop += 1
            if scored.exit is not None:
                self.exits.append(scored.exit)
        self.begin(OUTSIDE)


class _MarkedStepper:
    """In a stateful form inference happens inside the making of windows."""

    def __init__(self, stepper: Stepper, counter: HopCounter) -> None:
        self._stepper = stepper
        self._counter = counter

    def reset(self) -> None:
        """See `Stepper.reset`."""
        self._stepper.reset()

    def hear(self, log_mel: Float32) -> None:
        """See `Stepper.hear`."""
        self._counter.begin("inference")
        self._stepper.hear(log_mel)
        self._counter.begin("frontend")

    def answer(self, log_mel: Float32) -> Answer:
        """See `Stepper.answer`."""
        self._counter.begin("inference")
        answer = self._stepper.answer(log_mel)
        self._counter.answered()
        self._counter.begin("frontend")
        return answer


def _count_nothing(segments: Segments[Label]) -> None:
    counter = HopCounter(-1, segments)
    segments.marking = True
    for _ in range(_EMPTY_SEGMENTS):
        counter.begin(NOTHING)
    counter.begin(OUTSIDE)
    segments.marking = False


def _count(number: int, candidate: Candidate, run: Run, segments: Segments[Label], hops: int) -> tuple[ExitShare, ...]:
    """Mark hops of one artefact; returns what its exits answered meanwhile."""
    assert candidate.loaded is not None
    counter = HopCounter(number, segments)
    stages, classifier = candidate.loaded.stages, candidate.loaded.classifier
    if classifier is not None and classifier.stateful:
        stages = live_stages(classifier, run.input_rate_hz, _MarkedStepper(classifier.open_stepper(), counter))
    assert candidate.audio is not None
    audio: LoopedAudio = candidate.audio
    for _ in range(hops_to_first_window(run.bundle, candidate.subject.hop_samples) + WARM_UP_HOPS):
        counter.feed(audio.next_hop(), stages)
    counter.hop = 0
    counter.exits.clear()
    segments.marking = True
    while counter.hop < hops:
        counter.feed(audio.next_hop(), stages)
    segments.marking = False
    return exit_shares(candidate, counter.exits)
