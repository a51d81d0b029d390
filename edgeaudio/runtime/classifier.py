"""`Classifier`: a bundle and an engine, one clip at a time. Offline is a loop over the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.resample import resample
from edgeaudio.audio.source import SourceStats, scrub
from edgeaudio.bundle import Bundle, TrustStore
from edgeaudio.catalog import resolve
from edgeaudio.errors import ConfigError, SampleRateError, ShapeError
from edgeaudio.frontend.choice import FrontendChoice, FrontendTaken, choose_frontend
from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.confidence import to_probs
from edgeaudio.runtime.engines.base import Engine, Float32
from edgeaudio.runtime.stateful import StatefulRunner, SteppedWindow, Stepper, StepStream
from edgeaudio.runtime.stateful_cascade import StatefulCascade
from edgeaudio.runtime.windows import Window, WindowStream
from edgeaudio.spec import DecisionSpec, LabelSet

# Long chunks are scored piece by piece, so that the log-mel windows of a whole day are never held at once.
_PIECE_SAMPLES = 65_536


class ScoredWindow(NamedTuple):
    """Probabilities `(classes,)` of the window that starts at `position_samples`; `exit` as in `ClipResult`.

    macs, catch_up_macs: of stateful exits, as in `Answer`.
    """

    position_samples: int
    probs: Float32
    exit: int | None = None
    macs: int | None = None
    catch_up_macs: int = 0


@dataclass(frozen=True)
class ClipResult:
    """What a clip is.

    probs: `(classes,)`, mean over windows. label: the most probable. window_probs: `(windows, classes)`.
    window_starts_s: `(windows,)` float64. nan_samples: samples that were not finite and taken as 0.
    window_exits: `(windows,)`, the exit that answered (the last number is the final head); None without exits.
    """

    labels: LabelSet
    probs: Float32
    window_probs: Float32
    window_starts_s: NDArray[np.float64]
    nan_samples: int
    window_exits: NDArray[np.int64] | None = None

    @property
    def label(self) -> str:
        """The most probable label; of equals the first."""
        return self.labels.names[int(self.probs.argmax())]

    def top(self, n: int = 5) -> list[tuple[str, float]]:
        """The `n` most probable labels with their probability, falling."""
        order = np.argsort(-self.probs, kind="stable")[:n]
        return [(self.labels.names[index], float(self.probs[index])) for index in order]


class Classifier:
    """Classifies clips with one artefact of a bundle.

    One instance per thread. `engine_info` says which library runs and where, and which front-end.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "onnx",
        precision: str = "fp32",
        threads: int = 1,
        exits: bool = False,
        thresholds: Sequence[float | None] | None = None,
        frontend: FrontendChoice = "auto",
        stateful: bool = False,
    ) -> None:
        """Build the engine; never another one than asked for.

        Args:
            engine: a name of `edgeaudio list engines`. precision: "fp32" or "int8".
            exits: run the bundle's stages one by one and stop where one is sure, instead of the whole artefact.
            thresholds: of the exits, instead of the bundle's own (see `Cascade`).
            frontend: what computes log-mel: "numpy", "native", or "auto", which is native where it is built.
            stateful: run the bundle's stateful artefact, which computes only what each hop adds. Windows move by its
                own `step_frames`.
        Raises:
            ConfigError: unknown engine, the bundle has no artefact (no stages, no stateful form) for it in that
                precision, or thresholds without exits.
            UnsupportedError: the engine's library is not installed, or the native front-end is not built; the message
                says what to do.
            BundleError: the artefact is not what the manifest says.
        """
        engine_class = resolve("engines", engine)
        self.bundle = bundle
        self._options: dict[str, Any] = {
            "engine": engine,
            "precision": precision,
            "threads": threads,
            "exits": exits,
            "thresholds": thresholds,
            "frontend": frontend,
            "stateful": stateful,
        }
        self.artefact = bundle.manifest.artefact(engine_class.format, precision)
        if thresholds is not None and not exits:
            raise ConfigError("exit thresholds were given without exits; ask for exits=True")
        self._kind = bundle.manifest.task.kind
        self._frontend = choose_frontend(bundle.manifest.frontend, frontend)
        self._stateful = bundle.manifest.stateful if stateful else None
        self._runner: Engine | Cascade | StatefulCascade
        if exits:
            family = StatefulCascade if stateful else Cascade
            self._runner = family.of_bundle(
                bundle, engine=engine, precision=precision, threads=threads, thresholds=thresholds
            )
        else:
            file = bundle.manifest.stateful_artefact(self.artefact.format, precision) if stateful else self.artefact
            self._runner = cast(Engine, engine_class(file, bundle.payload(file), threads=threads))

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        engine: str = "onnx",
        precision: str = "fp32",
        threads: int = 1,
        exits: bool = False,
        thresholds: Sequence[float | None] | None = None,
        frontend: FrontendChoice = "auto",
        stateful: bool = False,
        require_signature: TrustStore | None = None,
    ) -> Self:
        """Read and verify the bundle at `path`; errors are those of `Bundle.read` and of the constructor.

        Args:
            require_signature: keys of which one must have signed the bundle. The others are the constructor's.
        """
        bundle = Bundle.read(path, require_signature=require_signature)
        return cls(
            bundle,
            engine=engine,
            precision=precision,
            threads=threads,
            exits=exits,
            thresholds=thresholds,
            frontend=frontend,
            stateful=stateful,
        )

    def again(self) -> Self:
        """Another one, with an engine of its own made anew from the bundle's verified bytes."""
        return type(self)(self.bundle, **self._options)

    @property
    def labels(self) -> LabelSet:
        """The classes in the order of `probs`."""
        return self.bundle.manifest.task.labels

    @property
    def sample_rate(self) -> int:
        """Hz, of the front-end; clips at other rates are resampled to it."""
        return self.bundle.manifest.frontend.sample_rate

    @property
    def engine_info(self) -> dict[str, str]:
        """Library, version and provider or delegate in use, the front-end (`FrontendTaken.info`), any stateful form."""
        return self._runner.info | self._frontend.info | ({"form": "stateful"} if self.stateful else {})

    @property
    def frontend(self) -> FrontendTaken:
        """What computes log-mel."""
        return self._frontend

    def window_probs(self, log_mel: Float32) -> Float32:
        """`(frames, n_mels)` float32 -> `(classes,)` float32 probabilities."""
        return self.score(log_mel)[0]

    @property
    def decision(self) -> DecisionSpec:
        """How a stream of this artefact's probabilities becomes events: its own thresholds, or the bundle's.

        Where windows of a stateful form come more often, the moving mean is over as many more of them: over as long.
        """
        spec = self.artefact.decision or self.bundle.manifest.decision
        more_often = self.bundle.manifest.window.hop_frames // self.hop_frames
        changed = spec.model_dump() | {"smoothing_windows": spec.smoothing_windows * more_often}
        return DecisionSpec.parse(changed, source=f"decision of {self.artefact.name} at {more_often} times the hops")

    @property
    def hop_frames(self) -> int:
        """Frames between the starts of two windows."""
        return self._stateful.step_frames if self._stateful else self.bundle.manifest.window.hop_frames

    @property
    def hop_samples(self) -> int:
        """Samples between the starts of two windows."""
        return self.hop_frames * self.bundle.manifest.frontend.hop_length

    @property
    def stateful(self) -> bool:
        """Whether it runs the stateful form, which hears streams and clips, but no single windows."""
        return self._stateful is not None

    @property
    def engines(self) -> tuple[Engine, ...]:
        """What runs the model: one engine, or one for each stage of early exits."""
        return self._runner.engines if isinstance(self._runner, Cascade | StatefulCascade) else (self._runner,)

    @property
    def n_exits(self) -> int:
        """Exits that a window may stop at, the final one included; 0 without exits."""
        return self._runner.n_exits if isinstance(self._runner, Cascade | StatefulCascade) else 0

    def score(self, log_mel: Float32) -> tuple[Float32, int | None]:
        """As `window_probs`, and the exit that answered; None without exits.

        Raises:
            ConfigError: a stateful form, which takes steps of a stream.
        """
        if self._stateful is not None or isinstance(self._runner, StatefulCascade):
            raise ConfigError("a stateful classifier takes steps of a stream, not windows; load it without stateful")
        if isinstance(self._runner, Cascade):
            answer = self._runner.run(log_mel)
            return answer.probs, answer.exit
        return to_probs(self._runner.run(log_mel), self._kind), None

    def open_windows(self, *, start_sample: int = 0, stepper: Stepper | None = None) -> WindowStream | StepStream:
        """What makes windows of chunks for `scored`; each has its own states.

        Args:
            start_sample: its first position. stepper: of a stateful form, one of `open_stepper`; None: a new one.
        """
        manifest = self.bundle.manifest
        if self._stateful is None:
            return WindowStream(
                manifest.frontend, manifest.window, start_sample=start_sample, computed_by=self.frontend.name
            )
        runner = stepper or self.open_stepper()
        return StepStream(
            runner, manifest.frontend, self._stateful, start_sample=start_sample, computed_by=self.frontend.name
        )

    def open_stepper(self) -> Stepper:
        """What hears a stream step by step, with states of its own.

        Raises:
            ConfigError: not a stateful form.
        """
        if self._stateful is None:
            raise ConfigError("a windowed classifier takes windows, not steps; load it with stateful")
        if isinstance(self._runner, StatefulCascade):
            return self._runner.open()
        artefact = self.bundle.manifest.stateful_artefact(self.artefact.format, self.artefact.precision)
        return StatefulRunner(cast(Engine, self._runner), artefact)

    def scored(self, window: Window | SteppedWindow) -> ScoredWindow:
        """A window of `open_windows` with its probabilities."""
        if isinstance(window, SteppedWindow):
            logits, exit, macs, catch_up_macs = window.answer
            return ScoredWindow(window.position_samples, to_probs(logits, self._kind), exit, macs, catch_up_macs)
        return ScoredWindow(window.position_samples, *self.score(window.log_mel))

    def __call__(self, waveform: NDArray[Any], sample_rate: int) -> ClipResult:
        """Classify a clip.

        Args:
            waveform: `(samples,)` float32 or float64 in [-1, 1]; resampled when `sample_rate` is not the bundle's,
                padded with zeros at the end when shorter than one window.
        Raises:
            ShapeError: another rank or dtype, or empty.
            SampleRateError: a rate outside the limits.
        """
        stats = SourceStats()
        clean = clean_chunk(waveform, stats)
        if not len(clean):
            raise ShapeError("waveform is empty: there is nothing to classify")
        if sample_rate != self.sample_rate:
            clean = resample(clean, sample_rate, self.sample_rate)
        if not len(clean):
            raise SampleRateError(f"{len(waveform)} samples at {sample_rate} Hz are none at {self.sample_rate} Hz")
        stream = ProbsStream(self)
        scored = stream.feed(clean) + stream.flush()
        window_probs = np.stack([window.probs for window in scored])
        positions = np.array([window.position_samples for window in scored], np.int64)
        return ClipResult(
            labels=self.labels,
            probs=window_probs.mean(axis=0, dtype=np.float64).astype(np.float32),
            window_probs=window_probs,
            window_starts_s=positions / self.sample_rate,
            nan_samples=stats.nan_samples,
            window_exits=np.array([window.exit for window in scored], np.int64) if self.n_exits else None,
        )


class ProbsStream:
    """Chunks in, scored windows out: the one path of clips and of live audio."""

    def __init__(self, classifier: Classifier, *, start_sample: int = 0) -> None:
        manifest = classifier.bundle.manifest
        self._classifier = classifier
        self._windows = classifier.open_windows(start_sample=start_sample)
        self.window_samples = manifest.window.n_samples(manifest.frontend)
        self._hop_frames = classifier.hop_frames
        self._hop_samples = classifier.hop_frames * manifest.frontend.hop_length
        self._start_sample, self._fed_samples, self._scored_any = start_sample, 0, False
        self._next_end = self.window_samples

    def reset(self, *, start_sample: int = 0) -> None:
        """Forget all audio: the next sample is `start_sample`."""
        self._windows.reset(start_sample=start_sample)
        self._start_sample = start_sample
        self._fed_samples = 0
        self._next_end = self.window_samples
        self._scored_any = False

    def feed(self, chunk: Float32) -> list[ScoredWindow]:
        """Take clean `(samples,)` float32 of any length and score the windows it completes."""
        return [scored for scored, _ in self.each(chunk)]

    def each(self, chunk: Float32) -> Iterator[tuple[ScoredWindow, Float32]]:
        """As `feed`, window by window, each with its new frames `(frames, n_mels)`: all of them in the first."""
        self._fed_samples += len(chunk)
        for at in range(0, len(chunk), _PIECE_SAMPLES):
            for window in self._windows.feed(chunk[at : at + _PIECE_SAMPLES]):
                new_frames = window.log_mel[-self._hop_frames :] if self._scored_any else window.log_mel
                self._scored_any = True
                self._next_end += self._hop_samples
                yield self._classifier.scored(window), new_frames

    def flush(self) -> list[ScoredWindow]:
        """The last samples: a partial window is scored, padded with zeros, only when no window was."""
        return [scored for scored, _ in self.each(self.padding())]

    def padding(self) -> Float32:
        """The zeros that make one window of a stream shorter than that; none otherwise."""
        missing = self.window_samples - self._fed_samples if self._fed_samples else 0
        return np.zeros(max(0, missing), np.float32)

    @property
    def position_samples(self) -> int:
        """Of the next sample."""
        return self._start_sample + self._fed_samples

    @property
    def next_end_samples(self) -> int:
        """How many since the last reset complete the next window."""
        return self._next_end


def clean_chunk(chunk: NDArray[Any], stats: SourceStats) -> Float32:
    """The door for samples: float32, one-dimensional, finite and bounded (see `edgeaudio.audio.source.scrub`).

    Raises:
        ShapeError: another rank, or a dtype that is neither float32 nor float64.
    """
    if chunk.ndim != 1 or chunk.dtype not in (np.float32, np.float64):
        hint = " Divide int16 by 32768." if chunk.dtype == np.int16 else ""
        raise ShapeError(f"waveform is {chunk.dtype} {chunk.shape}, wanted float32 (samples,) in [-1, 1].{hint}")
    if chunk.dtype == np.float64:
        with np.errstate(over="ignore"):  # A float64 beyond float32 becomes infinite and is scrubbed.
            chunk = chunk.astype(np.float32)
    return scrub(chunk, stats)
