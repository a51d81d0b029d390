"""A microphone in real time, through PortAudio and a real sound server that dies and comes back while it is heard."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from tests import tiny_bundle as tiny
from tests.unit.audio.test_microphone import require_portaudio

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("pulseaudio") is None or shutil.which("paplay") is None,
        reason="no PulseAudio here; apt install pulseaudio pulseaudio-utils libasound2-plugins",
    ),
]


class SoundServer:
    """PulseAudio with one loudspeaker that nobody hears, and its monitor as the default microphone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "setup.pa").write_text(
            f"load-module module-native-protocol-unix socket={folder}/native auth-anonymous=1\n"
            "load-module module-null-sink sink_name=speaker rate=16000 channels=1 format=s16le\n"
            "load-module module-remap-source master=speaker.monitor source_name=microphone\n"
            "set-default-source microphone\nset-default-sink speaker\n"
        )
        (folder / "alsa.conf").write_text(
            "</usr/share/alsa/alsa.conf>\npcm.pulse { type pulse }\npcm.!default { type pulse }\n"
            "ctl.!default { type pulse }\n"
        )
        ours = {"XDG_RUNTIME_DIR": folder, "PULSE_RUNTIME_PATH": folder, "HOME": folder}
        self.environment = os.environ | {name: str(path) for name, path in ours.items()}
        self.environment |= {"ALSA_CONFIG_PATH": f"{folder}/alsa.conf", "PULSE_SERVER": f"unix:{folder}/native"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["-n", "-F", f"{self.folder}/setup.pa", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["pulseaudio", *options], env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not (self.folder / "native").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"PulseAudio does not run here: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)
        (self.folder / "native").unlink(missing_ok=True)

    def play(self, path: Path) -> None:
        subprocess.run(["paplay", "--device=speaker", str(path)], env=self.environment, check=True, timeout=60)


@pytest.fixture
def server() -> Iterator[SoundServer]:
    require_portaudio()
    # A short path: sockets have no room for those of pytest.
    with tempfile.TemporaryDirectory() as folder:
        made = SoundServer(Path(folder))
        made.start()
        yield made
        made.stop()


class Records:
    """Lines of a process as they come, without ever waiting for ever."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: Queue[dict[str, Any] | None] = Queue()
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def until(self, event: str, label: str | None) -> list[dict[str, Any]]:
        """All up to the first of that kind."""
        found = []
        while not found or (found[-1]["event"], found[-1]["label"]) != (event, label):
            record = self._lines.get(timeout=60)
            assert record is not None, "the stream ended"
            found.append(record)
        return found


def test_a_microphone_is_heard_through_a_sound_server_that_dies_and_comes_back(
    server: SoundServer, tmp_path: Path
) -> None:
    (tmp_path / "x.eab").write_bytes(tiny.tiny_bytes())
    # Silence before and behind: a player may cut its first and last milliseconds.
    scene = np.concatenate([np.zeros(8_000), tiny.scene(), np.zeros(8_000)])
    sf.write(tmp_path / "scene.wav", scene, 16_000)
    code = "import sys; from edgeaudio.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "stream", str(tmp_path / "x.eab"), "--input", "mic:pulse"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=server.environment, **pipes) as process:
        records = Records(process)
        # The stream is up when it hears: play until it does.
        heard: list[dict[str, Any]] = []
        listener = threading.Thread(target=lambda: heard.extend(records.until("end", "mid")))
        listener.start()
        while listener.is_alive():
            server.play(tmp_path / "scene.wav")
            listener.join(1.0)
        server.stop()
        time.sleep(1.0)
        server.start()
        gap = records.until("gap", None)[-1]
        server.play(tmp_path / "scene.wav")
        again = records.until("end", "mid")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        messages = process.stderr.read()
    assert [record["label"] for record in again if record["event"] == "end"] == ["low", "high", "mid"]
    assert gap["t_end_s"] - gap["t_start_s"] >= 1.0
    assert gap["dropped_samples"] > 0
    assert "input reopened 1" in messages
