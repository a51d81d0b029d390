"""The device protocol: where a benchmark runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.schema import BenchOptions, BenchResult
from edgeaudio.bundle import Bundle


class Device(Protocol):
    """Runs a bundle somewhere and hands back what was measured there."""

    #: Name in the catalogue; recorded with every result.
    name: str

    def bench(
        self,
        bundle: Bundle,
        *,
        artefacts: Literal["all"] | Sequence[str] = "all",
        engine: str | None = None,
        threads: int = 1,
        options: BenchOptions | None = None,
        foreign: Sequence[ForeignModel] = (),
        clips: AccuracyClips | None = None,
    ) -> BenchResult:
        """Time `artefacts` (names such as `onnx-int8`) in turns.

        Args:
            engine: only what this one runs; None is each format's own.
            foreign: files that belong to no bundle, timed beside it. clips: labelled ones, answered by this host.
        Raises:
            ConfigError: the bundle has no such artefact, or none for the engine.
            UnsupportedError: a named artefact, or all of them, cannot run there.
        """
        ...
