"""A benchmark on this machine that is broken off: by Ctrl-C, by its deadline, by a place that cannot be written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_bundle as tiny

CODE = "import sys; from edgeaudio.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Would take ten minutes."""
    (tmp_path / "tiny.eab").write_bytes(tiny.tiny_bytes())
    return [sys.executable, "-c", CODE, "bench", str(tmp_path / "tiny.eab"), "--min-seconds", "600"]


def kept(folder: Path) -> dict[str, object]:
    """The incomplete result in a folder, which has nothing else but its messages."""
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".jsonl"]
    found: dict[str, object] = json.loads(next(folder.glob("*.incomplete.json")).read_text())
    return found


def test_ctrl_c_keeps_what_was_measured_and_marks_it(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "results" / "here.json"
    with subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = ""
        while "local: timing" not in said:
            line = process.stderr.readline().decode()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "local: stopped by the user; kept: " in process.stderr.read().decode()
    assert "stopped by the user" in str(kept(out.parent)["incomplete"])


def test_a_deadline_ends_a_run_here_too(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "results" / "here.json"
    done = subprocess.run([*command, "--deadline", "8", "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "local: no end after 8.0 s; kept: " in done.stderr
    assert "no end after 8.0 s" in str(kept(out.parent)["incomplete"])


def test_where_nothing_can_be_written_is_known_before_anything_is_measured(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file" / "x.json", "/proc/nope/x.json"):
        done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"--out {out}: nothing can be written there" in done.stderr
    two = ["--device", "local", "--device", "board@nowhere", "--out", str(tmp_path / "file")]
    done = subprocess.run([*command, *two], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the results of several devices go into a folder" in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_service_that_closed_standard_error_is_no_error(command: list[str], tmp_path: Path) -> None:
    quick = [*command[:-2], "--min-seconds", "0", "--min-hops", "20", "--artefact", "onnx-fp32", "--json"]
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *quick]
    done = subprocess.run(closed, stdout=subprocess.PIPE, text=True, check=False)
    assert json.loads(done.stdout)["artefacts"][0]["n_hops"] >= 20
