"""Sample-rate conversion by libsoxr's HQ polyphase filter. Never `x[::3]`: that lets 10 kHz back in at 6 kHz."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import SampleRateError, ShapeError, UnsupportedError
from edgeaudio.spec import limits

_QUALITY = "HQ"


def resample(waveform: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Convert a whole waveform `(samples,)`; the same object when the rates are equal.

    Raises:
        SampleRateError: a rate outside the limits.
        ShapeError: not one-dimensional.
        UnsupportedError: the rates differ and soxr is not installed.
    """
    _check_rates(from_hz, to_hz)
    _check_mono(waveform)
    if from_hz == to_hz:
        return waveform
    soxr = _soxr(from_hz, to_hz)
    return np.asarray(soxr.resample(waveform, from_hz, to_hz, quality=_QUALITY), dtype=np.float32)


class StreamResampler:
    """Convert a stream: the joined output of `feed` and `flush` is that of `resample`, bit for bit, however it is cut.

    libsoxr works in blocks, so output comes late (measured: 6 to 37 ms at 48 to 16 kHz), and a `feed`
    may return nothing. At equal rates chunks pass through.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Make a resampler; errors are those of `resample`."""
        _check_rates(from_hz, to_hz)
        self.from_hz, self.to_hz = from_hz, to_hz
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next chunk starts a new stream."""
        self._soxr: Any = None
        if self.from_hz != self.to_hz:
            soxr = _soxr(self.from_hz, self.to_hz)
            self._soxr = soxr.ResampleStream(self.from_hz, self.to_hz, 1, dtype="float32", quality=_QUALITY)

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


def _soxr(from_hz: int, to_hz: int) -> Any:
    # Not before it is needed: there is no wheel for 32-bit ARM, where microphones mostly give the bundle's rate.
    try:
        return importlib.import_module("soxr")
    except ModuleNotFoundError as error:
        if error.name != "soxr":
            raise
        raise UnsupportedError(
            f"converting {from_hz} Hz to {to_hz} Hz needs soxr, which is not installed here: pip install soxr, "
            f"or bring audio at {to_hz} Hz"
        ) from error


def _check_rates(*rates_hz: int) -> None:
    for rate_hz in rates_hz:
        if not limits.SAMPLE_RATE_MIN_HZ <= rate_hz <= limits.SAMPLE_RATE_MAX_HZ:
            raise SampleRateError(
                f"sample rate {rate_hz} Hz, wanted {limits.SAMPLE_RATE_MIN_HZ} to {limits.SAMPLE_RATE_MAX_HZ} Hz"
            )


def _check_mono(waveform: NDArray[np.float32]) -> None:
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        raise ShapeError(f"waveform is {waveform.dtype} {waveform.shape}, wanted float32 (samples,)")
