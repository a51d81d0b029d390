"""What a device says, line by line: numbered messages with a CRC-32 each, and at the end how many there were.

    {"seq": 0, "kind": "hello", "crc32": ..., "body": {...}}

Before the first message a login shell may have said anything; after it every line is a message, or the link is broken.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from edgeaudio.bench.devices.onboard import checksum, message_line
from edgeaudio.bundle.jsonio import parse_json
from edgeaudio.errors import BundleError, DeviceError, LimitError

#: Of the agent; `alive` only says that the link and the process still are.
AgentKind = Literal["hello", "alive", "progress", "result", "artefact", "segments", "error", "bye"]
AGENT_KINDS: Final[tuple[str, ...]] = get_args(AgentKind)
#: Lines of a login shell that are passed over.
MAX_NOISE_LINES = 1000


class ReplyError(DeviceError):
    """A device answers something else than its protocol allows: cut, damaged, out of order, or too much."""


@dataclass(frozen=True)
class Message:
    """One checked line."""

    seq: int
    kind: str
    body: dict[str, Any]
    line: bytes = field(repr=False)


class MessageReader:
    """Turns lines into messages that are whole, in order and among `kinds`."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.messages: list[Message] = []
        self._kinds = kinds
        self._noise_lines = 0

    def line(self, line: bytes) -> Message | None:
        """The message of one line (no newline); None for what a login shell said before the first.

        Raises:
            ReplyError: the line is none of this, or is not the next one.
        """
        try:
            message = self._parse(line)
        except ReplyError:
            self._noise_lines += 1
            if self.messages or self._noise_lines > MAX_NOISE_LINES:
                raise
            return None
        if message.seq != len(self.messages):
            raise ReplyError(f"message {message.seq} came where {len(self.messages)} was due")
        if self.messages and self.messages[-1].kind == "bye":
            raise ReplyError("more came after the last message")
        self.messages.append(message)
        return message

    def _parse(self, line: bytes) -> Message:
        try:
            fields = parse_json(line, "reply")
        except (BundleError, LimitError) as error:
            raise ReplyError(f"a line of the answer is damaged: {error}") from error
        if not isinstance(fields, dict) or set(fields) != {"seq", "kind", "crc32", "body"}:
            raise ReplyError("a line of the answer is no message")
        seq, kind, body = fields["seq"], fields["kind"], fields["body"]
        if type(seq) is not int or kind not in self._kinds or not isinstance(body, dict):
            raise ReplyError("a line of the answer is no message that is expected here")
        if checksum(seq, kind, body) != fields["crc32"]:
            raise ReplyError(f"message {seq} ({kind}) is damaged: its checksum differs")
        return Message(seq, kind, body, line)


class MessageWriter:
    """The other end: numbers messages and keeps the checksum over all of them. Any thread may send."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._turn = threading.Lock()
        self._seq = 0
        self._crc32 = 0

    def send(self, kind: str, body: dict[str, Any]) -> None:
        """Write one message."""
        with self._turn:
            self._send(kind, body)

    def bye(self) -> None:
        """Say how many messages there were, and what they add up to."""
        with self._turn:
            self._send("bye", {"messages": self._seq, "crc32": self._crc32})

    def _send(self, kind: str, body: dict[str, Any]) -> None:
        line = message_line(self._seq, kind, body)
        self._write(line)
        self._seq += 1
        self._crc32 = zlib.crc32(line, self._crc32)


def check_complete(messages: list[Message]) -> None:
    """Raise `ReplyError` unless the last message is a `bye` that adds up."""
    if not messages or messages[-1].kind != "bye":
        raise ReplyError("the answer ends in the middle")
    crc32 = 0
    for message in messages[:-1]:
        crc32 = zlib.crc32(message.line + b"\n", crc32)
    if messages[-1].body != {"messages": len(messages) - 1, "crc32": crc32}:
        raise ReplyError("the answer does not add up to what the device says it sent")
