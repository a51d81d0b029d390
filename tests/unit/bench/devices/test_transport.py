"""Deadlines, silence, limits and interruption, on a fake clock; and real processes behind the same interface."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from itertools import repeat

import pytest

from edgeaudio.bench.devices.fake import Event, FakeChannel, FakeClock
from edgeaudio.bench.devices.process import ProcessChannel
from edgeaudio.bench.devices.transport import InterruptedRunError, Limits, RealClock, converse, last_words
from edgeaudio.errors import DeviceError, UnsupportedError
from tests.stream_driver import eventually


def lines_of(events: Iterator[Event], limits: Limits, *, code: int | None = 0, horizon_s: float = 1e6) -> list[bytes]:
    clock = FakeClock(horizon_s=horizon_s)
    lines: list[bytes] = []
    converse(FakeChannel(clock, events, code), clock, limits, lines.append)
    return lines


def test_lines_come_whole_however_they_are_cut() -> None:
    events = [(0.1, b"on"), (0.1, b"e\ntwo\nth"), (0.0, b""), (0.1, b"ree\n")]
    assert lines_of(iter(events), Limits(10)) == [b"one", b"two", b"three"]


def test_what_never_ends_is_ended_at_its_deadline() -> None:
    with pytest.raises(DeviceError, match="no end after 10 s"):
        lines_of(iter([]), Limits(10), code=None, horizon_s=10.5)
    with pytest.raises(DeviceError, match="no end after 10 s"):
        lines_of(repeat((0.1, b"line\n")), Limits(10), horizon_s=10.5)


def test_one_byte_a_second_is_silence() -> None:
    with pytest.raises(DeviceError, match="nothing was heard for 60 s"):
        lines_of(repeat((1.0, b"x")), Limits(3600, silence_s=60), horizon_s=61)


def test_endless_output_ends_at_a_limit() -> None:
    with pytest.raises(DeviceError, match="a line of more than 1000 bytes"):
        lines_of(repeat((0.0, b"x" * 100)), Limits(10, line_bytes=1000))
    with pytest.raises(DeviceError, match="more than 5000 bytes"):
        lines_of(repeat((0.0, b"x\n" * 50)), Limits(10, total_bytes=5000))


def test_a_line_without_its_end_is_no_line() -> None:
    assert lines_of(iter([(0.1, b"one\ntw")]), Limits(10)) == [b"one"]


def test_the_user_is_heard_within_a_moment() -> None:
    clock, interrupted = FakeClock(), threading.Event()

    def events() -> Iterator[Event]:
        yield (5.0, b"x\n")
        interrupted.set()
        yield (1e5, b"y\n")

    with pytest.raises(InterruptedRunError):
        converse(FakeChannel(clock, events(), None), clock, Limits(1e6), lambda line: None, interrupted)
    assert clock.now() < 6


def run(
    program: str, *, data: bytes = b"", deadline_s: float = 30.0, hold_input: bool = False
) -> tuple[int, list[bytes]]:
    lines: list[bytes] = []
    channel = ProcessChannel([sys.executable, "-c", program], data=data, hold_input=hold_input)
    return converse(channel, RealClock(), Limits(deadline_s), lines.append), lines


def test_a_process_takes_more_input_than_a_pipe_holds_while_it_talks() -> None:
    program = (
        "import sys, hashlib\nprint('x' * 300_000, flush=True)\n"
        "print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    )
    code, lines = run(program, data=b"y" * 3_000_000)
    assert code == 0
    assert lines[0] == b"x" * 300_000
    assert len(lines[1]) == 64


def test_a_process_that_reads_nothing_ends_all_the_same() -> None:
    assert run("raise SystemExit(3)", data=b"y" * 3_000_000) == (3, [])


def test_a_process_that_sleeps_is_ended_with_what_it_started() -> None:
    program = (
        "import subprocess, sys, time\nsleeper = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(sleeper).pid, flush=True)\ntime.sleep(600)"
    )
    channel = ProcessChannel([sys.executable, "-c", program], data=b"")
    lines: list[bytes] = []
    start_s = time.monotonic()
    with pytest.raises(DeviceError, match="no end"):
        converse(channel, RealClock(), Limits(1.5), lines.append)
    assert time.monotonic() - start_s < 20
    eventually(lambda: not is_running(int(lines[0])))


def is_running(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_input_that_is_held_ends_when_the_channel_is_stopped() -> None:
    program = "import sys; sys.stdin.buffer.read(4); print('four', flush=True); sys.stdin.buffer.read(); print('end')"
    channel = ProcessChannel([sys.executable, "-c", program], data=b"1234", hold_input=True)
    clock = RealClock()
    heard = b""
    while heard != b"four\n":
        heard += channel.read(1.0) or b""
    assert channel.read(0.2) is None
    start_s = clock.now()
    channel.stop()
    assert clock.now() - start_s < 10


def test_the_last_words_of_a_program_are_kept() -> None:
    channel = ProcessChannel(
        [sys.executable, "-c", "import sys; print('z' * 50_000, file=sys.stderr); sys.exit('it \\x1b[31mfailed')"],
        data=b"",
    )
    assert converse(channel, RealClock(), Limits(30), lambda line: None) == 1
    assert last_words(channel.stderr) == "it \\x1b[31mfailed"


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(UnsupportedError, match="'no-such-program' cannot be started"):
        ProcessChannel(["no-such-program"], data=b"")
    with pytest.raises(UnsupportedError, match="cannot be started"):
        ProcessChannel(["ec\0ho"], data=b"")
