"""A thousand runs on a fake board over a link that breaks: what the suite does, and what it may find."""

from __future__ import annotations

import io
import os
import random
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import pytest

from edgeaudio.bench.agent import AgentRequest, send_result
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices import remote, session
from edgeaudio.bench.devices.collect import partial_result
from edgeaudio.bench.devices.config import Fault
from edgeaudio.bench.devices.fake import Answer, Event, FakeBoard, FakeClock, FakeTransport, HangError, as_asked
from edgeaudio.bench.devices.onboard import STALE_S
from edgeaudio.bench.devices.protocol import MessageWriter
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.bench.devices.session import BrokenRunError
from edgeaudio.bench.schema import BenchResult
from edgeaudio.errors import EdgeAudioError

DEADLINE_S = 300.0
#: "The run ends within its deadline and a second."
SLACK_S = 1.0
STEPS = ("describe", "receive", "agent", "remove")
#: A little more than these steps have: a fault behind the last byte does not happen.
RECEIVE_BYTES, ANSWER_BYTES = 40_000, 1_500
#: What breaks links most, and what only a checksum notices, more often than the rest.
KINDS = (
    "cut",
    "cut",
    "cut",
    "damage",
    "damage",
    "stall",
    "slow",
    "damage",
    "drop",
    "double",
    "garbage",
    "endless",
    "reboot",
    "refuse",
)


@dataclass
class Findings:
    """What went wrong, by the seed of the run; all of it empty is the promise."""

    hangs: list[int] = field(default_factory=list)
    counted_partials: list[int] = field(default_factory=list)
    wrong_results: list[int] = field(default_factory=list)
    lost_results: list[int] = field(default_factory=list)
    unmarked_partials: list[int] = field(default_factory=list)
    dirty: list[int] = field(default_factory=list)
    untyped_errors: list[int] = field(default_factory=list)
    #: Not a fault: how often each outcome came about.
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> dict[str, int]:
        """How many of each kind."""
        return {name: len(seeds) for name, seeds in vars(self).items() if name != "outcomes" and seeds}


def slow_agent(result: BenchResult) -> Answer:
    """The agent as it is: hello, progress and signs of life while it works, then the result and its artefacts."""

    def answer(request: AgentRequest) -> list[Event]:
        lines: list[bytes] = []
        writer = MessageWriter(lines.append)
        writer.send("hello", {"run_id": request.run_id})
        for done in range(5):
            writer.send("alive", {})
            writer.send("progress", {"stage": "timing", "artefact": None, "done": done, "total": 5})
        send_result(as_asked(result, request), writer.send)
        writer.bye()
        return [(5.0, line) for line in lines]

    return answer


@dataclass
class InterruptingClock(FakeClock):
    """The user presses Ctrl-C at `at_s`."""

    interrupted: threading.Event = field(default_factory=threading.Event)
    at_s: float = float("inf")

    def sleep(self, seconds: float) -> None:
        if self.time_s + seconds >= self.at_s:
            self.interrupted.set()
        super().sleep(seconds)


def run_suite(
    n_runs: int,
    folder: Path,
    job: BenchJob,
    result: BenchResult,
    *,
    make_session: Callable[..., session.Session] = session.Session,
    until: str | None = None,
) -> Findings:
    """Seeds 0 and on, one run each; ends early when it has found what is named `until`."""
    findings = Findings()
    boundaries = _boundaries(job, result)
    with _sessions(make_session):
        for seed in range(n_runs):
            if until in findings.faults:
                break
            _one_run(seed, folder / str(seed), job, result, boundaries, findings)
    return findings


@contextmanager
def _sessions(make_session: Callable[..., session.Session]) -> Iterator[None]:
    archive = _tiny_archive()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "Session", make_session)
        # What the archive holds is another test's affair; here it is sent a thousand times.
        patch.setattr(session, "runtime_archive", lambda multiarch: archive)
        yield


def _one_run(
    seed: int, folder: Path, job: BenchJob, truth: BenchResult, boundaries: Sequence[int], findings: Findings
) -> None:
    rng = random.Random(seed)
    interrupted = threading.Event()
    at_s = rng.uniform(0, 60) if rng.random() < 0.1 else float("inf")
    clock = InterruptingClock(horizon_s=DEADLINE_S + SLACK_S, interrupted=interrupted, at_s=at_s)
    board = FakeBoard(folder, slow_agent(truth), faults=_faults(rng, boundaries), clock=clock)
    device = RemoteDevice(FakeTransport("fake", board), str(folder), place="fake", deadline_s=DEADLINE_S)
    left_behind = None
    try:
        result = device.bench(job, interrupted=interrupted)
        findings.outcomes["counted"] += 1
        if _figures(result) != _figures(truth):
            findings.wrong_results.append(seed)
        elif not board.delivered:
            findings.counted_partials.append(seed)
        left_behind = "a warning" if clock.now() < board.down_until_s else None
    except HangError:
        findings.hangs.append(seed)
    except BrokenRunError as error:
        findings.outcomes["broken"] += 1
        left_behind = error.left_behind
        partial = partial_result(error)
        if partial is not None and not partial.incomplete:
            findings.unmarked_partials.append(seed)
        findings.outcomes["partial kept"] += partial is not None
        if board.delivered:
            findings.lost_results.append(seed)
    except EdgeAudioError:
        findings.outcomes["refused"] += 1
        if board.delivered:
            findings.lost_results.append(seed)
    except Exception:  # noqa: BLE001 (that any came is the finding)
        findings.untyped_errors.append(seed)
    _check_clean(seed, board, device, left_behind, findings)


def _figures(result: BenchResult) -> list[object]:
    """All that was measured; a fake board has its own opinion of parity only."""
    return [
        result.known_board.board.cpu_model,
        *(item.model_copy(update={"parity": None, "verdict": None}) for item in result.artefacts),
    ]


def _check_clean(
    seed: int, board: FakeBoard, device: RemoteDevice, left_behind: str | None, findings: Findings
) -> None:
    """No folder is left; one that could not be reached is told of, and the next look at the board removes it."""
    if not board.run_folders():
        return
    if left_behind is None:
        findings.dirty.append(seed)
        return
    findings.outcomes["swept later"] += 1
    board.clock, board.down_until_s, board.faults = FakeClock(), 0.0, []
    for name in board.run_folders():
        os.utime(board.folder / name, (0, os.stat(board.folder).st_mtime - STALE_S - 1))
    RemoteDevice(FakeTransport("fake", board), str(board.folder)).look()
    if board.run_folders():
        findings.dirty.append(seed)


def _faults(rng: random.Random, boundaries: Sequence[int]) -> list[Fault]:
    """One fault, now and then two, at a step and byte drawn by chance; often just where a message ends."""
    return [_fault(rng, boundaries) for _ in range(1 if rng.random() < 0.8 else 2)]


def _fault(rng: random.Random, boundaries: Sequence[int]) -> Fault:
    command = rng.choice([*STEPS, "agent", "agent", "receive"])
    of_input = command == "receive" and rng.random() < 0.7
    kind = rng.choice(["cut", "stall", "reboot"] if of_input else KINDS)
    if command == "agent":
        at_end = rng.choice([*boundaries, *boundaries[-3:-1] * 4]) + rng.choice([0, 0, 1])
        at_byte = rng.choice([rng.randrange(boundaries[-1]), at_end])
    else:
        at_byte = rng.randrange(RECEIVE_BYTES if of_input else ANSWER_BYTES)
    back_after_s = rng.choice([0.0, 0.0, 2.0, 20.0, 200.0, None])
    return Fault(
        command=command,
        kind=kind,
        at_byte=at_byte,
        of_input=of_input,
        notices=rng.random() < 0.7,
        back_after_s=back_after_s,
    )


def _boundaries(job: BenchJob, result: BenchResult) -> list[int]:
    """Where the messages of the agent end, as counts of bytes."""
    request = AgentRequest(
        task="bench", run_id=result.run_id, device="fake", options=job.options, bundle_sha256=job.bundle.sha256
    )
    return [0, *accumulate(len(line) for _, line in slow_agent(result)(request))]


def _tiny_archive() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("edgeaudio/__init__.py"))
    return data.getvalue()
