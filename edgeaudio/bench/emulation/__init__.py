"""ARM on this machine by QEMU user mode: edgeaudio's own code and the real packages, their answers and instructions.

Latencies are never taken here. `install` sets a CPU model up; `python -m edgeaudio.bench.emulation` does it by hand.
"""

from edgeaudio.bench.emulation.counts import check_spread, parse_counts
from edgeaudio.bench.emulation.emulator import LABEL, Emulator
from edgeaudio.bench.emulation.install import MIRROR, default_cache, install
from edgeaudio.bench.emulation.steps import Said, run_step
from edgeaudio.bench.emulation.targets import CPUS, Cpu, cpu_named

__all__ = [
    "CPUS",
    "LABEL",
    "MIRROR",
    "Cpu",
    "Emulator",
    "Said",
    "check_spread",
    "cpu_named",
    "default_cache",
    "install",
    "parse_counts",
    "run_step",
]
