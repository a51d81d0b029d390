"""What a device says is believed only where it is about this run and can be true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.agent import send_result
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices.collect import broken_off, collect, file_stem, keep_partial, partial_result
from edgeaudio.bench.devices.protocol import AGENT_KINDS, Message, MessageReader, MessageWriter, ReplyError
from edgeaudio.bench.devices.session import BrokenRunError
from edgeaudio.bench.schema import BenchOptions, BenchResult, Verdict
from edgeaudio.errors import DeviceError, EdgeAudioError, VerificationError
from tests import bench_records as records
from tests.tiny_bundle import tiny_bundle
from tests.unit.bench.devices.fitting import fitted

RUN = "20261121T120000Z-0123abcd"
JOB = BenchJob(tiny_bundle("onnx-fp32"), options=BenchOptions(min_hops=60, min_seconds=0))


def true_result(**changes: Any) -> BenchResult:
    made = records.result(records.artefact("onnx-fp32", n=60), run_id=RUN)
    return fitted(made, JOB, "board").model_copy(update=changes)


def said(result: BenchResult) -> list[Message]:
    lines: list[bytes] = []
    writer = MessageWriter(lines.append)
    writer.send("hello", {})
    send_result(result, writer.send)
    reader = MessageReader(AGENT_KINDS)
    for line in lines:
        reader.line(line.rstrip())
    return reader.messages


def collected(result: BenchResult, elapsed_s: float = 1e4, job: BenchJob = JOB) -> BenchResult:
    return collect(said(result), job, "board", RUN, elapsed_s)


def test_a_true_result_is_taken_and_judged_here() -> None:
    result = true_result()
    flattered = [item.model_copy(update={"verdict": Verdict(level="valid")}) for item in result.artefacts]
    found = collected(result.model_copy(update={"artefacts": tuple(flattered)}))
    assert found.artefacts[0].stages == result.artefacts[0].stages
    # 60 hops carry no p99, whatever the device says.
    assert found.verdict.level == "suspect"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"run_id": "20261121T120000Z-ffffffff"}, "run_id"),
        ({"bundle_sha256": "0" * 64}, "bundle_sha256"),
        ({"threads": 4}, "threads"),
        ({"options": BenchOptions(min_hops=10)}, "options"),
        ({"incomplete": "the board is tired"}, "incomplete"),
        ({"kind": "estimated"}, "kind"),
        ({"bundle_name": "another"}, "bundle_name"),
        ({"input_rate_hz": 48_000}, "input_rate_hz"),
        ({"model_rate_hz": 8_000}, "model_rate_hz"),
        ({"hop_ms": 400.0}, "hop_ms"),
        ({"window_ms": 1.0}, "window_ms"),
        ({"environment": records.environment("another")}, "device"),
    ],
)
def test_a_result_of_another_run_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(VerificationError, match=f"board: the result: {field} is"):
        collected(true_result(**changes))


def test_a_result_about_other_artefacts_is_refused() -> None:
    asked = BenchJob(JOB.bundle, ["onnx-int8"], options=JOB.options)
    with pytest.raises(VerificationError, match="asked for"):
        collected(true_result(), job=asked)


def test_times_that_do_not_fit_into_the_run_are_refused() -> None:
    [item] = true_result().artefacts
    with pytest.raises(VerificationError, match=r"hops of 0\.0\d+ s within 0\.001 s"):
        collected(true_result(artefacts=(item.model_copy(update={"timed_s": 0.001}),)))
    with pytest.raises(VerificationError, match="its clock is wrong"):
        collected(true_result(artefacts=(item.model_copy(update={"timed_s": 500.0}),)), elapsed_s=100.0)


def test_artefacts_that_were_promised_must_come() -> None:
    with pytest.raises(ReplyError, match="0 artefacts came back, 1 were promised"):
        collect(said(true_result())[:-1], JOB, "board", RUN, 1e4)
    with pytest.raises(VerificationError, match="without a result"):
        collect(said(true_result())[:1], JOB, "board", RUN, 1e4)


@pytest.mark.parametrize("body", [{"head": None, "n_artefacts": 0}, {"head": {"run_id": 3}, "n_artefacts": 0}, {}])
def test_a_head_that_is_none_is_refused_with_a_typed_error(body: dict[str, Any]) -> None:
    with pytest.raises(EdgeAudioError):
        collect([Message(0, "result", body, b"")], JOB, "board", RUN, 1e4)
    error = BrokenRunError(DeviceError("cut"), "board", RUN, [Message(0, "result", body, b"")], None)
    assert partial_result(error) is None


def test_a_run_that_the_device_broke_off_says_why() -> None:
    assert broken_off(said(true_result())) is None
    assert broken_off(said(true_result(incomplete="no end after 9 s\x1b[2J"))) == "no end after 9 s\\x1b[2J"


def test_a_part_is_marked_whatever_it_says_of_itself(tmp_path: Path) -> None:
    error = BrokenRunError(DeviceError("board: cut"), "board", RUN, said(true_result()), "/runs/x")
    part = partial_result(error)
    assert part is not None
    assert part.incomplete == "board: cut; /runs/x may be left there, the next run removes it"
    assert [path.name for path in keep_partial(error, tmp_path)] == [
        f"board-{RUN}.incomplete.jsonl",
        f"board-{RUN}.incomplete.json",
    ]
    assert keep_partial(BrokenRunError(DeviceError("cut"), "board", RUN, [], None), tmp_path) == []


@pytest.mark.parametrize("device", ["pi@pi5.local", "root@::1", "../../etc/passwd", "a b\n;", "x" * 4096])
def test_a_device_becomes_one_plain_file_name(device: str) -> None:
    stem = file_stem(device)
    assert Path(stem).name == stem
    assert len(stem) <= 100
    assert stem.isprintable()
