"""What a service manager is told, over a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile as sf

from edgeaudio.cli.health import service_report
from edgeaudio.errors import ConfigError
from edgeaudio.runtime.observer import Health
from edgeaudio.runtime.systemd import Notifier, ServiceReport
from tests import tiny_bundle as tiny

WELL = Health(
    samples_in=1, hops=2, events=3, gaps=4, dropped_samples=5, overruns=0, nan_samples=0, clipped_fraction=0.0,
    dc_offset=0.0, level_dbfs=-30.0, dead_input=False, engine_restarts=0, cpu_percent=6.5, rss_bytes=1, rtf=0.1,
    ring_high_water=0.1, uptime_s=7.0,
)  # fmt: skip


class Manager:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(30)

    def heard(self) -> list[str]:
        """The assignments of the next message."""
        return self.socket.recv(4_096).decode().splitlines()

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4_096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(30)
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "n") if request.param == "path" else f"@edgeaudio-{os.getpid()}-{tmp_path.name}"
    with (made := Manager(address)).socket:
        yield made


def test_ready_comes_first_and_once_then_life_and_status_in_their_time(manager: Manager) -> None:
    clock = [0.0]
    report = ServiceReport(Notifier(manager.address), watchdog_s=30.0, clock=lambda: clock[0])
    report.tick(True, WELL)
    assert manager.heard() == [
        "READY=1", "WATCHDOG=1", "STATUS=up 7 s, 2 windows, 3 events, 4 gaps, 6.5 % CPU",
    ]  # fmt: skip
    for second, wanted in ((9.9, []), (10.0, ["WATCHDOG=1", "STATUS"]), (19.9, []), (20.1, ["WATCHDOG=1", "STATUS"])):
        clock[0] = second
        report.tick(True, WELL)
        assert manager.silent() if not wanted else [line.split("=up")[0] for line in manager.heard()] == wanted
    report.stopping()
    assert manager.heard() == ["STOPPING=1"]


def test_a_stream_that_is_not_well_tells_no_life_but_what_is_wrong(manager: Manager) -> None:
    clock = [0.0]
    report = ServiceReport(Notifier(manager.address), watchdog_s=3.0, clock=lambda: clock[0])
    report.tick(True, WELL)
    manager.heard()
    clock[0] = 5.0
    report.tick(False, WELL)
    assert manager.silent()
    clock[0] = 10.0
    report.tick(False, replace(WELL, warnings=("nothing but zeros",)))
    (status,) = manager.heard()
    assert status.startswith("STATUS=up 7 s")
    assert status.endswith("; nothing but zeros")


def test_without_a_watchdog_no_life_is_told(manager: Manager) -> None:
    report = ServiceReport(Notifier(manager.address), watchdog_s=None)
    report.tick(True, WELL)
    assert [line.split("=")[0] for line in manager.heard()] == ["READY", "STATUS"]


def test_a_manager_that_does_not_listen_costs_a_message_never_the_stream(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    for _ in range(100_000):
        notifier.send("STATUS=x")
    assert manager.heard() == ["STATUS=x"]


def test_a_manager_that_is_gone_is_an_error_that_the_watchdog_logs(manager: Manager) -> None:
    report = ServiceReport(Notifier(manager.address), watchdog_s=None)
    manager.socket.close()
    with pytest.raises(OSError, match=r"refused|No such file|not connected"):
        report.tick(True, WELL)
    report.stopping()


def test_the_environment_says_whether_this_is_a_service(manager: Manager) -> None:
    assert service_report({}) is None
    ours = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    for environment, keys in (
        (ours, ["READY", "WATCHDOG", "STATUS"]),
        (ours | {"WATCHDOG_PID": "1"}, ["READY", "STATUS"]),
        ({"NOTIFY_SOCKET": manager.address}, ["READY", "STATUS"]),
    ):
        report = service_report(environment)
        assert report is not None
        report.tick(True, WELL)
        assert [line.split("=")[0] for line in manager.heard()] == keys


def test_a_wrong_environment_is_refused(tmp_path: Path, manager: Manager) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        service_report({"NOTIFY_SOCKET": str(tmp_path / "absent")})
    with pytest.raises(ConfigError, match="WATCHDOG_USEC is '3s'"):
        service_report({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3s"})


def test_the_command_tells_its_service_manager_all_of_its_life(tmp_path: Path) -> None:
    (tmp_path / "x.eab").write_bytes(tiny.tiny_bytes())
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000)
    manager = Manager(str(tmp_path / "notify"))
    code = "import sys; from edgeaudio.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "stream", str(tmp_path / "x.eab"), "--input", f"replay:{tmp_path}/scene.wav"]
    environment = os.environ | {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "600000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    messages = [manager.heard()]
    while "STOPPING=1" not in messages[-1]:
        messages.append(manager.heard())
    assert messages[0][:2] == ["READY=1", "WATCHDOG=1"]
    # 2 s of sound, life every 0.2 s.
    assert sum("WATCHDOG=1" in message for message in messages) >= 3
    assert messages[-1] == ["STOPPING=1"]
    manager.socket.close()
