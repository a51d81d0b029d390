"""What every Linux tells of its processor, system, clocks, temperatures and load."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from edgeaudio.bench.probes.system import (
    LiveMachine,
    Machine,
    clean,
    decoded,
    line_of,
    number,
    number_of,
    run_command,
    within,
)

CPU = "/sys/devices/system/cpu"
_THERMAL = "/sys/class/thermal"
_HWMON = "/sys/class/hwmon"
_MAX_CPUS = 4096
#: The kernel's names for sensors in a PC's processor; boards have thermal zones instead.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower")
#: Jetsons report a constant here (forums.developer.nvidia.com/t/75582).
_FAKE_ZONES = ("PMIC-Die",)
#: Cooling devices that slow processors down; the others turn fans.
_SLOWS_DOWN = re.compile(r"^processor|cpufreq|devfreq|throttl|powerclamp|balanced", re.IGNORECASE)

# util-linux's lscpu-arm.c and the kernel's asm/cputype.h, as far as Linux runs on them.
_ARM_CORES = {
    ("0x41", "0xb76"): "ARM1176",
    ("0x41", "0xc07"): "Cortex-A7",
    ("0x41", "0xc09"): "Cortex-A9",
    ("0x41", "0xc0d"): "Cortex-A17",
    ("0x41", "0xc0f"): "Cortex-A15",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4b"): "Cortex-A78C",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd80"): "Cortex-A520",
    ("0x41", "0xd81"): "Cortex-A720",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


def cpu_description() -> tuple[str, tuple[str, ...]]:
    """Model and instruction flags of the processor of this machine; "unknown" and none where it does not tell."""
    machine = LiveMachine(Path("/"), run_command)
    return cpu_model(machine) or "unknown", cpu_flags(machine)


def _processors(machine: Machine) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo; what boards add below them (Hardware, Revision, Serial, Model) is a block too."""
    blocks = []
    for block in decoded(machine.read("/proc/cpuinfo")).split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        blocks.append({key.strip(): value.strip() for key, _, value in pairs})
    return blocks


def cpu_model(machine: Machine) -> str | None:
    """Such as "Cortex-A76" or "AMD EPYC"; kinds of cores are joined by " + "."""
    blocks = _processors(machine)
    cores = [(block.get("CPU implementer", "?"), block["CPU part"]) for block in blocks if "CPU part" in block]
    if cores:
        names = [_ARM_CORES.get(core, f"implementer {core[0]} part {core[1]}") for core in cores]
        return clean(" + ".join(dict.fromkeys(names)))
    name = clean(next((block["model name"] for block in blocks if "model name" in block), None))
    return name or _macos(machine, "machdep.cpu.brand_string")


def _macos(machine: Machine, name: str) -> str | None:
    """What macOS says where Linux has a file."""
    return clean(decoded(machine.run("sysctl", "-n", name)))


def cpu_flags(machine: Machine) -> tuple[str, ...]:
    """Instruction flags by the kernel's names (x86 `flags`, ARM `Features`), sorted."""
    for block in _processors(machine):
        if flags := block.get("flags") or block.get("Features"):
            words = (clean(word) for word in flags.split())
            return tuple(sorted({word for word in words if word}))
    return ()


def cpus(machine: Machine) -> tuple[int, ...]:
    """Numbers of the cores that are switched on: a power mode of a Jetson takes some away."""
    if online := cpu_list(line_of(machine, f"{CPU}/online")):
        return online
    found = {number(block.get("processor")) for block in _processors(machine)}
    return tuple(sorted(int(cpu) for cpu in found if cpu is not None and 0 <= cpu < _MAX_CPUS))


def cpu_list(text: str | None) -> tuple[int, ...]:
    """The kernel's lists of cores, such as 0-3,6; empty for anything else."""
    found: set[int] = set()
    for span in (text or "").split(","):
        if not (match := re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", span.strip())):
            return ()
        first, last = int(match[1]), int(match[2] or match[1])
        found |= set(range(first, min(last, _MAX_CPUS) + 1))
    return tuple(sorted(found))


def logical_cores(machine: Machine) -> int | None:
    """Cores that are switched on, hyper-threads counted."""
    return len(cpus(machine)) or _count(_macos(machine, "hw.logicalcpu"))


def _count(text: str | None) -> int | None:
    value = within(number(text), 1, 1e15)
    return int(value) if value is not None else None


def physical_cores(machine: Machine) -> int | None:
    """Cores without their hyper-threads."""
    topology = [
        (
            line_of(machine, f"{CPU}/cpu{cpu}/topology/physical_package_id"),
            line_of(machine, f"{CPU}/cpu{cpu}/topology/core_id"),
            # ARM numbers cores within their cluster.
            line_of(machine, f"{CPU}/cpu{cpu}/topology/cluster_id"),
        )
        for cpu in cpus(machine)
    ]
    if topology and all(core[1] is not None for core in topology):
        return len(set(topology))
    return None if topology else _count(_macos(machine, "hw.physicalcpu"))


def memory_bytes(machine: Machine) -> int | None:
    """What the kernel manages, so less than is soldered on."""
    match = re.search(r"^MemTotal:\s+([0-9]{1,15}) kB", decoded(machine.read("/proc/meminfo")), re.MULTILINE)
    return int(match[1]) * 1024 if match else _count(_macos(machine, "hw.memsize"))


def architecture(machine: Machine) -> str | None:
    """Of the kernel: x86_64, aarch64, armv7l."""
    return clean(decoded(machine.run("uname", "-m"))) or line_of(machine, "/proc/sys/kernel/arch")


def userland_bits(machine: Machine) -> Literal[32, 64] | None:
    """Of the programs, which can be 32 on a 64-bit kernel."""
    text = clean(decoded(machine.run("getconf", "LONG_BIT")))
    return 32 if text == "32" else 64 if text == "64" else _elf_bits(machine)


def _elf_bits(machine: Machine) -> Literal[32, 64] | None:
    """By the fifth byte of a program: EI_CLASS of its ELF header."""
    for path in ("/bin/sh", "/usr/bin/env"):
        head = machine.read(path) or b""
        if head[:4] == b"\x7fELF" and head[4:5] in (b"\1", b"\2"):
            return 32 if head[4:5] == b"\1" else 64
    return None


def libc(machine: Machine) -> str | None:
    """Such as "glibc 2.36", or "musl"."""
    if glibc := clean(decoded(machine.run("getconf", "GNU_LIBC_VERSION"))):
        return glibc
    return "musl" if any(name.startswith("ld-musl-") for name in machine.names("/lib")) else None


def os_name(machine: Machine) -> str | None:
    """PRETTY_NAME of os-release."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if match := re.search(r"^PRETTY_NAME=(.*)$", decoded(machine.read(path)), re.MULTILINE):
            return clean(match[1].strip().strip("\"'"))
    version = clean(decoded(machine.run("sw_vers", "-productVersion")))
    return f"macOS {version}" if version else None


def kernel(machine: Machine) -> str | None:
    """Its release, such as 6.6.51+rpt-rpi-v8."""
    return line_of(machine, "/proc/sys/kernel/osrelease") or clean(decoded(machine.run("uname", "-r")))


def compatible(machine: Machine) -> tuple[str, ...]:
    """The device tree's names of this board, the most special first; empty where there is no device tree."""
    words = (clean(word) for word in decoded(machine.read("/proc/device-tree/compatible")).split("\0"))
    return tuple(word for word in words if word)


def pc_model(machine: Machine) -> str | None:
    """Maker and product of a PC, from its firmware; the serial number is not read."""
    words = (line_of(machine, f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    return clean(" ".join(word for word in words if word))


def is_x86(architecture: str | None) -> bool:
    """Whether `architecture`, as `uname -m` says it, is that of a PC."""
    return re.fullmatch(r"x86_64|amd64|i[3-6]86", architecture or "", re.IGNORECASE) is not None


def virtualised(machine: Machine, architecture: str | None) -> bool | None:
    """Whether a hypervisor lies below; None on ARM boards that are not known."""
    if is_x86(architecture):
        flags = cpu_flags(machine)
        return "hypervisor" in flags if flags else None
    names = compatible(machine)
    if any(name.startswith(("raspberrypi,", "nvidia,tegra")) for name in names):
        return False
    return True if "linux,dummy-virt" in names else None


def governors(machine: Machine) -> tuple[str, ...]:
    """One per core; empty where the kernel does not choose the clock."""
    found = (line_of(machine, f"{CPU}/cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus(machine))
    return tuple(governor for governor in found if governor)


def frequencies_mhz(machine: Machine) -> tuple[float, ...]:
    """One per core, as the kernel believes; empty where it does not tell."""
    found = [_mhz(machine, cpu, "scaling_cur_freq") for cpu in cpus(machine)]
    if all(value is None for value in found):
        found = [within(number(block.get("cpu MHz")), 1, 20_000) for block in _processors(machine)]
    return tuple(value for value in found if value is not None)


def frequency_max_mhz(machine: Machine) -> float | None:
    """What the fastest core may be clocked at now: below the silicon's limit where a power mode says so."""
    found = [_mhz(machine, cpu, "scaling_max_freq") for cpu in cpus(machine)]
    return max((value for value in found if value is not None), default=None)


def clock_is_fixed(machine: Machine) -> bool | None:
    """Whether every core's lowest clock is its highest."""
    pairs = [(_mhz(machine, cpu, "scaling_min_freq"), _mhz(machine, cpu, "scaling_max_freq")) for cpu in cpus(machine)]
    known = [pair for pair in pairs if None not in pair]
    return all(low == high for low, high in known) if known else None


def _mhz(machine: Machine, cpu: int, name: str) -> float | None:
    khz = number_of(machine, f"{CPU}/cpu{cpu}/cpufreq/{name}")
    return within(khz / 1e3, 1, 20_000) if khz is not None else None


def temperatures_c(machine: Machine) -> dict[str, float]:
    """All thermal zones that answer, and the processor's sensors of a PC; the second of a name is NAME#2."""
    found: dict[str, float] = {}
    for name, millidegrees in [*_zones(machine), *_sensors(machine)]:
        value = within(millidegrees / 1e3, -60, 200) if millidegrees is not None else None
        if value is not None and name not in _FAKE_ZONES:
            same = sum(known == name or known.startswith(f"{name}#") for known in found)
            found[f"{name}#{same + 1}" if same else name] = value
    return found


def _zones(machine: Machine) -> Iterator[tuple[str, float | None]]:
    for zone in machine.names(_THERMAL):
        if zone.startswith("thermal_zone"):
            name = line_of(machine, f"{_THERMAL}/{zone}/type") or zone
            yield name, number_of(machine, f"{_THERMAL}/{zone}/temp")


def _sensors(machine: Machine) -> Iterator[tuple[str, float | None]]:
    for folder, chip in hwmon(machine):
        if chip in _CPU_SENSORS:
            for name in machine.names(folder):
                if match := re.fullmatch(r"temp([0-9]+)_input", name):
                    label = line_of(machine, f"{folder}/temp{match[1]}_label") or f"temp{match[1]}"
                    yield f"{chip} {label}", number_of(machine, f"{folder}/{name}")


def hwmon(machine: Machine) -> Iterator[tuple[str, str]]:
    """Folder and chip of each hardware monitor that says what it is."""
    for name in machine.names(_HWMON):
        if chip := line_of(machine, f"{_HWMON}/{name}/name"):
            yield f"{_HWMON}/{name}", chip


def cooling_slows_down(machine: Machine) -> bool | None:
    """Whether the kernel holds a processor's clock down for its temperature; None where it has no such means."""
    states = []
    for name in machine.names(_THERMAL):
        if name.startswith("cooling_device"):
            kind = line_of(machine, f"{_THERMAL}/{name}/type")
            state = number_of(machine, f"{_THERMAL}/{name}/cur_state")
            if kind and state is not None and _SLOWS_DOWN.search(kind):
                states.append(state)
    return any(state > 0 for state in states) if states else None


def throttle_events(machine: Machine) -> dict[str, int]:
    """How often since boot the processor was held down, where it counts: x86 by temperature."""
    counts = [
        number_of(machine, f"{CPU}/cpu{cpu}/thermal_throttle/{which}_throttle_count")
        for cpu in cpus(machine)
        for which in ("core", "package")
    ]
    known = [int(count) for count in counts if count is not None]
    return {"throttled": sum(known)} if known else {}


def load_average_1min(machine: Machine) -> float | None:
    """Mean number of processes that ran or waited, over the last minute."""
    text = line_of(machine, "/proc/loadavg") or (_macos(machine, "vm.loadavg") or "").strip("{ ")
    return within(number(text.split(" ")[0]), 0, 1e6)


def busy_s(machine: Machine) -> float | None:
    """Seconds that all cores together worked since boot, for anybody; waiting for a disk is not work.

    Steal is time that other guests of the same host took: load as well, though nobody here caused it.
    """
    words = decoded(machine.read("/proc/stat")).partition("\n")[0].split(" ")
    counts = [number(word) for word in words[1:] if word]
    if words[0] != "cpu" or len(counts) < 7 or None in counts:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *more = (count or 0.0 for count in counts)
    return (user + nice + system + irq + softirq + sum(more[:1])) / _TICKS_PER_S


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def risen(now: Mapping[str, int], before: Mapping[str, int]) -> tuple[str, ...]:
    """The names whose counts grew."""
    return tuple(name for name, count in now.items() if count > before.get(name, count))
