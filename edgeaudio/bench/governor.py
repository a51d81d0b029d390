"""`--set-performance`: the governor `performance` while a benchmark runs, then exactly what was there.

What was there is written down and synced before anything is changed. Errors, Ctrl-C, SIGTERM and a lost connection
(SIGHUP) restore it at once; after SIGKILL the next run with the option does. A reboot restores it too. *Not run on
hardware*.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edgeaudio.bench.probes.linux import CPU
from edgeaudio.bench.probes.system import LiveMachine, decoded, line_of, run_command
from edgeaudio.errors import ConfigError, EdgeAudioError, UnsupportedError
from edgeaudio.spec import Spec
from edgeaudio.spec.fs import atomic_write, cache_folder

logger = logging.getLogger(__name__)

WANTED = "performance"
_JOURNAL = "governors.json"
_GOVERNOR = "scaling_governor"
#: What a change of governor can take along: the speed of `userspace`, Intel's preference of energy.
_BESIDE = ("scaling_setspeed", "energy_performance_preference")
_FILE = re.compile(rf"{CPU}/(cpufreq/policy[0-9]+|cpu[0-9]+/cpufreq)/({'|'.join((_GOVERNOR, *_BESIDE))})")
_VALUE = re.compile(r"[A-Za-z0-9_-]{1,64}\n?")
# These end a process without a word to Python; an interrupt (Ctrl-C) unwinds by itself.
_DEADLY = (signal.SIGTERM, signal.SIGHUP)
# What is to be called when this process ends without unwinding.
_held: list[Callable[[], None]] = []


class _Journal(Spec):
    """What was there, by file; worth nothing after a reboot."""

    boot_id: str
    files: dict[str, str]


@contextlib.contextmanager
def performance_governor(*, enabled: bool, root: Path = Path("/"), folder: Path | None = None) -> Iterator[None]:
    """Hold all cores' governors at `performance` while the block runs. Without `enabled` nothing is touched.

    Args:
        folder: of the lock and the journal; None is `/run/edgeaudio` for root, else below the user's cache.
    Raises:
        ConfigError: another run holds the governors, or the journal of a killed one is damaged.
        UnsupportedError: there is no governor here, or it may not be set.
    """
    if not enabled:
        # A machine without a home or with folders that may not be read is no reason to fail here.
        with contextlib.suppress(OSError, RuntimeError):
            if ((folder or _default_folder()) / _JOURNAL).exists():
                logger.warning("a killed run has changed the governor; the next with --set-performance restores it")
        yield
        return
    folder = folder or _default_folder()
    with _locked(folder), contextlib.ExitStack() as stack:
        governors = _Governors(root, folder / _JOURNAL)
        governors.recover()
        governors.note()
        stack.callback(governors.restore)
        stack.enter_context(_restored_by_signals(governors.restore))
        governors.set()
        yield


def restore_held() -> None:
    """Restore at once, from any thread, what this process holds: for those who end it without unwinding.

    Raises:
        EdgeAudioError: something did not take its value; the journal is left for the next run.
    """
    for restore in tuple(_held):
        restore()


def _default_folder() -> Path:
    if os.access("/run", os.W_OK):
        return Path("/run/edgeaudio")
    return cache_folder("governor")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "governors.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnsupportedError(f"--set-performance: what is there cannot be noted in {folder} ({error})") from error
    try:
        try:
            # The kernel drops the lock with the process.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError("--set-performance: another run holds the governors now. Wait until it ends.") from error
        yield
    finally:
        os.close(descriptor)


@dataclass
class _Governors:
    """The files of one machine, before and after."""

    root: Path
    journal: Path

    def __post_init__(self) -> None:
        self._machine = LiveMachine(self.root, run_command)
        self._before: dict[str, str] = {}

    def note(self) -> None:
        """Write down what is there."""
        names = self._machine.names(f"{CPU}/cpufreq") or self._machine.names(CPU)
        folders = [f"{CPU}/cpufreq/{name}" for name in names if re.fullmatch(r"policy[0-9]+", name)]
        folders = folders or [f"{CPU}/{name}/cpufreq" for name in names if re.fullmatch(r"cpu[0-9]+", name)]
        files = {path: self._now(path) for folder in folders for path in (f"{folder}/{_GOVERNOR}", *_beside(folder))}
        self._before = {path: value for path, value in files.items() if value is not None and _VALUE.fullmatch(value)}
        governors = [path for path in self._before if path.endswith(_GOVERNOR)]
        if not governors:
            raise UnsupportedError(f"--set-performance: the kernel offers no governor ({CPU}/cpufreq/policy*)")
        for path in governors:
            offered = line_of(self._machine, path.replace(_GOVERNOR, "scaling_available_governors"))
            if offered is not None and WANTED not in offered.split():
                raise UnsupportedError(f"--set-performance: {path} offers only {offered}")
        journal = _Journal(boot_id=self._boot_id(), files=self._before)
        atomic_write(self.journal, journal.model_dump_json().encode(), mode=0o600)

    def set(self) -> None:
        """Change every governor, and look whether the kernel did."""
        for path in self._before:
            if path.endswith(_GOVERNOR):
                self._write(path, WANTED + "\n")

    def restore(self) -> None:
        """Write back what was there, and forget the journal unless something did not take it; may be called again."""
        failed = []
        with _signals_wait():
            # A governor before what depends on it.
            for path in sorted(self._before, key=lambda path: not path.endswith(_GOVERNOR)):
                try:
                    if self._now(path) != self._before[path]:
                        self._write(path, self._before[path])
                except EdgeAudioError as error:
                    failed.append(str(error))
            if not failed:
                self.journal.unlink(missing_ok=True)
        if failed:
            raise EdgeAudioError(f"{'; '.join(failed)}. What was there is in {self.journal}")

    def recover(self) -> None:
        """Write back what a run that was killed had found."""
        try:
            left = _Journal.parse(json.loads(self.journal.read_bytes()), source=str(self.journal))
        except FileNotFoundError:
            return
        except (OSError, ValueError, ConfigError) as error:
            raise ConfigError(
                f"--set-performance: a run that was killed left a damaged {self.journal} ({error}). "
                "Set the governor to what you want it to be and remove the file."
            ) from error
        if left.boot_id == self._boot_id():
            # Who may write the journal may not write any file through it.
            known = {path: value for path, value in left.files.items() if _FILE.fullmatch(path)}
            self._before = {path: value for path, value in known.items() if _VALUE.fullmatch(value)}
            self.restore()
            logger.warning("restored the governor that a killed run had changed")
        self.journal.unlink(missing_ok=True)

    def _boot_id(self) -> str:
        return line_of(self._machine, "/proc/sys/kernel/random/boot_id") or "unknown"

    def _now(self, path: str) -> str | None:
        data = self._machine.read(path)
        return None if data is None else decoded(data)

    def _write(self, path: str, value: str) -> None:
        try:
            descriptor = os.open(self.root / path.lstrip("/"), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
        except PermissionError as error:
            raise UnsupportedError(f"--set-performance: {path} may be written by root only. Run with sudo.") from error
        except OSError as error:
            raise EdgeAudioError(f"--set-performance: {path} does not take {value.strip()!r}: {error}") from error
        if (self._now(path) or "").strip() != value.strip():
            raise EdgeAudioError(f"--set-performance: {path} did not become {value.strip()!r}")


def _beside(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in _BESIDE)


@contextlib.contextmanager
def _restored_by_signals(restore: Callable[[], None]) -> Iterator[None]:
    """Deadly signals restore first, then do what they did; so does the end of the interpreter.

    Handlers belong to the main thread; in others only the end of the interpreter and the journal are left.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        try:
            restore()
        finally:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    ours = [number for number in _DEADLY if _in_main_thread() and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, on_signal)
    atexit.register(restore)
    _held.append(restore)
    try:
        yield
    finally:
        _held.remove(restore)
        atexit.unregister(restore)
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that come while the block runs take effect after it."""
    if not _in_main_thread():
        yield
        return
    came: list[int] = []
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *_DEADLY)}
    # None is a handler that Python did not set and could not give back.
    held = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}
    for number in held:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for late in came:
            os.kill(os.getpid(), late)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
