"""Raw PCM on a binary stream, such as standard input: `arecord -t raw | edgeaudio stream x.eab --input -`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.source import AudioFormat, Sink, SourceStats, check_chunk_samples
from edgeaudio.errors import AudioDeviceError, ConfigError, closest_match_hint
from edgeaudio.spec import limits

logger = logging.getLogger(__name__)

SampleFormat = Literal["s16le", "f32le"]

_DTYPES: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


class PCMSource:
    """Interleaved PCM from a binary stream (see `AudioSource`). It waits for its reader: a pipe loses nothing.

    Bytes after the last whole frame are counted in `trailing_bytes` and reported once.

    Raises:
        ConfigError: unknown format, or a rate, channel or chunk size out of range.
    """

    live = False
    reopens = False

    def __init__(
        self,
        stream: BinaryIO,
        *,
        sample_rate: int,
        sample_format: SampleFormat = "s16le",
        channels: int = 1,
        chunk_samples: int = 1600,
        name: str = "PCM input",
    ) -> None:
        if sample_format not in _DTYPES:
            raise ConfigError(f"sample_format {sample_format!r}. {closest_match_hint(sample_format, _DTYPES)}")
        if not 1 <= channels <= limits.CHANNELS:
            raise ConfigError(f"channels is {channels}, wanted 1 to {limits.CHANNELS}")
        self.name, self.trailing_bytes = name, 0
        self.scrubbed = SourceStats()
        self._chunk_samples = check_chunk_samples(chunk_samples)
        self._stream, self._dtype = stream, _DTYPES[sample_format]
        self._audio = AudioFormat(sample_rate, channels, np.int16 if self._dtype.kind == "i" else np.float32)

    def open(self) -> AudioFormat:
        """See `AudioSource.open`."""
        return self._audio

    def capture(self, sink: Sink) -> None:
        """See `AudioSource.capture`. Raises AudioDeviceError when the stream is non-blocking."""
        for frames in self.chunks():
            sink.write(frames)
            if sink.stopped():
                return

    def close(self) -> None:
        """The stream belongs to the caller."""

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Frames `(n, channels)`, as they come, at most `chunk_samples` at once."""
        bytes_per_frame = self._dtype.itemsize * self._audio.channels
        held = b""
        while data := self._read(self._chunk_samples * bytes_per_frame - len(held)):
            data = held + data
            whole = len(data) // bytes_per_frame * bytes_per_frame
            held = data[whole:]
            if whole:
                samples = np.frombuffer(data[:whole], self._dtype).astype(self._audio.dtype, copy=False)
                yield samples.reshape(-1, self._audio.channels)
        self.trailing_bytes = len(held)
        if held:
            logger.warning(
                "PCM input ended %d bytes into a frame of %d bytes: check sample format and channels",
                len(held),
                bytes_per_frame,
            )

    def _read(self, n_bytes: int) -> bytes:
        """What is there, at most `n_bytes`; nothing only at the end of the stream."""
        # `read` of a buffered stream waits for all of it: sound would come late.
        read = getattr(self._stream, "read1", self._stream.read)
        data: bytes | None = read(n_bytes)
        if data is None:
            raise AudioDeviceError("the PCM stream is non-blocking; give a blocking one")
        return data
