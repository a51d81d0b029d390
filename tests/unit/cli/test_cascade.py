"""`edgeaudio cascade` on tiny bundles, and every verb that runs what it writes. No torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.cli.cascade import MAX_DROP
from edgeaudio.cli.main import main
from edgeaudio.spec import ExitSpec
from tests import tiny_bundle as tiny
from tests import tiny_cascade

WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "litert_torch", "torchao", "lightning", "scipy"}:
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Blocker())
from edgeaudio.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """first.eab, then.eab and sounds, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("first.eab").write_bytes(tiny_cascade.first_bytes())
    Path("then.eab").write_bytes(tiny.tiny_bytes())
    for label in tiny.LABELS:
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for seed in range(2):
            noise = 0.02 * np.random.default_rng(seed).standard_normal(8_000)
            wav = 0.1 * (tiny.noise_band(label, 8_000, seed=seed) + noise)
            sf.write(tmp_path / "sounds" / label / f"{seed}.wav", wav, 16_000)
    return tmp_path


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(["cascade", "first.eab", "then.eab", "--out", "both.eab", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not Path("both.eab").exists()
    return captured.err


def test_a_cascade_runs_in_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    made = result(capsys, "cascade", "first.eab", "then.eab", "--out", "both.eab", "--data", "sounds")
    assert made["macs_to_exit"] == [172, 1900]
    assert [chain["name"] for chain in made["chains"]] == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    calibration = made["chains"][0]["calibration"]
    assert (calibration["max_drop"], calibration["n_clips"], calibration["accuracy"]) == (MAX_DROP, 6, 1)
    assert main(["bundle", "check", "both.eab"]) == 0
    shown = result(capsys, "bundle", "show", "both.eab")
    assert shown["lineage"]["cascade"]["first"]["name"] == "first"
    assert shown["exits"]["chains"][0]["calibration"] == calibration
    for engine, precision, chain in (("onnx", "fp32", 0), ("litert", "int8", 3)):
        options = ("both.eab", "sounds", "--engine", engine, "--precision", precision)
        curve = result(capsys, "exits", *options)
        (operating,) = [point for point in curve["points"] if point["operating"]]
        assert curve["exits_after"] == [None]
        assert operating["share"] == pytest.approx(made["chains"][chain]["calibration"]["share"])
        run = result(capsys, "eval", *options, "--exits")
        assert run["exit_share"] == pytest.approx(operating["share"])
        assert run["n_correct"] == operating["n_correct"] == 6
        # The first student alone is wrong about "mid"; without --exits the second answers alone.
        assert curve["points"][0]["n_correct"] < 6
        assert result(capsys, "eval", *options)["exit_share"] == []


def test_a_stream_names_the_student_that_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cascade", "first.eab", "then.eab", "--out", "both.eab", "--threshold", "0.9"]) == 0
    sf.write("scene.wav", tiny.scene(), 16_000)
    capsys.readouterr()
    assert main(["stream", "both.eab", "--input", "scene.wav", "--exits"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert events
    assert {event["exit"] for event in events if event["event"] == "start"} <= {0, 1}
    assert "windows that stopped at exit 0: " in captured.err


def test_a_stateful_cascade_streams(capsys: pytest.CaptureFixture[str]) -> None:
    Path("both.eab").write_bytes(tiny_cascade.stateful_cascade_bytes())
    sf.write("scene.wav", tiny.scene(), 16_000)
    assert main(["stream", "both.eab", "--input", "scene.wav", "--exits", "--stateful"]) == 0
    stepped = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["stream", "both.eab", "--input", "scene.wav", "--exits"]) == 0
    windowed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event.get("label")) for event in stepped] == [
        (event["event"], event.get("label")) for event in windowed
    ]


def test_stateful_exits_of_a_windowed_cascade_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cascade", "first.eab", "then.eab", "--out", "both.eab", "--threshold", "0.9"]) == 0
    sf.write("scene.wav", tiny.scene(), 16_000)
    capsys.readouterr()
    assert main(["stream", "both.eab", "--input", "scene.wav", "--exits", "--stateful"]) == 2
    assert "has no stateful" in capsys.readouterr().err


def test_the_table_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cascade", "first.eab", "then.eab", "--out", "both.eab", "--data", "sounds"]) == 0
    assert main(["cascade", "first.eab", "then.eab", "--out", "both.eab", "--threshold", "1"]) == 0
    assert main(["exits", "both.eab", "sounds"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert "LAST ALONE" in page
    assert "after a first student, 1,900 after the end;\n1,728 of the last student alone." in page


def test_no_torch_is_needed() -> None:
    verb = ["cascade", "first.eab", "then.eab", "--out", "both.eab", "--data", "sounds"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *verb], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert main(["bundle", "check", "both.eab"]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "needs --threshold or --data, and only one"),
        (("--threshold", "0.5", "--data", "sounds"), "needs --threshold or --data, and only one"),
        (("--threshold", "0.5", "--fold", "1"), "give --data too"),
        (("--threshold", "0.5", "--max-drop", "0"), "give --data too"),
        (("--threshold", "1.5"), "'--threshold'"),
        (("--threshold", "nan"), "'--threshold'"),
        (("--data", "sounds", "--max-drop", "1"), "exits.max_drop is 1"),
        (("--data", "nothing-here"), "nothing-here"),
        (("--data", "sounds", "--fold", "3"), "no clip in fold 3"),
    ],
)
def test_options_that_make_no_sense_write_nothing(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, *arguments)


def test_other_labels_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.move("sounds/low", "sounds/lower")
    assert "the bundle has no label 'lower'" in refused(capsys, "--data", "sounds")


def test_an_unsigned_student_is_refused_where_a_signature_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "keygen", "release.key"]) == 0
    assert main(["bundle", "sign", "first.eab", "--key", "release.key"]) == 0
    assert main(["bundle", "trust", "add", "release.pub", "--trust", "keys"]) == 0
    assert "then.eab: signature.ed25519: missing" in refused(capsys, "--threshold", "0.5", "--trust", "keys", code=3)


def test_the_default_loss_is_that_of_recipes() -> None:
    assert ExitSpec.model_fields["max_drop"].default == MAX_DROP
