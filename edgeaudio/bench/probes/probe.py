"""A board and its state, from whatever tells them: the files of Linux, a Raspberry Pi's firmware, a Jetson's tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeaudio.bench.board import Board, BoardKind, BoardSample, Phase
from edgeaudio.bench.probes import jetson, linux, raspberry_pi
from edgeaudio.bench.probes.system import LiveMachine, Machine, Runner, line_of, run_command


def probe_board(root: Path = Path("/"), run: Runner = run_command) -> Board:
    """What does not change while a benchmark runs; a root that tells nothing is an unknown board. Never raises."""
    return describe(LiveMachine(root, run))


def sample_board(
    root: Path = Path("/"), run: Runner = run_command, *, t_s: float = 0.0, phase: Phase = "before"
) -> BoardSample:
    """The state at this moment; what is not told is None or empty. Never raises."""
    machine = LiveMachine(root, run)
    return sample(machine, kind_of(machine), t_s=t_s, phase=phase)


def describe(machine: Machine) -> Board:
    """`probe_board` of any machine."""
    kind, architecture = kind_of(machine), linux.architecture(machine)
    return Board(
        kind=kind,
        model=line_of(machine, "/proc/device-tree/model") or linux.pc_model(machine),
        soc=_soc(linux.compatible(machine)),
        cpu_model=linux.cpu_model(machine) or "unknown",
        cpu_flags=linux.cpu_flags(machine),
        architecture=architecture or "unknown",
        userland_bits=linux.userland_bits(machine),
        cores_logical=linux.logical_cores(machine),
        cores_physical=linux.physical_cores(machine),
        memory_bytes=linux.memory_bytes(machine),
        virtualised=linux.virtualised(machine, architecture),
        os=linux.os_name(machine) or "unknown",
        kernel=linux.kernel(machine) or "unknown",
        libc=linux.libc(machine),
        firmware=_firmware(kind, machine),
        jetpack=jetson.jetpack(machine) if kind == "jetson" else None,
        power_mode=jetson.power_mode(machine) if kind == "jetson" else None,
        clocks_locked=jetson.clocks_locked(machine) if kind == "jetson" else None,
    )


def kind_of(machine: Machine) -> BoardKind:
    """By the device tree, then by files that only a Jetson or a PC has."""
    if raspberry_pi.is_raspberry_pi(machine):
        return "raspberry-pi"
    if jetson.is_jetson(machine):
        return "jetson"
    return "pc" if linux.pc_model(machine) or linux.is_x86(linux.architecture(machine)) else "unknown"


def _soc(names: tuple[str, ...]) -> str | None:
    """The device tree's last name is the chip: brcm,bcm2711 or nvidia,tegra234."""
    maker, _, chip = names[-1].partition(",") if names else ("", "", "")
    return {"brcm": chip.upper(), "nvidia": chip.capitalize()}.get(maker, chip) or None


def _firmware(kind: BoardKind, machine: Machine) -> str | None:
    if kind == "raspberry-pi":
        return raspberry_pi.firmware(machine)
    return jetson.l4t(machine) if kind == "jetson" else None


def sample(
    machine: Machine,
    kind: BoardKind,
    *,
    t_s: float,
    phase: Phase,
    events_before: Mapping[str, int] | None = None,
    other_busy_cores: float | None = None,
    firmware_tells_clock: bool = False,
) -> BoardSample:
    """`sample_board` of any machine; events that were counted since `events_before` hold the processor down now.

    firmware_tells_clock: elsewhere in the run, so where it was not asked there is no clock: two sources do not compare.
    """
    now, since_boot = _throttled(kind, machine, events_before or {})
    return BoardSample(
        t_s=t_s,
        phase=phase,
        governors=linux.governors(machine),
        frequencies_mhz=_frequencies_mhz(kind, machine, firmware_tells_clock),
        frequency_max_mhz=linux.frequency_max_mhz(machine),
        temperatures_c=linux.temperatures_c(machine),
        throttled_now=now,
        throttled_since_boot=since_boot,
        load_average_1min=linux.load_average_1min(machine),
        other_busy_cores=other_busy_cores,
        power_w=rails_w(kind, machine),
    )


def _frequencies_mhz(kind: BoardKind, machine: Machine, firmware_tells_clock: bool) -> tuple[float, ...]:
    cores_mhz = linux.frequencies_mhz(machine)
    measured_mhz = firmware_clock_mhz(kind, machine)
    if measured_mhz is None:
        return () if firmware_tells_clock else cores_mhz
    # One clock drives all cores of a Raspberry Pi.
    return (measured_mhz,) * max(1, len(cores_mhz))


def firmware_clock_mhz(kind: BoardKind, machine: Machine) -> float | None:
    """As measured by what drives it; None where only the kernel can be asked, or nobody asked the firmware."""
    return raspberry_pi.clock_mhz(machine) if kind == "raspberry-pi" else None


def rails_w(kind: BoardKind, machine: Machine) -> dict[str, float]:
    """Watts of each rail that this kind of board measures."""
    if kind == "raspberry-pi":
        return raspberry_pi.power_w(machine)
    return jetson.power_w(machine) if kind == "jetson" else {}


def throttle_events(machine: Machine) -> dict[str, int]:
    """Events that the board counts from its boot on; empty where it counts none."""
    return {**linux.throttle_events(machine), **jetson.throttle_events(machine)}


def _throttled(
    kind: BoardKind, machine: Machine, events_before: Mapping[str, int]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Now and since boot. A Raspberry Pi's firmware knows all; elsewhere the kernel's cooling and its counts do."""
    events, cooling = throttle_events(machine), linux.cooling_slows_down(machine)
    now = {*linux.risen(events, events_before), *(["throttled"] if cooling else [])}
    since_boot = {name for name, count in events.items() if count}
    if kind == "raspberry-pi":
        told, low = raspberry_pi.throttled(machine), raspberry_pi.under_voltage(machine)
        if told is None:
            now |= {"under-voltage"} if low else set()
            return (tuple(sorted(now)) if now else None), None
        return tuple(dict.fromkeys([*told[0], *sorted(now)])), tuple(dict.fromkeys([*told[1], *sorted(since_boot)]))
    if not events and cooling is None:
        return None, None
    return tuple(sorted(now)), tuple(sorted(since_boot)) if events else None
