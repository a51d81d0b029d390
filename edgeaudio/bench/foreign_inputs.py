"""What a foreign file is given: sound where its shape says so, else numbers that were made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import UnsupportedError

Array = NDArray[Any]

# A waveform is a single long row of float32; a shorter one may as well be an embedding or a state.
_MIN_WAVEFORM_S = 0.1
_SEED = 2026


class Input(NamedTuple):
    """What a model takes: sizes that are not given are None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class ForeignInputs:
    """What a foreign file is given: sound in the first input whose shape says waveform, else made-up numbers.

    Those are of a seeded generator: normal for floats, the whole range of 8-bit integers, else 0, which is a length, an
    index and a flag that every model takes. A size that is not given is 1; of a waveform it is `window_samples`.
    """

    def __init__(self, inputs: Sequence[Input], sample_rate: int, window_samples: int) -> None:
        """`window_samples`, at `sample_rate` Hz, is what the bundle hears at once."""
        rng = np.random.default_rng(_SEED)
        at_least = round(_MIN_WAVEFORM_S * sample_rate)
        self.values: list[Array] = []
        self._waveform: Array | None = None
        said = []
        for one in inputs:
            shape = None if self._waveform is not None else _waveform_shape(one, at_least, window_samples)
            values = _made_up(one, rng) if shape is None else np.zeros(shape, np.float32)
            if shape is not None:
                self._waveform = values.reshape(-1)
            what = "seeded generator" if shape is None else f"golden audio at {sample_rate} Hz"
            said.append(f"{one.name!r:.60} {values.dtype}{list(values.shape)}: {what}")
            self.values.append(values)
        #: What each input is given, for the record.
        self.description = "; ".join(said)

    def hear(self, samples: NDArray[np.float32]) -> None:
        """The newest `(samples,)`: a waveform moves on by so many."""
        if self._waveform is not None:
            held = np.concatenate([self._waveform, samples])[-len(self._waveform) :]
            self._waveform[:] = held


def _waveform_shape(one: Input, at_least: int, window_samples: int) -> list[int] | None:
    """The shape with which it takes a waveform; None where it takes something else."""
    long = [size for size in one.shape if size is not None and size != 1]
    if one.dtype != "float32" or len(one.shape) > 3 or len(long) > 1 or any(size < at_least for size in long):
        return None
    shape = [size or 1 for size in one.shape]
    if not long:
        # Of several open sizes the last is time, those before it are batches and channels.
        places = [place for place, size in enumerate(one.shape) if size is None]
        if not places:
            return None
        shape[places[-1]] = window_samples
    return shape


def _made_up(one: Input, rng: np.random.Generator) -> Array:
    shape = [1 if size is None else size for size in one.shape]
    if one.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(one.dtype)
    if one.dtype in ("int8", "uint8"):
        limits = np.iinfo(one.dtype)
        return rng.integers(limits.min, limits.max, shape, one.dtype, endpoint=True)
    try:
        return np.zeros(shape, one.dtype)
    except TypeError as error:
        raise UnsupportedError(f"input {one.name!r:.60} is {one.dtype}; wanted numbers") from error
