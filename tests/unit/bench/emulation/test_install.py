"""What is made on the way to a guest, where no emulator is needed to look at it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from edgeaudio.bench.emulation import Emulator, run_step, source
from edgeaudio.bench.emulation.install import default_cache, install
from edgeaudio.bench.emulation.source import copy_edgeaudio, device_files
from edgeaudio.bench.emulation.steps import whole_folder
from edgeaudio.bench.emulation.targets import ARM64, CPUS
from edgeaudio.errors import ConfigError, UnsupportedError
from tests.test_imports import DEVICE_ROOMS


def no_program(name: str) -> None:
    """`shutil.which` of a machine that has none."""


def test_a_step_that_fails_says_which_and_why(tmp_path: Path) -> None:
    assert run_step("echo", ["sh", "-c", "echo out; echo err >&2"], deadline_s=10) == ("out\n", "err\n")
    with pytest.raises(UnsupportedError, match=r"unpack: exit code 3 of sh -c .*: no space left"):
        run_step("unpack", ["sh", "-c", "echo no space left >&2; exit 3"], deadline_s=10)
    with pytest.raises(UnsupportedError, match=r"wait: no end after 0 s"):
        run_step("wait", ["sleep", "30"], deadline_s=0.1)
    with pytest.raises(UnsupportedError, match=r"gone: .*nothing is not installed on this machine"):
        run_step("gone", [str(tmp_path / "nothing")], deadline_s=10)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    wanted = tmp_path / "wheels"
    with contextlib.suppress(ZeroDivisionError), whole_folder(wanted) as made:
        (made / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(wanted) as made:
        (made / "all").write_text("mine")
        with whole_folder(wanted) as other:
            (other / "all").write_text("the other's, which was faster")
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]
    assert (wanted / "all").read_text().startswith("the other's")


def test_a_copy_holds_what_a_device_runs_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", no_program)
    said: list[str] = []
    copy = copy_edgeaudio(tmp_path, ARM64, tmp_path / "root", said.append)
    rooms = {path.name for path in (copy.folder / "edgeaudio").iterdir() if path.is_dir()}
    assert rooms == {*DEVICE_ROOMS, "cli"}
    assert not list(copy.folder.rglob("*.so"))
    assert (copy.folder / "edgeaudio/outputs/page/page.js").is_file()
    assert "Requires-Dist: numpy" in next(copy.folder.glob("*.dist-info/METADATA")).read_text()
    assert "aarch64-linux-gnu-gcc is not installed: log-mel is by numpy" in copy.no_native
    assert len(said) == 1
    assert copy_edgeaudio(tmp_path, ARM64, tmp_path / "root", said.append) == copy
    assert len(said) == 1


def test_old_copies_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", no_program)
    monkeypatch.setattr(source, "_KEPT_COPIES", 2)
    folders = [copy_edgeaudio(tmp_path, ARM64, tmp_path / f"root{n}", lambda line: None).folder for n in range(4)]
    assert sorted(folders[2:]) == sorted(tmp_path.iterdir())


def test_nothing_that_was_compiled_here_is_copied(tmp_path: Path) -> None:
    for name in ("errors.py", "spec/a.py", "spec/deep/a.c", "spec/a.so", "spec/__pycache__/a.pyc", "students/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {str(path) for path in device_files(tmp_path)} == {"errors.py", "spec/a.py", "spec/deep/a.c"}


def test_command_lines_name_cpu_root_packages_and_counts(tmp_path: Path) -> None:
    def made(cpu: str) -> Emulator:
        packages = (Path("/c/edgeaudio"), Path("/c/wheels"))
        return Emulator(CPUS[cpu], "/usr/bin/qemu", Path("/c/root"), packages, Path("/c/plug,in.so"), "")

    command = made("cortex-a72").python("x.py", counts=Path("/t/counts.txt"))
    assert command[:3] == ["/usr/bin/qemu", "-plugin", "/c/plug,,in.so,out=/t/counts.txt"]
    assert command[3:7] == ["-cpu", "cortex-a72", "-L", "/c/root"]
    assert "PYTHONPATH=/c/edgeaudio:/c/wheels" in command
    assert command[-2:] == ["/c/root/usr/bin/python3.11", "x.py"]
    assert "-plugin" not in made("cortex-a7").edgeaudio("--help")
    assert made("cortex-a7").edgeaudio("--help")[-4:] == ["-P", "-m", "edgeaudio.cli.main", "--help"]
    assert any(part.startswith("LD_LIBRARY_PATH=/c/root/") for part in made("cortex-a7").python())


def test_what_is_missing_is_named_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", no_program)
    with pytest.raises(UnsupportedError, match=r"qemu-arm is missing\. As root: apt-get install"):
        install(tmp_path / "cache", cpu="cortex-a7", progress=lambda line: None)
    with pytest.raises(ConfigError, match="not emulated"):
        install(tmp_path / "cache", cpu="pentium", progress=lambda line: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_where_its_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAUDIO_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "emulation"
    monkeypatch.delenv("EDGEAUDIO_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache() == Path("/home/someone/.cache/edgeaudio/emulation")
