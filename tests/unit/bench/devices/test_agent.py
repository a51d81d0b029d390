"""The agent in a process of its own: on nothing but what was sent, and gone when its link is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from edgeaudio.bench import agent
from edgeaudio.bench.agent import BUNDLE_FILE, REQUEST_FILE, AgentRequest
from edgeaudio.bench.devices import onboard
from edgeaudio.bench.devices.payload import runtime_archive, transfer
from edgeaudio.bench.devices.preflight import BASE_PACKAGES, ENGINE_PACKAGES
from edgeaudio.bench.devices.protocol import AGENT_KINDS, Message, MessageReader, check_complete
from edgeaudio.bench.devices.transport import STOP
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.bundle.container import pack
from tests.boards import recorded_board
from tests.stream_driver import eventually
from tests.tiny_bundle import tiny_bundle

RUN = "20261121T120000Z-0123abcd"
BUNDLE = tiny_bundle()
SOURCE = Path(onboard.__file__).read_bytes()
QUICK = BenchOptions(min_hops=20, min_seconds=0)
LONG = BenchOptions(min_hops=20, min_seconds=600)


def request(options: BenchOptions = QUICK, bundle_sha256: str = BUNDLE.sha256) -> AgentRequest:
    return AgentRequest(task="bench", run_id=RUN, device="board", bundle_sha256=bundle_sha256, options=options)


def start(parent: Path, asked: AgentRequest, *, deadline_s: float = 300, **environment: str) -> subprocess.Popen[bytes]:
    """The agent on what was sent to `parent`, as `onboard` starts it there."""
    files = {REQUEST_FILE: asked.model_dump_json().encode(), BUNDLE_FILE: pack(BUNDLE.entries)}
    data = transfer({onboard.RUNTIME_FILE: runtime_archive("another"), **files})
    loader = [sys.executable, "-I", "-c", onboard.LOADER, str(len(SOURCE))]
    subprocess.run([*loader, "receive", str(parent), RUN], input=SOURCE + data, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        [*loader[:1], "-c", *loader[3:], "agent", str(parent), RUN, str(deadline_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "", **environment},
    )
    assert process.stdin is not None
    process.stdin.write(SOURCE)
    process.stdin.flush()
    return process


def messages_of(output: bytes) -> list[Message]:
    reader = MessageReader(AGENT_KINDS)
    for line in output.splitlines():
        reader.line(line)
    return reader.messages


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def finish(process: subprocess.Popen[bytes], *, hang_up: bool = False) -> bytes:
    """What it says until it ends by itself; `hang_up` closes its input first."""
    assert process.stdin is not None
    assert process.stdout is not None
    if hang_up:
        process.stdin.close()
    said = process.stdout.read()
    process.wait(60)
    process.stdin.close()
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    return said


def test_it_says_all_in_order_and_removes_its_folder(tmp_path: Path) -> None:
    messages = messages_of(finish(start(tmp_path, request())))
    check_complete(messages)
    kinds = [message.kind for message in messages if message.kind not in ("alive", "progress")]
    assert kinds == ["hello", "result", *["artefact"] * 4, "bye"]
    assert list(tmp_path.iterdir()) == []


def installed_below(folder: Path, names: set[str]) -> None:
    """Links to the files of these distributions and of what they need, and to nothing else."""
    waiting, seen = set(names), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
        for line in distribution.requires or ():
            needed = onboard.re.split(r"[ <>=!~;\[(]", line, maxsplit=1)[0]
            if "extra ==" not in line and onboard._version(needed) and needed not in seen:
                waiting.add(needed)


def test_it_runs_on_what_was_sent_and_the_packages_that_preflight_asks_for(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    requirements = (*BASE_PACKAGES, ENGINE_PACKAGES["onnx"], ENGINE_PACKAGES["tflite"])
    installed_below(packages, {onboard.re.split("[<>=]", requirement)[0] for requirement in requirements})
    assert not (packages / "torch").exists()
    program = (
        "import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]; sys.meta_path[:] = "
        "[finder for finder in sys.meta_path if 'editable' not in repr(finder)]"
    )
    (packages / "sitecustomize.py").write_text(program)
    for absent in ("torch", "typer", "edgeaudio"):
        tried = [sys.executable, "-c", f"import {absent}"]
        done = subprocess.run(tried, env={"PYTHONPATH": str(packages)}, cwd=tmp_path, capture_output=True, check=False)
        assert b"No module named" in done.stderr
    messages = messages_of(finish(start(tmp_path / "runs", request(), PYTHONPATH=str(packages))))
    assert [message.body for message in messages if message.kind == "error"] == []
    check_complete(messages)


def test_the_end_of_the_link_is_the_end_of_the_agent(tmp_path: Path) -> None:
    process = start(tmp_path, request(LONG))
    assert b'"hello"' in first_line(process)
    finish(process, hang_up=True)
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_is_asked_to_stop_says_so(tmp_path: Path) -> None:
    process = start(tmp_path, request(LONG))
    first_line(process)
    process.send_signal(signal.SIGTERM)
    error = json.loads(finish(process).splitlines()[-1])
    assert (error["kind"], error["body"]["type"], error["body"]["exit_code"]) == ("error", "Stopped", 5)
    assert list(tmp_path.iterdir()) == []


def until_timing(process: subprocess.Popen[bytes]) -> bytes:
    """What it says until it has begun to time."""
    said = first_line(process)
    while b'"stage":"timing"' not in said:
        said += first_line(process)
    return said


def tell_to_stop(process: subprocess.Popen[bytes]) -> None:
    """As the host does."""
    assert process.stdin is not None
    process.stdin.write(STOP)
    process.stdin.flush()


def test_what_it_has_measured_when_it_is_told_to_stop_is_told_as_a_part(tmp_path: Path) -> None:
    process = start(tmp_path, request(LONG))
    said = until_timing(process)
    time.sleep(0.5)
    tell_to_stop(process)
    messages = messages_of(said + finish(process))
    check_complete(messages)
    [head] = [message.body["head"] for message in messages if message.kind == "result"]
    assert head["incomplete"] == "stopped by the user"
    assert sum(message.body["n_hops"] for message in messages if message.kind == "artefact") > 0
    assert list(tmp_path.iterdir()) == []


def test_its_own_deadline_ends_it(tmp_path: Path) -> None:
    process = start(tmp_path, request(LONG), deadline_s=3)
    assert b"no end after 3 s" in finish(process)
    assert list(tmp_path.iterdir()) == []


def test_what_it_refuses_comes_with_its_exit_code(tmp_path: Path) -> None:
    error = json.loads(finish(start(tmp_path, request(bundle_sha256="0" * 64))).splitlines()[-1])
    assert error["kind"] == "error"
    assert error["body"]["exit_code"] == 2
    assert "bundle.eab is" in error["body"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "psutil.py").write_text("raise ModuleNotFoundError('No module named psutil')")
    error = json.loads(finish(start(tmp_path / "runs", request(), PYTHONPATH=str(empty))))
    assert error["body"]["exit_code"] == 6
    assert "psutil" in error["body"]["message"]


def start_changed(
    folder: Path, asked: AgentRequest, change: str, *arguments: str, **environment: str
) -> subprocess.Popen[bytes]:
    """The agent of these sources on `folder`, after the program `change`, which may use `arguments`."""
    folder.mkdir()
    (folder / REQUEST_FILE).write_text(asked.model_dump_json())
    (folder / BUNDLE_FILE).write_bytes(pack(BUNDLE.entries))
    root = Path(agent.__file__).parents[2]
    program = f"import sys; from edgeaudio.bench import agent; {change}; sys.exit(agent.main(sys.argv[1], '300'))"
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )


#: `--set-performance` on the files of a recorded board.
HOLDING = (
    "import functools, pathlib; from edgeaudio.bench import harness; root, notes = map(pathlib.Path, sys.argv[2:]); "
    "harness.performance_governor = functools.partial(harness.performance_governor, root=root, folder=notes)"
)


@pytest.fixture
def board_files(tmp_path: Path) -> tuple[str, str, Path]:
    """Root and journal for `HOLDING`, and the governor there."""
    root, _ = recorded_board("raspberry-pi-5", tmp_path)
    governor = root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    assert governor.read_text() == "ondemand\n"
    return str(root), str(tmp_path / "journal"), governor


def test_statistics_of_a_slow_board_cost_neither_the_partial_result_nor_the_governor(
    tmp_path: Path, board_files: tuple[str, str, Path]
) -> None:
    root, journal, governor = board_files
    slow = "import time; from edgeaudio.bench import stats; stats.intervals_us = lambda *_, **__: time.sleep(300)"
    asked = request(LONG.model_copy(update={"set_performance": True}))
    process = start_changed(tmp_path / RUN, asked, f"{slow}; {HOLDING}", root, journal)
    said = until_timing(process)
    assert governor.read_text() == "performance\n"
    time.sleep(0.5)
    tell_to_stop(process)
    messages = messages_of(said + finish(process))
    check_complete(messages)
    [head] = [message.body["head"] for message in messages if message.kind == "result"]
    assert head["incomplete"] == "stopped by the user"
    assert sum(message.body["n_hops"] for message in messages if message.kind == "artefact") > 0
    assert governor.read_text() == "ondemand\n"


def test_the_machine_is_given_back_before_statistics_are_made(
    tmp_path: Path, board_files: tuple[str, str, Path]
) -> None:
    root, journal, governor = board_files
    slow = (
        "import time; from edgeaudio.bench import stats; "
        "stats.intervals_us = lambda *_, **__: print('statistics', file=sys.stderr, flush=True) or time.sleep(300)"
    )
    asked = request(QUICK.model_copy(update={"set_performance": True}))
    process = start_changed(tmp_path / RUN, asked, f"{slow}; {HOLDING}", root, journal)
    assert process.stderr is not None
    while b"statistics" not in process.stderr.readline():
        assert process.poll() is None
    assert governor.read_text() == "ondemand\n"
    process.send_signal(signal.SIGTERM)
    messages = messages_of(finish(process))
    check_complete(messages)
    # All was timed, and only the intervals are missing.
    assert [message.body["n_hops"] for message in messages if message.kind == "artefact"] == [20] * 4


def test_an_agent_that_is_stuck_is_ended_and_leaves_nothing_behind(
    tmp_path: Path, board_files: tuple[str, str, Path]
) -> None:
    root, journal, governor = board_files
    stuck = (
        # Minutes in C without Python's lock, where Python's handlers of signals do not run.
        "import hashlib; agent._PATIENCE_S = 0.5; from edgeaudio.bench import cold_start; "
        "cold_start._start = lambda _: print('stuck', file=sys.stderr, flush=True) "
        "or hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)"
    )
    asked = request(QUICK.model_copy(update={"set_performance": True, "cold_starts": 1}))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    change = f"{stuck}; {HOLDING}"
    process = start_changed(tmp_path / RUN, asked, change, root, journal, TMPDIR=str(temporary))
    assert process.stderr is not None
    while b"stuck" not in process.stderr.readline():
        assert process.poll() is None
    assert governor.read_text() == "performance\n"
    finish(process, hang_up=True)
    assert process.returncode == 1
    assert governor.read_text() == "ondemand\n"
    assert not (tmp_path / RUN).exists()
    assert list(temporary.iterdir()) == []


def test_it_says_that_it_is_alive(tmp_path: Path) -> None:
    process = start_changed(tmp_path / RUN, request(LONG), "agent.ALIVE_S = 0.05")
    reader = MessageReader(AGENT_KINDS)
    eventually(lambda: [reader.line(first_line(process).rstrip())] and reader.messages[-1].kind == "alive")
    finish(process, hang_up=True)
