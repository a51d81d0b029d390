"""`Candidate`: a subject on its way through the benchmark, with all that was measured of it so far."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgeaudio.bench.environment import LoadMeter
from edgeaudio.bench.golden_audio import LoopedAudio, hops_to_first_window
from edgeaudio.bench.hop import HopTimer
from edgeaudio.bench.schema import (
    AccuracyCheck,
    BenchOptions,
    Beside,
    ColdStart,
    Energy,
    ExitShare,
    LoadState,
    Paced,
    ParityCheck,
    SoundToEvent,
)
from edgeaudio.bench.subjects import Loaded, Subject
from edgeaudio.bundle import Bundle
from edgeaudio.errors import EdgeAudioError
from edgeaudio.runtime.selfcheck import CheckReport

logger = logging.getLogger(__name__)

#: Told of (stage, artefact, done, total), never while anything is timed.
Tell = Callable[[str, str | None, int, int], None]


@dataclass
class Candidate:
    """`loaded`, `timer` and `audio` are None where it answered wrongly and is not timed.

    turns: from and to, by `time.perf_counter`, and hops of each.
    """

    subject: Subject
    parity: ParityCheck | None
    accuracy: AccuracyCheck | None = None
    loaded: Loaded | None = None
    load_ms: float | None = None
    first_inference_ms: float | None = None
    timer: HopTimer | None = None
    audio: LoopedAudio | None = None
    meter: LoadMeter = field(default_factory=LoadMeter)
    turns: list[tuple[float, float, int]] = field(default_factory=list)
    paced: Paced | None = None
    cold_start: ColdStart | None = None
    sound_to_event: SoundToEvent | None = None
    failures: dict[Beside, str] = field(default_factory=dict)
    energy: Energy | None = None
    #: Where hops are counted, not timed: what was answered where. Else the timer knows.
    exits: tuple[ExitShare, ...] = ()

    @property
    def name(self) -> str:
        """The subject's."""
        return self.subject.name

    def stream(self) -> tuple[HopTimer, LoopedAudio]:
        """What is timed, and on what."""
        assert self.timer is not None
        assert self.audio is not None
        return self.timer, self.audio


def load_candidate(
    subject: Subject, bundle: Bundle, check: CheckReport, options: BenchOptions, threads: int
) -> Candidate:
    """Check and load; one whose golden vectors do not replay is not loaded at all.

    Raises:
        UnsupportedError: it cannot run here.
    """
    candidate = Candidate(subject, subject.parity(check))
    if candidate.parity is not None and not candidate.parity.passed:
        logger.warning("%s is not timed: %s", subject.name, candidate.parity.detail)
        return candidate
    model_rate_hz = bundle.manifest.frontend.sample_rate
    input_rate_hz = options.input_rate_hz or model_rate_hz
    start = time.perf_counter_ns()
    loaded = subject.load(options, threads, input_rate_hz)
    ready = time.perf_counter_ns()
    loaded.infer()
    candidate.load_ms = (ready - start) / 1e6
    candidate.first_inference_ms = (time.perf_counter_ns() - ready) / 1e6
    candidate.loaded = loaded
    candidate.timer = HopTimer(loaded.stages)
    # A foreign file is not behind our resampler.
    rate_hz = input_rate_hz if loaded.classifier is not None else model_rate_hz
    candidate.audio = LoopedAudio(bundle, rate_hz, subject.hop_samples)
    return candidate


def warm_up(candidate: Candidate, bundle: Bundle, options: BenchOptions) -> None:
    """Fill the first window and run a few hops that do not count."""
    timer, audio = candidate.stream()
    for _ in range(hops_to_first_window(bundle, candidate.subject.hop_samples) + options.warmup_hops):
        timer.feed(audio.next_hop())
    timer.forget()


@contextlib.contextmanager
def noted(candidate: Candidate, what: Beside) -> Iterator[None]:
    """An error while the block runs costs the candidate `what`, not what was timed before; Ctrl-C goes through."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (engines raise what they like; the record says what it was)
        said = str(error) if isinstance(error, EdgeAudioError) else f"{type(error).__name__}: {error}"
        logger.warning("%s: %s broke off: %s", candidate.name, what, said)
        candidate.failures[what] = said


def load_state(meter: LoadMeter) -> LoadState:
    """What the meter has added up."""
    return LoadState(
        cpu_share=meter.cpu_share,
        other_busy_cores=meter.other_busy_cores,
        involuntary_switches=meter.involuntary_switches,
    )
