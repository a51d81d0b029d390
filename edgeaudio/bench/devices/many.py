"""Several devices at once: each fails for itself, and those that share a processor take turns."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from edgeaudio.bench.base import BenchJob, Device
from edgeaudio.bench.devices.collect import keep_partial
from edgeaudio.bench.devices.config import DeviceSpec, spec_of
from edgeaudio.bench.devices.session import BrokenRunError
from edgeaudio.bench.devices.transport import InterruptedRunError
from edgeaudio.bench.schema import BenchResult
from edgeaudio.catalog import resolve
from edgeaudio.errors import ConfigError, EdgeAudioError

logger = logging.getLogger(__name__)

_WAIT_S = 1.0

#: Called with (device, stage, artefact or None, done, total).
OnDeviceProgress = Callable[[str, str, str | None, int, int], None]
#: Called with (device, result).
OnResult = Callable[[str, BenchResult], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one device: a result or an error; `kept` are the files of a run that broke off.

    Both where the result could not be kept.
    """

    device: str
    result: BenchResult | None = None
    error: EdgeAudioError | None = None
    kept: tuple[Path, ...] = ()


def open_devices(words: Sequence[str], devices: Mapping[str, DeviceSpec]) -> list[Device]:
    """The devices that `words` name (`spec_of`); nothing is connected yet.

    Raises:
        ConfigError: an unknown name, or one that comes twice. UnsupportedError: a kind that cannot be used here.
    """
    if len(set(words)) != len(words):
        raise ConfigError(f"--device: {', '.join(words)}: each device once")
    specs = {word: spec_of(word, devices) for word in words}
    return [resolve("devices", spec.kind)(word, spec) for word, spec in specs.items()]


def bench_devices(
    devices: Sequence[Device],
    job: BenchJob,
    *,
    keep_in: Path,
    on_progress: OnDeviceProgress | None = None,
    on_result: OnResult | None = None,
) -> list[Outcome]:
    """Run `job` on every device; the outcomes are in the order of `devices`.

    Other machines work at the same time, this one alone and last: watching others is work too. After Ctrl-C every run
    that has begun cleans up, and the rest does not begin.

    Args:
        keep_in: folder for what is left of runs that broke off.
        on_result: keeps a result as soon as its device is done, one at a time; what it raises is that device's error.
    Raises:
        KeyboardInterrupt: Ctrl-C, again while cleaning up.
    """
    run = _Run(job, keep_in, on_progress, on_result, threading.Event())
    away = sorted((device for device in devices if device.place is not None), key=lambda device: str(device.place))
    groups = [list(group) for _, group in groupby(away, key=lambda device: device.place)]
    try:
        run.bench_groups(groups)
    except KeyboardInterrupt:
        run.interrupted.set()
        run.bench_groups(groups)
    run.bench_each([device for device in devices if device.place is None])
    return [run.outcomes[device.name] for device in devices]


@dataclass
class _Run:
    """The same job on every device."""

    job: BenchJob
    keep_in: Path
    on_progress: OnDeviceProgress | None
    on_result: OnResult | None
    interrupted: threading.Event
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _begun: set[str] = field(default_factory=set)
    _arrived: queue.SimpleQueue[None] = field(default_factory=queue.SimpleQueue)

    def bench_groups(self, groups: Sequence[Sequence[Device]]) -> None:
        """All groups at once; called again after Ctrl-C it begins those that had not begun and waits for all."""
        for group in groups:
            threading.Thread(target=self._bench_group, args=(group,), daemon=True).start()
        # Not `Thread.join`, which an interruption makes believe that the thread has ended.
        while len(self.outcomes) < sum(map(len, groups)):
            # Ctrl-C may swallow one of these.
            with contextlib.suppress(queue.Empty):
                self._arrived.get(timeout=_WAIT_S)

    def _bench_group(self, group: Sequence[Device]) -> None:
        with self._turn:
            if group[0].name in self._begun:
                return
            self._begun.add(group[0].name)
        self.bench_each(group)

    def bench_each(self, devices: Sequence[Device]) -> None:
        """One after another."""
        for device in devices:
            outcome = self._kept(self._bench(device))
            self._tell(device.name, "done" if outcome.error is None else "failed", None, 1, 1)
            self.outcomes[device.name] = outcome
            self._arrived.put(None)

    def _tell(self, device: str, stage: str, artefact: str | None, done: int, total: int) -> None:
        # Where nobody reads any more, the run goes on.
        if self.on_progress is not None:
            with contextlib.suppress(OSError, ValueError):
                self.on_progress(device, stage, artefact, done, total)

    def _kept(self, outcome: Outcome) -> Outcome:
        if outcome.result is None or self.on_result is None:
            return outcome
        try:
            with self._turn:
                self.on_result(outcome.device, outcome.result)
        except Exception as error:  # the other devices still have to clean up
            logger.debug("%s", outcome.device, exc_info=True)
            failure = EdgeAudioError(f"{outcome.device}: the result was not kept: {error}")
            failure.exit_code = getattr(error, "exit_code", failure.exit_code)
            return replace(outcome, error=failure)
        return outcome

    def _bench(self, device: Device) -> Outcome:
        name = device.name
        if self.interrupted.is_set():
            return Outcome(name, error=InterruptedRunError(f"{name}: not begun: stopped by the user"))
        try:
            tell = partial(self._tell, name)
            return Outcome(name, device.bench(self.job, on_progress=tell, interrupted=self.interrupted))
        except BrokenRunError as error:
            return Outcome(name, error=error, kept=self._keep_partial(error))
        except EdgeAudioError as error:
            return Outcome(name, error=error)
        except KeyboardInterrupt:
            self.interrupted.set()
            return Outcome(name, error=InterruptedRunError(f"{name}: stopped by the user"))
        except Exception as error:  # one failing board fails only itself
            logger.debug("%s", name, exc_info=True)
            return Outcome(name, error=EdgeAudioError(f"{name}: {type(error).__name__}: {error}"))

    def _keep_partial(self, error: BrokenRunError) -> tuple[Path, ...]:
        try:
            return tuple(keep_partial(error, self.keep_in))
        except (EdgeAudioError, OSError) as failure:
            logger.warning("%s: what had come back was not kept: %s", error.device, failure)
            return ()
