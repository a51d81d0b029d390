"""Files and commands are read within bounds, and whatever happens is an answer, not an exception."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bench.probes import Completed, run_command
from edgeaudio.bench.probes.system import (
    FILE_BYTES,
    NAMES,
    OUTPUT_BYTES,
    TEXT_CHARACTERS,
    LiveMachine,
    Recording,
    clean,
    number,
    read_file,
    within,
)
from tests.boards import RecordedRunner

# A hang shows as a test that takes minutes; a deadline of a loaded machine is still met in half of this.
SOON_S = 10.0


def test_a_command_answers_in_plain_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run_command(["sh", "-c", "echo $LC_ALL"], 5) == Completed(0, b"C\n")
    assert run_command(["sh", "-c", "echo half; exit 3"], 5) == Completed(3, b"half\n")
    assert run_command(["cat"], 5) == Completed(0, b"")  # No input, so no waiting for any.


def test_no_shell_sees_an_argument() -> None:
    assert run_command(["echo", "; rm -rf $HOME `id`"], 5) == Completed(0, b"; rm -rf $HOME `id`\n")


@pytest.mark.parametrize("program", ["no-such-program-here", "", "/", "/etc/hostname", "a\0b", "\ud800", "x" * 5000])
def test_a_program_that_is_not_there_is_none(program: str) -> None:
    assert run_command([program], 5) is None


def test_a_program_that_cannot_start_is_none(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELF garbage")
    garbage.chmod(0o755)
    assert run_command([str(garbage)], 5) is None
    assert run_command(["echo", "a\0b"], 5) is None


def test_a_command_ends_at_its_deadline_with_all_it_started(tmp_path: Path) -> None:
    start = time.monotonic()
    script = f"echo first; sleep 300 & echo $! > {tmp_path}/child; sleep 300"
    assert run_command(["sh", "-c", script], 0.5) == Completed(None, b"first\n")
    assert time.monotonic() - start < SOON_S
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(" ")[2] != "Z"
    except OSError:
        return False


def test_a_program_that_closes_its_output_and_stays_is_ended_too() -> None:
    start = time.monotonic()
    assert run_command(["sh", "-c", "echo done; exec >&-; sleep 300"], 0.5) == Completed(None, b"done\n")
    assert time.monotonic() - start < SOON_S


def test_endless_output_is_cut() -> None:
    done = run_command(["yes"], 5)
    assert done is not None
    assert (done.exit_code, len(done.stdout)) == (None, OUTPUT_BYTES)


def test_only_regular_files_are_read_and_only_their_beginning(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large"
    large.write_bytes(b"x" * (FILE_BYTES + 1))
    (tmp_path / "loop").symlink_to("loop")
    assert len(read_file(large) or b"") == FILE_BYTES
    for name in ("pipe", "loop", "absent", "", "large/below", "a\0b", "x" * 5000):
        assert read_file(tmp_path / name) is None
    assert read_file(Path("/dev/zero")) is None
    assert read_file(Path("/proc/loadavg"))


def test_a_folder_is_listed_as_one_reads_and_within_bounds(tmp_path: Path) -> None:
    machine = LiveMachine(tmp_path, RecordedRunner({}))
    assert machine.names("/absent") == ()
    for name in ("cpu10", "cpu2", "cpu1", "cpufreq", "9" * 200):
        (tmp_path / name).touch()
    assert machine.names("/") == ("9" * 200, "cpu1", "cpu2", "cpu10", "cpufreq")
    (tmp_path / "many").mkdir()
    for index in range(NAMES + 10):
        (tmp_path / "many" / str(index)).touch()
    assert len(machine.names("/many")) == NAMES


def test_a_program_that_was_not_there_is_looked_for_once() -> None:
    runner = RecordedRunner({})
    machine = LiveMachine(Path("/"), runner)
    assert [machine.run("vcgencmd", "version"), machine.run("vcgencmd", "get_throttled")] == [None, None]
    assert runner.asked == ["vcgencmd version"]


@pytest.mark.parametrize(
    ("exit_code", "stdout", "answer", "endless"),
    [(0, "yes", b"yes", b"yes"), (None, "part", None, b"part"), (1, "sorry", None, None), (0, "", None, None)],
)
def test_half_an_answer_counts_only_for_a_command_that_never_ends(
    exit_code: int | None, stdout: str, answer: bytes | None, endless: bytes | None
) -> None:
    machine = LiveMachine(Path("/"), RecordedRunner({"tool": {"exit_code": exit_code, "stdout": stdout}}))
    assert (machine.run("tool"), machine.run("tool", endless=True)) == (answer, endless)


def test_a_recording_asks_again_only_for_what_was_answered(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("1\n")
    runner = RecordedRunner({"tool a": {"exit_code": 0, "stdout": "x"}, "tool b": {"exit_code": 1, "stdout": ""}})
    recording = Recording(LiveMachine(tmp_path, runner))
    assert [recording.read("/there"), recording.read("/absent")] == [b"1\n", None]
    assert [recording.run("tool", "a"), recording.run("tool", "b"), recording.run("none")] == [b"x", None, None]
    (tmp_path / "there").write_text("2\n")
    (tmp_path / "absent").write_text("3\n")
    runner.asked.clear()
    files_only = recording.again(commands=False)
    assert (files_only.read("/there"), files_only.read("/absent"), files_only.run("tool", "a")) == (b"2\n", None, None)
    assert runner.asked == []
    assert recording.again(commands=True).run("tool", "a") == b"x"
    assert runner.asked == ["tool a"]
    assert recording.snapshot().read("/there") == b"1\n"


@given(st.text())
def test_clean_text_is_short_printable_and_of_one_line(text: str) -> None:
    cleaned = clean(text)
    assert cleaned is None or (cleaned.isprintable() and 0 < len(cleaned) <= TEXT_CHARACTERS)


@pytest.mark.parametrize(("text", "value"), [("42", 42.0), (" -273.15\n", -273.15), ("+7", 7.0)])
def test_a_number_is_a_plain_decimal(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["1e3", "nan", "inf", "", "٣", "1_000", "0x10", "9" * 16, None, "5 6"])
def test_anything_else_is_no_number(text: str | None) -> None:
    assert number(text) is None


@given(st.floats())
def test_what_is_not_plausible_is_unknown(value: float) -> None:
    assert within(value, -60, 200) in (None, value)
    assert within(float("nan"), -60, 200) is within(float("inf"), -60, 200) is None
