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

# So long an interruption may go unnoticed.
_POLL_S = 0.2
# What is left of a deadline may be less than a clock's resolution.
_LEAST_WAIT_S = 0.001
#: A process that has closed its output ends within this time, or is killed.
EXIT_S = 5.0
_TEXT_CHARS = 600


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
    """When a command is given up: `silence_s` counts from the last line that was taken."""

    deadline_s: float
    silence_s: float | None = None
    line_bytes: int = REPLY_LINE_BYTES
    total_bytes: int = REPLY_BYTES


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
        InterruptedRunError: `interrupted` was set.
    """
    try:
        return _converse(channel, clock, limits, on_line, interrupted)
    finally:
        channel.stop()


def _converse(
    channel: Channel,
    clock: Clock,
    limits: Limits,
    on_line: Callable[[bytes], object],
    interrupted: threading.Event | None,
) -> int:
    start_s = heard_s = clock.now()
    lines = _LineSplitter(limits)
    while True:
        now_s = clock.now()
        if interrupted is not None and interrupted.is_set():
            raise InterruptedRunError("stopped by the user")
        left_s = start_s + limits.deadline_s - now_s
        if left_s <= 0:
            raise DeviceError(f"no end after {limits.deadline_s:.0f} s")
        if limits.silence_s is not None:
            if now_s - heard_s >= limits.silence_s:
                raise DeviceError(f"nothing was heard for {limits.silence_s:.0f} s")
            left_s = min(left_s, heard_s + limits.silence_s - now_s)
        chunk = channel.read(max(_LEAST_WAIT_S, min(left_s, _POLL_S)))
        for line in lines.feed(chunk or b""):
            on_line(line)
            heard_s = clock.now()
        if chunk == b"":
            break
    code = channel.exit_code(max(0.0, min(EXIT_S, start_s + limits.deadline_s - clock.now())))
    if code is None:
        raise DeviceError("its program closed its output but did not end")
    return code


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


def printable(text: str) -> str:
    """Text from a device, fit for a terminal: it may send anything."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[-_TEXT_CHARS:]


def last_words(stderr: str) -> str:
    """The last line of a program's complaint."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else ""
