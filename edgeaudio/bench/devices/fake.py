"""`FakeTransport`: a board that is not there, on a clock that nobody waits for, over a link that breaks as it is told.

`onboard` runs for real, on a folder of this machine; only the agent is a script. Everything that a link can do to bytes
is done to what passes: cut, stalled, slowed to one byte a second, damaged, doubled, never ending; boards reboot.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeaudio.bench.agent import REQUEST_FILE, AgentRequest, send_result
from edgeaudio.bench.devices import onboard
from edgeaudio.bench.devices.config import FakeSpec, Fault
from edgeaudio.bench.devices.preflight import asked_packages
from edgeaudio.bench.devices.protocol import MessageWriter
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.bench.devices.transport import Channel
from edgeaudio.bench.schema import BenchResult, ParityCheck, read_result

_CONNECT_S = 10.0
_LOST = 255
_PIECE_BYTES = 1 << 16
_DELAY_S = 0.05

#: Seconds that pass, then bytes that come.
Event = tuple[float, bytes]
Answer = Callable[[AgentRequest], list[Event]]


class HangError(BaseException):
    """The fake clock passed the moment by which everything had to be over."""


@dataclass
class FakeClock:
    """See `edgeaudio.bench.devices.transport.Clock`. Nobody waits; past `horizon_s` it raises `HangError`."""

    time_s: float = 0.0
    horizon_s: float = float("inf")

    def now(self) -> float:
        """See `Clock.now`."""
        return self.time_s

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        self.time_s += seconds
        if self.time_s > self.horizon_s:
            raise HangError(f"still waiting after {self.time_s:.1f} s")


@dataclass
class FakeBoard:
    """The board: a folder for its disk, what its agent answers, and the faults that are still to come."""

    folder: Path
    answer: Answer
    description: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    down_until_s: float = 0.0
    #: Whether all that the agent said came through as it was said.
    delivered: bool = False

    def run_folders(self) -> list[str]:
        """The folders of runs on its disk."""
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def take_fault(self, command: str) -> Fault | None:
        """The next fault of `command`, which then has happened."""
        fault = next((fault for fault in self.faults if fault.command == command), None)
        if fault is not None:
            self.faults.remove(fault)
        return fault

    def go_down(self, back_after_s: float | None) -> None:
        """The board, or the way to it, is lost for so long."""
        self.down_until_s = float("inf") if back_after_s is None else self.clock.now() + back_after_s

    def execute(self, arguments: Sequence[str], data: bytes) -> tuple[list[Event], int]:
        """Run a command as the board would; what it writes, and its exit code."""
        if arguments[0] == "agent":
            return self._agent(arguments)
        written: list[bytes] = []
        if arguments[0] == "describe":
            body = {**onboard.describe(arguments[1]), **self._described(), **self.description}
            return [(_DELAY_S, onboard.message_line(0, "describe", body))], 0
        code = onboard.main(list(arguments), io.BytesIO(data), written.append)
        return [(_DELAY_S, line) for line in written], code

    def _agent(self, arguments: Sequence[str]) -> tuple[list[Event], int]:
        folder = Path(onboard.run_folder(*arguments[1:3]))
        try:
            request = AgentRequest.parse(json.loads((folder / REQUEST_FILE).read_bytes()), source=REQUEST_FILE)
        except OSError:
            return [], 1
        return self.answer(request), 0

    def agent_ends(self, arguments: Sequence[str]) -> None:
        """However an agent ends, it removes its folder."""
        shutil.rmtree(onboard.run_folder(*arguments[1:3]), ignore_errors=True)

    @staticmethod
    def _described() -> dict[str, Any]:
        """A Raspberry Pi 5 that has everything."""
        packages = dict.fromkeys(asked_packages(), "99.0") | {"pydantic": "2.11.9"}
        return {
            "python": "3.11.2",
            "architecture": "aarch64",
            "userland_bits": 64,
            "multiarch": "aarch64-linux-gnu",
            "libc": "glibc 2.36",
            "model": "Raspberry Pi 5 Model B Rev 1.0",
            "cpu_flags": ["asimd", "asimddp"],
            "cores": 4,
            "packages": packages,
            "compiler": None,
            "free_disk_bytes": 10**10,
        }


class FakeTransport:
    """See `edgeaudio.bench.devices.transport.Transport`."""

    python = ("python3",)

    def __init__(self, name: str, board: FakeBoard) -> None:
        self.name = name
        self.board = board
        self.clock = board.clock

    def start(self, command: Sequence[str], *, data: bytes, hold_input: bool = False) -> Channel:
        """See `Transport.start`."""
        arguments = command[command.index(onboard.LOADER) + 2 :]
        payload = data[int(command[command.index(onboard.LOADER) + 1]) :]
        board = self.board
        fault = board.take_fault(arguments[0])
        if fault is not None and fault.kind == "refuse":
            board.go_down(fault.back_after_s)
        if self.clock.now() < board.down_until_s:
            return FakeChannel(self.clock, iter([(_CONNECT_S, b"")]), _LOST, "ssh: connect: Connection timed out")
        return _Link(board, arguments, payload, fault).channel()

    def failure(self, code: int, stderr: str) -> str | None:
        """See `Transport.failure`."""
        return stderr or "the link was lost" if code == _LOST else None

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`."""
        return f"ssh {self.name} {command!r}"


class FakeChannel:
    """See `edgeaudio.bench.devices.transport.Channel`. Without an exit code it never ends."""

    def __init__(
        self,
        clock: FakeClock,
        events: Iterator[Event],
        code: int | None,
        stderr: str = "",
        on_stop: Callable[[], object] | None = None,
    ) -> None:
        self._clock = clock
        self._events = events
        self._code = code
        self._on_stop = on_stop
        self._next: Event | None = next(events, None)
        self._due_s = clock.now() + (self._next[0] if self._next else 0.0)
        self.stderr = stderr

    def read(self, timeout_s: float) -> bytes | None:
        """See `Channel.read`."""
        while self._next is not None and self._due_s <= self._clock.now() + timeout_s:
            timeout_s -= max(0.0, self._due_s - self._clock.now())
            self._clock.sleep(max(0.0, self._due_s - self._clock.now()))
            data = self._next[1]
            self._next = next(self._events, None)
            self._due_s = self._clock.now() + (self._next[0] if self._next else 0.0)
            if data:
                return data
        if self._next is None and self._code is not None:
            return b""
        self._clock.sleep(timeout_s)
        return None

    def exit_code(self, timeout_s: float) -> int | None:
        """See `Channel.exit_code`."""
        if self._code is None:
            self._clock.sleep(timeout_s)
        return self._code

    def ask_to_stop(self) -> None:
        """See `Channel.ask_to_stop`. A fake agent does not listen."""

    def stop(self) -> None:
        """See `Channel.stop`."""
        on_stop, self._on_stop = self._on_stop, None
        if on_stop is not None:
            on_stop()


@dataclass
class _Link:
    """One command over the link, with the fault that hits it."""

    board: FakeBoard
    arguments: Sequence[str]
    data: bytes
    fault: Fault | None

    def channel(self) -> FakeChannel:
        fault = self.fault
        if fault is not None and fault.of_input and fault.at_byte < len(self.data):
            return self._cut_input(fault)
        events, code = self.board.execute(self.arguments, self.data)
        if fault is None or fault.of_input or fault.at_byte >= len(_joined(events)):
            return FakeChannel(self.board.clock, self._to_the_end(events, events), code, on_stop=self._ends)
        return self._broken(fault, events, code)

    def _cut_input(self, fault: Fault) -> FakeChannel:
        """The board gets the begin of the input, then the end of it: at once, or when the host gives up."""

        def arrive() -> None:
            self.board.execute(self.arguments, self.data[: fault.at_byte])

        if fault.kind in ("cut", "reboot"):
            arrive()
            self.board.go_down(fault.back_after_s)
            return FakeChannel(self.board.clock, iter([]), _LOST)
        return FakeChannel(self.board.clock, iter([]), None, on_stop=arrive)

    def _broken(self, fault: Fault, events: list[Event], code: int) -> FakeChannel:
        clock = self.board.clock
        before, after = _split(events, fault.at_byte)
        on_stop = self._ends if fault.notices else None
        match fault.kind:
            case "cut" | "reboot":
                return FakeChannel(clock, self._until_lost(before, fault), _LOST)
            case "stall":
                return FakeChannel(clock, iter(before), None, on_stop=on_stop)
            case "slow":
                slow = [(1.0, bytes([byte])) for _, data in after for byte in data]
                return FakeChannel(clock, self._to_the_end([*before, *slow], events), code, on_stop=on_stop)
            case "endless":
                return FakeChannel(clock, _endless(before), None, on_stop=on_stop)
        spoilt = _spoil(fault.kind, _joined(after))
        come = [*before, (_DELAY_S, spoilt)]
        return FakeChannel(clock, self._to_the_end(come, events), code, on_stop=on_stop)

    def _until_lost(self, before: list[Event], fault: Fault) -> Iterator[Event]:
        """The link breaks when the last byte has passed, not before."""
        yield from before
        self.board.go_down(fault.back_after_s)
        if fault.kind == "cut" and fault.notices:
            self._ends()

    def _to_the_end(self, come: list[Event], said: list[Event]) -> Iterator[Event]:
        """What comes through of what was said."""
        yield from come
        if self.arguments[0] == "agent":
            before, whole, after = _joined(come).rpartition(_joined(said))
            # Whole lines of something else before the first message are what a login shell says.
            self.board.delivered = bool(whole) and not after and before[-1:] in (b"", b"\n")
        self._ends()

    def _ends(self) -> None:
        if self.arguments[0] == "agent":
            self.board.agent_ends(self.arguments)


def _joined(events: list[Event]) -> bytes:
    return b"".join(data for _, data in events)


def _split(events: list[Event], at_byte: int) -> tuple[list[Event], list[Event]]:
    """`events` before and after the byte, which may lie within one."""
    before: list[Event] = []
    for index, (delay_s, data) in enumerate(events):
        if at_byte < len(data):
            return [*before, (delay_s, data[:at_byte])], [(0.0, data[at_byte:]), *events[index + 1 :]]
        before.append((delay_s, data))
        at_byte -= len(data)
    return before, []


def _spoil(kind: str, data: bytes) -> bytes:
    match kind:
        case "damage":
            # A digit becomes another digit.
            return bytes([data[0] ^ 0x01]) + data[1:]
        case "drop":
            return data[1 + data[0] % 40 :]
        case "double":
            return data[: 1 + data[0] % 40] + data
        case _:
            return b"\x00\xff\x1b[2J garbage\n" + data


def _endless(before: list[Event]) -> Iterator[Event]:
    yield from before
    while True:
        yield _DELAY_S, b"x" * _PIECE_BYTES


def open_fake(name: str, spec: FakeSpec) -> RemoteDevice:
    """A device of kind `fake`."""
    folder = Path(spec.folder).expanduser() / name
    board = FakeBoard(folder, answer_with(read_result(Path(spec.record))), faults=list(spec.faults))
    return RemoteDevice(FakeTransport(name, board), str(folder), place=name, deadline_s=spec.deadline_s)


def answer_with(result: BenchResult) -> Answer:
    """The agent of a board that has measured `result`, of the same bundle, before.

    Nothing was measured, so no artefact passes its parity check.
    """

    def answer(request: AgentRequest) -> list[Event]:
        lines: list[bytes] = []
        writer = MessageWriter(lines.append)
        writer.send("hello", {"run_id": request.run_id})
        send_result(as_asked(result, request), writer.send)
        writer.bye()
        timed_s = sum(item.timed_s for item in result.artefacts)
        return [(_DELAY_S, lines[0]), (timed_s + 1.0, lines[1]), *((_DELAY_S, line) for line in lines[2:])]

    return answer


def as_asked(result: BenchResult, request: AgentRequest) -> BenchResult:
    """What `answer_with(result)` says to `request`."""
    nothing = ParityCheck(passed=False, n_vectors=0, detail="a fake device: nothing was measured")
    artefacts = [
        item.model_copy(update={"parity": nothing})
        for item in result.artefacts
        if request.artefacts == "all" or item.artefact in request.artefacts
    ]
    changed = {
        "run_id": request.run_id,
        "threads": request.threads,
        "options": request.options,
        "environment": result.environment.model_copy(update={"device": request.device}),
        "artefacts": tuple(artefacts),
    }
    return result.model_copy(update=changed)
