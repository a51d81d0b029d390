"""What a link can do to a run: a thousand runs with a cut at every step and random bytes, in simulated time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices import session
from edgeaudio.bench.devices.protocol import Message, MessageReader
from edgeaudio.bench.devices.session import Session
from edgeaudio.bench.devices.transport import Limits
from edgeaudio.bench.schema import BenchOptions, BenchResult
from tests import bench_records as records
from tests.tiny_bundle import tiny_bundle
from tests.unit.bench.devices.fake_runs import run_suite
from tests.unit.bench.devices.fitting import fitted

N_RUNS = 1_000


@pytest.fixture(scope="module")
def job() -> BenchJob:
    options = BenchOptions(min_hops=20, min_seconds=0, warmup_hops=1, rounds=2)
    return BenchJob(tiny_bundle("onnx-fp32", "tflite-int8"), options=options)


@pytest.fixture(scope="module")
def result(job: BenchJob) -> BenchResult:
    """The same bytes every time: a seed that fails once, fails again."""
    made = records.result(records.artefact("onnx-fp32", n=200), records.artefact("tflite-int8", n=200, seed=1))
    return fitted(made, job, "fake")


@pytest.fixture(autouse=True)
def nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s of real time")

    monkeypatch.setattr(time, "sleep", sleep)


@pytest.mark.parametrize("n_runs", [60, pytest.param(N_RUNS, marks=pytest.mark.slow)])
def test_no_run_hangs_counts_a_part_or_leaves_anything(
    n_runs: int, tmp_path: Path, job: BenchJob, result: BenchResult
) -> None:
    findings = run_suite(n_runs, tmp_path, job, result)
    assert findings.faults == {}
    # The suite did meet what it is about.
    assert findings.outcomes["counted"] > 0.1 * n_runs
    assert findings.outcomes["broken"] > 0.3 * n_runs
    assert findings.outcomes["partial kept"] > 0.02 * n_runs
    assert findings.outcomes["swept later"] > 0.01 * n_runs
    assert sum(findings.outcomes[name] for name in ("counted", "broken", "refused")) == n_runs


class TrustingReader(MessageReader):
    """Takes any JSON of the right shape for what was sent."""

    def _parse(self, line: bytes) -> Message:
        try:
            return super()._parse(line)
        except session.ReplyError as error:
            if "checksum" not in str(error):
                raise
        fields = json.loads(line)
        return Message(fields["seq"], fields["kind"], fields["body"], line)


class Untidy(Session):
    """Leaves it to the device."""

    def _clean_up(self) -> str | None:
        return None


def no_crc(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "MessageReader", TrustingReader)
    patch.setattr(session, "check_complete", lambda messages: None)


def no_bye(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "check_complete", lambda messages: None)


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "Limits", lambda *limits: Limits(1e9))


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize(
    ("make_session", "break_it", "found"),
    [
        (Session, no_crc, "wrong_results"),
        (Session, no_bye, "counted_partials"),
        (Untidy, nothing, "dirty"),
        (Session, no_deadline, "hangs"),
    ],
    ids=["without checksums", "without the last message", "without clean-up", "without deadlines"],
)
def test_a_broken_session_is_caught(
    make_session: Callable[..., Session],
    break_it: Callable[[pytest.MonkeyPatch], None],
    found: str,
    tmp_path: Path,
    job: BenchJob,
    result: BenchResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    findings = run_suite(N_RUNS, tmp_path, job, result, make_session=make_session, until=found)
    assert found in findings.faults, findings.faults
