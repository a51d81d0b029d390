"""Microphones, through PortAudio (`pip install 'edgeaudio[mic]'` and the library libportaudio2)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.pcm import SampleFormat
from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import AudioFormat, Sink, SourceStats
from edgeaudio.errors import AudioDeviceError, ConfigError, UnsupportedError, closest_match_hint
from edgeaudio.spec import limits

# A stream that brings nothing for so long hangs, whatever its driver says.
_STALL_S = 2.0
_LOOK_S = 0.1

_DTYPES: dict[str, type[np.float32] | type[np.int16]] = {"f32le": np.float32, "s16le": np.int16}


@dataclass(frozen=True)
class InputDevice:
    """What `Microphone` can open. `sample_rate` is its native one, in Hz."""

    index: int
    name: str
    host_api: str
    channels: int
    sample_rate: int
    default: bool


def list_input_devices() -> list[InputDevice]:
    """The inputs of this machine.

    Raises:
        UnsupportedError: sounddevice or PortAudio is not installed.
    """
    sd = _sounddevice()
    host_apis = [api["name"] for api in sd.query_hostapis()]
    default = sd.default.device["input"]
    return [
        InputDevice(
            index=device["index"],
            name=device["name"],
            host_api=host_apis[device["hostapi"]],
            channels=device["max_input_channels"],
            sample_rate=round(device["default_samplerate"]),
            default=device["index"] == default,
        )
        for device in sd.query_devices()
        if device["max_input_channels"] > 0
    ]


class Microphone:
    """A live source (see `AudioSource`): what an input of this machine hears, at its native rate.

    PortAudio converts the device's samples to float32, which holds 16 and 24 bits exactly, or to int16 where asked.
    """

    live = True
    reopens = True

    def __init__(
        self,
        device: int | str | None = None,
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        sample_format: SampleFormat = "f32le",
        block_ms: float = 20.0,
    ) -> None:
        """Say which; nothing is opened yet.

        Args:
            device: a number or a part of a name of `list_input_devices`; None is the system's default.
            sample_rate: Hz; None is the device's own, which is best: a stream resamples well.
            channels: to open; None is two where it has two, else one.
            sample_format: to ask PortAudio for; s16le halves the ring and suits devices of 16 bits.
            block_ms: how often sound is handed over.
        Raises:
            ConfigError: a value out of range.
        """
        if sample_format not in _DTYPES:
            raise ConfigError(f"sample_format {sample_format!r}. {closest_match_hint(sample_format, _DTYPES)}")
        if not 1 <= block_ms <= 1000:
            raise ConfigError(f"block_ms is {block_ms}, wanted 1 to 1000")
        if channels is not None and not 1 <= channels <= limits.CHANNELS:
            raise ConfigError(f"channels is {channels}, wanted 1 to {limits.CHANNELS}")
        self.name = "the default microphone" if device is None else f"microphone {device!r}"
        self._device, self._sample_rate, self._channels, self._block_ms = device, sample_rate, channels, block_ms
        self._dtype = _DTYPES[sample_format]
        self._stream: Any = None
        self.scrubbed = SourceStats()
        self._ring: Ring | None = None
        self._again = False
        self._next_adc_s = 0.0

    def open(self) -> AudioFormat:
        """See `AudioSource.open`."""
        sd = _sounddevice()
        if self._again:
            # PortAudio looks for devices only when it starts; sounddevice has no public name for that.
            sd._terminate()
            sd._initialize()
        self._again = True
        info = self._query(sd)
        rate_hz = self._sample_rate or round(info["default_samplerate"])
        channels = self._channels or min(2, info["max_input_channels"])
        try:
            self._stream = sd.InputStream(
                samplerate=rate_hz,
                blocksize=round(rate_hz * self._block_ms / 1000),
                device=info["index"],
                channels=channels,
                dtype=self._dtype.__name__,
                callback=self._callback,
            )
        except sd.PortAudioError as error:
            raise AudioDeviceError(
                f"{self.name} ({info['name']}) does not open with {channels} channels at {rate_hz} Hz: {error}. "
                f"It has {info['max_input_channels']} channels, {round(info['default_samplerate'])} Hz."
            ) from error
        self._rate_hz = rate_hz
        return AudioFormat(rate_hz, channels, self._dtype)

    def capture(self, sink: Sink) -> None:
        """See `AudioSource.capture`."""
        self._ring, self._next_adc_s = sink.ring, 0.0
        started_s = sink.ring.clock()
        try:
            self._stream.start()
        except _sounddevice().PortAudioError as error:
            raise AudioDeviceError(f"it does not start: {error}") from error
        while not sink.wait(_LOOK_S):
            if not self._stream.active:
                raise AudioDeviceError("it stopped: unplugged, or taken away by the sound system")
            quiet_s = sink.ring.clock() - max(started_s, sink.ring.last_arrival_s)
            if quiet_s > _STALL_S:
                raise AudioDeviceError(f"it has brought no sound for {quiet_s:.1f} s")

    def close(self) -> None:
        """See `AudioSource.close`."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(ignore_errors=True)

    def _callback(self, frames: NDArray[Any], n_frames: int, time: Any, status: Any) -> None:
        """Runs in PortAudio's thread: one write to the ring, and before it a mark where the device lost something."""
        assert self._ring is not None
        if status.input_overflow:
            # Of how much was lost only the clock of the converter tells.
            away_s = time.inputBufferAdcTime - self._next_adc_s if self._next_adc_s else 0.0
            self._ring.mark(max(1, round(min(away_s, _STALL_S) * self._rate_hz)), overrun=True)
        self._next_adc_s = time.inputBufferAdcTime + n_frames / self._rate_hz
        self._ring.write(frames)

    def _query(self, sd: Any) -> Any:
        try:
            info = sd.query_devices(self._device, "input")
        except (ValueError, sd.PortAudioError) as error:
            known = [device.name for device in list_input_devices()]
            if not known:
                raise AudioDeviceError("this machine has no audio input; see 'edgeaudio audio devices'") from error
            hint = closest_match_hint(str(self._device), known)
            raise AudioDeviceError(f"{self.name}: {error}. {hint} See 'edgeaudio audio devices'.") from error
        return info


def _sounddevice() -> Any:
    """The library, imported where a microphone is wanted and nowhere else."""
    try:
        return importlib.import_module("sounddevice")
    except ModuleNotFoundError as error:
        raise UnsupportedError("a microphone needs the package sounddevice: pip install 'edgeaudio[mic]'") from error
    except OSError as error:
        raise UnsupportedError(
            f"a microphone needs the PortAudio library: apt install libportaudio2, or its like ({error})"
        ) from error
