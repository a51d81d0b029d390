"""What one inference costs the board: watts of its rails, idle and at work. *Not run on hardware*.

Both are read in the same way and as often, so what the reading itself costs is in both and falls out of the difference.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from edgeaudio.bench.board import BoardKind
from edgeaudio.bench.probes.probe import rails_w
from edgeaudio.bench.probes.system import Machine, Recording, Snapshot
from edgeaudio.bench.scheduling import same_place
from edgeaudio.bench.schema import Energy

READING_INTERVAL_S = 0.25
MIN_READINGS = 10
#: How many standard errors the work must stand out from the idle board.
_CLEARLY = 3.0
#: No rail is read in finer steps, so equal readings are no proof of a smaller error.
_RESOLUTION_W = 0.01

#: Rails that measure all that comes into a module; the others are parts of it.
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
#: An AGX Orin has no such rail; public tools take these three for the whole module. NVIDIA's guide does not say so.
_AGX_ORIN_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")

NOT_ASKED = "not asked for: the time to measure the idle board was 0 s"
_NO_RAIL = {
    "raspberry-pi": "no power rail can be read: only a Raspberry Pi 5 measures them, and vcgencmd must be allowed here",
    "jetson": "no power rail can be read; some releases of Jetson Linux let only root read them",
}


def whole_board_w(kind: BoardKind, rails: Mapping[str, float]) -> tuple[str, float] | None:
    """Name and watts of what measures all of the board; None where only parts are measured."""
    for rail in _INPUT_RAILS:
        if rail in rails:
            return rail, rails[rail]
    if all(rail in rails for rail in _AGX_ORIN_RAILS):
        return " + ".join(_AGX_ORIN_RAILS), sum(rails[rail] for rail in _AGX_ORIN_RAILS)
    if kind == "raspberry-pi" and rails:
        return f"PMIC, sum of {len(rails)} rails", sum(rails.values())
    return None


@contextmanager
def repeated(
    action: Callable[[], None], interval_s: Callable[[], float], prepare: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Call `action` in a thread of its own while the block runs, first after one interval; `prepare` before that."""
    stop = threading.Event()

    def loop() -> None:
        prepare()
        while not stop.wait(interval_s()):
            action()

    thread = threading.Thread(target=loop, name="edgeaudio-probes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class Power:
    """Mean of some readings, and its standard error."""

    rail: str
    mean_w: float
    error_w: float


class PowerMeter:
    """Reads the rails of a board while something else runs."""

    def __init__(self, machine: Machine, kind: BoardKind) -> None:
        self._kind = kind
        self._recording = Recording(machine)
        # Where work is put later, readings of its power need not be.
        self._go_back = same_place()
        rails = rails_w(kind, self._recording)
        self.reason: str | None = None
        if not rails:
            self.reason = _NO_RAIL.get(kind, "this board measures no power")
        elif whole_board_w(kind, rails) is None:
            self.reason = f"none of the rails measures the whole board: {', '.join(rails)}"

    def mean(self, work: Callable[[], None]) -> Power | str:
        """Mean power while `work` runs, or why there is none."""
        if self.reason is not None:
            return self.reason
        taken: list[Snapshot] = []

        def read() -> None:
            # Parsed afterwards: in the thread only files are read and commands run.
            taken.append(self._recording.again(commands=True))

        with repeated(read, lambda: READING_INTERVAL_S, self._go_back):
            work()
        return mean_power([whole_board_w(self._kind, rails_w(self._kind, snapshot)) for snapshot in taken])


def mean_power(readings: list[tuple[str, float] | None]) -> Power | str:
    """The mean of those readings that are of the rail which most of them have, or why there is none."""
    rails = [reading[0] for reading in readings if reading is not None]
    rail = max(rails, key=rails.count, default="")
    watts = [reading[1] for reading in readings if reading is not None and reading[0] == rail]
    if len(watts) < MIN_READINGS:
        return f"{len(watts)} readings of power, {MIN_READINGS} are needed, {READING_INTERVAL_S} s apart"
    return Power(rail, statistics.fmean(watts), statistics.stdev(watts) / math.sqrt(len(watts)))


def energy(meter: PowerMeter, idle: Power | str, work: Callable[[], object], seconds: float) -> Energy:
    """Call `work` again and again for `seconds`; what each call cost above the idle board, or why it is not known."""
    if isinstance(idle, str):
        return Energy(reason=idle)
    calls, spent_s = 0, 0.0

    def repeat() -> None:
        nonlocal calls, spent_s
        start = time.perf_counter()
        while (spent_s := time.perf_counter() - start) < seconds:
            work()
            calls += 1

    busy = meter.mean(repeat)
    if isinstance(busy, str):
        return Energy(idle_w=idle.mean_w, rail=idle.rail, reason=busy)
    return energy_of(idle, busy, calls, spent_s)


def energy_of(idle: Power, busy: Power, calls: int, seconds: float) -> Energy:
    """Energy of each of `calls` that together took `seconds`; none where the work is lost in the readings' spread."""
    above_w = busy.mean_w - idle.mean_w
    measured = {"idle_w": idle.mean_w, "busy_w": busy.mean_w}
    if idle.rail != busy.rail or calls == 0:
        return Energy(**measured, rail=busy.rail, reason=f"measured on {busy.rail}, the idle board on {idle.rail}")
    error_w = max(math.hypot(idle.error_w, busy.error_w), _RESOLUTION_W)
    if above_w <= _CLEARLY * error_w:
        # Plus zero: no minus before 0.000.
        above = f"{round(above_w, 3) + 0.0:+.3f} W"
        reason = f"{above} against the idle board does not stand out, the error is {error_w:.3f} W"
        return Energy(**measured, rail=busy.rail, reason=reason)
    return Energy(**measured, rail=busy.rail, per_inference_mj=above_w * seconds / calls * 1e3)
