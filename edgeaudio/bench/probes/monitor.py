"""Samples the board while a benchmark runs, at little cost to it.

A sample only reads files, each of which Python's lock is given up for; all is parsed after the run. Commands (on a
Raspberry Pi) stop the interpreter for as long as a process takes to start, so they are run less often.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgeaudio.bench.board import Board, BoardRecord, BoardSample, Phase
from edgeaudio.bench.probes import linux, power
from edgeaudio.bench.probes.probe import describe, firmware_clock_mhz, sample, throttle_events
from edgeaudio.bench.probes.system import LiveMachine, Recording, Runner, Snapshot, read_file, run_command
from edgeaudio.bench.schema import Energy

#: Above so many samples every second one is dropped, and the interval doubles.
MAX_SAMPLES = 1_200
# The kernel counts work in ticks of 10 ms.
_MIN_SPAN_S = 0.2
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Taken:
    t_s: float
    phase: Phase
    machine: Snapshot
    own_cpu_s: float


class BoardWatch:
    """`with BoardWatch() as watch:` around a benchmark; `watch.record()` afterwards, or at any time.

    Samples are `before` until `timing()` is called, then `during`; the last one, on leaving, is `after`.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        run: Runner = run_command,
        interval_s: float = 1.0,
        command_interval_s: float = 5.0,
    ) -> None:
        self._machine = LiveMachine(root, run)
        self._given_interval_s, self._command_interval_s = interval_s, command_interval_s
        self._lock = threading.Lock()
        self.board = Board()
        #: When it began, by `time.perf_counter`: what samples count from.
        self.start_s = 0.0

    def __enter__(self) -> Self:
        self.board = describe(self._machine)
        self._interval_s = self._given_interval_s
        self._phase: Phase = "before"
        self.start_s = self._commands_at = time.perf_counter()
        self._end: float | None = None
        self._cost_s = 0.0
        self._idle: power.Power | str = power.NOT_ASKED
        self._recording = Recording(self._machine)
        # Finds out what there is to be read; from now on only that is asked for.
        linux.busy_s(self._recording)
        sample(self._recording, self.board.kind, t_s=0.0, phase="before")
        self._meter = power.PowerMeter(self._machine, self.board.kind)
        self._taken = [_Taken(0.0, "before", self._recording.snapshot(), own_cpu_s())]
        self._running = ExitStack()
        self._running.enter_context(power.repeated(self._take, lambda: self._interval_s))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self._phase = "after"
        self._take(commands=True)
        self._end = time.perf_counter()

    def timing(self) -> None:
        """Now the timed part begins: takes a sample, and calls the ones to come `during`."""
        self._phase = "during"
        self._take(commands=True)

    def rest(self, seconds: float) -> None:
        """Do nothing for so long and measure the power of that; at once where none can be measured."""
        if seconds > 0:
            self._idle = self._meter.mean(lambda: time.sleep(seconds))

    def energy(self, work: Callable[[], object], seconds: float) -> Energy:
        """Energy of one call of `work`, repeated for `seconds`; the reason where it cannot be told."""
        return power.energy(self._meter, self._idle, work, seconds)

    def record(self) -> BoardRecord:
        """The board and all samples so far."""
        with self._lock:
            taken = list(self._taken)
        firmware = any(firmware_clock_mhz(self.board.kind, item.machine) is not None for item in taken)
        seconds = (time.perf_counter() if self._end is None else self._end) - self.start_s
        return BoardRecord(
            board=self.board,
            samples=tuple(
                self._understand(item, taken[index - 1] if index else None, firmware)
                for index, item in enumerate(taken)
            ),
            watch_busy_cores=self._cost_s / seconds if seconds > 0 else None,
        )

    def _take(self, *, commands: bool = False) -> None:
        cpu_s, children_s = time.thread_time(), _cpu_s(resource.RUSAGE_CHILDREN)
        with self._lock:
            now = time.perf_counter()
            if commands or now - self._commands_at >= self._command_interval_s:
                commands, self._commands_at = True, now
            taken = _Taken(now - self.start_s, self._phase, self._recording.again(commands=commands), own_cpu_s())
            self._taken.append(taken)
            if len(self._taken) > MAX_SAMPLES:
                self._taken = self._taken[::2]
                self._interval_s *= 2
            self._cost_s += time.thread_time() - cpu_s + _cpu_s(resource.RUSAGE_CHILDREN) - children_s

    def _understand(self, item: _Taken, before: _Taken | None, firmware_tells_clock: bool) -> BoardSample:
        return sample(
            item.machine,
            self.board.kind,
            t_s=item.t_s,
            phase=item.phase,
            events_before=throttle_events(before.machine) if before else None,
            other_busy_cores=_other_busy_cores(item, before) if before else None,
            firmware_tells_clock=firmware_tells_clock,
        )


def _other_busy_cores(now: _Taken, before: _Taken) -> float | None:
    span_s, busy = now.t_s - before.t_s, (linux.busy_s(now.machine), linux.busy_s(before.machine))
    if span_s < _MIN_SPAN_S or busy[0] is None or busy[1] is None:
        return None
    return max(0.0, busy[0] - busy[1] - (now.own_cpu_s - before.own_cpu_s)) / span_s


def own_cpu_s() -> float:
    """Processor time of this process, all its threads, and its commands."""
    return _running_children_s() + _cpu_s(resource.RUSAGE_SELF) + _cpu_s(resource.RUSAGE_CHILDREN)


def _running_children_s() -> float:
    """Of commands that have not ended: until then the usage of this process is without theirs. 0 where no /proc is."""
    seconds = 0.0
    for task in Path("/proc/self/task").glob("*/children"):
        for child in (read_file(task) or b"").split():
            # Behind the name, which may hold anything: its own time and that of its ended children, user and system.
            fields = (read_file(Path(f"/proc/{int(child)}/stat")) or b"").rpartition(b")")[2].split()
            seconds += sum(int(ticks) for ticks in fields[11:15]) / _TICKS_HZ
    return seconds


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
