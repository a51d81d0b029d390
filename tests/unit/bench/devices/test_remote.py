"""What a device says of itself, outside a benchmark, is a board and a description, or a typed error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.agent import AgentRequest
from edgeaudio.bench.board import Board
from edgeaudio.bench.devices.fake import Event, FakeBoard, FakeTransport
from edgeaudio.bench.devices.protocol import MessageWriter
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.errors import DeviceError, VerificationError


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
