"""`--set-performance` sets the governor and gives back what was there, whatever ends the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeaudio.bench.governor import performance_governor
from edgeaudio.errors import ConfigError, EdgeAudioError, UnsupportedError
from tests.boards import NAMES, recorded_board

CPU = "sys/devices/system/cpu"
WITH_GOVERNOR = [name for name in NAMES if name not in ("x86-virtual", "empty")]


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """Intel: the governor takes the preference of energy along."""
    return recorded_board("x86-laptop", tmp_path)[0]


def state(root: Path) -> dict[str, str]:
    """All that may be written below the cores."""
    names = ("scaling_governor", "scaling_setspeed", "energy_performance_preference")
    return {str(path): path.read_text() for name in names for path in sorted((root / CPU).glob(f"cpufreq/*/{name}"))}


def governors(root: Path) -> set[str]:
    return {path.read_text().strip() for path in (root / CPU).glob("cpufreq/*/scaling_governor")}


@pytest.mark.parametrize("name", WITH_GOVERNOR)
def test_the_governor_is_performance_meanwhile_and_then_what_it_was(name: str, tmp_path: Path) -> None:
    root, _ = recorded_board(name, tmp_path)
    before = state(root)
    with performance_governor(enabled=True, root=root, folder=tmp_path / "journal"):
        assert governors(root) == {"performance"}
    assert state(root) == before
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["governors.lock"]


def test_without_the_option_nothing_is_touched(laptop: Path, tmp_path: Path) -> None:
    before = state(laptop)
    with performance_governor(enabled=False, root=laptop, folder=tmp_path / "journal"):
        assert state(laptop) == before
    assert not (tmp_path / "journal").exists()


def test_what_goes_along_with_the_governor_comes_back_too(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = laptop / CPU / "cpufreq/policy0"
    (first / "scaling_governor").write_text("userspace\n")
    (first / "scaling_setspeed").write_text("1800000\n")
    before = state(laptop)
    with performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"):
        # What the kernel does by itself when the governor changes.
        (first / "scaling_setspeed").write_text("<unsupported>\n")
        (first / "energy_performance_preference").write_text("performance\n")
        written, real = [], os.write
        monkeypatch.setattr(os, "write", lambda to, data: (written.append(data), real(to, data))[1])
    assert state(laptop) == before
    # The kernel takes neither before its governor.
    assert [data for data in written if data != b"powersave\n"] == [
        *(b"userspace\n", b"1800000\n", b"balance_performance\n")
    ]
    assert written.index(b"1800000\n") == 4


def test_old_kernels_have_a_folder_per_core(laptop: Path, tmp_path: Path) -> None:
    core = laptop / CPU / "cpu0"
    (core / "cpufreq").unlink()
    shutil.copytree(laptop / CPU / "cpufreq/policy0", core / "cpufreq")
    shutil.rmtree(laptop / CPU / "cpufreq")
    with performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"):
        assert (core / "cpufreq/scaling_governor").read_text() == "performance\n"
    assert (core / "cpufreq/scaling_governor").read_text() == "powersave\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_restores(error: type[BaseException], laptop: Path, tmp_path: Path) -> None:
    before = state(laptop)

    def fail() -> None:
        with performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"):
            assert governors(laptop) == {"performance"}
            raise error

    with pytest.raises(error):
        fail()
    assert state(laptop) == before


HOLD = """
    import sys, time, threading
    from pathlib import Path
    from edgeaudio.bench.governor import performance_governor
    root, folder, where = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    def hold():
        with performance_governor(enabled=True, root=root, folder=folder):
            print("held", flush=True)
            # Short sleeps: Python runs no handler for a signal that comes just before it falls asleep.
            for _ in range(6000 if where == "main" else 5):
                time.sleep(0.1)
    if where == "main":
        hold()
    else:
        threading.Thread(target=hold, daemon=where == "daemon").start()
        time.sleep(0.4)
    """


@pytest.fixture
def holder(laptop: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a run."""
    with _hold(laptop, tmp_path / "journal", "main") as process:
        yield process
        process.kill()


def _hold(root: Path, folder: Path, where: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(root), str(folder), where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert governors(root) == {"performance"}
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_and_ends_the_process_as_it_would(
    number: signal.Signals, holder: subprocess.Popen[str], laptop: Path, tmp_path: Path
) -> None:
    holder.send_signal(number)
    assert holder.wait(60) == -number
    assert governors(laptop) == {"powersave"}
    assert not (tmp_path / "journal/governors.json").exists()


@pytest.mark.parametrize("where", ["thread", "daemon"])
def test_a_run_in_another_thread_restores_when_it_or_the_interpreter_ends(
    where: str, laptop: Path, tmp_path: Path
) -> None:
    with _hold(laptop, tmp_path / "journal", where) as process:
        assert process.wait(60) == 0
    assert governors(laptop) == {"powersave"}


def test_after_a_kill_the_next_run_restores_what_was_there_first(
    holder: subprocess.Popen[str], laptop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (laptop / "proc/sys/kernel/random").mkdir()
    holder.kill()
    holder.wait(60)
    assert governors(laptop) == {"performance"}
    with performance_governor(enabled=False, root=laptop, folder=tmp_path / "journal"):
        assert governors(laptop) == {"performance"}  # Never without the option.
    assert "a killed run has changed the governor" in caplog.text
    with performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"):
        assert governors(laptop) == {"performance"}
    assert governors(laptop) == {"powersave"}


def test_a_reboot_has_restored_already(laptop: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal/governors.json"
    journal.parent.mkdir()
    path = f"/{CPU}/cpufreq/policy0/scaling_governor"
    journal.write_text(json.dumps({"boot_id": "before", "files": {path: "ondemand\n"}}))
    with performance_governor(enabled=True, root=laptop, folder=journal.parent):
        pass
    assert governors(laptop) == {"powersave"}
    assert not journal.exists()


def test_a_journal_writes_nothing_but_governors(laptop: Path, tmp_path: Path) -> None:
    (laptop / "etc/shadow").write_text("root\n")
    policy = f"/{CPU}/cpufreq/policy0"
    files = {"/etc/shadow": "x\n", f"{policy}/../../../../../../etc/shadow": "x\n", f"{policy}/scaling_max_freq": "1\n"}
    files |= {f"{policy}/scaling_governor": "; rm -rf /\n", "/sys/devices/system/cpu/cpufreq/policy0": "x\n"}
    journal = tmp_path / "journal/governors.json"
    journal.parent.mkdir()
    journal.write_text(json.dumps({"boot_id": "unknown", "files": files}))
    before = {path: path.read_bytes() for path in sorted(laptop.rglob("*")) if path.is_file()}
    with performance_governor(enabled=True, root=laptop, folder=journal.parent):
        pass
    assert {path: path.read_bytes() for path in sorted(laptop.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot_id": 1}', '{"boot_id": "x", "files": {"a": 1}}', "\0"])
def test_a_damaged_journal_is_not_guessed_at(text: str, laptop: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal/governors.json"
    journal.parent.mkdir()
    journal.write_text(text)
    with (
        pytest.raises(ConfigError, match=r"left a damaged .*governors\.json"),
        performance_governor(enabled=True, root=laptop, folder=journal.parent),
    ):
        pytest.fail("ran all the same")
    assert governors(laptop) == {"powersave"}
    assert journal.read_text() == text


def test_two_runs_do_not_hold_the_governor_at_once(holder: subprocess.Popen[str], laptop: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="another run holds the governors"),
        performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"),
    ):
        pytest.fail("ran all the same")
    assert governors(laptop) == {"performance"}
    assert (tmp_path / "journal/governors.json").exists()


@pytest.mark.parametrize("name", ["x86-virtual", "empty"])
def test_without_a_governor_the_option_is_refused(name: str, tmp_path: Path) -> None:
    root, _ = recorded_board(name, tmp_path)
    with (
        pytest.raises(UnsupportedError, match="the kernel offers no governor"),
        performance_governor(enabled=True, root=root, folder=tmp_path / "journal"),
    ):
        pytest.fail("ran all the same")


def test_a_kernel_without_performance_is_refused_and_left_alone(laptop: Path, tmp_path: Path) -> None:
    (laptop / CPU / "cpufreq/policy3/scaling_available_governors").write_text("powersave ondemand\n")
    before = state(laptop)
    with (
        pytest.raises(UnsupportedError, match="policy3/scaling_governor offers only powersave ondemand"),
        performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"),
    ):
        pytest.fail("ran all the same")
    assert state(laptop) == before


def test_a_core_that_refuses_leaves_the_others_as_they_were(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = state(laptop), os.open

    def refuse(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_WRONLY and "policy2" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(UnsupportedError, match=r"policy2/scaling_governor may be written by root only\. Run"),
        performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"),
    ):
        pytest.fail("ran all the same")
    assert state(laptop) == before


def test_what_cannot_be_restored_is_kept_in_the_journal(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def lose(descriptor: int, data: bytes) -> int:
        if data == b"powersave\n" and "policy1" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(5, "Input/output error")
        return real(descriptor, data)

    def run() -> None:
        with performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"):
            monkeypatch.setattr(os, "write", lose)

    with pytest.raises(
        EdgeAudioError, match=r"policy1/scaling_governor does not take .*What was there is in .*journal"
    ):
        run()
    monkeypatch.setattr(os, "write", real)
    # The other cores were restored, and this one is by the next run.
    assert sorted(state(laptop).values()).count("powersave\n") == 3
    with performance_governor(enabled=True, root=laptop, folder=tmp_path / "journal"):
        pass
    assert governors(laptop) == {"powersave"}
