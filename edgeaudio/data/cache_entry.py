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
    buffer = io.BytesIO()
    np.save(buffer, waveform, allow_pickle=False)
    data = buffer.getvalue()
    atomic_write(path, data + _MAGIC + hashlib.sha256(data).digest())


def read_entry(path: Path, *, verify: bool) -> NDArray[np.float32] | None:
    """Map the entry, read-only; `None` when it is absent or damaged.

    Without `verify` only header, length and trailer mark are looked at. The map holds a file
    descriptor while the array lives.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(mapped, np.memmap) or mapped.dtype != np.float32 or mapped.ndim != 1:
        return None
    end_bytes = mapped.offset + mapped.nbytes
    if path.stat().st_size != end_bytes + _TRAILER_BYTES:
        return None
    with path.open("rb") as stream:
        data = stream.read(end_bytes) if verify else b""
        stream.seek(end_bytes)
        trailer = stream.read()
    if trailer[: len(_MAGIC)] != _MAGIC or (verify and trailer[len(_MAGIC) :] != hashlib.sha256(data).digest()):
        return None
    return mapped
