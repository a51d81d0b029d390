"""`local`: the benchmark in this process, on this machine."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import astuple

from edgeaudio.bench.base import BenchJob, OnProgress
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchResult
from edgeaudio.errors import DeviceError, EdgeAudioError


class LocalDevice:
    """See `edgeaudio.bench.base.Device`. A deadline holds in the main thread alone."""

    name = "local"
    place = None

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        """See `Device.bench`. Nothing but Ctrl-C and the deadline interrupts it."""
        late = threading.Event()
        reason = f"no end after {job.deadline_s} s"
        try:
            with _deadline(job.deadline_s, late):
                result = bench_bundle(
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
        except KeyboardInterrupt:
            if late.is_set():
                raise DeviceError(f"{self.name}: {reason}") from None
            raise
        if result.incomplete is not None:
            raise _broken(result, reason if late.is_set() else None, interrupted or threading.Event())
        return result


@contextlib.contextmanager
def _deadline(seconds: float | None, late: threading.Event) -> Iterator[None]:
    """Interrupts the main thread after `seconds`, as Ctrl-C does, and sets `late` first."""
    if seconds is None:
        yield
        return

    def end() -> None:
        late.set()
        _thread.interrupt_main()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _broken(result: BenchResult, late: str | None, interrupted: threading.Event) -> EdgeAudioError:
    """As of a device whose run broke off: what it had measured is in the error's messages."""
    from edgeaudio.bench.agent import send_result
    from edgeaudio.bench.devices.protocol import AGENT_KINDS, MessageReader, MessageWriter
    from edgeaudio.bench.devices.session import BrokenRunError
    from edgeaudio.bench.devices.transport import InterruptedRunError

    reader = MessageReader(AGENT_KINDS)
    send_result(result, MessageWriter(lambda line: reader.line(line.rstrip(b"\n"))).send)
    if late is None:
        interrupted.set()
        reason: DeviceError = InterruptedRunError(f"{LocalDevice.name}: stopped by the user")
    else:
        reason = DeviceError(f"{LocalDevice.name}: {late}")
    return BrokenRunError(reason, LocalDevice.name, result.run_id, reader.messages, None)
