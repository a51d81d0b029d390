"""`edgeaudio stream`: every kind of input, how it ends, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.audio import microphone
from edgeaudio.cli.main import main
from tests import tiny_bundle as tiny
from tests.unit.audio.test_microphone import FakePortAudio, alsa_file_microphone, require_portaudio

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "x.eab"
    path.write_bytes(tiny.tiny_bytes())
    return str(path)


@pytest.fixture
def scene(tmp_path: Path) -> str:
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000, subtype="FLOAT")
    return str(tmp_path / "scene.wav")


def records(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def spans(lines: str) -> list[tuple[Any, ...]]:
    return [(r["event"], r["label"], r["t_start_s"], r["t_end_s"]) for r in records(lines)]


@contextmanager
def running(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    code = "import sys; from edgeaudio.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | (environment or {}), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_replay_hears_what_is_in_the_file(bundle: str, scene: str, capsys: Capture) -> None:
    assert main(["stream", bundle, "--input", scene]) == 0
    wanted = spans(capsys.readouterr().out)
    assert main(["stream", bundle, "--input", scene, "--inject", "seed=1"]) == 0
    assert spans(capsys.readouterr().out) == wanted
    assert main(["stream", bundle, "--input", f"replay:{scene}"]) == 0
    captured = capsys.readouterr()
    assert spans(captured.out) == wanted
    assert "0 gaps, 0 samples lost" in captured.err


def test_injected_faults_reach_the_events_and_the_summary(bundle: str, scene: str, capsys: Capture) -> None:
    assert main(["stream", bundle, "--input", scene, "--inject", "unplug=0.25@0.5,nan=0.001"]) == 0
    captured = capsys.readouterr()
    (gap,) = [record for record in records(captured.out) if record["event"] == "gap"]
    assert (gap["t_start_s"], gap["t_end_s"], gap["dropped_samples"], gap["label"]) == (0.5, 0.75, 4_000, None)
    assert "1 gaps, 4000 samples lost" in captured.err
    assert "0 not finite" not in captured.err


def test_health_is_printed_as_often_as_asked(bundle: str, scene: str, capsys: Capture) -> None:
    assert main(["stream", bundle, "--input", scene, "--pace", "realtime", "--health-every", "0.5"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert lines
    health = json.loads(lines[0])
    assert 0 < health["samples_in"] < 32_000
    assert health["engine_restarts"] == 0


def test_a_stereo_file_is_mixed_or_one_channel_taken(bundle: str, tmp_path: Path, capsys: Capture) -> None:
    stereo = np.stack([np.zeros(32_000, np.float32), tiny.scene()], axis=1)
    sf.write(tmp_path / "stereo.wav", stereo, 16_000, subtype="FLOAT")
    assert main(["stream", bundle, "--input", str(tmp_path / "stereo.wav"), "--channel", "1"]) == 0
    assert capsys.readouterr().out == ""
    for channel in ([], ["--channel", "2"]):
        assert main(["stream", bundle, "--input", str(tmp_path / "stereo.wav"), *channel]) == 0
        assert {record["label"] for record in records(capsys.readouterr().out)} == {"low", "mid", "high"}


def test_a_folder_is_watched_until_it_is_told_to_end_and_goes_on_after(bundle: str, tmp_path: Path, scene: str) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, age_s in (("a.wav", 90), ("b.wav", 60)):
        sf.write(folder / name, tiny.scene(), 16_000, subtype="FLOAT")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    with running("stream", bundle, "--input", str(folder)) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(12)]
        # The last end was told, so both files were heard to their end; now they are being noted.
        deadline = time.monotonic() + 30
        while len((folder / ".edgeaudio-heard.jsonl").read_bytes().splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        rest, messages = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest == ""
    assert [line["file"] for line in lines] == ["a.wav"] * 6 + ["b.wav"] * 6
    assert {line["file_start_s"] for line in lines} == {0.0, 2.0}
    in_file = [(line["label"], round(line["t_start_s"] - line["file_start_s"], 6)) for line in lines]
    assert in_file[6:] == in_file[:6]
    assert "heard 4.00 s" in messages
    with running("stream", bundle, "--input", str(folder)) as process:
        assert process.stderr is not None
        sf.write(folder / "c.wav", tiny.scene(), 16_000, subtype="FLOAT")
        os.utime(folder / "c.wav", (time.time() - 60,) * 2)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["file"] == "c.wav"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_a_stream_that_waits_for_sound(bundle: str, number: int, code: int) -> None:
    pcm = (tiny.noise_band("low", 8_000) * 32_767).astype("<i2").tobytes()
    with running("stream", bundle, "--input", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.buffer.write(pcm)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["event"] == "start"
        process.send_signal(number)
        # The input stays open: what waits for it must not keep the program from ending.
        assert json.loads(process.stdout.readline())["event"] == "end"
        assert process.wait(30) == code
        assert process.stderr is not None
        messages = process.stderr.read().splitlines()
    assert messages[0].startswith("heard 0.")
    assert not any("Fatal" in line or "Traceback" in line for line in messages)


def test_a_reader_that_leaves_ends_the_stream(bundle: str, scene: str) -> None:
    with running("stream", bundle, "--input", f"replay:{scene}") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_microphone_is_heard_end_to_end(bundle: str, tmp_path: Path) -> None:
    require_portaudio()
    low = np.tile(tiny.noise_band("low", 16_000), 60)
    environment = alsa_file_microphone(tmp_path, (low * 32_767).astype("<i2"))
    options = ["--format", "s16le", "--sample-rate", "16000", "--channels", "1"]
    with running("stream", bundle, "--input", "mic:default", *options, environment=environment) as process:
        assert process.stdout is not None
        heard = json.loads(process.stdout.readline())
        while heard["event"] == "gap":  # This microphone is faster than the world.
            heard = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=60)
    assert (heard["event"], heard["label"]) == ("start", "low")
    assert process.returncode == 0
    assert "samples at 16000 Hz" in messages


def test_microphones_are_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePortAudio()
    monkeypatch.setattr(microphone, "_sounddevice", lambda: fake)
    assert main(["audio", "devices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NUMBER  NAME     THROUGH  CHANNELS  HZ     DEFAULT",
        "1       USB mic  ALSA     2         48000  yes",
    ]
    assert main(["audio", "devices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "USB mic"
    fake.devices = []
    assert main(["audio", "devices"]) == 0
    assert "no audio input was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "mic:nothing"], 7, "Known: USB mic. See 'edgeaudio audio devices'"),
        (["--input", "mic", "--channels", "2", "--channel", "3"], 2, "channel 3 was asked for, the input has 2"),
        (["--input", "mic", "--pace", "realtime"], 2, "--pace is for files, not for a microphone"),
        (["--input", "mic", "--inject", "drops=0.1"], 2, "--inject is for file or replay; not for a microphone"),
        (["--input", "mic", "--journal", "x"], 2, "--journal is for folder"),
        (["--input", "mic", "--format", "s16"], 2, "Did you mean 's16le'?"),
        (["--input", "{scene}", "--channels", "2"], 2, "--channels is for raw PCM or microphone; the file"),
        (["--input", "{scene}", "--format", "s16le"], 2, "--format is for raw PCM or microphone; the file"),
        (["--input", "{scene}", "--pace", "realtim"], 2, "Did you mean 'realtime'?"),
        (["--input", "{scene}", "--inject", "unplug=1"], 2, "says not when"),
        (["--input", "{scene}", "--channel", "2"], 2, "channel 2 was asked for, the input has 1"),
        (["--input", "{scene}", "--on-overrun", "wait"], 2, "drop-oldest or fail"),
        (["--input", "replay:absent.wav"], 2, "absent.wav"),
        (["--input", "{scene}", "--ring-ms", "100"], 2, "ring-ms"),
    ],
)
def test_what_does_not_fit_is_refused(
    bundle: str, scene: str, arguments: list[str], code: int, message: str, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(microphone, "_sounddevice", FakePortAudio)
    assert main(["stream", bundle, *(argument.replace("{scene}", scene) for argument in arguments)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
