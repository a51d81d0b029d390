"""`local`: the benchmark in this process, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchOptions, BenchResult
from edgeaudio.bundle import Bundle


class LocalDevice:
    """See `edgeaudio.bench.base.Device`."""

    name = "local"

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
        """See `Device.bench`."""
        return bench_bundle(
            bundle,
            artefacts,
            engine=engine,
            threads=threads,
            options=options,
            device=self.name,
            foreign=foreign,
            clips=clips,
        )
