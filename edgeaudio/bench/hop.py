"""One hop of the live path, taken apart: the same calls as `StreamClassifier.feed`, with a clock between them."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.resample import StreamResampler
from edgeaudio.audio.source import SourceStats
from edgeaudio.bench.schema import StageName
from edgeaudio.runtime import decision
from edgeaudio.runtime.classifier import Classifier, ScoredWindow, clean_chunk
from edgeaudio.runtime.decision import DecisionRules, DecisionState
from edgeaudio.runtime.engines.base import Float32, GpuTimes
from edgeaudio.runtime.stateful import Answer, Stepper
from edgeaudio.runtime.windows import Window

STAGES: tuple[StageName, ...] = ("resample", "frontend", "inference", "decision")
SAME_RATE = "not in path: the input already has the model's sample rate"


class StepClock:
    """A stepper with a clock around it: in a stateful form inference happens inside the making of windows."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        #: Nanoseconds of each answer since it was last emptied, with what was only heard before it.
        self.taken_ns: list[int] = []
        self._heard_ns = 0

    def reset(self) -> None:
        """See `Stepper.reset`."""
        self._stepper.reset()

    def hear(self, log_mel: Float32) -> None:
        """See `Stepper.hear`."""
        begun = time.perf_counter_ns()
        self._stepper.hear(log_mel)
        self._heard_ns += time.perf_counter_ns() - begun

    def answer(self, log_mel: Float32) -> Answer:
        """See `Stepper.answer`."""
        begun = time.perf_counter_ns()
        answer = self._stepper.answer(log_mel)
        self.taken_ns.append(time.perf_counter_ns() - begun + self._heard_ns)
        self._heard_ns = 0
        return answer


@dataclass(frozen=True)
class Stages:
    """The stages of a hop as plain calls. `resample` is None where the input already has the model's rate.

    step_clock: of a stateful form. take_gpu_us: of engines on a GPU, what the last hop took there. left_out: why a
    stage is not in the path.
    """

    clean: Callable[[Float32], Float32]
    resample: Callable[[Float32], Float32] | None
    windows: Callable[[Float32], Sequence[Any]]
    score: Callable[[Any], ScoredWindow]
    decide: Callable[[ScoredWindow], object]
    step_clock: StepClock | None = None
    take_gpu_us: Callable[[], GpuTimes] | None = None
    left_out: Mapping[StageName, str] = field(default_factory=dict)


def live_stages(classifier: Classifier, input_rate_hz: int, stepper: Stepper | None = None) -> Stages:
    """The stages that `StreamClassifier` has for this classifier and input rate, with fresh state.

    stepper: of a stateful form; None opens one.
    """
    stats = SourceStats()
    step_clock = StepClock(stepper or classifier.open_stepper()) if classifier.stateful else None
    same_rate = input_rate_hz == classifier.sample_rate
    rules = DecisionRules(
        spec=classifier.decision,
        labels=classifier.labels.names,
        sample_rate=classifier.sample_rate,
        hop_samples=classifier.hop_samples,
    )
    state = DecisionState.initial(len(rules.labels))

    def decide(window: ScoredWindow) -> None:
        nonlocal state
        _, state = decision.step(window.probs, window.position_samples, state, rules)

    return Stages(
        clean=lambda chunk: clean_chunk(chunk, stats),
        resample=None if same_rate else StreamResampler(input_rate_hz, classifier.sample_rate).feed,
        windows=classifier.open_windows(stepper=step_clock).feed,
        score=classifier.scored,
        decide=decide,
        step_clock=step_clock,
        take_gpu_us=gpu_clock(classifier.engines),
        left_out={"resample": SAME_RATE} if same_rate else {},
    )


def gpu_clock(engines: Sequence[Any]) -> Callable[[], GpuTimes] | None:
    """Starts the clocks of those engines that have one, as `TensorRTEngine` has; None where none has."""
    able = [engine for engine in engines if hasattr(engine, "take_gpu_us")]
    for engine in able:
        engine.start_clock()

    def take() -> GpuTimes:
        taken = [engine.take_gpu_us() for engine in able]
        return GpuTimes(sum(times.kernels for times in taken), sum(times.copies for times in taken))

    return take if able else None


class _NullStepper:
    def reset(self) -> None:
        """Nothing to forget."""

    def hear(self, log_mel: Float32) -> None:
        """Nothing to hear."""

    def answer(self, log_mel: Float32) -> Answer:
        return Answer(log_mel)


def null_stages(frames: int, n_mels: int, n_classes: int) -> Stages:
    """Stages that do nothing: what is then measured is the harness, with the clock of a step, which most forms lack."""
    window = (Window(0, np.zeros((frames, n_mels), np.float32)),)
    scored = ScoredWindow(0, np.zeros(n_classes, np.float32))
    clock = StepClock(_NullStepper())

    def windows(samples: Float32) -> Sequence[Window]:
        clock.answer(samples)
        return window

    return Stages(
        clean=lambda chunk: chunk,
        resample=lambda samples: samples,
        windows=windows,
        score=lambda window: scored,
        decide=lambda window: None,
        step_clock=clock,
    )


class HopTimer:
    """Times each hop of a stream, stage by stage, in nanoseconds.

    A sample belongs to one window. A resampler gives out its samples in lumps, so that a chunk may complete
    no window, or two: the work of a chunk without a window is charged to the next window, and what two
    windows share to the first.
    """

    def __init__(self, stages: Stages, *, paced: bool = False) -> None:
        """`paced`: there is a stage `wait` too."""
        self.stages = stages
        self.names: tuple[StageName, ...] = ("wait", *STAGES) if paced else STAGES
        # Machine integers: nothing here gives the garbage collector work.
        self.samples_ns: dict[StageName, array[int]] = {name: array("q") for name in self.names}
        #: The exit that answered each window; empty without exits.
        self.exits = array("b")
        self.macs = self.catch_up_macs = 0
        #: Of each window, where an engine is on a GPU.
        self.gpu_us: list[GpuTimes] = []
        self._resample_ns = self._frontend_ns = 0

    def __len__(self) -> int:
        # The last of a hop to be noted, where a run breaks off in the middle of one.
        return len(self.samples_ns["decision"])

    def feed(self, chunk: Float32, waited_ns: int = 0) -> None:
        """Take `(samples,)` at the input rate through all stages, so long after the last of them was there."""
        stages, now = self.stages, time.perf_counter_ns
        t0 = now()
        samples = stages.clean(chunk)
        t1 = now()
        if stages.resample is not None:
            samples = stages.resample(samples)
        t2 = now()
        windows = stages.windows(samples)
        t3 = now()
        stepped = stages.step_clock.taken_ns if stages.step_clock is not None else ()
        self._resample_ns += t2 - t1
        self._frontend_ns += (t1 - t0) + (t3 - t2) - sum(stepped)
        for number, window in enumerate(windows):
            t4 = now()
            scored = stages.score(window)
            t5 = now()
            stages.decide(scored)
            t6 = now()
            inference_ns = t5 - t4 + (stepped[number] if stepped else 0)
            self._note(scored, (waited_ns, self._resample_ns, self._frontend_ns, inference_ns, t6 - t5))
        if stages.step_clock is not None:
            stages.step_clock.taken_ns.clear()

    def _note(self, scored: ScoredWindow, values: tuple[int, ...]) -> None:
        if scored.exit is not None:
            self.exits.append(scored.exit)
        if scored.macs is not None:
            self.macs += scored.macs
            self.catch_up_macs += scored.catch_up_macs
        if self.stages.take_gpu_us is not None:
            self.gpu_us.append(self.stages.take_gpu_us())
        for name, value in zip(self.names, values[-len(self.names) :], strict=True):
            self.samples_ns[name].append(value)
        self._resample_ns = self._frontend_ns = 0

    def forget(self) -> None:
        """Drop the samples so far (warm-up); the stages keep their state."""
        for samples in (*self.samples_ns.values(), self.exits):
            del samples[:]
        self.gpu_us.clear()
        self.macs = self.catch_up_macs = 0

    def columns_us(self) -> dict[StageName, NDArray[np.float64]]:
        """Stages in the path -> `(hops,)` microseconds; `total` is their sum."""
        n, left_out = len(self), self.stages.left_out
        columns = {
            name: np.array(samples[:n], np.float64) / 1e3
            for name, samples in self.samples_ns.items()
            if name not in left_out
        }
        columns["total"] = np.sum(list(columns.values()), axis=0)
        return columns
