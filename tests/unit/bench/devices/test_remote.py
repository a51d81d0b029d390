"""What a device says of itself is a board and a description, or a typed error; what is asked of it can come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench import rounds
from edgeaudio.bench.agent import AgentRequest
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.board import Board
from edgeaudio.bench.devices.fake import Event, FakeBoard, FakeTransport
from edgeaudio.bench.devices.protocol import MessageWriter
from edgeaudio.bench.devices.remote import RemoteDevice, check_size
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import MAX_HOPS, MAX_RUN_HOPS, BenchOptions, StageResult
from edgeaudio.errors import ConfigError, DeviceError, VerificationError
from edgeaudio.spec.limits import REPLY_BYTES, REPLY_LINE_BYTES
from tests.tiny_bundle import tiny_bundle


def device(folder: Path, *bodies: dict[str, Any], **description: Any) -> RemoteDevice:
    """One that answers a probe with results of these bodies."""

    def answer(request: AgentRequest) -> list[Event]:
        lines: list[bytes] = []
        writer = MessageWriter(lines.append)
        writer.send("hello", {})
        for body in bodies:
            writer.send("result", body)
        writer.bye()
        return [(0.1, line) for line in lines]

    board = FakeBoard(folder, answer, description=description)
    return RemoteDevice(FakeTransport("board", board), str(folder))


def test_a_board_is_told_as_it_is(tmp_path: Path) -> None:
    board = Board(model="Raspberry Pi 5 Model B Rev 1.0", cores_logical=4).model_dump(mode="json")
    assert device(tmp_path, {"board": board}).probe() == {"board": board}


@pytest.mark.parametrize(
    "bodies",
    [[], [{}], [{"board": None}], [{"board": []}], [{"board": {"cores_logical": -1}}], [{"board": {"shape": "round"}}]],
)
def test_an_answer_that_is_no_board_is_refused(bodies: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="board: what it answers is no board"):
        device(tmp_path, *bodies).probe()


@pytest.mark.parametrize("description", [{"cores": "many"}, {"packages": None}, {"colour": "red"}])
def test_a_description_that_is_none_is_refused(description: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="board: it describes itself otherwise"):
        device(tmp_path, **description).look()


def digits(total_us: int, n: int) -> list[StageResult]:
    """Stages of hops that take so long, a resampler among them."""
    parts = {"resample": 300, "frontend": total_us // 10, "inference": total_us * 9 // 10, "decision": 40}
    return [StageResult(name=name, in_path=True, samples_us=(value,) * n) for name, value in parts.items()] + [
        StageResult(name="total", in_path=True, samples_us=(total_us,) * n)
    ]


@pytest.mark.parametrize("total_us", [900, 90_000])
def test_as_many_hops_as_may_be_asked_for_come_back_in_one_message(total_us: int) -> None:
    n = 1_000

    def size(stages: list[StageResult]) -> int:
        return sum(len(stage.model_dump_json()) for stage in stages) - sum(
            len(stage.model_copy(update={"samples_us": ()}).model_dump_json()) for stage in stages
        )

    # Two hours at real time in steps of 10 ms beside them, or of the hop where that is longer.
    paced_hops = BenchOptions(paced_s=2 * 3600).paced_s / max(0.01, total_us / 1e6)
    each_bytes = size(digits(total_us, n)) / n
    waits_bytes = 3
    assert MAX_HOPS * each_bytes + paced_hops * (each_bytes + waits_bytes) < 0.95 * REPLY_LINE_BYTES
    assert MAX_RUN_HOPS * each_bytes < 0.95 * REPLY_BYTES


def test_more_hops_than_can_come_back_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"min_hops: .* at most 1500000: the raw samples of all hops come back"):
        BenchOptions.parse({"min_hops": 1_500_001}, source="bench options")
    bundle = tiny_bundle("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
    most = BenchJob(bundle, options=BenchOptions(min_hops=MAX_HOPS))
    check_size(most)
    board = device(tmp_path)
    with pytest.raises(ConfigError, match="of 4 artefacts: the samples of at most 6000000 come back"):
        board.bench(replace(most, options=BenchOptions(min_hops=MAX_HOPS, paced_s=60)))
    assert not list(tmp_path.iterdir())


def test_seconds_end_where_more_samples_could_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MAX_HOPS", 40)
    options = BenchOptions(min_hops=10, min_seconds=60, rounds=2)
    [item] = bench_bundle(tiny_bundle("onnx-fp32"), options=options).artefacts
    assert item.n_hops == 40
    assert "too-few-samples" in {reason.code for reason in item.verdict.reasons}
