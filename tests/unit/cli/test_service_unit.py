"""The systemd unit starts what there is, and tells systemd what the program does."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeaudio.cli.main import main
from edgeaudio.errors import AudioDeviceError, BundleError, ConfigError, EdgeAudioError, UnsupportedError

UNIT = Path(__file__).resolve().parents[3] / "packaging" / "edgeaudio-stream.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text().replace("\\\n", " "))
    return parser["Service"]


def test_the_command_line_of_the_unit_is_understood(
    service: configparser.SectionProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "edgeaudio"
    (tmp_path / "trust").mkdir()
    moved = [argument.replace("/etc/edgeaudio", str(tmp_path)) for argument in arguments]
    assert main(moved) == 2
    # Everything but the files is there: no unknown verb, option or value.
    assert str(tmp_path) in capsys.readouterr().err


def test_only_what_another_start_may_mend_is_started_again(service: configparser.SectionProxy) -> None:
    hopeless = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert hopeless == {ConfigError.exit_code, BundleError.exit_code, UnsupportedError.exit_code}
    assert not hopeless & {EdgeAudioError.exit_code, AudioDeviceError.exit_code}
    assert service["Restart"] == "on-failure"


def test_the_unit_uses_what_the_program_tells(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    # A failed engine is waited for up to half a minute, with signs of life; a watchdog shorter than a few ticks is not.
    assert float(service["WatchdogSec"]) >= 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/edgeaudio/bin/edgeaudio", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
