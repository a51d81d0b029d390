"""`local`: the benchmark in this process, on this machine."""

from __future__ import annotations

import threading
from dataclasses import astuple

from edgeaudio.bench.base import BenchJob, OnProgress
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchResult


class LocalDevice:
    """See `edgeaudio.bench.base.Device`."""

    name = "local"
    place = None

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        """See `Device.bench`. Nothing but Ctrl-C interrupts it."""
        return bench_bundle(
            job.bundle,
            job.artefacts,
            engine=job.engine,
            threads=job.threads,
            options=job.options,
            device=self.name,
            foreign=job.foreign,
            clips=job.clips,
            on_progress=None if on_progress is None else lambda now: on_progress(*astuple(now)),
        )
