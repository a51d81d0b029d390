"""Raw PCM on a binary stream, such as standard input: `arecord -t raw | edgeaudio stream x.eab --input -`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.source import SourceStats, scrub
from edgeaudio.errors import AudioDeviceError, ConfigError, closest_match_hint
from edgeaudio.spec import limits

logger = logging.getLogger(__name__)

SampleFormat = Literal["s16le", "f32le"]

_DTYPES: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


def pcm16_to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 to float32 in [-1, 1)."""
    # 32768, not 32767: -32768 must map to exactly -1.0, as in libsndfile and the firmware.
    return samples.astype(np.float32) / np.float32(32768)


class PCMReader:
    """Iterates float32 mono chunks `(chunk_samples,)` of interleaved PCM, the last one shorter; one pass.

    Short reads are joined, so a pipe gives the same chunks as a file. Bytes after the last whole
    sample of all channels are counted in `stats.trailing_bytes` and reported once.

    Raises:
        ConfigError: unknown format, or a channel or chunk size out of range.
        AudioDeviceError: the stream is non-blocking.
    """

    def __init__(
        self, stream: BinaryIO, *, sample_format: SampleFormat = "s16le", channels: int = 1, chunk_samples: int
    ) -> None:
        if sample_format not in _DTYPES:
            raise ConfigError(f"sample_format {sample_format!r}. {closest_match_hint(sample_format, _DTYPES)}")
        if not 1 <= channels <= limits.CHANNELS:
            raise ConfigError(f"channels is {channels}, wanted 1 to {limits.CHANNELS}")
        if chunk_samples < 1:
            raise ConfigError(f"chunk_samples is {chunk_samples}, wanted at least 1")
        self.channels, self.chunk_samples = channels, chunk_samples
        self.stats = SourceStats()
        self._stream = stream
        self._dtype = _DTYPES[sample_format]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        bytes_per_sample = self._dtype.itemsize * self.channels
        wanted_bytes = self.chunk_samples * bytes_per_sample
        ended = False
        while not ended:
            data = self._read(wanted_bytes)
            ended = len(data) < wanted_bytes
            self.stats.trailing_bytes = len(data) % bytes_per_sample
            chunk = self._mono(data[: len(data) - self.stats.trailing_bytes])
            self.stats.samples_in += len(chunk)
            if len(chunk):
                yield chunk
        if self.stats.trailing_bytes:
            logger.warning(
                "PCM input ended %d bytes into a sample of %d bytes: check sample format and channels",
                self.stats.trailing_bytes,
                bytes_per_sample,
            )

    def _read(self, n_bytes: int) -> bytes:
        """Exactly `n_bytes`, fewer only at the end of the stream."""
        parts: list[bytes] = []
        missing = n_bytes
        while missing:
            part: bytes | None = self._stream.read(missing)
            if part is None:
                raise AudioDeviceError("the PCM stream is non-blocking; give a blocking one")
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _mono(self, data: bytes) -> NDArray[np.float32]:
        samples = np.frombuffer(data, self._dtype)
        waveform = pcm16_to_float(samples) if self._dtype.kind == "i" else samples.astype(np.float32)
        waveform = scrub(waveform, self.stats)
        return waveform if self.channels == 1 else waveform.reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
