"""What a Jetson tells: L4T, JetPack, power mode, clocks, rails, over-current events. *Not run on hardware*.

Formats: NVIDIA's Jetson Linux Developer Guide, the kernel's ina3221 driver, and the outputs cited with the tests'
fixtures. NVIDIA's own tools are run; the package jetson-stats is under the AGPL and is not used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edgeaudio.bench.probes import linux
from edgeaudio.bench.probes.system import Machine, clean, decoded, line_of, number, number_of, within

_RELEASE = "/etc/nv_tegra_release"
_I2C_DRIVERS = "/sys/bus/i2c/drivers"
#: tegrastats runs until it is killed; a line comes every half second.
_TEGRASTATS = ("tegrastats", "--interval", "500")
_TEGRASTATS_S = 1.5
#: A shell script that asks for every clock by itself.
_JETSON_CLOCKS_S = 5.0
#: The three alarms of Orin's power input (Developer Guide, Over-Current Event Counters).
_EVENTS = {"oc1": "under-voltage", "oc2": "over-current", "oc3": "over-current"}


def is_jetson(machine: Machine) -> bool:
    """By the device tree, or by the file that every Jetson Linux has."""
    names = linux.compatible(machine)
    return any(name.startswith("nvidia,tegra") for name in names) or machine.read(_RELEASE) is not None


def l4t(machine: Machine) -> str | None:
    """Such as "L4T 36.4.3"."""
    return parse_release(decoded(machine.read(_RELEASE)))


def parse_release(text: str) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: ..., BOARD: generic, EABI: aarch64, DATE: ...`."""
    match = re.search(r"# R([0-9]{1,4}) \(release\), REVISION: ([0-9]{1,4}(?:\.[0-9]{1,4}){0,3})\b", text)
    return f"L4T {match[1]}.{match[2]}" if match else None


def jetpack(machine: Machine) -> str | None:
    """Version of NVIDIA's meta-package, where it is installed."""
    status, version = "${db:Status-Status}", "${Version}"
    text = decoded(machine.run("dpkg-query", "--show", f"--showformat={status} {version}\n", "nvidia-jetpack"))
    match = re.match(r"installed (\S+)$", text, re.MULTILINE)
    return clean(match[1]) if match else None


def power_mode(machine: Machine) -> str | None:
    """Such as MAXN or 15W."""
    return parse_nvpmodel(decoded(machine.run("nvpmodel", "-q")))


def parse_nvpmodel(text: str) -> str | None:
    """A line `NV Power Mode: MAXN`, perhaps after warnings, then the number of the mode."""
    match = re.search(r"^NV Power Mode: ?(.+)$", text, re.MULTILINE)
    return clean(match[1]) if match else None


def clocks_locked(machine: Machine) -> bool | None:
    """Whether jetson_clocks holds all clocks at their highest. Without root the kernel's files for the cores decide."""
    locked = parse_jetson_clocks(decoded(machine.run("jetson_clocks", "--show", deadline_s=_JETSON_CLOCKS_S)))
    return linux.clock_is_fixed(machine) if locked is None else locked


def parse_jetson_clocks(text: str) -> bool | None:
    """Lines `cpu0: ... MinFreq=729600 MaxFreq=1510400 CurrentFreq=...` and `GPU MinFreq=... MaxFreq=...`.

    The memory's clock is not looked at: jetson_clocks holds it by an override and leaves its limits apart.
    """
    spans = re.findall(r"^ *(?:cpu[0-9]+:|GPU) .*?MinFreq=([0-9]{1,12}) MaxFreq=([0-9]{1,12})\b", text, re.MULTILINE)
    return all(int(low) == int(high) for low, high in spans) if spans else None


def throttle_events(machine: Machine) -> dict[str, int]:
    """How often since boot the power input made the processor slow down."""
    counts: dict[str, int] = {}
    for folder, chip in linux.hwmon(machine):
        if chip == "soctherm_oc":
            for event, reason in _EVENTS.items():
                count = number_of(machine, f"{folder}/{event}_event_cnt")
                if count is not None:
                    counts[reason] = counts.get(reason, 0) + int(count)
    return counts


def power_w(machine: Machine) -> dict[str, float]:
    """Watts of each rail, from the INA3221 chips, else from a line of tegrastats."""
    rails = {**_hwmon_rails(machine), **_iio_rails(machine)}
    return rails or tegrastats(machine).power_w


def _hwmon_rails(machine: Machine) -> dict[str, float]:
    """JetPack 5 and later: voltage in mV and current in mA of each channel that has a name."""
    rails = {}
    driver = f"{_I2C_DRIVERS}/ina3221"
    for chip in machine.names(driver):
        for name in machine.names(f"{driver}/{chip}/hwmon"):
            folder = f"{driver}/{chip}/hwmon/{name}"
            for channel in "123":
                rail = line_of(machine, f"{folder}/in{channel}_label")
                millivolts = number_of(machine, f"{folder}/in{channel}_input")
                milliamperes = number_of(machine, f"{folder}/curr{channel}_input")
                if rail and rail != "NC" and millivolts is not None and milliamperes is not None:
                    rails[rail] = millivolts * milliamperes / 1e6
    return _plausible(rails)


def _iio_rails(machine: Machine) -> dict[str, float]:
    """JetPack 4: milliwatts of each named channel. Only root may read them on some releases."""
    rails = {}
    driver = f"{_I2C_DRIVERS}/ina3221x"
    for chip in machine.names(driver):
        for device in machine.names(f"{driver}/{chip}"):
            if device.startswith("iio:device"):
                folder = f"{driver}/{chip}/{device}"
                for channel in "012":
                    rail = line_of(machine, f"{folder}/rail_name_{channel}")
                    milliwatts = number_of(machine, f"{folder}/in_power{channel}_input")
                    if rail and milliwatts is not None:
                        rails[rail] = milliwatts / 1e3
    return _plausible(rails)


def _plausible(rails: dict[str, float]) -> dict[str, float]:
    return {rail: watts for rail, watts in rails.items() if within(watts, 0, 1_000) is not None}


@dataclass(frozen=True)
class TegraStats:
    """One line of tegrastats. Loads are percent, one per core; None is a core that is switched off."""

    ram_used_mb: int | None = None
    core_loads: tuple[int | None, ...] = ()
    core_mhz: tuple[int | None, ...] = ()
    gpu_load: int | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    power_w: dict[str, float] = field(default_factory=dict)


def tegrastats(machine: Machine) -> TegraStats:
    """The first line that it prints; empty where it prints none."""
    printed = machine.run(*_TEGRASTATS, deadline_s=_TEGRASTATS_S, endless=True)
    return parse_tegrastats(decoded(printed).partition("\n")[0])


def parse_tegrastats(line: str) -> TegraStats:
    """A line of any release: rails are `POM_5V_IN 1750/1628` on a Nano, `VDD_IN 4500mW/4480mW` on an Orin.

    Of the two numbers the first is now, the second the mean since the start. -256C is a part without power.
    """
    line = line[:4096]
    ram = re.search(r"\bRAM ([0-9]{1,9})/", line)
    gpu = re.search(r"\bGR3D_FREQ ([0-9]{1,3})%", line)
    block = re.search(r"\bCPU \[([^\]]{1,2000})\]", line)
    cores = [re.fullmatch(r"([0-9]{1,3})%@([0-9]{1,5})", core) for core in (block[1].split(",") if block else ())]
    temperatures = re.findall(r"\b([A-Za-z][A-Za-z0-9_-]{0,40})@(-?[0-9]{1,4}(?:\.[0-9]{1,6})?)C\b", line)
    rails = re.findall(r"\b([A-Z][A-Z0-9_]{1,40}) ([0-9]{1,7})(?:mW)?/[0-9]{1,7}(?:mW)?(?= |$)", line)
    return TegraStats(
        ram_used_mb=int(ram[1]) if ram else None,
        core_loads=tuple(int(core[1]) if core else None for core in cores),
        core_mhz=tuple(int(core[2]) if core else None for core in cores),
        gpu_load=int(gpu[1]) if gpu else None,
        temperatures_c={
            name: value
            for name, text in temperatures
            # A constant on every Jetson, as in the thermal zones.
            if name != "PMIC" and (value := within(number(text), -60, 200)) is not None
        },
        power_w=_plausible({rail: int(milliwatts) / 1e3 for rail, milliwatts in rails}),
    )
