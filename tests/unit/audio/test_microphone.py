"""Microphones through PortAudio: what the library says is handed on, and a real capture where there is PortAudio."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeaudio.audio import microphone
from edgeaudio.audio.microphone import Microphone, list_input_devices
from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import AudioFormat, Sink
from edgeaudio.errors import AudioDeviceError, ConfigError, UnsupportedError


class FakePortAudio:
    """The part of sounddevice that is used, with one stereo microphone at 48 kHz."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.devices: list[dict[str, Any]] = [
            {"index": 0, "name": "speaker", "hostapi": 0, "max_input_channels": 0, "default_samplerate": 48e3},
            {"index": 1, "name": "USB mic", "hostapi": 0, "max_input_channels": 2, "default_samplerate": 48e3},
        ]
        self.default = SimpleNamespace(device={"input": 1})
        self.streams: list[Any] = []
        self.restarts = 0
        self.refuse = False

    def query_hostapis(self) -> list[dict[str, str]]:
        return [{"name": "ALSA"}]

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        if kind is None:
            return self.devices
        found = [d for d in self.devices if device in (None, d["index"]) or str(device) in d["name"]]
        if not [d for d in found if d["max_input_channels"]]:
            raise ValueError(f"No input device matching {device!r}")
        return found[-1]

    def InputStream(self, **options: Any) -> Any:
        if self.refuse:
            raise self.PortAudioError("Device unavailable")
        stream = SimpleNamespace(active=True, closed=False, options=options)
        stream.start = lambda: None
        stream.close = lambda ignore_errors: setattr(stream, "closed", True)
        self.streams.append(stream)
        return stream

    def _terminate(self) -> None:
        self.restarts += 1

    def _initialize(self) -> None:
        pass


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    fake = FakePortAudio()
    monkeypatch.setattr(microphone, "_sounddevice", lambda: fake)
    return fake


def status(*, overflow: bool) -> Any:
    return SimpleNamespace(input_overflow=overflow)


def test_devices_are_listed(portaudio: FakePortAudio) -> None:
    (device,) = list_input_devices()
    assert (device.index, device.name, device.channels, device.sample_rate) == (1, "USB mic", 2, 48_000)
    assert device.default


def test_the_native_rate_and_channels_are_opened(portaudio: FakePortAudio) -> None:
    assert Microphone("USB").open() == AudioFormat(48_000, 2)
    options = portaudio.streams[0].options
    assert (options["device"], options["samplerate"], options["channels"]) == (1, 48_000, 2)
    assert (options["blocksize"], options["dtype"]) == (960, "float32")
    other = Microphone(1, sample_rate=16_000, channels=1, sample_format="s16le")
    assert other.open() == AudioFormat(16_000, 1, np.int16)
    assert portaudio.streams[1].options["dtype"] == "int16"


def test_a_callback_is_one_write_and_a_reported_loss_is_measured_by_the_converters_clock(
    portaudio: FakePortAudio,
) -> None:
    mic = Microphone()
    mic.open()
    ring, stop = Ring(4_800, 2), threading.Event()
    stop.set()
    mic.capture(Sink(ring, live=True, stop=stop))
    callback = portaudio.streams[0].options["callback"]
    block = np.ones((480, 2), np.float32)
    callback(block, 480, SimpleNamespace(inputBufferAdcTime=5.0), status(overflow=False))
    callback(block, 480, SimpleNamespace(inputBufferAdcTime=5.01), status(overflow=False))
    # 30 ms are missing between this block and the one before.
    callback(block, 480, SimpleNamespace(inputBufferAdcTime=5.05), status(overflow=True))
    first, second = ring.read(4_800, 0), ring.read(4_800, 0)
    assert first is not None
    assert second is not None
    assert (len(first.frames), first.lost, first.overruns) == (960, 0, 0)
    assert (len(second.frames), second.lost, second.overruns) == (480, 1_440, 1)


def test_a_loss_of_unknown_length_is_at_least_one_sample(portaudio: FakePortAudio) -> None:
    mic, stop = Microphone(), threading.Event()
    mic.open()
    stop.set()
    ring = Ring(4_800, 2)
    mic.capture(Sink(ring, live=True, stop=stop))
    block = np.ones((480, 2), np.float32)
    mic._callback(block, 480, SimpleNamespace(inputBufferAdcTime=0.0), status(overflow=True))
    reading = ring.read(4_800, 0)
    assert reading is not None
    assert (reading.lost, reading.overruns) == (1, 1)


def test_a_stream_that_stops_or_falls_silent_is_a_lost_device(portaudio: FakePortAudio) -> None:
    mic = Microphone()
    mic.open()
    portaudio.streams[0].active = False
    with pytest.raises(AudioDeviceError, match="it stopped"):
        mic.capture(Sink(Ring(10, 2), live=True, stop=threading.Event()))
    clock = iter(range(100))
    mic.open()
    with pytest.raises(AudioDeviceError, match="no sound for"):
        mic.capture(Sink(Ring(10, 2, clock=lambda: float(next(clock))), live=True, stop=threading.Event()))


def test_opening_again_looks_for_devices_anew(portaudio: FakePortAudio) -> None:
    mic = Microphone("USB")
    mic.open()
    assert portaudio.restarts == 0
    mic.close()
    mic.close()
    assert portaudio.streams[0].closed
    microphones = portaudio.devices
    portaudio.devices = []
    with pytest.raises(AudioDeviceError, match="no audio input"):
        mic.open()
    portaudio.devices = microphones
    mic.open()
    assert portaudio.restarts == 2


def test_a_wrong_name_names_the_nearest(portaudio: FakePortAudio) -> None:
    with pytest.raises(AudioDeviceError, match="Did you mean 'USB mic'") as caught:
        Microphone("USB mik").open()
    assert caught.value.exit_code == 7


def test_a_device_that_does_not_open_says_what_it_has(portaudio: FakePortAudio) -> None:
    portaudio.refuse = True
    with pytest.raises(AudioDeviceError, match=r"Device unavailable.*It has 2 channels, 48000 Hz"):
        Microphone(channels=4).open()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("sounddevice"), r"edgeaudio\[mic\]"),
        (OSError("PortAudio library not found"), "libportaudio2"),
    ],
)
def test_missing_libraries_are_named(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise error

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UnsupportedError, match=message) as caught:
        Microphone().open()
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("options", [{"channels": 9}, {"channels": 0}, {"block_ms": 0.1}, {"sample_format": "s24le"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Microphone(**options)


def alsa_file_microphone(folder: Path, pcm: np.ndarray) -> dict[str, str]:
    """The environment in which the default microphone hears `pcm`, int16 at 16 kHz, as fast as it is read.

    Only as int16: where ALSA has to convert, its file plugin skips samples of the file.
    """
    (folder / "in.raw").write_bytes(pcm.astype("<i2").tobytes())
    (folder / "asoundrc").write_text(
        textwrap.dedent(f"""
        pcm.filemic {{ type file slave.pcm nullmono file "/dev/null" infile "{folder}/in.raw" format "raw" }}
        pcm.nullmono {{ type null }}
        pcm.!default {{ type plug slave {{ pcm "filemic" format S16_LE channels 1 rate 16000 }} }}
        """)
    )
    (folder / "alsa.conf").write_text(f"</usr/share/alsa/alsa.conf>\n<{folder}/asoundrc>\n")
    return {"ALSA_CONFIG_PATH": str(folder / "alsa.conf")}


def require_portaudio() -> None:
    try:
        importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:
        pytest.skip(f"no PortAudio here ({error}); apt install libportaudio2")
    if not Path("/usr/share/alsa/alsa.conf").exists():
        pytest.skip("no ALSA configuration here; apt install libasound2-data")


def test_portaudio_hands_over_every_sample_as_it_is(tmp_path: Path) -> None:
    require_portaudio()
    numbered = np.arange(200_000) % 60_000 - 30_000
    environment = alsa_file_microphone(tmp_path, numbered)
    code = """
        import sys, threading
        import numpy as np
        from edgeaudio.audio.microphone import Microphone, list_input_devices
        from edgeaudio.audio.ring import Ring
        from edgeaudio.audio.source import Sink
        assert "default" in [device.name for device in list_input_devices()]
        mic = Microphone("default", sample_rate=16_000, channels=1, sample_format="s16le")
        audio, ring, stop = mic.open(), Ring(1_000_000), threading.Event()
        capture = threading.Thread(target=mic.capture, args=(Sink(ring, live=True, stop=stop),))
        capture.start()
        heard = []
        while sum(map(len, heard)) < 100_000:
            reading = ring.read(50_000, 5.0)
            assert reading is not None and reading.lost == 0
            heard.append(reading.frames[:, 0])
        stop.set()
        capture.join()
        mic.close()
        samples = np.concatenate(heard)[:100_000]
        np.save(sys.argv[1], samples)
        """
    out = tmp_path / "heard.npy"
    command = [sys.executable, "-c", textwrap.dedent(code), str(out)]
    environment = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(out), numbered[:100_000])
