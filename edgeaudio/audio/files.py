"""Audio files in, mono float32 out, with the checks that a decoder's "ok" does not replace.

Measured on 40,000 mutated files: libsndfile never crashed, but accepted 58 % of them, among them
files with NaN, with absurd rates and lengths, and with more channels than anybody has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from edgeaudio.audio.source import MAX_ABS_SAMPLE, AudioFormat, Sink, SourceStats, check_chunk_samples
from edgeaudio.errors import AudioFileError
from edgeaudio.spec import limits

# Samples of all channels together that are decoded at a time: bounds memory by the data that is
# really there, whatever length the header claims.
_BLOCK_SAMPLES = 1 << 18

# libsndfile cuts a chunk that is longer than its file and only says so in its log.
_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)


@dataclass(frozen=True)
class DecodedAudio:
    """`waveform (samples,)` float32 mono (mean of `channels`), nominally in [-1, 1], at `sample_rate` Hz."""

    waveform: NDArray[np.float32]
    sample_rate: int
    channels: int
    source_format: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sample_rate


def decode_file(path: Path, *, max_s: float = limits.CLIP_S) -> DecodedAudio:
    """Decode a whole file and mix it to mono.

    Raises:
        AudioFileError: missing, undecodable, empty, cut off, over a limit of `edgeaudio.spec.limits`
            or over `max_s`, not finite, or beyond 16 times full scale; `.reason` is the slug.
    """
    with _open_checked(path, max_s) as stream:
        sample_rate, channels, claimed_samples = stream.samplerate, stream.channels, stream.frames
        source_format = f"{stream.format}/{stream.subtype}"
        blocks = [_mono(block) for block in _blocks(path, stream, max(1, _BLOCK_SAMPLES // channels))]
    waveform = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(waveform) < claimed_samples:
        raise AudioFileError(
            f"{path}: the header promises {claimed_samples} samples, the data holds {len(waveform)}. "
            "The file is cut off; fetch it again or leave it out.",
            reason="truncated",
        )
    _check_level(path, waveform)
    return DecodedAudio(waveform, sample_rate, channels, source_format)


class FileSource:
    """A file as a source (see `AudioSource`): it waits for its reader, so it goes as fast as it is classified.

    Unlike `decode_file` it is taken as a live signal: samples that are not finite are left to the listener, who
    counts them, and a file that ends before its header says simply ends.

    Raises:
        AudioFileError: as `decode_file`: in `open` for what the header tells, in `chunks` for undecodable data.
    """

    live = False
    reopens = False

    def __init__(self, path: Path | str, *, chunk_samples: int = 1600, max_s: float = limits.CLIP_S) -> None:
        self.path, self.name = Path(path), str(path)
        self._chunk_samples, self._max_s = check_chunk_samples(chunk_samples), max_s
        self._stream: Any = None
        self.scrubbed = SourceStats()

    def open(self) -> AudioFormat:
        """See `AudioSource.open`."""
        self._stream = _open_checked(self.path, self._max_s, allow_cut=True)
        return AudioFormat(self._stream.samplerate, self._stream.channels)

    def capture(self, sink: Sink) -> None:
        """See `AudioSource.capture`."""
        for frames in self.chunks():
            sink.write(frames)
            if sink.stopped():
                return

    def chunks(self, chunk_samples: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Frames `(chunk_samples, channels)`, the last ones fewer; once."""
        with self._stream as stream:
            yield from _blocks(self.path, stream, chunk_samples or self._chunk_samples)

    def close(self) -> None:
        """See `AudioSource.close`."""
        if self._stream is not None:
            self._stream.close()


def _open_checked(path: Path, max_s: float, *, allow_cut: bool = False) -> Any:
    """Open and check everything that the header tells, before anything is allocated by it."""
    # A FIFO or device would block for ever; os.path.isfile also says no to impossible names.
    if not os.path.isfile(path):
        raise AudioFileError(f"{path}: there is no such regular file", reason="missing")
    try:
        # As bytes: soundfile itself refuses a name that is not UTF-8.
        stream = sf.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    except (sf.SoundFileError, TypeError, ValueError, OSError) as error:
        raise _undecodable(path, error) from error
    try:
        _check_header(path, stream, max_s, allow_cut)
    except BaseException:
        stream.close()
        raise
    return stream


def _check_header(path: Path, stream: Any, max_s: float, allow_cut: bool) -> None:
    rate, channels, n_samples = stream.samplerate, stream.channels, stream.frames
    if not limits.SAMPLE_RATE_MIN_HZ <= rate <= limits.SAMPLE_RATE_MAX_HZ:
        raise AudioFileError(
            f"{path}: sample rate {rate} Hz, wanted {limits.SAMPLE_RATE_MIN_HZ} to {limits.SAMPLE_RATE_MAX_HZ} Hz",
            reason="sample_rate",
        )
    if not 1 <= channels <= limits.CHANNELS:
        raise AudioFileError(f"{path}: {channels} channels, wanted 1 to {limits.CHANNELS}", reason="channels")
    if n_samples < 1:
        raise AudioFileError(f"{path}: holds no samples", reason="empty")
    if n_samples > max_s * rate:
        raise AudioFileError(
            f"{path}: the header promises {n_samples / rate:.0f} s, the limit is {max_s:g} s. Split the file.",
            reason="too_long",
        )
    cut = None if allow_cut else _CUT_CHUNK.search(stream.extra_info)
    if cut and int(cut[1]) > int(cut[2]):
        raise AudioFileError(
            f"{path}: the header promises {cut[1]} bytes of samples, the file holds {cut[2]}. "
            "The file is cut off or was streamed without a length; write it again.",
            reason="truncated",
        )


def _blocks(path: Path, stream: Any, block_samples: int) -> Iterator[NDArray[np.float32]]:
    """Decoded blocks `(n, channels)`."""
    while True:
        try:
            block: NDArray[np.float32] = stream.read(block_samples, dtype="float32", always_2d=True)
        except (sf.SoundFileError, ValueError) as error:
            raise _undecodable(path, error) from error
        if not len(block):
            return
        yield block


def _mono(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of channels."""
    with np.errstate(over="ignore", invalid="ignore"):  # Level and finiteness are checked after.
        return block[:, 0].copy() if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _check_level(path: Path, waveform: NDArray[np.float32]) -> None:
    finite = np.isfinite(waveform)
    if not finite.all():
        raise AudioFileError(f"{path}: {int((~finite).sum())} samples are NaN or infinite", reason="not_finite")
    peak = float(np.abs(waveform).max())
    if peak > MAX_ABS_SAMPLE:
        raise AudioFileError(
            f"{path}: samples reach {peak:g}, full scale is 1. "
            "If a float file holds 16-bit values, divide them by 32768.",
            reason="level",
        )


def _undecodable(path: Path, error: Exception) -> AudioFileError:
    detail = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return AudioFileError(f"{path}: cannot be decoded: {detail}", reason="undecodable")
