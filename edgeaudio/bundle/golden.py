"""Golden vectors: a few windows with their log-mel and logits, replayed by `edgeaudio bundle check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from edgeaudio.bundle.manifest import Manifest
from edgeaudio.errors import BundleError

Float32 = NDArray[np.float32]

GOLDEN_PATH = "golden.safetensors"
_LOGITS = "logits."


@dataclass(frozen=True)
class Golden:
    """`n` windows and what must come out of them.

    waveform: `(n, samples)` float32 at the bundle's rate; log_mel: `(n, frames, n_mels)` float32 of the
    reference front-end; logits: name of an artefact or stage -> `(n, classes)` float32 for `log_mel`.
    """

    waveform: Float32
    log_mel: Float32
    logits: Mapping[str, Float32]

    def __len__(self) -> int:
        return len(self.waveform)

    def to_bytes(self) -> bytes:
        """The safetensors form; equal vectors give equal bytes."""
        tensors = {"waveform": self.waveform, "log_mel": self.log_mel}
        tensors |= {_LOGITS + name: logits for name, logits in self.logits.items()}
        return save({name: np.ascontiguousarray(tensor, dtype="<f4") for name, tensor in sorted(tensors.items())})

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Golden:
        """Parse what `to_bytes` wrote.

        Raises:
            BundleError: not safetensors, another dtype than F32, a value that is not finite, or tensors missing.
        """
        try:
            parsed = deserialize(data)  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            raise BundleError(f"{source}: not a safetensors file: {error}") from error
        tensors = {name: _tensor(info, f"{source}: tensor {name!r:.80}") for name, info in parsed}
        missing = {"waveform", "log_mel"} - tensors.keys()
        unknown = {name for name in tensors if name not in ("waveform", "log_mel") and not name.startswith(_LOGITS)}
        if missing or unknown:
            raise BundleError(f"{source}: tensors missing: {sorted(missing)}, unknown: {sorted(unknown)!r:.200}")
        logits = {name.removeprefix(_LOGITS): value for name, value in tensors.items() if name.startswith(_LOGITS)}
        return cls(waveform=tensors["waveform"], log_mel=tensors["log_mel"], logits=logits)

    def check_fits(self, manifest: Manifest, source: str) -> None:
        """Raise `BundleError` unless every shape and artefact name is the manifest's."""
        n = len(self.waveform)
        wanted = {
            "waveform": (n, manifest.window.n_samples(manifest.frontend)),
            "log_mel": (n, manifest.window.frames, manifest.frontend.n_mels),
        }
        wanted |= {_LOGITS + file.name: (n, len(manifest.task.labels)) for file in manifest.model_files}
        given = {"waveform": self.waveform.shape, "log_mel": self.log_mel.shape}
        given |= {_LOGITS + name: logits.shape for name, logits in self.logits.items()}
        if n == 0 or given != wanted:
            raise BundleError(
                f"{source}: tensors are {given!r:.400}, the manifest wants {wanted} with at least 1 window"
            )


def _tensor(info: Mapping[str, object], where: str) -> Float32:
    if info["dtype"] != "F32":
        raise BundleError(f"{where}: dtype is {info['dtype']!r}, wanted 'F32'")
    data, shape = info["data"], info["shape"]
    assert isinstance(data, (bytes, bytearray))
    assert isinstance(shape, list)
    try:
        values = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32, copy=False)
    except (ValueError, OverflowError) as error:  # safetensors allows shapes that numpy cannot hold.
        raise BundleError(f"{where}: shape {shape!r:.80} is not possible") from error
    if not np.isfinite(values).all():
        raise BundleError(f"{where}: holds values that are not finite")
    values.setflags(write=False)
    return values
