"""A log gets a line where something new begins, and none for what takes turns many times a minute."""

from __future__ import annotations

import pytest

from edgeaudio.cli.device_progress import device_progress


def test_a_log_has_a_line_for_each_stage_and_long_step(capsys: pytest.CaptureFixture[str]) -> None:
    with device_progress(["pi", "tx"]) as show:
        show("pi", "preflight", None, 0, 0)
        show("tx", "preflight", None, 0, 0)
        for number, artefact in enumerate(("onnx-fp32", "onnx-int8")):
            show("pi", "check", artefact, number, 2)
        for number in range(4):
            show("pi", "timing", f"onnx-{number % 2}", number, 4)
        show("pi", "done", None, 1, 1)
    assert capsys.readouterr().err.splitlines() == [
        "pi: preflight",
        "tx: preflight",
        "pi: check onnx-fp32, 1 of 2",
        "pi: check onnx-int8, 2 of 2",
        "pi: timing",
        "pi: done",
    ]
