"""The device protocol: where a benchmark runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.schema import BenchOptions, BenchResult
from edgeaudio.bundle import Bundle

#: Called with (stage, artefact or None, done, total); a total of 0 is not known.
OnProgress = Callable[[str, str | None, int, int], None]


@dataclass(frozen=True)
class BenchJob:
    """What is to be measured, the same on every device.

    artefacts: names such as `onnx-int8`, timed in turns. engine: only what this one runs; None is each format's own.
    foreign: files that belong to no bundle, timed beside it. clips: labelled ones, answered by this host.
    deadline_s: of the whole run, clean-up included; None follows from what is measured.
    """

    bundle: Bundle
    artefacts: Literal["all"] | Sequence[str] = "all"
    engine: str | None = None
    threads: int = 1
    options: BenchOptions = field(default_factory=BenchOptions)
    foreign: Sequence[ForeignModel] = ()
    clips: AccuracyClips | None = None
    deadline_s: float | None = None


class Device(Protocol):
    """Runs a bundle somewhere and hands back what was measured there."""

    @property
    def name(self) -> str:
        """As the user calls it; recorded with every result."""
        ...

    @property
    def place(self) -> str | None:
        """Devices of one place share a processor, and take turns; None is this machine."""
        ...

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        """Run `job`.

        Args:
            interrupted: set by another thread to end the run.
        Raises:
            ConfigError: the bundle has no such artefact, or none for the engine.
            UnsupportedError: a named artefact, or all of them, cannot run there.
            DeviceError: the device cannot be reached, or was lost (`BrokenRunError`).
        """
        ...
