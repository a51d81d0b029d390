"""The way to a device: a command is started there, bytes go in, lines come out, and nothing is waited for for ever.

`Transport` and `Channel` are what differs between local, ssh and fake; deadlines, silence, limits and interruption are
enforced here, once, on the clock that the transport brings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeaudio.errors import DeviceError
from edgeaudio.spec.limits import REPLY_BYTES, REPLY_LINE_BYTES
from edgeaudio.spec.text import printable

# So long an interruption may go unnoticed.
_POLL_S = 0.2
# What is left of a deadline may be less than a clock's resolution.
_LEAST_WAIT_S = 0.001
#: A process that has closed its output ends within this time, or is killed.
EXIT_S = 5.0
_TEXT_CHARS = 600
_STOPPED = "stopped by the user"
#: What a command that holds its input is told when it is to end early; the end of its input says that nobody listens.
STOP = b"stop\n"


class Clock(Protocol):
    """Monotonic seconds, real or simulated."""

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        ...


class RealClock:
    """The clock of this machine."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


class Channel(Protocol):
    """A command that was started on a device."""

    def read(self, timeout_s: float) -> bytes | None:
        """What it writes next: `b""` at the end, None where nothing came in that time."""
        ...

    def exit_code(self, timeout_s: float) -> int | None:
        """Its exit code; None where it did not end in that time."""
        ...

    def ask_to_stop(self) -> None:
        """Write `STOP` to its input, where that was held open."""
        ...

    def stop(self) -> None:
        """End it at once and let go of everything."""
        ...

    @property
    def stderr(self) -> str:
        """The last of what it, or the program that leads to it, wrote to standard error."""
        ...


class Transport(Protocol):
    """Leads to one device."""

    @property
    def name(self) -> str:
        """The device's name, for messages."""
        ...

    @property
    def python(self) -> tuple[str, ...]:
        """What starts the device's Python, such as `("python3",)`."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock that its deadlines go by."""
        ...

    def start(self, command: Sequence[str], *, data: bytes, hold_input: bool = False) -> Channel:
        """Start `command`, with `data` as its standard input.

        Args:
            hold_input: its input stays open after `data`, and closes when the link breaks or the channel is stopped.
        Raises:
            DeviceError: the device cannot be reached. UnsupportedError: a program of this machine is missing.
        """
        ...

    def failure(self, code: int, stderr: str) -> str | None:
        """What an exit code without an answer says of the link, such as ssh's 255; None where it says nothing."""
        ...

    def by_hand(self, command: str) -> str:
        """What a user types on this machine to run a shell command on the device."""
        ...


class InterruptedRunError(DeviceError):
    """The user stopped the run."""

    exit_code = 130


@dataclass(frozen=True)
class Limits:
    """When a command is given up.

    silence_s: from the last line that was taken. grace_s: what a command that is asked to stop may still say.
    """

    deadline_s: float
    silence_s: float | None = None
    line_bytes: int = REPLY_LINE_BYTES
    total_bytes: int = REPLY_BYTES
    grace_s: float = 0.0


def converse(
    channel: Channel,
    clock: Clock,
    limits: Limits,
    on_line: Callable[[bytes], object],
    interrupted: threading.Event | None = None,
) -> int:
    """Hand every line of a channel to `on_line` and return the exit code; the channel is stopped whatever happens.

    A line that the end cut short is not handed on.

    Raises:
        DeviceError: past the deadline, silent for too long, or more was said than the limits allow.
        InterruptedRunError: `interrupted` was set, and the command did not end in its time of grace.
        KeyboardInterrupt: Ctrl-C in this thread, with no event to set or a second time.
    """
    try:
        return _Conversation(channel, clock, limits, interrupted).listen(on_line)
    finally:
        channel.stop()


class _Conversation:
    """One command, until it ends or is given up."""

    def __init__(self, channel: Channel, clock: Clock, limits: Limits, interrupted: threading.Event | None) -> None:
        self._channel = channel
        self._clock = clock
        self._limits = limits
        self._interrupted = interrupted
        self._asked = False
        self._heard_s = clock.now()
        self._end_s = self._heard_s + limits.deadline_s

    def listen(self, on_line: Callable[[bytes], object]) -> int:
        lines = _LineSplitter(self._limits)
        chunk: bytes | None = None
        while chunk != b"":
            chunk = self._read(self._wait_s())
            for line in lines.feed(chunk or b""):
                on_line(line)
                self._heard_s = self._clock.now()
        code = self._channel.exit_code(max(0.0, min(EXIT_S, self._end_s - self._clock.now())))
        if code is None:
            raise DeviceError("its program closed its output but did not end")
        return code

    def _wait_s(self) -> float:
        """How long to wait for the next bytes; raises when there is no reason to wait any more."""
        now_s, silence_s = self._clock.now(), self._limits.silence_s
        if self._interrupted is not None and self._interrupted.is_set() and not self._asked:
            self._asked = True
            self._end_s = min(self._end_s, now_s + self._limits.grace_s)
            self._channel.ask_to_stop()
        left_s = self._end_s - now_s
        if left_s <= 0 and self._asked:
            raise InterruptedRunError(_STOPPED)
        if left_s <= 0:
            raise DeviceError(f"no end after {self._limits.deadline_s:.0f} s")
        if silence_s is not None:
            if now_s - self._heard_s >= silence_s:
                raise DeviceError(f"nothing was heard for {silence_s:.0f} s")
            left_s = min(left_s, self._heard_s + silence_s - now_s)
        return max(_LEAST_WAIT_S, min(left_s, _POLL_S))

    def _read(self, wait_s: float) -> bytes | None:
        try:
            return self._channel.read(wait_s)
        except KeyboardInterrupt:
            if self._interrupted is None or self._interrupted.is_set():
                raise
            self._interrupted.set()
            return None


class _LineSplitter:
    """Cuts chunks into lines; `rest` is the begin of one that has not ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total_bytes = 0
        self.rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in `chunk`, without their newlines."""
        self._total_bytes += len(chunk)
        if self._total_bytes > self._limits.total_bytes:
            raise DeviceError(f"more than {self._limits.total_bytes} bytes came back")
        *ended, begun = chunk.split(b"\n")
        if ended:
            ended[0] = bytes(self.rest) + ended[0]
            self.rest.clear()
        self.rest += begun
        if max(map(len, [*ended, self.rest])) > self._limits.line_bytes:
            raise DeviceError(f"a line of more than {self._limits.line_bytes} bytes came back")
        return ended


def last_words(stderr: str) -> str:
    """The last line of a program's complaint, fit for a terminal."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return printable(lines[-1], _TEXT_CHARS) if lines else ""
