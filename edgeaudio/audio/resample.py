"""Sample-rate conversion by libsoxr's HQ polyphase filter. Never `x[::3]`: that lets 10 kHz back in at 6 kHz."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from edgeaudio.errors import SampleRateError, ShapeError
from edgeaudio.spec import limits

_QUALITY = "HQ"


def resample(waveform: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Convert a whole waveform `(samples,)`; the same object when the rates are equal.

    Raises:
        SampleRateError: a rate outside the limits.
        ShapeError: not one-dimensional.
    """
    _check_rates(from_hz, to_hz)
    _check_mono(waveform)
    if from_hz == to_hz:
        return waveform
    return np.asarray(soxr.resample(waveform, from_hz, to_hz, quality=_QUALITY), dtype=np.float32)


class StreamResampler:
    """Convert a stream: the joined output of `feed` and `flush` is that of `resample`, bit for bit, however it is cut.

    libsoxr works in blocks, so output comes late (measured: 6 to 37 ms at 48 to 16 kHz), and a `feed`
    may return nothing. At equal rates chunks pass through.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        _check_rates(from_hz, to_hz)
        self.from_hz, self.to_hz = from_hz, to_hz
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next chunk starts a new stream."""
        same = self.from_hz == self.to_hz
        self._soxr = (
            None if same else soxr.ResampleStream(self.from_hz, self.to_hz, 1, dtype="float32", quality=_QUALITY)
        )

    def feed(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples `(any,)` in, those that are ready out."""
        _check_mono(chunk)
        return self._convert(chunk, last=False)

    def flush(self) -> NDArray[np.float32]:
        """The rest of the stream; the resampler is then as new."""
        rest = self._convert(np.empty(0, np.float32), last=True)
        self.reset()
        return rest

    def _convert(self, chunk: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        if self._soxr is None:
            return chunk
        return np.asarray(self._soxr.resample_chunk(np.ascontiguousarray(chunk), last=last), dtype=np.float32)


def _check_rates(*rates_hz: int) -> None:
    for rate_hz in rates_hz:
        if not limits.SAMPLE_RATE_MIN_HZ <= rate_hz <= limits.SAMPLE_RATE_MAX_HZ:
            raise SampleRateError(
                f"sample rate {rate_hz} Hz, wanted {limits.SAMPLE_RATE_MIN_HZ} to {limits.SAMPLE_RATE_MAX_HZ} Hz"
            )


def _check_mono(waveform: NDArray[np.float32]) -> None:
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        raise ShapeError(f"waveform is {waveform.dtype} {waveform.shape}, wanted float32 (samples,)")
