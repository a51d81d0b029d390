"""What machine this is and what state it is in: recorded with every measurement. Linux and macOS."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from edgeaudio.bench.schema import Environment

# The packages whose versions can change a latency.
_PACKAGES = ("edgeaudio", "numpy", "soxr", "onnxruntime", "ai-edge-litert", "tensorrt", "psutil", "pydantic")


def read_text(path: Path) -> str | None:
    """First line of a small kernel file; None where the kernel does not offer it."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    return text.strip("\0\n ").split("\n")[0] or None


def cpu_description() -> tuple[str, tuple[str, ...]]:
    """CPU model and feature flags from /proc/cpuinfo (x86 `flags`, ARM `Features`), else what Python knows."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass  # Not Linux.
    model = fields.get("model name") or fields.get("Hardware")
    if model is None and "CPU part" in fields:
        # 64-bit ARM kernels give numbers only; 0x41/0xd08 is a Cortex-A72.
        model = f"implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    flags = fields.get("flags") or fields.get("Features") or ""
    return model or platform.processor() or "unknown", tuple(sorted(flags.split()))


def package_versions() -> dict[str, str]:
    """Installed versions of what can change a latency; absent packages are left out."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def temperature_c() -> float | None:
    """The first thermal zone, degrees Celsius."""
    text = read_text(Path("/sys/class/thermal/thermal_zone0/temp"))
    return int(text) / 1000 if text is not None and text.lstrip("-").isdigit() else None


def describe_environment(device: str, before: MachineState, after: MachineState) -> Environment:
    """The machine, with its state at the start and at the end of a run."""
    model, flags = cpu_description()
    frequency = psutil.cpu_freq()
    return Environment(
        device=device,
        board=read_text(Path("/proc/device-tree/model")),
        cpu_model=model,
        cpu_flags=flags,
        architecture=platform.machine(),
        cores_logical=psutil.cpu_count() or 1,
        cores_physical=psutil.cpu_count(logical=False),
        # Of this thread, which is the one that measures; 0 is itself.
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        virtualised="hypervisor" in flags if flags and platform.machine() in ("x86_64", "AMD64", "i686") else None,
        memory_bytes=psutil.virtual_memory().total,
        os=platform.platform(terse=True),
        kernel=platform.release(),
        governor=read_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        frequency_mhz=frequency.current or None if frequency else None,
        frequency_max_mhz=frequency.max or None if frequency else None,
        temperature_c_before=before.temperature_c,
        temperature_c_after=after.temperature_c,
        load_average_1min_before=before.load_average_1min,
        load_average_1min_after=after.load_average_1min,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=package_versions(),
    )


@dataclass(frozen=True)
class MachineState:
    """The part of the environment that moves."""

    load_average_1min: float
    temperature_c: float | None

    @classmethod
    def now(cls) -> MachineState:
        """The state at this moment."""
        return cls(load_average_1min=os.getloadavg()[0], temperature_c=temperature_c())


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
        usage = resource.getrusage(resource.RUSAGE_SELF)
        own_s = usage.ru_utime + usage.ru_stime
        return time.perf_counter(), time.thread_time(), busy_s, own_s, usage.ru_nivcsw

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
