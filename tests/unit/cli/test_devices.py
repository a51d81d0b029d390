"""`devices list|probe|doctor` and `bench --device`: names, exit codes, and names that nobody should have given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.devices import local
from edgeaudio.bench.devices.fake import FakeBoard
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchOptions, read_result, write_result
from edgeaudio.cli.main import main
from tests import tiny_bundle as tiny

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGEAUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.eab").write_bytes(tiny.tiny_bytes("onnx-fp32"))
    return "tiny.eab"


def devices(tmp_path: Path, **entries: Any) -> None:
    """./devices.yaml; JSON is YAML."""
    (tmp_path / "devices.yaml").write_text(json.dumps({"devices": entries}))


def fake(tmp_path: Path, *faults: dict[str, Any]) -> dict[str, Any]:
    """A device that answers with a record."""
    record = tmp_path / "record.json"
    if not record.exists():
        options = BenchOptions(min_hops=20, min_seconds=0)
        write_result(bench_bundle(tiny.tiny_bundle("onnx-fp32"), options=options), record)
    return {"kind": "fake", "record": str(record), "folder": str(tmp_path / "runs"), "faults": faults}


def test_list_knows_this_machine_and_the_file(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "list"]) == 0
    assert "this machine" in capsys.readouterr().out
    devices(tmp_path, pi5={"kind": "ssh", "host": "pi@pi5.local", "notes": "active cooler"})
    assert main(["devices", "list"]) == 0
    assert "pi@pi5.local" in capsys.readouterr().out
    assert main(["devices", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pi5"]["notes"] == "active cooler"


def test_doctor_names_what_is_missing_and_its_command(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(tmp_path, other={"kind": "local", "python": sys.executable, "folder": str(tmp_path / "runs")})
    assert main(["devices", "doctor", "other"]) == 0
    capsys.readouterr()
    from edgeaudio.bench.devices import preflight

    monkeypatch.setattr(preflight, "BASE_PACKAGES", ("no-such-package>=7",))
    assert main(["devices", "doctor", "other"]) == 6
    said = capsys.readouterr()
    assert f"{sys.executable} -m pip install 'no-such-package>=7'" in said.out
    assert "other lacks what is marked 'missing'" in said.err
    assert main(["devices", "doctor", "other", "--json"]) == 6
    found = json.loads(capsys.readouterr().out)["other"]
    assert [item["subject"] for item in found if item["grade"] == "missing"] == ["no-such-package"]


def test_probe_tells_the_board_of_this_machine(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "DEFAULT_FOLDER", str(tmp_path / "runs"))
    assert main(["devices", "probe", "local", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["local"]["cores_logical"] == os.cpu_count()


def test_a_device_cannot_write_on_the_terminal(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    described = FakeBoard._described()
    packages = described["packages"] | {"psutil": f"1{evil}"}
    hostile = described | {"model": evil, "os": evil, "python": f"3.11.2{evil}", "libc": evil, "packages": packages}
    monkeypatch.setattr(FakeBoard, "_described", lambda board: hostile | {"executable": f"/usr/bin/python3{evil}"})
    devices(tmp_path, pretend=fake(tmp_path))
    for verb in ("doctor", "probe"):
        for how in ([], ["--json"]):
            assert main(["devices", verb, "pretend", *how]) in (3, 6)
            said = capsys.readouterr()
            assert all(char.isprintable() or char == "\n" for char in said.out + said.err)
    assert main(["devices", "doctor", "pretend"]) == 6
    assert "\\x1b]0;owned" in capsys.readouterr().out


def test_a_python_that_is_not_there_is_exit_code_6(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices(tmp_path, other={"kind": "local", "python": "no-such-python"})
    assert main(["devices", "doctor", "other"]) == 6
    assert "'no-such-python' cannot be started" in capsys.readouterr().err


def test_a_fake_device_is_never_valid(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices(tmp_path, pretend=fake(tmp_path))
    assert main(["bench", bundle, "--device", "pretend", "--out", "result.json"]) == 4
    assert "pretend (parity" in capsys.readouterr().err
    result = read_result(tmp_path / "result.json")
    assert result.environment.device == "pretend"
    assert result.verdict.level == "invalid"


def test_what_is_left_of_a_lost_run_is_kept_beside_the_results(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = fake(tmp_path, {"command": "agent", "kind": "cut", "at_byte": 300})
    devices(tmp_path, good=fake(tmp_path), lost=lost)
    out = tmp_path / "results"
    out.mkdir()
    assert main(["bench", bundle, "--device", "lost", "--device", "good", "--out", str(out)]) == 5
    said = capsys.readouterr()
    assert "1 of 2 devices: lost: the link was lost; kept: " in said.err
    assert "on good:" in said.out
    assert {path.name.split("-")[0] for path in out.iterdir()} == {"good.json", "lost"}
    assert main(["bench", bundle, "--device", "lost"]) == 5
    assert list((tmp_path / "cache" / "incomplete").glob("lost-*.incomplete.jsonl"))


def test_a_deadline_ends_a_run(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices(tmp_path, hangs=fake(tmp_path, {"command": "agent", "kind": "stall", "at_byte": 10}))
    assert main(["bench", bundle, "--device", "hangs", "--deadline", "20"]) == 5
    assert "hangs: no end after 15 s" in capsys.readouterr().err


def test_this_machine_needs_no_file(bundle: str, tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_text("{ this is no YAML")
    assert main(["bench", bundle, "--min-hops", "20", "--min-seconds", "0"]) in (0, 4)
    assert main(["bench", bundle, "--device", "pi5"]) == 2


HOSTILE = ["; rm -rf /", "a\nb", "x" * 4096, "-oProxyCommand=id@host", "$(id)@host", "../../etc", "", "a b@host"]


@pytest.mark.parametrize("word", HOSTILE, ids=lambda word: ascii(word)[:20])
@pytest.mark.parametrize(
    "verb", [["bench", "tiny.eab", "--device"], ["devices", "doctor", "--"], ["devices", "probe", "--"]]
)
def test_a_device_that_is_a_command_is_refused_in_one_line(
    verb: list[str], word: str, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb, word]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 1000


@pytest.mark.parametrize("option", [b"--device", b"--devices", b"--out", b"--baseline"])
def test_names_that_are_not_utf_8_are_refused_or_harmless(option: bytes, bundle: str, tmp_path: Path) -> None:
    program = [os.fsencode(sys.executable), b"-m", b"edgeaudio.cli.main"]
    verb = [b"bench", b"tiny.eab", b"--min-hops", b"20", b"--min-seconds", b"0", option, b"\xff\xfe \xe4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*program, *verb], cwd=tmp_path, capture_output=True, env=environment, check=False)
    # --out is a file of that name, as good as another.
    assert done.returncode in ((0, 4) if option == b"--out" else (2,)), done.stderr
    assert b"Traceback" not in done.stderr
