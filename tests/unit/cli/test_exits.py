"""`edgeaudio exits`, and `--exits` of the other verbs, on the tiny bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from edgeaudio.cli.main import main
from tests import tiny_bundle as tiny
from tests import tiny_exits


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "tiny.eab"
    path.write_bytes(tiny_exits.exits_bytes())
    return str(path)


@pytest.fixture
def sounds(tmp_path: Path) -> str:
    root = tmp_path / "sounds"
    for label in tiny.LABELS:
        (root / label).mkdir(parents=True)
        for i in range(2):
            sf.write(root / label / f"{i}.wav", 0.1 * tiny.noise_band(label, 8_000, seed=i), 16_000)
    (root / "low" / "broken.wav").write_bytes(b"RIFF")
    return str(root)


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("engine", "precision"), [("onnx", "fp32"), ("litert", "int8")])
def test_the_curve_is_what_the_runtime_does(
    bundle: str, sounds: str, engine: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--engine", engine, "--precision", precision)
    curve = result(capsys, "exits", bundle, sounds, *options)
    assert (curve["n_clips"], curve["macs_to_exit"]) == (6, [1000, 4000])
    assert list(curve["skipped"]) == ["low/broken.wav"]
    (operating,) = [point for point in curve["points"] if point["operating"]]
    assert operating["thresholds"] == [0.9]
    run = result(capsys, "eval", bundle, sounds, "--exits", *options)
    assert run["exit_share"] == pytest.approx(operating["share"])
    assert run["n_correct"] == operating["n_correct"]
    # The last is what runs without exits; the first always stops at once.
    whole = result(capsys, "eval", bundle, sounds, *options)
    assert whole["exit_share"] == []
    assert whole["n_correct"] == curve["points"][-1]["n_correct"]
    assert curve["points"][0]["share"] == [1, 0]
    assert [point["mean_macs"] for point in curve["points"]] == sorted(p["mean_macs"] for p in curve["points"])


def test_the_table_fits_eighty_columns(bundle: str, sounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exits", bundle, sounds]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert "THRESHOLD" in page
    assert [line for line in page.splitlines() if line.startswith("*  0.9 ")]
    assert "never" in page


def test_three_exits_still_fit() -> None:
    from edgeaudio.cli.exits import _row
    from edgeaudio.pipeline.exit_curve import CurvePoint

    point = CurvePoint((0.9876, None, 0.1234), True, 9_876_543.0, 0.999, (0.99, 0.0, 0.0, 0.01), 0.99, 1999)
    cells = zip(_row(point), ("*", "THRESHOLD", "KMACS", "OF ALL", "EXIT0", "EXIT1", "EXIT2", "FINAL", ""), strict=True)
    assert sum(max(map(len, pair)) + 2 for pair in cells) - 2 <= 80


def test_streaming_with_exits_names_the_exit(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000)
    assert main(["stream", bundle, "--input", str(tmp_path / "scene.wav"), "--exits"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert events
    assert {event["exit"] for event in events if event["event"] == "start"} <= {0, 1}
    assert {event["exit"] for event in events} <= {0, 1, None}
    assert "windows that stopped at exit 0: " in captured.err


@pytest.mark.parametrize("verb", ["exits", "eval"])
def test_a_bundle_without_exits_is_exit_code_2(
    verb: str, tmp_path: Path, sounds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.eab"
    path.write_bytes(tiny.tiny_bytes())
    assert main([verb, str(path), sounds, *(["--exits"] if verb == "eval" else [])]) == 2
    assert "has no early exits as onnx-fp32" in capsys.readouterr().err
