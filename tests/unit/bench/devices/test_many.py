"""Several devices at once: each fails for itself, those of one place take turns, and Ctrl-C ends all of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeaudio.bench.base import BenchJob, OnProgress
from edgeaudio.bench.devices.config import FakeSpec, Fault, SshSpec
from edgeaudio.bench.devices.many import bench_devices, open_devices
from edgeaudio.bench.devices.transport import InterruptedRunError
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchOptions, BenchResult, read_result, write_result
from edgeaudio.errors import ConfigError, DeviceError
from tests.tiny_bundle import tiny_bundle

OPTIONS = BenchOptions(min_hops=20, min_seconds=0, rounds=2, warmup_hops=1)
JOB = BenchJob(tiny_bundle("onnx-fp32"), options=OPTIONS)


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return bench_bundle(JOB.bundle, options=OPTIONS)


@dataclass
class Scripted:
    """A device that does what `work` does."""

    name: str
    place: str | None
    work: Callable[[threading.Event], BenchResult]
    stages: list[str] = field(default_factory=list)

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        assert interrupted is not None
        assert on_progress is not None
        on_progress("timing", None, 0, 0)
        return self.work(interrupted)


def ignore(*progress: object) -> None:
    pass


def test_one_failing_device_fails_only_itself(result: BenchResult, tmp_path: Path) -> None:
    def unreachable(interrupted: threading.Event) -> BenchResult:
        raise DeviceError("b: connection refused")

    def broken(interrupted: threading.Event) -> BenchResult:
        raise ZeroDivisionError("a bug")

    devices = [
        Scripted("a", "a", lambda interrupted: result),
        Scripted("b", "b", unreachable),
        Scripted("c", "c", broken),
        Scripted("d", None, lambda interrupted: result),
    ]
    seen: list[tuple[object, ...]] = []
    outcomes = bench_devices(devices, JOB, keep_in=tmp_path, on_progress=lambda *progress: seen.append(progress))
    assert [outcome.device for outcome in outcomes] == ["a", "b", "c", "d"]
    assert [outcome.result is not None for outcome in outcomes] == [True, False, False, True]
    assert outcomes[1].error is not None
    assert outcomes[1].error.exit_code == 5
    assert str(outcomes[2].error) == "c: ZeroDivisionError: a bug"
    assert {name for name, *_ in seen} == {"a", "b", "c", "d"}


def test_a_result_is_kept_before_the_next_device_begins(result: BenchResult, tmp_path: Path) -> None:
    """A machine that dies while the last device works has lost that one alone."""
    order: list[str] = []

    def scripted(name: str) -> Scripted:
        def work(interrupted: threading.Event) -> BenchResult:
            order.append(f"{name} works")
            return result

        return Scripted(name, None, work)

    def keep(name: str, kept: BenchResult) -> None:
        assert kept is result
        order.append(f"{name} kept")

    bench_devices([scripted("a"), scripted("b")], JOB, keep_in=tmp_path, on_progress=ignore, on_result=keep)
    assert order == ["a works", "a kept", "b works", "b kept"]


def test_a_result_that_cannot_be_kept_is_an_error_of_its_device_and_is_still_handed_on(
    result: BenchResult, tmp_path: Path
) -> None:
    def keep(name: str, kept: BenchResult) -> None:
        if name == "a":
            raise OSError(28, "No space left on device")

    devices = [Scripted("a", "a", lambda interrupted: result), Scripted("b", None, lambda interrupted: result)]
    first, second = bench_devices(devices, JOB, keep_in=tmp_path, on_progress=ignore, on_result=keep)
    assert (first.result, second.result, second.error) == (result, result, None)
    assert "a: the result was not kept: [Errno 28] No space left on device" in str(first.error)


def test_other_places_work_at_once_and_one_place_in_turns(result: BenchResult, tmp_path: Path) -> None:
    together = threading.Barrier(2)
    busy: list[str] = []
    most: list[int] = []

    def meets(interrupted: threading.Event) -> BenchResult:
        together.wait(30)
        return result

    def alone(interrupted: threading.Event) -> BenchResult:
        busy.append("x")
        most.append(len(busy))
        time.sleep(0.05)
        busy.pop()
        return result

    devices = [Scripted(name, name, meets) for name in "ab"]
    devices += [Scripted(name, "one board", alone) for name in "cde"]
    outcomes = bench_devices(devices, JOB, keep_in=tmp_path, on_progress=ignore)
    assert all(outcome.result for outcome in outcomes)
    assert most == [1, 1, 1]


def test_this_machine_is_last_and_alone(result: BenchResult, tmp_path: Path) -> None:
    done: list[str] = []

    def note(name: str) -> Callable[[threading.Event], BenchResult]:
        def work(interrupted: threading.Event) -> BenchResult:
            time.sleep(0.1 if name == "away" else 0)
            done.append(name)
            return result

        return work

    bench_devices(
        [Scripted("here", None, note("here")), Scripted("away", "away", note("away"))],
        JOB,
        keep_in=tmp_path,
        on_progress=ignore,
    )
    assert done == ["away", "here"]


def test_ctrl_c_ends_every_run_and_begins_no_more(result: BenchResult, tmp_path: Path) -> None:
    def waits(interrupted: threading.Event) -> BenchResult:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(30)
        raise InterruptedRunError("a: stopped by the user")

    devices = [
        Scripted("a", "one", waits),
        Scripted("b", "one", lambda interrupted: result),
        Scripted("c", None, lambda interrupted: result),
    ]
    outcomes = bench_devices(devices, JOB, keep_in=tmp_path, on_progress=ignore)
    errors = [outcome.error for outcome in outcomes]
    assert all(isinstance(error, InterruptedRunError) for error in errors)
    assert "not begun" in str(errors[1])
    assert "not begun" in str(errors[2])


def test_ctrl_c_on_this_machine_keeps_what_the_others_have(result: BenchResult, tmp_path: Path) -> None:
    def pressed(interrupted: threading.Event) -> BenchResult:
        raise KeyboardInterrupt

    devices = [Scripted("away", "away", lambda interrupted: result), Scripted("here", None, pressed)]
    away, here = bench_devices(devices, JOB, keep_in=tmp_path, on_progress=ignore)
    assert away.result == result
    assert here.error is not None
    assert here.error.exit_code == 130


def fake(tmp_path: Path, result: BenchResult, *faults: Fault) -> FakeSpec:
    record = tmp_path / "record.json"
    write_result(result, record)
    return FakeSpec(record=str(record), folder=str(tmp_path / "runs"), faults=faults)


def test_a_fake_device_answers_and_its_figures_are_never_good(result: BenchResult, tmp_path: Path) -> None:
    [device] = open_devices(["pretend"], {"pretend": fake(tmp_path, result)})
    [outcome] = bench_devices([device], JOB, keep_in=tmp_path)
    assert outcome.error is None
    assert outcome.result is not None
    assert outcome.result.environment.device == "pretend"
    assert not any(item.parity is not None and item.parity.passed for item in outcome.result.artefacts)


def test_what_is_left_of_a_lost_run_is_kept_and_marked(result: BenchResult, tmp_path: Path) -> None:
    # In the middle of the artefact, which is most of what is said; the head of the result is through by then.
    at_byte = len(result.model_dump_json()) - len(result.artefacts[0].model_dump_json()) // 2
    cut = Fault(command="agent", kind="cut", at_byte=at_byte)
    [device] = open_devices(["pretend"], {"pretend": fake(tmp_path, result, cut)})
    [outcome] = bench_devices([device], JOB, keep_in=tmp_path / "kept")
    messages, partial = outcome.kept
    assert messages.suffix == ".jsonl"
    kept = read_result(partial)
    assert kept.incomplete is not None
    assert "the link was lost" in kept.incomplete
    assert kept.artefacts == ()
    assert not any((tmp_path / "runs" / "pretend").iterdir())


def test_each_device_comes_once() -> None:
    with pytest.raises(ConfigError, match="each device once"):
        open_devices(["pi", "pi"], {"pi": SshSpec(host="pi")})


def test_a_lost_run_that_cannot_be_kept_is_still_an_outcome(result: BenchResult, tmp_path: Path) -> None:
    """Its thread must not die of it: the others would be waited for with it, for ever."""
    no_folder = tmp_path / "file"
    no_folder.write_text("in the way")
    at_byte = len(result.model_dump_json()) - len(result.artefacts[0].model_dump_json()) // 2
    cut = Fault(command="agent", kind="cut", at_byte=at_byte)
    [device] = open_devices(["pretend"], {"pretend": fake(tmp_path, result, cut)})
    [outcome] = bench_devices([device], JOB, keep_in=no_folder)
    assert outcome.error is not None
    assert outcome.error.exit_code == 5
    assert outcome.kept == ()


def test_progress_that_nobody_reads_ends_no_run(result: BenchResult, tmp_path: Path) -> None:
    def broken_pipe(*progress: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    devices = [Scripted("a", "a", lambda interrupted: result), Scripted("b", None, lambda interrupted: result)]
    outcomes = bench_devices(devices, JOB, keep_in=tmp_path, on_progress=broken_pipe)
    assert [outcome.result for outcome in outcomes] == [result, result]
