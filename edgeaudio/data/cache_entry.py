"""One decoded clip on disk: an ordinary `.npy` (float32, one-dimensional) with a digest behind it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeaudio.spec.fs import atomic_write

# np.load reads what the header describes, so a trailer does not disturb it.
_MAGIC = b"EAWAVE1\n"
_TRAILER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size


def write_entry(path: Path, waveform: NDArray[np.float32]) -> None:
    """Write `waveform (samples,)` so that a kill leaves the whole entry or none."""
    data = _header(len(waveform)) + waveform.astype("<f4", copy=False).tobytes()
    atomic_write(path, data + _MAGIC + hashlib.sha256(data).digest())


def read_entry(path: Path, *, verify: bool) -> NDArray[np.float32] | None:
    """Map the entry, read-only; `None` when it is absent or damaged.

    Without `verify` only header, length and trailer mark are looked at. The map holds a file
    descriptor while the array lives.
    """
    try:
        with path.open("rb") as stream:
            size_bytes = stream.seek(0, io.SEEK_END)
            n_samples = (size_bytes - len(_header(0)) - _TRAILER_BYTES) // 4
            # The header follows from the length: comparing it parses nothing that may be damaged.
            header = _header(max(0, n_samples))
            data_bytes = len(header) + 4 * n_samples
            if n_samples < 1 or size_bytes != data_bytes + _TRAILER_BYTES:
                return None
            stream.seek(0)
            data = stream.read(data_bytes if verify else len(header))
            stream.seek(data_bytes)
            trailer = stream.read()
    except FileNotFoundError:
        return None
    if not data.startswith(header) or not trailer.startswith(_MAGIC):
        return None
    if verify and trailer[len(_MAGIC) :] != hashlib.sha256(data).digest():
        return None
    return np.memmap(path, "<f4", mode="r", offset=len(header), shape=(n_samples,))


def _header(n_samples: int) -> bytes:
    """The `.npy` header; NumPy pads it to one length for any number of samples."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (n_samples,)})
    return buffer.getvalue()
