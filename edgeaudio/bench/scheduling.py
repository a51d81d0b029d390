"""Which cores a benchmark runs on, and with which priority."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from edgeaudio.bench.schema import BenchOptions
from edgeaudio.errors import ConfigError, UnsupportedError


@contextlib.contextmanager
def scheduled(options: BenchOptions) -> Iterator[None]:
    """Put this thread, and those it starts, where the options say; give back what was found as far as that is allowed.

    Raises:
        ConfigError: no such core. UnsupportedError: this system knows no affinity, or forbids the priority.
    """
    with contextlib.ExitStack() as found:
        if options.affinity:
            found.callback(os.sched_setaffinity, 0, _set_cores(options.affinity))
        if options.nice is not None:
            found.callback(_give_back_nice, _set_nice(options.nice))
        yield


def same_place() -> Callable[[], None]:
    """What puts the thread that calls it onto the cores of this one, with its priority, as far as that is allowed."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    nice = os.getpriority(os.PRIO_PROCESS, 0)

    def take() -> None:
        # Cores may have gone meanwhile.
        with contextlib.suppress(OSError):
            if cores is not None:
                os.sched_setaffinity(0, cores)
        _give_back_nice(nice)

    return take


def _set_cores(wanted: tuple[int, ...]) -> set[int]:
    if not hasattr(os, "sched_setaffinity"):
        raise UnsupportedError("this system does not let a program choose its cores; leave affinity out")
    before = os.sched_getaffinity(0)
    try:
        # 0 is this thread: others of the process stay where they are.
        os.sched_setaffinity(0, wanted)
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(f"affinity {wanted}: not all are cores of this machine; it has {sorted(before)}") from error
    if os.sched_getaffinity(0) != set(wanted):
        os.sched_setaffinity(0, before)
        raise ConfigError(f"affinity {wanted}: not all are cores of this machine; it has {sorted(before)}")
    return before


def _set_nice(wanted: int) -> int:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except PermissionError as error:
        raise UnsupportedError(f"nice {wanted} is below {before} and needs an administrator's rights") from error
    return before


def _give_back_nice(before: int) -> None:
    # Whoever is no administrator may only become nicer.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before)
