"""The process that measures: what it runs with, what it uses, who else used the processor. Linux and macOS."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from importlib import metadata

import psutil

from edgeaudio.bench.probes.monitor import own_cpu_s
from edgeaudio.bench.schema import Environment

# The packages whose versions can change a latency.
_PACKAGES = ("edgeaudio", "numpy", "soxr", "onnxruntime", "ai-edge-litert", "tensorrt", "psutil", "pydantic")


def package_versions() -> dict[str, str]:
    """Installed versions of what can change a latency; absent packages are left out."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_environment(device: str) -> Environment:
    """This process: who runs it, where it may run, with what."""
    return Environment(
        device=device,
        # Of this thread, which is the one that measures; 0 is itself.
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=package_versions(),
    )


@dataclass
class LoadMeter:
    """Adds up, over several stretches between `start` and `stop`, who used the processor."""

    wall_s: float = 0.0
    thread_cpu_s: float = 0.0
    other_busy_s: float = 0.0
    involuntary_switches: int = 0
    _mark: tuple[float, float, float, float, int] | None = None

    @staticmethod
    def _read() -> tuple[float, float, float, float, int]:
        times = psutil.cpu_times()
        # Steal is time that other guests of the same host took: load as well, though nobody here caused it.
        busy_s = times.user + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
        busy_s += getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        # What this process started, such as the commands of the probes, is no load of others.
        return time.perf_counter(), time.thread_time(), busy_s, own_cpu_s(), switches

    def start(self) -> None:
        """Begin a stretch."""
        self._mark = self._read()

    def stop(self) -> None:
        """End the stretch that `start` began and add it up."""
        assert self._mark is not None
        now, before = self._read(), self._mark
        self.wall_s += now[0] - before[0]
        self.thread_cpu_s += now[1] - before[1]
        self.other_busy_s += max(0.0, (now[2] - before[2]) - (now[3] - before[3]))
        self.involuntary_switches += now[4] - before[4]
        self._mark = None

    @property
    def cpu_share(self) -> float:
        """CPU time of the measuring thread over wall time."""
        return self.thread_cpu_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def other_busy_cores(self) -> float | None:
        """Cores that others kept busy; None under 0.5 s, where the kernel's 10 ms ticks say nothing."""
        return self.other_busy_s / self.wall_s if self.wall_s >= 0.5 else None
