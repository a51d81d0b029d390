"""The benchmark's end on a device: reads a request, runs the benchmark, says what happens in numbered messages.

    python3 -m edgeaudio.bench.agent FOLDER DEADLINE_S

It lives as long as its standard input is open, and no longer than DEADLINE_S. When its time is up, or it is told to
stop, it says what it has measured so far, marked incomplete; when the link breaks, there is nobody to tell. However it
ends, it puts back what it changed on the machine, and removes FOLDER.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import Field

from edgeaudio import __version__
from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.devices.onboard import LOCK_FILE, RUN_ID
from edgeaudio.bench.devices.protocol import MessageWriter
from edgeaudio.bench.devices.transport import STOP
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.governor import restore_held
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.probes import probe_board
from edgeaudio.bench.schema import BenchOptions, BenchResult
from edgeaudio.bundle import Bundle
from edgeaudio.errors import ConfigError, EdgeAudioError
from edgeaudio.spec import Spec

REQUEST_FILE, BUNDLE_FILE, CLIPS_FILE = "request.json", "bundle.eab", "clips.npz"
#: Rare enough to be no load, often enough to tell a slow board from a dead one.
ALIVE_S = 10.0
# What is asked to stop and does not is ended; statistics of what there is take a slow board some seconds.
_PATIENCE_S = 15.0

Send = Callable[[str, dict[str, Any]], None]


class AgentRequest(Spec):
    """What a run is to do. Files are in the run's folder.

    foreign: names of the files beside the bundle; number n lies in `foreign_file(n)`. clips: whether there are any.
    counted_hops: on an emulated processor, hops of each artefact that are counted; 0: they are timed.
    """

    task: Literal["bench", "probe"]
    run_id: str = Field(pattern=f"^{RUN_ID}$")
    device: str
    bundle_sha256: str | None = None
    artefacts: Literal["all"] | tuple[str, ...] = "all"
    engine: str | None = None
    threads: int = Field(1, ge=1, le=64)
    options: BenchOptions = BenchOptions()
    foreign: tuple[str, ...] = Field((), max_length=16)
    clips: bool = False
    counted_hops: int = Field(0, ge=0, le=1_000)


def foreign_file(number: int) -> str:
    """Where a foreign model lies in the run's folder, whatever its own name."""
    return f"foreign{number}.model"


class Stopped(KeyboardInterrupt):
    """The time is up, or someone asked; what a benchmark does then, it does as after Ctrl-C."""


class LinkLost(BaseException):
    """Nobody listens any more: nothing on the way may take it for an error of its own."""


class _Watch:
    """Ends the run when standard input does or says so, or when its time is up; meanwhile says that it is alive."""

    def __init__(self, folder: Path, deadline_s: float, writer: MessageWriter) -> None:
        self._folder = folder
        self._writer = writer
        self._over = threading.Event()
        self._stop_with: BaseException = Stopped("asked to stop")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for work in (self._wait_for_end_of_input, self._say_alive, functools.partial(self._wait, deadline_s)):
            threading.Thread(target=work, daemon=True).start()

    @property
    def reason(self) -> str:
        """Why it was stopped."""
        return str(self._stop_with)

    def finish(self) -> None:
        """The run is over: from here on nothing interrupts it."""
        self._over.set()

    def _stop(self, why: BaseException) -> None:
        if self._over.is_set():
            return
        self._stop_with = why
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(_PATIENCE_S):
            # Stuck where no signal is heard; nothing will unwind.
            with contextlib.suppress(EdgeAudioError, OSError):
                restore_held()
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise self._stop_with

    def _wait_for_end_of_input(self) -> None:
        while said := os.read(0, 4096):
            if STOP.strip() in said:
                threading.Thread(target=self._stop, args=(Stopped("stopped by the user"),), daemon=True).start()
        self._stop(LinkLost())

    def _wait(self, deadline_s: float) -> None:
        if not self._over.wait(deadline_s):
            self._stop(Stopped(f"no end after {deadline_s:.0f} s"))

    def _say_alive(self) -> None:
        while not self._over.wait(ALIVE_S):
            try:
                self._writer.send("alive", {})
            except OSError:
                self._stop(LinkLost())


def main(folder: str, deadline_s: str) -> int:
    """Run the request in `folder`; returns the exit code."""
    where = Path(folder)
    # Messages go to where standard output was, and whatever else is printed there (engines do) to standard error.
    out = os.dup(1)
    os.dup2(2, 1)
    writer = MessageWriter(functools.partial(_write_all, out))
    # What lies about goes with the folder, even where nothing unwinds.
    tempfile.tempdir = folder
    try:
        with (where / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(os.getpid(), file=lock, flush=True)
            request = AgentRequest.parse(json.loads((where / REQUEST_FILE).read_bytes()), source=REQUEST_FILE)
            return _watched(where, float(deadline_s), request, writer)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def _watched(folder: Path, deadline_s: float, request: AgentRequest, writer: MessageWriter) -> int:
    watch = _Watch(folder, deadline_s, writer)
    try:
        writer.send("hello", {"run_id": request.run_id, "edgeaudio": __version__, "python": platform.python_version()})
        _TASKS[request.task](folder, request, writer.send, lambda: watch.reason)
        watch.finish()
        writer.bye()
        return 0
    except Stopped:
        return _report(writer, "Stopped", watch.reason, 5)
    except LinkLost:
        return 1
    except EdgeAudioError as error:
        return _report(writer, type(error).__name__, str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 (the host hears of whatever it was)
        return _report(writer, type(error).__name__, str(error), 1)
    finally:
        watch.finish()


def _report(writer: MessageWriter, kind: str, message: str, exit_code: int) -> int:
    with contextlib.suppress(OSError):  # Nobody is there to hear it.
        writer.send("error", {"type": kind, "message": message, "exit_code": exit_code})
    return 1


def _bench(folder: Path, request: AgentRequest, send: Send, why_stopped: Callable[[], str]) -> None:
    bundle = Bundle.read(folder / BUNDLE_FILE)
    if bundle.sha256 != request.bundle_sha256:
        raise ConfigError(f"{BUNDLE_FILE} is {bundle.sha256}, the request names {request.bundle_sha256}")
    foreign = [
        ForeignModel(name, (folder / foreign_file(number)).read_bytes()) for number, name in enumerate(request.foreign)
    ]
    given: dict[str, Any] = {
        "engine": request.engine,
        "options": request.options,
        "device": request.device,
        "run_id": request.run_id,
        "foreign": foreign,
        "clips": AccuracyClips.read(folder / CLIPS_FILE) if request.clips else None,
        "on_progress": lambda now: send("progress", asdict(now)),
    }
    if not request.counted_hops:
        result = bench_bundle(bundle, request.artefacts, threads=request.threads, **given)
        if result.incomplete is not None:
            result = result.model_copy(update={"incomplete": why_stopped()})
        send_result(result, send)
        return
    from edgeaudio.bench.counting import count_bundle  # No part of what is timed.

    counted = count_bundle(bundle, request.artefacts, hops=request.counted_hops, **given)
    send("segments", {"labels": counted.labels})
    send_result(counted.result, send)


def send_result(result: BenchResult, send: Send) -> None:
    """The result without its artefacts, then each of them: what has arrived of a lost run can be read."""
    head = result.model_dump(mode="json", exclude={"artefacts"})
    send("result", {"head": head, "n_artefacts": len(result.artefacts)})
    for item in result.artefacts:
        send("artefact", item.model_dump(mode="json"))


def _probe(folder: Path, request: AgentRequest, send: Send, why_stopped: Callable[[], str]) -> None:
    send("result", {"board": probe_board().model_dump(mode="json")})


_TASKS = {"bench": _bench, "probe": _probe}


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
