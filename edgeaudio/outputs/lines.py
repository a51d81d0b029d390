"""JSON lines: every event to standard output, or to a file that is rotated by size."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from edgeaudio.errors import ConfigError
from edgeaudio.outputs.base import Output
from edgeaudio.outputs.worker import OutputCounts, Worker
from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.observer import EventRecord, Health
from edgeaudio.spec.fs import fsync_dir

_CAPACITY = 10_000
_BATCH = 256
_CLOSE_S = 3.0

# A full disk is tried again this often; lines wait in the queue meanwhile.
_RETRY_S = 5.0


class StreamLines(Output):
    """Events as JSON lines on a stream such as standard output, each written as soon as it comes.

    When nobody reads any more, the next call raises `BrokenPipeError`.
    """

    name = "lines"

    def __init__(self, stream: TextIO, *, lossless: bool = False) -> None:
        """`lossless`: wait for a slow reader. Only for inputs that can wait; live audio would be lost instead."""
        stream.flush()
        self._stream, self._lossless = stream, lossless
        self._descriptor = _descriptor_of(stream)
        self._broken = False
        self._worker: Worker[EventRecord] = Worker(
            self.name, self._write, capacity=_CAPACITY, max_batch=_BATCH, wait_when_full=lossless
        )

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Observer`."""
        self._check()

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Observer`."""
        self._check()

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        self._check()
        self._worker.put(record)

    def on_health(self, health: Health) -> None:
        """See `Observer`."""
        self._check()

    def close(self) -> None:
        """See `Observer`."""
        self._worker.close(None if self._lossless else _CLOSE_S)
        self._check()

    @property
    def counts(self) -> OutputCounts:
        """Lines."""
        return self._worker.counts

    def _check(self) -> None:
        if self._broken:
            raise BrokenPipeError("nobody reads the events any more")

    def _write(self, records: Sequence[EventRecord]) -> None:
        text = "".join(f"{record.to_json()}\n" for record in records)
        try:
            if self._descriptor is None:
                self._stream.write(text)
                self._stream.flush()
            else:
                self._write_bytes(self._descriptor, text.encode())
        except BrokenPipeError:
            self._broken = True

    def _write_bytes(self, descriptor: int, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # A parent made the terminal non-blocking.
                select.select([], [descriptor], [], 1.0)


def _descriptor_of(stream: TextIO) -> int | None:
    """Past the buffer of `stream`: a thread that a reader holds up in there would keep the process from ending."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


class FileLines(Output):
    """Events as JSON lines at the end of a file.

    A line is written at once and synced to the disk within a second: a power cut costs at most that second. While the
    disk is full, lines wait in a queue and the writing is tried again.
    """

    name = "events-file"

    def __init__(self, path: Path, *, max_bytes: int, keep: int = 4, lossless: bool = False) -> None:
        """Open `path` for appending.

        Args:
            max_bytes: a line that would make the file larger starts a new one; the old one becomes `path`.1.
            keep: old files that are kept, `path`.1 (the youngest) to `path`.`keep`.
            lossless: as in `StreamLines`.
        Raises:
            ConfigError: the file cannot be opened for writing.
        """
        self._file = LineFile(path, max_bytes=max_bytes, keep=keep)
        self._worker: Worker[EventRecord] = Worker(
            self.name,
            self._write,
            capacity=_CAPACITY,
            max_batch=_BATCH,
            wait_when_full=lossless,
            flush=self._file.sync,
        )

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        self._worker.put(record)

    def close(self) -> None:
        """See `Observer`."""
        self._worker.close(_CLOSE_S)
        self._file.close()

    @property
    def counts(self) -> OutputCounts:
        """Lines."""
        return self._worker.counts

    def _write(self, records: Sequence[EventRecord]) -> None:
        for record in records:
            self._append(record.to_json())

    def _append(self, line: str) -> None:
        while True:
            try:
                self._file.append(line)
            except OSError as error:
                self._worker.report(f"{self._file.path}: {error.strerror}; trying again every {_RETRY_S:g} s")
                if not self._worker.pause(_RETRY_S):
                    raise
            else:
                return


class LineFile:
    """An append-only file of lines. A failed or torn write leaves whole lines only."""

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        """Open or create `path`; ConfigError where that cannot be done."""
        self.path = path
        self._max_bytes, self._keep = max_bytes, keep
        self._descriptor = -1
        try:
            self._open()
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be written: {error.strerror}. Choose another file for events."
            ) from error

    def append(self, line: str) -> None:
        """Write `line`, all of it or nothing; OSError when the disk does not take it."""
        data = f"{line}\n".encode()
        self._follow()
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError:
            # The part that fitted is half a line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def sync(self) -> None:
        """What was appended survives a power cut."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            os.close(self._descriptor)

    def _open(self) -> None:
        """Open `path`; what was open before stays so when this fails."""
        # Non-blocking, or opening a FIFO without a reader would wait for ever.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o666)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{self.path}: not a regular file. Events go to standard output anyway.")
            size = status.st_size
            # A power cut may have torn the last line; the next one must not be glued to it.
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                size += os.write(descriptor, b"\n")
            fsync_dir(self.path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._size, self._inode = descriptor, size, (status.st_dev, status.st_ino)

    def _follow(self) -> None:
        """Somebody else (logrotate) may have moved or deleted the file."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            pass
        else:
            if (status.st_dev, status.st_ino) == self._inode:
                return
        self._open()

    def _rotate(self) -> None:
        self.sync()
        for number in range(self._keep, 0, -1):
            younger = self._numbered(number - 1)
            if younger.exists():
                os.replace(younger, self._numbered(number))
        if not self._keep:
            self.path.unlink()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path
