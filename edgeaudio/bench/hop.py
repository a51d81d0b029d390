"""One hop of the live path, taken apart: the same calls as `StreamClassifier.feed`, with a clock between them."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.resample import StreamResampler, resample
from edgeaudio.audio.source import SourceStats
from edgeaudio.bundle import Bundle
from edgeaudio.runtime import decision
from edgeaudio.runtime.classifier import Classifier, clean_chunk
from edgeaudio.runtime.decision import DecisionRules, DecisionState
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.windows import Window, WindowStream

STAGES = ("resample", "frontend", "inference", "decision")


@dataclass(frozen=True)
class Stages:
    """The four stages as plain calls. `resample` is None where the input already has the model's rate."""

    clean: Callable[[Float32], Float32]
    resample: Callable[[Float32], Float32] | None
    windows: Callable[[Float32], Iterable[Window]]
    infer: Callable[[Float32], Float32]
    decide: Callable[[Float32, int], object]


def live_stages(classifier: Classifier, input_rate_hz: int) -> Stages:
    """The stages that `StreamClassifier` has for this classifier and input rate, with fresh state."""
    manifest = classifier.bundle.manifest
    stats = SourceStats()
    windows = WindowStream(manifest.frontend, manifest.window, computed_by=classifier.frontend.name)
    same_rate = input_rate_hz == classifier.sample_rate
    rules = DecisionRules(
        spec=classifier.decision,
        labels=classifier.labels.names,
        sample_rate=classifier.sample_rate,
        hop_samples=manifest.window.hop_samples(manifest.frontend),
    )
    state = DecisionState.initial(len(rules.labels))

    def decide(probs: Float32, position_samples: int) -> None:
        nonlocal state
        _, state = decision.step(probs, position_samples, state, rules)

    return Stages(
        clean=lambda chunk: clean_chunk(chunk, stats),
        resample=None if same_rate else StreamResampler(input_rate_hz, classifier.sample_rate).feed,
        windows=windows.feed,
        infer=classifier.window_probs,
        decide=decide,
    )


def null_stages(frames: int, n_mels: int, n_classes: int) -> Stages:
    """Stages that do nothing: what is then measured is the harness."""
    window = (Window(0, np.zeros((frames, n_mels), np.float32)),)
    probs = np.zeros(n_classes, np.float32)
    return Stages(
        clean=lambda chunk: chunk,
        resample=lambda samples: samples,
        windows=lambda samples: window,
        infer=lambda log_mel: probs,
        decide=lambda probs, position_samples: None,
    )


class HopTimer:
    """Times each hop of a stream, stage by stage, in nanoseconds.

    A sample belongs to one window. A resampler gives out its samples in lumps, so that a chunk may complete
    no window, or two: the work of a chunk without a window is charged to the next window, and what two
    windows share to the first.
    """

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        # Machine integers: nothing here gives the garbage collector work.
        self.samples_ns: dict[str, array[int]] = {name: array("q") for name in STAGES}
        self._resample_ns = self._frontend_ns = 0

    def __len__(self) -> int:
        return len(self.samples_ns["inference"])

    def feed(self, chunk: Float32) -> None:
        """Take `(samples,)` at the input rate through all stages."""
        stages, now = self.stages, time.perf_counter_ns
        t0 = now()
        samples = stages.clean(chunk)
        t1 = now()
        if stages.resample is not None:
            samples = stages.resample(samples)
        t2 = now()
        windows = stages.windows(samples)
        t3 = now()
        self._resample_ns += t2 - t1
        self._frontend_ns += (t1 - t0) + (t3 - t2)
        for window in windows:
            t4 = now()
            probs = stages.infer(window.log_mel)
            t5 = now()
            stages.decide(probs, window.position_samples)
            t6 = now()
            self._append(t5 - t4, t6 - t5)

    def _append(self, inference_ns: int, decision_ns: int) -> None:
        values = (self._resample_ns, self._frontend_ns, inference_ns, decision_ns)
        for samples, value in zip(self.samples_ns.values(), values, strict=True):
            samples.append(value)
        self._resample_ns = self._frontend_ns = 0

    def forget(self) -> None:
        """Drop the samples so far (warm-up); the stages keep their state."""
        for samples in self.samples_ns.values():
            del samples[:]

    def columns_us(self) -> dict[str, NDArray[np.float64]]:
        """Stage name -> `(hops,)` microseconds; `total` is the sum of the stages."""
        columns = {name: np.asarray(samples, dtype=np.float64) / 1e3 for name, samples in self.samples_ns.items()}
        columns["total"] = np.sum(list(columns.values()), axis=0)
        return columns


class LoopedAudio:
    """The golden waveforms of a bundle end to end, over and over, at the input rate, cut into hops."""

    def __init__(self, bundle: Bundle, input_rate_hz: int) -> None:
        manifest = bundle.manifest
        model_rate_hz = manifest.frontend.sample_rate
        waveform = np.ascontiguousarray(bundle.golden.waveform).reshape(-1)
        self._waveform = resample(waveform, model_rate_hz, input_rate_hz)
        self._hop_numerator = manifest.window.hop_samples(manifest.frontend) * input_rate_hz
        self._hop_denominator = model_rate_hz
        self._hops = self._position = 0
        self.duration_s = len(self._waveform) / input_rate_hz

    def next_hop(self) -> Float32:
        """The next hop, `(samples,)`; hops of an uneven rate differ by one sample and never drift."""
        self._hops += 1
        end = self._hops * self._hop_numerator // self._hop_denominator
        index = np.arange(self._position, end) % len(self._waveform)
        self._position = end
        chunk: Float32 = self._waveform[index]
        return chunk


def hops_to_first_window(bundle: Bundle) -> int:
    """Hops that fill the first window, with one to spare for a resampler's delay."""
    manifest = bundle.manifest
    return math.ceil(manifest.window.duration_s(manifest.frontend) / manifest.window.hop_s(manifest.frontend)) + 1
