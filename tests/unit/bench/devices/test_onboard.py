"""What runs on a device first: any Python from 3.7 on, any folder name, no folder left after a failure."""

from __future__ import annotations

import ast
import fcntl
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.devices import onboard
from edgeaudio.bench.devices.payload import runtime_archive, transfer
from edgeaudio.bench.devices.preflight import Description, asked_packages

RUN = "20261121T120000Z-0123abcd"
SOURCE = Path(onboard.__file__)


def ask(*arguments: str, data: bytes = b"") -> tuple[int, dict[str, Any]]:
    written: list[bytes] = []
    code = onboard.main(list(arguments), io.BytesIO(data), written.append)
    [line] = written
    return code, json.loads(line)


def test_it_is_written_for_an_old_python() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 7))


def test_it_needs_the_standard_library_only() -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    # edgeaudio is what was received, and is imported only then.
    assert imported - {"edgeaudio"} <= sys.stdlib_module_names


def test_the_loader_runs_the_source_it_is_given_and_nothing_from_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the home folder')")
    source = SOURCE.read_bytes()
    command = [sys.executable, "-c", onboard.LOADER, str(len(source)), "describe", str(tmp_path)]
    done = subprocess.run(command, input=source, capture_output=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["kind"] == "describe"


def test_a_description_is_one_that_the_host_knows(tmp_path: Path) -> None:
    code, message = ask("describe", str(tmp_path / "not" / "there"), *asked_packages())
    assert code == 0
    description = Description.parse(message["body"], source="here")
    assert description.packages["numpy"]
    assert description.folder_writable
    assert not (tmp_path / "not").exists()


FILES = {"request.json": b"{}", "bundle.eab": bytes(range(256)) * 8}


def test_what_is_sent_arrives_and_is_removed(tmp_path: Path) -> None:
    code, message = ask("receive", str(tmp_path), RUN, data=transfer(FILES))
    assert (code, message["body"]) == (0, {"folder": str(tmp_path / RUN)})
    assert {path.name: path.read_bytes() for path in (tmp_path / RUN).iterdir()} == FILES
    assert (tmp_path / RUN).stat().st_mode & 0o777 == 0o700
    assert ask("remove", str(tmp_path), RUN)[1]["body"]["was_there"]
    assert not ask("remove", str(tmp_path), RUN)[1]["body"]["was_there"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_of_a_transfer_cut_at_any_byte(tmp_path: Path) -> None:
    data = transfer(FILES)
    for end in [*range(0, len(data), 7), len(data) - 1]:
        code, message = ask("receive", str(tmp_path), RUN, data=data[:end])
        assert (code, message["kind"]) == (1, "error"), end
        assert list(tmp_path.iterdir()) == []


def test_nothing_stays_of_a_damaged_transfer(tmp_path: Path) -> None:
    data = bytearray(transfer(FILES))
    data[-1] ^= 1
    _, message = ask("receive", str(tmp_path), RUN, data=bytes(data))
    assert message["body"]["message"] == "bundle.eab arrived damaged"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".x", "x\ny", "X", "x" * 65, "lock;rm"])
def test_a_file_has_a_plain_name(name: str, tmp_path: Path) -> None:
    parent = tmp_path / "runs"
    _, message = ask("receive", str(parent), RUN, data=transfer({name: b"x"}))
    assert "is no name of a file" in message["body"]["message"]
    assert list(parent.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize("run_id", ["..", ".", "", "x", f"{RUN}/..", f"../{RUN}", f"{RUN}\n", "; rm -rf /", "a" * 4096])
def test_only_folders_of_runs_are_made_and_removed(run_id: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for command in ("remove", "receive"):
        code, message = ask(command, str(tmp_path), run_id, data=transfer({}))
        assert code == 1
        assert "is no name of a run" in message["body"]["message"]
    assert (tmp_path / "x").exists()


def test_a_folder_that_is_there_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "mine").touch()
    assert ask("receive", str(tmp_path), RUN, data=transfer(FILES))[1]["kind"] == "error"
    assert (tmp_path / RUN / "mine").exists()


@pytest.mark.parametrize("name", ["a; touch pwned", "$(touch pwned)", "a'b\"c", "ä ö\u202e", "x" * 200, "a\nb"])
def test_a_parent_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    parent = tmp_path / name
    assert ask("receive", str(parent), RUN, data=transfer(FILES))[0] == 0
    assert ask("remove", str(parent), RUN)[1]["body"]["was_there"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def old(folder: Path) -> Path:
    folder.mkdir()
    os.utime(folder, (0, 0))
    return folder


def test_what_lost_runs_left_is_removed_by_the_next_look(tmp_path: Path) -> None:
    left = old(tmp_path / RUN)
    (tmp_path / RUN.replace("0123", "4567")).mkdir()  # Of a run that may just have begun.
    other = old(tmp_path / "holiday-photos")
    held = old(tmp_path / RUN.replace("0123", "89ab"))
    with (held / onboard.LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        os.utime(held, (0, 0))
        assert ask("describe", str(tmp_path))[1]["body"]["swept"] == 1
    assert not left.exists()
    assert other.exists()
    assert held.exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_an_agent_that_still_works_is_stopped_before_its_folder_goes(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir()
    program = (
        "import fcntl, os, sys, time\n"
        "lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print(os.getpid(), file=lock, flush=True)\n"
        "print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(folder / onboard.LOCK_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        assert ask("remove", str(tmp_path), RUN)[0] == 0
        assert agent.wait(10) == -15
    assert not folder.exists()


def test_the_runtime_is_unpacked_and_compiles_where_there_is_a_compiler(tmp_path: Path) -> None:
    archive = runtime_archive("another-architecture")
    with tarfile.open(fileobj=io.BytesIO(archive)) as listed:
        names = listed.getnames()
    assert not any(name.endswith(".so") for name in names)
    assert ask("receive", str(tmp_path), RUN, data=transfer({onboard.RUNTIME_FILE: archive}))[0] == 0
    runtime = tmp_path / RUN / onboard.RUNTIME_FOLDER
    assert (runtime / "edgeaudio" / "bench" / "agent.py").exists()
    source = SOURCE.read_bytes()
    command = [sys.executable, "-c", onboard.LOADER, str(len(source)), "build", str(tmp_path), RUN]
    done = subprocess.run(command, input=source, capture_output=True, check=True)
    body = json.loads(done.stdout)["body"]
    if not body["built"]:
        pytest.skip(f"no C compiler here, or no headers of Python: {body['detail']}")
    assert (runtime / "edgeaudio" / "frontend" / "native" / "_logmel.abi3.so").exists()
