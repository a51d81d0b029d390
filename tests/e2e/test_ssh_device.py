"""A benchmark over a real ssh connection, to an sshd of its own on this machine: through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile as sf

from edgeaudio.bench.schema import read_result
from edgeaudio.bundle import with_manifest
from edgeaudio.cli.main import main
from edgeaudio.spec import LabelSet
from tests import tiny_bundle as tiny
from tests.sshd import Sshd
from tests.stream_driver import eventually

QUICK = ("--min-hops", "40", "--min-seconds", "0.1")
#: Long enough to be cut.
LONG = ("--min-hops", "40", "--min-seconds", "60")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


class Board:
    """This machine as a board: its devices.yaml, and the folder where runs are."""

    def __init__(self, folder: Path, sshd: Sshd) -> None:
        self.runs = folder / "runs"
        self.file = folder / "devices.yaml"
        self.bundle = folder / "tiny.eab"
        self.bundle.write_bytes(tiny.tiny_bytes())
        self.out = folder / "results"
        self.out.mkdir()
        self.write(sshd.config)

    def write(self, config: Path, folder: str | None = None) -> None:
        """devices.yaml, with `board` and with `nowhere`, where nobody listens."""
        board = {
            "kind": "ssh",
            "host": "board",
            "ssh_config": str(config),
            "python": sys.executable,
            "folder": folder or str(self.runs),
        }
        nowhere = {"kind": "ssh", "host": "nobody@127.0.0.1", "port": 1}
        # JSON is YAML.
        self.file.write_text(json.dumps({"devices": {"board": board, "nowhere": nowhere}}))

    def arguments(self, *more: str) -> list[str]:
        return ["bench", str(self.bundle), "--devices", str(self.file), "--out", str(self.out), *more]

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.runs.iterdir()) if self.runs.exists() else []

    def agents(self) -> list[psutil.Process]:
        """Processes on the board that work for a run."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "agent" in words and str(self.runs) in words:
                found.append(process)
        return found


@pytest.fixture
def board(tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Board:
    # Where the history of benchmarks goes.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Board(tmp_path, sshd)


def test_a_bundle_is_benchmarked_over_ssh(board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, label in enumerate(("low", "mid", "high", "low")):
        (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
        sound = tiny.noise_band(label, 16_000, seed=number)
        sf.write(tmp_path / "clips" / label / f"{number}.wav", sound, 16_000)
    clips = ("--clips", str(tmp_path / "clips"))
    assert main(board.arguments("--device", "board", *clips, *QUICK)) in (0, 4)
    result = read_result(board.out / "board.json")
    assert result.environment.device == "board"
    assert result.incomplete is None
    assert [item.artefact for item in result.artefacts] == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    assert all(item.parity is not None and item.parity.passed and item.n_hops >= 40 for item in result.artefacts)
    checks = [item.accuracy for item in result.artefacts]
    assert [check is not None and (check.passed, check.n_clips, check.n_same) for check in checks] == [(True, 4, 4)] * 4
    said = capsys.readouterr()
    assert "tflite-int8" in said.out
    for stage in ("preflight", "push", "clean-up"):
        assert f"board: {stage}" in said.err
    assert board.folders() == []


def test_one_device_that_is_not_there_fails_only_itself(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(board.arguments("--device", "nowhere", "--device", "board", *QUICK)) == 5
    assert read_result(board.out / "board.json").incomplete is None
    assert not (board.out / "nowhere.json").exists()
    said = capsys.readouterr()
    assert "on board:" in said.out
    assert "1 of 2 devices: nowhere:" in said.err
    assert "Connection refused" in said.err


def run_and(board: Board, *, when_timing: Any) -> tuple[int, str]:
    """A long benchmark in a process of its own, and what happens to it once the agent is at work."""
    command = [sys.executable, "-m", "edgeaudio.cli.main", *board.arguments("--device", "board", *LONG)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stderr is not None
    said = ""
    try:
        while "board: timing" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        time.sleep(0.5)
        when_timing(process)
        _, rest = process.communicate(timeout=90)
    finally:
        process.kill()
    return process.returncode, said + rest


@pytest.mark.slow
def test_a_link_that_breaks_leaves_nothing_and_its_part_is_kept_apart(board: Board, sshd: Sshd) -> None:
    code, said = run_and(board, when_timing=lambda process: sshd.cut_connections())
    assert code == 5
    assert "board:" in said
    assert "kept:" in said
    [kept] = board.out.iterdir()
    assert kept.name.startswith("board-")
    assert kept.name.endswith(".incomplete.jsonl")
    assert json.loads(kept.read_text().splitlines()[0])["kind"] == "hello"
    eventually(lambda: board.folders() == [] and board.agents() == [])


@pytest.mark.slow
def test_ctrl_c_ends_the_run_there_and_here(board: Board) -> None:
    code, said = run_and(board, when_timing=lambda process: process.send_signal(signal.SIGINT))
    assert code == 130, said
    assert "stopped by the user" in said
    [partial] = board.out.glob("*.incomplete.json")
    kept = read_result(partial)
    assert kept.incomplete is not None
    assert "stopped by the user" in kept.incomplete
    assert sum(item.n_hops for item in kept.artefacts) > 0
    eventually(lambda: board.folders() == [] and board.agents() == [])


def test_a_look_says_what_the_board_is_and_has(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "doctor", "board", "--devices", str(board.file)]) == 0
    looked = capsys.readouterr().out
    assert "numpy" in looked
    assert main(["devices", "probe", "board", "--devices", str(board.file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["board"]["cores_logical"] == os.cpu_count()
    assert board.folders() == []


@pytest.mark.parametrize(
    ("key", "known_hosts", "mend"),
    [("stranger", "known_hosts", "ssh-copy-id"), ("id", "nobody", "connect once by hand")],
)
def test_what_ssh_refuses_is_told_with_the_mend(
    key: str, known_hosts: str, mend: str, board: Board, sshd: Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    (sshd.folder / "nobody").touch()
    board.write(sshd.client_config(key, known_hosts))
    assert main(["devices", "doctor", "board", "--devices", str(board.file)]) == 5
    assert mend in capsys.readouterr().err


def test_names_of_bundle_label_and_baseline_are_no_commands(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = tiny.tiny_bundle("onnx-fp32")
    labels = LabelSet(names=("; touch pwned #", "$(touch pwned)", "`touch pwned`'\""))
    task = whole.manifest.task.model_copy(update={"labels": labels})
    board.bundle = tmp_path / "; touch pwned #.eab"
    board.bundle.write_bytes(with_manifest(whole, whole.manifest.model_copy(update={"task": task})))
    baseline = tmp_path / "$(touch pwned) '.onnx"
    baseline.write_bytes(tiny.onnx_model())
    assert main(board.arguments("--device", "board", "--baseline", str(baseline), *QUICK)) in (0, 4)
    result = read_result(board.out / "board.json")
    assert [item.artefact for item in result.artefacts] == ["onnx-fp32", baseline.name]
    assert board.folders() == []
    assert not any((folder / "pwned").exists() for folder in (tmp_path, Path.home()))


def test_a_folder_with_a_hostile_name_is_a_folder(board: Board, sshd: Sshd, tmp_path: Path) -> None:
    hostile = f"{tmp_path}/a; touch pwned; $(touch pwned) `touch pwned` 'b\" & c"
    board.write(sshd.config, hostile)
    assert main(["devices", "probe", "board", "--devices", str(board.file)]) == 0
    assert list(Path(hostile).iterdir()) == []
    assert not any((folder / "pwned").exists() for folder in (tmp_path, Path(), Path.home()))
