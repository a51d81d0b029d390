"""A few decoding processes that may crash or hang, each driven by a thread that notices."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeaudio
from edgeaudio.data.decode_worker import READY
from edgeaudio.errors import DataError, UnsupportedError

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class DecodeRequest:
    """A file to decode; with `out`, the cache entry to write at `to_hz`."""

    path: Path
    max_s: float
    out: Path | None = None
    to_hz: int = 0


@dataclass(frozen=True)
class DecodeFacts:
    """What a decoded file is, before resampling; `peak` and `rms` of the mono mix, 1 is full scale."""

    duration_s: float
    sample_rate: int
    channels: int
    format: str
    peak: float
    rms: float


@dataclass(frozen=True)
class DecodeFailure:
    """Why a file was not decoded: an `AudioFileError` slug, `decoder_crashed` or `decoder_timeout`."""

    reason: str
    message: str


def decode_all(
    requests: Sequence[DecodeRequest],
    *,
    workers: int = 2,
    timeout_s: float = 60.0,
    command: Sequence[str] | None = None,
) -> Iterator[tuple[int, DecodeFacts | DecodeFailure]]:
    """Decode in worker processes; yields (position in `requests`, result) in the order of completion.

    Args:
        timeout_s: per file; a worker that takes longer is killed and replaced.
        command: the worker's command line, for tests.
    Raises:
        DataError: a worker could not do its part for a reason other than the file, such as a full disk.
        UnsupportedError: a worker does not start.
    """
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    crew = [_Worker(command or _COMMAND, timeout_s) for _ in range(max(1, min(workers, len(requests))))]
    for worker in crew:
        idle.put(worker)

    def ask(request: DecodeRequest) -> DecodeFacts | DecodeFailure:
        worker = idle.get()
        try:
            return worker.ask(request)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(len(crew)) as threads:
            futures: dict[Future[DecodeFacts | DecodeFailure], int] = {
                threads.submit(ask, request): i for i, request in enumerate(requests)
            }
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in crew:
                    worker.kill()  # A thread that waits for an answer must not hold us up.
    finally:
        for worker in crew:
            worker.end()


# -P: a json.py in the current folder must not become the worker's.
_COMMAND = (sys.executable, "-P", "-m", "edgeaudio.data.decode_worker")


def _environment() -> dict[str, str]:
    """The parent's, with this very package importable and one thread per worker."""
    paths = [str(Path(edgeaudio.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


class _Worker:
    """One process, started on first use and again after it died. Used by one thread at a time."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command, self._timeout_s = list(command), timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def ask(self, request: DecodeRequest) -> DecodeFacts | DecodeFailure:
        process = self._running()
        message = {
            "path": str(request.path),
            "max_s": request.max_s,
            "out": None if request.out is None else str(request.out),
            "to_hz": request.to_hz,
        }
        line, expired = _converse(process, json.dumps(message).encode() + b"\n", self._timeout_s)
        if expired or not line.endswith(b"\n"):
            return self._lost(request, expired)
        reply: dict[str, Any] = json.loads(line)
        if "fatal" in reply:
            raise DataError(f"{request.path}: the decoder process failed: {reply['fatal']}")
        return DecodeFailure(**reply) if "reason" in reply else DecodeFacts(**reply)

    def kill(self) -> None:
        """Kill the process from another thread; the one that waits for its answer sees it end."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> int | None:
        """Kill the process and clear up after it; its exit status, `None` when there was none."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # Decoders chat there about files that they then refuse or accept.
                env=_environment(),
                process_group=0,  # Ctrl-C is the parent's to handle; workers end with their input.
            )
            self._process = process
            line, _ = _converse(process, b"", _START_TIMEOUT_S)
            if line.strip() != json.dumps(READY).encode() and not self._stopped:
                raise UnsupportedError(
                    f"the decoder process does not start (exit status {self.end()}). "
                    f"Run {' '.join(self._command)} to see why."
                )
        return self._process

    def _lost(self, request: DecodeRequest, expired: bool) -> DecodeFailure:
        status = self.end()
        if expired:
            return DecodeFailure("decoder_timeout", f"{request.path}: not decoded within {self._timeout_s:g} s")
        return DecodeFailure("decoder_crashed", f"{request.path}: the decoder died with exit status {status}")


def _converse(process: subprocess.Popen[bytes], line: bytes, timeout_s: float) -> tuple[bytes, bool]:
    """Send `line`, wait for a line; (what came, whether the process was killed for taking too long)."""
    assert process.stdin is not None
    assert process.stdout is not None
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        reply = process.stdout.readline()
    except BrokenPipeError:
        reply = b""
    finally:
        timer.cancel()
        timer.join()  # After this `expired` cannot change, so the next file is never blamed.
    return reply, expired.is_set()
