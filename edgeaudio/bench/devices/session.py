"""One run on one device: preflight, push, agent, clean-up. Whatever happens, it ends by its deadline.

What came back of a run that broke off is kept apart (`BrokenRunError`); it is never a result.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeaudio.bench.base import OnProgress
from edgeaudio.bench.devices import onboard
from edgeaudio.bench.devices.payload import has_native, runtime_archive, transfer
from edgeaudio.bench.devices.preflight import Description, asked_packages
from edgeaudio.bench.devices.protocol import AGENT_KINDS, Message, MessageReader, ReplyError, check_complete
from edgeaudio.bench.devices.transport import (
    InterruptedRunError,
    Limits,
    Transport,
    converse,
    last_words,
)
from edgeaudio.errors import (
    BenchInvalidError,
    ConfigError,
    DeviceError,
    EdgeAudioError,
    UnsupportedError,
    VerificationError,
)
from edgeaudio.spec.text import printable

logger = logging.getLogger(__name__)

#: Of single steps, beside the deadline of the run.
DESCRIBE_S = 40.0
PUSH_S, PUSH_BYTES_PER_S = 60.0, 50_000
BUILD_S = onboard.COMPILE_S + 20.0
REMOVE_S = onboard.STOP_S + 20.0
#: What is left for the clean-up: so much of the whole, but no longer than so long.
CLEAN_UP_SHARE, CLEAN_UP_S = 0.25, 45.0
#: The agent says every 10 s that it is alive, once its imports are done: a minute's work for the slowest board.
SILENCE_S = 120.0
#: The agent's own deadline comes first, so that it can put back what it changed and tell what it has; and so long a
#: run that the user stops may still talk.
GRACE_S, GRACE_SHARE = 20.0, 0.2
_RETRY_S = (1.0, 3.0, 9.0)
_ANSWER_BYTES = 4 * 2**20
_NO_SUCH_COMMAND = 127
_ERRORS: dict[object, type[EdgeAudioError]] = {
    2: ConfigError,
    3: VerificationError,
    4: BenchInvalidError,
    5: DeviceError,
    6: UnsupportedError,
}
_SOURCE = Path(onboard.__file__).read_bytes()


class BrokenRunError(DeviceError):
    """A run broke off: why, what had come back until then, and the folder that may still be on the device."""

    def __init__(self, reason: DeviceError, device: str, run_id: str, messages: list[Message], left_behind: str | None):
        left = f"; {left_behind} may be left there, the next run removes it" if left_behind else ""
        super().__init__(f"{reason}{left}")
        self.exit_code = reason.exit_code
        self.device, self.run_id, self.messages, self.left_behind = device, run_id, tuple(messages), left_behind


@dataclass
class Session:
    """The commands of one run, within one deadline.

    folder: parent of the run's folder on the device. interrupted: set by another thread, or Ctrl-C, to end the run.
    has_runtime: the device has edgeaudio, as it is here.
    """

    transport: Transport
    folder: str
    run_id: str
    deadline_s: float
    on_progress: OnProgress | None = None
    interrupted: threading.Event = field(default_factory=threading.Event)
    has_runtime: bool = False

    def __post_init__(self) -> None:
        self._end_s = self.transport.clock.now() + self.deadline_s
        self._reserve_s = min(CLEAN_UP_S, CLEAN_UP_SHARE * self.deadline_s)

    def describe(self) -> Description:
        """What the device is and has.

        Raises:
            DeviceError: it cannot be reached, or answers something else.
            UnsupportedError: there is no Python.
        """
        self._tell("preflight")
        body = self._ask("describe", self.folder, *asked_packages(), limit_s=DESCRIBE_S)
        try:
            return Description.parse(body, source=self.transport.name)
        except ConfigError as error:
            raise ReplyError(
                f"{self.transport.name}: it describes itself otherwise than it was asked: {error}"
            ) from error

    def run_agent(self, description: Description, files: Mapping[str, bytes]) -> list[Message]:
        """Push the runtime and `files`, listen to the agent until it ends, and remove everything.

        Returns:
            All messages, complete and in order.
        Raises:
            BrokenRunError: the run broke off.
            EdgeAudioError: what the agent refused or failed to do.
        """
        reader = MessageReader(AGENT_KINDS)
        try:
            self._push(description, files)
            self._listen(reader)
        except KeyboardInterrupt as error:
            self.interrupted.set()
            raise self.broken("", reader.messages, self._clean_up()) from error
        except DeviceError as error:
            raise self.broken(str(error), reader.messages, self._clean_up()) from error
        except BaseException:
            self._clean_up_or_warn()
            raise
        self._clean_up_or_warn()
        return reader.messages

    def broken(self, why: str, messages: list[Message], left_behind: str | None = None) -> BrokenRunError:
        """The error of a run that broke off: by the user's wish, if there was one, else because of `why`."""
        reason = DeviceError(why)
        if self.interrupted.is_set():
            reason = InterruptedRunError(f"{self.transport.name}: stopped by the user")
        return BrokenRunError(reason, self.transport.name, self.run_id, messages, left_behind)

    def _push(self, description: Description, files: Mapping[str, bytes]) -> None:
        self._tell("push")
        runtime = {} if self.has_runtime else {onboard.RUNTIME_FILE: runtime_archive(description.multiarch)}
        data = transfer({**runtime, **files})
        self._ask("receive", self.folder, self.run_id, data=data, limit_s=PUSH_S + len(data) / PUSH_BYTES_PER_S)
        if runtime and description.can_compile and not has_native(description.multiarch):
            try:
                self._ask("build", self.folder, self.run_id, limit_s=BUILD_S)
            except UnsupportedError as error:
                logger.info("%s; log-mel is by numpy there", error)

    def _listen(self, reader: MessageReader) -> None:
        left_s = self._left_s(self._reserve_s)
        grace_s = min(GRACE_S, GRACE_SHARE * left_s)
        limits = Limits(left_s, SILENCE_S, grace_s=grace_s)

        def take(line: bytes) -> None:
            message = reader.line(line)
            if message is not None and message.kind == "progress":
                self._forward(message.body)

        arguments = ("agent", self.folder, self.run_id, f"{left_s - grace_s:.1f}")
        code, stderr = self._converse(arguments, b"", limits, take, hold=True)
        if reader.messages and reader.messages[-1].kind == "error":
            raise self._refused(reader.messages[-1].body)
        try:
            check_complete(reader.messages)
        except ReplyError as error:
            raise self._no_answer(code, stderr, str(error)) from error

    def _forward(self, body: dict[str, Any]) -> None:
        stage, artefact, done, total = (body.get(name) for name in ("stage", "artefact", "done", "total"))
        if not isinstance(stage, str) or type(done) is not int or type(total) is not int:
            raise ReplyError("a message of progress is none")
        self._tell(printable(stage), printable(artefact) if isinstance(artefact, str) else None, done, total)

    def _clean_up_or_warn(self) -> None:
        left_behind = self._clean_up()
        if left_behind:
            logger.warning("%s: %s may be left there; the next run removes it", self.transport.name, left_behind)

    def _clean_up(self) -> str | None:
        """Remove the run's folder, also over a link that has to come back first; the folder where that failed."""
        self._tell("clean-up")
        for pause_s in (0.0, *_RETRY_S):
            if pause_s >= self._left_s():
                break
            self.transport.clock.sleep(pause_s)
            try:
                self._ask("remove", self.folder, self.run_id, limit_s=REMOVE_S, interruptible=False)
                return None
            except EdgeAudioError as error:
                logger.debug("clean-up: %s", error)
        return f"{self.folder}/{self.run_id}"

    def _ask(
        self, command: str, *arguments: str, data: bytes = b"", limit_s: float, interruptible: bool = True
    ) -> dict[str, Any]:
        """The one message that answers `command`."""
        reader = MessageReader((command, "error"))
        limits = Limits(min(limit_s, self._left_s()), None, _ANSWER_BYTES, _ANSWER_BYTES)
        code, stderr = self._converse((command, *arguments), data, limits, reader.line, interruptible=interruptible)
        if len(reader.messages) != 1:
            raise self._no_answer(code, stderr, f"{command!r} got {len(reader.messages)} answers")
        message = reader.messages[0]
        if message.kind == "error":
            raise self._refused(message.body)
        return message.body

    def _converse(
        self,
        arguments: tuple[str, ...],
        data: bytes,
        limits: Limits,
        on_line: Callable[[bytes], object],
        *,
        interruptible: bool = True,
        hold: bool = False,
    ) -> tuple[int, str]:
        """Run one command of `onboard`; its exit code and standard error."""
        command = (*self.transport.python, "-c", onboard.LOADER, str(len(_SOURCE)), *arguments)
        channel = self.transport.start(command, data=_SOURCE + data, hold_input=hold)
        interrupted = self.interrupted if interruptible else None
        name = self.transport.name
        try:
            code = converse(channel, self.transport.clock, limits, on_line, interrupted)
        except InterruptedRunError as error:
            raise InterruptedRunError(f"{name}: {error}") from error
        except DeviceError as error:
            said = last_words(channel.stderr)
            raise DeviceError(f"{name}: {error}" + (f" ({said})" if said else "")) from error
        return code, channel.stderr

    def _no_answer(self, code: int, stderr: str, what: str) -> EdgeAudioError:
        """Why a command ended without its answer."""
        name, said = self.transport.name, last_words(stderr)
        if code == _NO_SUCH_COMMAND:
            python = " ".join(self.transport.python)
            install = self.transport.by_hand("sudo apt-get install -y python3 python3-venv")
            return UnsupportedError(f"{name}: {python!r} is not there ({said}). Run: {install}, or set 'python'")
        failure = self.transport.failure(code, stderr)
        if failure is not None:
            return DeviceError(f"{name}: {failure}")
        if code in (-9, 137):
            said = "killed on the device; out of memory?"
        return DeviceError(f"{name}: {what}, exit code {code}" + (f" ({said})" if said else ""))

    def _refused(self, body: dict[str, Any]) -> EdgeAudioError:
        """The error that a device reports."""
        kind = _ERRORS.get(body.get("exit_code"), EdgeAudioError)
        message = printable(str(body.get("message")))
        prefix = "" if kind is not EdgeAudioError else f"{printable(str(body.get('type')))}: "
        return kind(f"{self.transport.name}: {prefix}{message}")

    def _left_s(self, reserve_s: float = 0.0) -> float:
        return max(0.0, self._end_s - reserve_s - self.transport.clock.now())

    def _tell(self, stage: str, artefact: str | None = None, done: int = 0, total: int = 0) -> None:
        if self.on_progress is not None:
            self.on_progress(stage, artefact, done, total)
