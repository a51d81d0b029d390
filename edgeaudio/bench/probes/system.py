"""What probes read: small files under a root, and the first lines of commands. Bounded, with deadlines, never raising.

Both are recorded the same way, so that every probe also runs on a tree of files and a table of replies.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

FILE_BYTES = 256 * 2**10
OUTPUT_BYTES = 64 * 2**10
NAMES = 4096
TEXT_CHARACTERS = 200
DEADLINE_S = 2.0

# What a login shell of root would find too: nvpmodel lies in /usr/sbin, old Pi systems keep vcgencmd in /opt/vc/bin.
_PATH = ":".join((os.defpath, "/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/vc/bin"))
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True)
class Completed:
    """What a command left: `exit_code` is None where the deadline or the limit of output ended it."""

    exit_code: int | None
    stdout: bytes


class Runner(Protocol):
    """Runs a command, on this machine, on another one, or from a record."""

    def __call__(self, argv: Sequence[str], deadline_s: float) -> Completed | None:
        """None: the program is not there, or may not be run."""
        ...


def run_command(argv: Sequence[str], deadline_s: float) -> Completed | None:
    """The real `Runner`: no shell, no input, plain language, at most `OUTPUT_BYTES`, killed with its children."""
    program = shutil.which(argv[0], path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if program is None:
        return None
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    assert process.stdout is not None
    with process.stdout:
        end = time.monotonic() + deadline_s
        output, closed = _read_until(process.stdout.fileno(), end)
        if closed:
            # The pipe may close well before the program ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        # Within the pipe's life: a program that is cut must not end by itself, of a broken pipe.
        return Completed(_end(process), output)


def _read_until(descriptor: int, end: float) -> tuple[bytes, bool]:
    """What comes before `end`, and whether the other side closed."""
    output = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(output) < OUTPUT_BYTES:
        if not poll.poll(max(0.0, end - time.monotonic()) * 1e3):
            return output, False
        chunk = os.read(descriptor, OUTPUT_BYTES - len(output))
        if not chunk:
            return output, True
        output += chunk
    return output, False


def _end(process: subprocess.Popen[bytes]) -> int | None:
    if (exit_code := process.poll()) is not None:
        return exit_code
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # A program that hangs in the kernel outlives even that: it is left behind, the probe goes on.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    return None


def read_file(path: Path, limit: int = FILE_BYTES) -> bytes | None:
    """The first `limit` bytes of a regular file; None where it cannot be read. Never waits for a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = b""
        while len(data) < limit and (chunk := os.read(descriptor, limit - len(data))):
            data += chunk
        return data
    except OSError:  # A sensor that is switched off answers EAGAIN, a core that is off EIO.
        return None
    finally:
        os.close(descriptor)


class Machine(Protocol):
    """What a probe may ask. Paths are absolute and mean those below the root."""

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None where it cannot be read."""
        ...

    def names(self, folder: str) -> tuple[str, ...]:
        """What lies in a folder, in the order of a reader: cpu2 before cpu10."""
        ...

    def run(self, *argv: str, deadline_s: float = DEADLINE_S, endless: bool = False) -> bytes | None:
        """What a command says that ends well, or, where it is `endless`, until its deadline; None for nothing."""
        ...


@dataclass
class LiveMachine:
    """A root and a runner. A program that was not there once is not looked for again."""

    root: Path
    runner: Runner
    _absent: set[str] = field(default_factory=set)

    def read(self, path: str) -> bytes | None:
        """See `Machine.read`."""
        return read_file(self.root / path.lstrip("/"))

    def names(self, folder: str) -> tuple[str, ...]:
        """See `Machine.names`."""
        try:
            with os.scandir(self.root / folder.lstrip("/")) as entries:
                found = [entry.name for entry, _ in zip(entries, range(NAMES), strict=False)]
        except (OSError, ValueError):
            return ()
        return tuple(sorted(found, key=_reading_order))

    def run(self, *argv: str, deadline_s: float = DEADLINE_S, endless: bool = False) -> bytes | None:
        """See `Machine.run`."""
        if argv[0] in self._absent:
            return None
        done = self.runner(argv, deadline_s)
        if done is None:
            self._absent.add(argv[0])
            return None
        # Half of a list would be taken for the whole.
        complete = done.exit_code == 0 or (endless and done.exit_code is None)
        return done.stdout if complete and done.stdout else None


def _reading_order(name: str) -> tuple[tuple[str, int], ...]:
    # The width of a number is capped: Python refuses to convert one of thousands of digits.
    return tuple((word, int(digits[:18] or 0)) for word, digits in re.findall(r"([^0-9]*)([0-9]*)", name))


@dataclass
class Recording:
    """A machine that notes what was asked and answered: the plan for asking the same again, at less cost."""

    machine: Machine
    files: dict[str, bytes | None] = field(default_factory=dict)
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    commands: dict[tuple[str, ...], bytes | None] = field(default_factory=dict)
    _how: dict[tuple[str, ...], tuple[float, bool]] = field(default_factory=dict)

    def read(self, path: str) -> bytes | None:
        """See `Machine.read`."""
        self.files[path] = answer = self.machine.read(path)
        return answer

    def names(self, folder: str) -> tuple[str, ...]:
        """See `Machine.names`."""
        self.folders[folder] = answer = self.machine.names(folder)
        return answer

    def run(self, *argv: str, deadline_s: float = DEADLINE_S, endless: bool = False) -> bytes | None:
        """See `Machine.run`."""
        self._how[argv] = deadline_s, endless
        self.commands[argv] = answer = self.machine.run(*argv, deadline_s=deadline_s, endless=endless)
        return answer

    def again(self, *, commands: bool) -> Snapshot:
        """Ask for everything that was answered before; nothing is parsed here."""
        files = {path: self.machine.read(path) for path, known in self.files.items() if known is not None}
        answers = {}
        for argv in (argv for argv, known in self.commands.items() if commands and known is not None):
            deadline_s, endless = self._how[argv]
            answers[argv] = self.machine.run(*argv, deadline_s=deadline_s, endless=endless)
        return Snapshot(files, self.folders, answers)

    def snapshot(self) -> Snapshot:
        """What was answered so far."""
        return Snapshot(dict(self.files), self.folders, dict(self.commands))


@dataclass(frozen=True)
class Snapshot:
    """A machine as it once answered."""

    files: Mapping[str, bytes | None]
    folders: Mapping[str, tuple[str, ...]]
    commands: Mapping[tuple[str, ...], bytes | None]

    def read(self, path: str) -> bytes | None:
        """See `Machine.read`."""
        return self.files.get(path)

    def names(self, folder: str) -> tuple[str, ...]:
        """See `Machine.names`."""
        return self.folders.get(folder, ())

    def run(self, *argv: str, deadline_s: float = DEADLINE_S, endless: bool = False) -> bytes | None:
        """See `Machine.run`."""
        return self.commands.get(argv)


def decoded(data: bytes | None) -> str:
    """Text of a file or command, whatever its bytes; empty for None."""
    return (data or b"").decode(errors="replace")


def clean(text: str | None) -> str | None:
    """Printable characters of the first line, at most `TEXT_CHARACTERS`; None for nothing."""
    line = (text or "").strip("\0\r\n\t ").split("\n")[0]
    return "".join(letter for letter in line if letter.isprintable())[:TEXT_CHARACTERS].strip() or None


def line_of(machine: Machine, path: str) -> str | None:
    """First line of a small file, cleaned."""
    return clean(decoded(machine.read(path)))


def number(text: str | None) -> float | None:
    """A plain decimal number; None for anything else, so never NaN or infinity."""
    word = (text or "").strip()
    return float(word) if _NUMBER.fullmatch(word) else None


def number_of(machine: Machine, path: str) -> float | None:
    """The number that a small file holds."""
    return number(line_of(machine, path))


def within(value: float | None, low: float, high: float) -> float | None:
    """`value` where it is plausible, else None."""
    return value if value is not None and math.isfinite(value) and low <= value <= high else None
