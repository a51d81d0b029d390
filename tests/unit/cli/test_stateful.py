"""`stream --stateful` hears what `stream` hears; bundles without the form say how to get it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from edgeaudio.cli.main import main
from tests import tiny_bundle as tiny
from tests import tiny_stateful
from tests.records import decided


@pytest.fixture
def scene(tmp_path: Path) -> str:
    soundfile.write(tmp_path / "scene.wav", tiny.scene(), tiny.FRONTEND.sample_rate, subtype="FLOAT")
    return str(tmp_path / "scene.wav")


@pytest.mark.parametrize(("engine", "precision"), [("onnx", "fp32"), ("litert", "int8")])
def test_a_stateful_stream_prints_the_same_events(
    tmp_path: Path, scene: str, engine: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.eab").write_bytes(tiny_stateful.stateful_bytes())
    command = ["stream", str(tmp_path / "x.eab"), "--input", scene, "--engine", engine, "--precision", precision]
    assert main(command) == 0
    windowed = decided(capsys.readouterr().out)
    assert main([*command, "--stateful"]) == 0
    assert decided(capsys.readouterr().out) == windowed
    assert len(windowed) > 2


def test_a_bundle_without_a_stateful_form_is_refused_with_the_mend(
    tmp_path: Path, scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.eab").write_bytes(tiny.tiny_bytes())
    assert main(["stream", str(tmp_path / "x.eab"), "--input", scene, "--stateful"]) == 2
    assert "has no stateful onnx-fp32 artefact; it has: none; give its recipe `stateful`" in capsys.readouterr().err


def test_bundle_check_streams_and_names_a_slip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.eab").write_bytes(tiny_stateful.stateful_bytes())
    assert main(["bundle", "check", str(tmp_path / "x.eab")]) == 0
    assert "tflite-int8-stateful, streamed against windows, on litert passed" in capsys.readouterr().out
    (tmp_path / "x.eab").write_bytes(tiny_stateful.stateful_bytes(4, 1))
    assert main(["bundle", "check", str(tmp_path / "x.eab")]) == 3
    assert "tflite-int8-stateful, streamed against windows, on litert failed" in capsys.readouterr().out


def test_bundle_show_counts_states_and_lists_them_only_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.eab").write_bytes(tiny_stateful.stateful_bytes())
    assert main(["bundle", "show", str(tmp_path / "x.eab")]) == 0
    shown = capsys.readouterr().out
    assert "state_bytes  1280" in shown
    assert "state0" not in shown
    assert main(["bundle", "show", str(tmp_path / "x.eab"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stateful"]["artefacts"][0]["states"][0]["name"] == "state0"
