"""What the firmware of a Raspberry Pi tells, through `vcgencmd`. *Not run on hardware*.

Formats: raspberrypi.com/documentation/computers/os.html#vcgencmd and the outputs cited with the tests' fixtures.
"""

from __future__ import annotations

import re

from edgeaudio.bench.board import ThrottleReason
from edgeaudio.bench.probes import linux
from edgeaudio.bench.probes.system import Machine, clean, decoded, line_of, number, within

_REASONS: tuple[ThrottleReason, ...] = ("under-voltage", "frequency-capped", "throttled", "soft-temperature-limit")
_SINCE_BOOT = 16


def is_raspberry_pi(machine: Machine) -> bool:
    """By the device tree: compute modules and the Pi Zero too."""
    return any(name.startswith("raspberrypi,") for name in linux.compatible(machine))


def throttled(machine: Machine) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What holds the processor down now, and what did since boot; None where the firmware does not answer.

    The kernel's own file of these bits is not read: it is two seconds old, and reading it makes the kernel warn.
    """
    return parse_throttled(decoded(machine.run("vcgencmd", "get_throttled")))


def parse_throttled(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """`throttled=0x50005`: bits 0 to 15 are now, 16 to 31 since boot. A bit without a meaning is `bit-N`."""
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    return _named(bits & 0xFFFF), _named(bits >> _SINCE_BOOT)


def _named(bits: int) -> tuple[str, ...]:
    names = (_REASONS[bit] if bit < len(_REASONS) else f"bit-{bit}" for bit in range(16) if bits >> bit & 1)
    return tuple(names)


def under_voltage(machine: Machine) -> bool | None:
    """The kernel's own watch over the supply, which it asks every two seconds: costs no command."""
    for folder, chip in linux.hwmon(machine):
        if chip == "rpi_volt":
            alarm = line_of(machine, f"{folder}/in0_lcrit_alarm")
            return {"0": False, "1": True}.get(alarm or "")
    return None


def clock_mhz(machine: Machine) -> float | None:
    """Of the ARM cores, measured by the firmware: the kernel's files do not know of throttling (linux#2986)."""
    return parse_clock(decoded(machine.run("vcgencmd", "measure_clock", "arm")))


def parse_clock(text: str) -> float | None:
    """`frequency(48)=1800457088`, in Hz."""
    match = re.fullmatch(r"frequency\([0-9]{1,4}\)=([0-9]{1,12})", text.strip())
    return within(int(match[1]) / 1e6, 1, 20_000) if match else None


def firmware(machine: Machine) -> str | None:
    """Build and its first digits, such as "2024/09/23 14:02:56 26826259"."""
    return parse_version(decoded(machine.run("vcgencmd", "version")))


def parse_version(text: str) -> str | None:
    """Three lines: date, copyright, `version HASH (release) (embedded)`."""
    match = re.search(r"^version ([0-9a-f]{7,64})\b", text, re.MULTILINE)
    date = clean(text)
    return f"{date} {match[1][:8]}" if match and date else None


def power_w(machine: Machine) -> dict[str, float]:
    """Watts of each rail that the power chip of a Pi 5 measures; empty on older boards, which have no such chip."""
    return parse_pmic(decoded(machine.run("vcgencmd", "pmic_read_adc")))


def parse_pmic(text: str) -> dict[str, float]:
    """Lines of `VDD_CORE_A current(7)=0.75012000A` and `VDD_CORE_V volt(15)=0.72000000V`, joined by their names.

    EXT5V and BATT have a voltage only: what the 5-V input feeds directly (USB, HATs) is not in these rails.
    """
    readings: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*([0-9A-Z_]{1,40})_([AV]) (?:current|volt)\([0-9]{1,4}\)=(\S{1,30})\2\s*", line):
            value = within(number(match[3]), 0, 100)
            if value is not None:
                readings[match[2]][match[1]] = value
    return {rail: amperes * readings["V"][rail] for rail, amperes in readings["A"].items() if rail in readings["V"]}
