"""`ProcessChannel`: a program of this machine, which is the command itself or, as ssh, leads to it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from edgeaudio.bench.devices.transport import STOP
from edgeaudio.errors import UnsupportedError

_CHUNK_BYTES = 1 << 16
_STDERR_BYTES = 8192
# An agent that is asked to stop puts back what it changed on its machine.
_GRACE_S = 2.0


class ProcessChannel:
    """See `edgeaudio.bench.devices.transport.Channel`. Input is written as the program takes it, never waited for."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        data: bytes,
        hold_input: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`; `environment` is added to this process's.

        Raises:
            UnsupportedError: there is no such program here.
        """
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                # Ctrl-C is for the session, which then stops what it started.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument.
            raise UnsupportedError(f"{command[0]!r} cannot be started on this machine: {error}") from error
        self._left = memoryview(data)
        self._hold_input = hold_input
        self._stderr = b""
        self._selector = selectors.DefaultSelector()
        for stream, event in (
            (self._process.stdin, selectors.EVENT_WRITE),
            (self._process.stdout, selectors.EVENT_READ),
            (self._process.stderr, selectors.EVENT_READ),
        ):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, event)

    @property
    def stderr(self) -> str:
        """See `Channel.stderr`."""
        return self._stderr.decode("utf-8", "replace")

    def read(self, timeout_s: float) -> bytes | None:
        """See `Channel.read`."""
        end_s = time.monotonic() + timeout_s
        while True:
            for key, _ in self._selector.select(max(0.0, end_s - time.monotonic())):
                if key.fileobj is self._process.stdin:
                    self._feed()
                elif key.fileobj is self._process.stderr:
                    self._hear()
                else:
                    return os.read(key.fd, _CHUNK_BYTES)
            if time.monotonic() >= end_s:
                return None

    def exit_code(self, timeout_s: float) -> int | None:
        """See `Channel.exit_code`."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        # What was said at the last. A descendant may hold the pipe open: its end is not waited for.
        self._hear()
        return code

    def ask_to_stop(self) -> None:
        """See `Channel.ask_to_stop`."""
        stdin = self._process.stdin
        assert stdin is not None
        if self._hold_input and not stdin.closed:
            with contextlib.suppress(OSError):  # It has ended by itself.
                os.write(stdin.fileno(), STOP)

    def stop(self) -> None:
        """See `Channel.stop`."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def _signal(self, number: signal.Signals) -> None:
        """To the process and what it started, as long as it runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _feed(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            if self._left:
                self._left = self._left[os.write(stdin.fileno(), self._left[:_CHUNK_BYTES]) :]
            if self._left:
                return
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = memoryview(b"")  # It ends by itself, and its exit code says why.
        self._selector.unregister(stdin)
        if not self._hold_input:
            with contextlib.suppress(OSError):
                stdin.close()

    def _hear(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(stderr.fileno(), _CHUNK_BYTES)
            self._stderr = (self._stderr + chunk)[-_STDERR_BYTES:]
            if not chunk and stderr in self._selector.get_map():
                self._selector.unregister(stderr)
