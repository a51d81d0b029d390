"""`NativeStream`: the C front-end with the interface of `edgeaudio.frontend.stream.FrontendStream`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeaudio.errors import UnsupportedError
from edgeaudio.frontend.native.tables import native_tables, why_unsupported
from edgeaudio.frontend.stream import Float32, check_chunk, require_streamable
from edgeaudio.spec import FrontendSpec

if TYPE_CHECKING:
    from edgeaudio.frontend.native._logmel import LogMel

EXTENSION: Final = "edgeaudio.frontend.native._logmel"
HOW_TO_BUILD: Final = (
    "Install a C compiler and Python's headers (Debian: apt install gcc python3-dev), "
    "then edgeaudio again from its source: pip install --force-reinstall --no-deps --no-cache-dir SOURCE"
)
# As in _logmel.c: another number is a build of other sources.
INTERFACE: Final = 1


def why_not_built() -> str | None:
    """Why the extension cannot be used on this machine; None where it can."""
    try:
        found = _extension().INTERFACE
    except ImportError as error:
        return f"{EXTENSION} is not built here ({error})"
    if found != INTERFACE:
        return f"{EXTENSION} was built from other sources (interface {found}, wanted {INTERFACE})"
    return None


def why_unusable(spec: FrontendSpec) -> str | None:
    """Why the native front-end cannot compute `spec` here; None where it can."""
    return why_not_built() or why_unsupported(spec)


def require_native(spec: FrontendSpec) -> None:
    """Check that the native front-end can compute `spec` here.

    Raises:
        UnsupportedError: it is not built, or cannot do this spec; the message says what to do.
    """
    not_built = why_not_built()
    if not_built is not None:
        raise UnsupportedError(f"front-end 'native': {not_built}. {HOW_TO_BUILD}. Or take front-end 'numpy'.")
    reason = why_unsupported(spec)
    if reason is not None:
        raise UnsupportedError(f"front-end 'native': {reason}. Take front-end 'numpy'.")


def compiler() -> str:
    """What compiled the extension, such as `gcc 12.2.0`; only where `why_not_built()` is None."""
    return str(_extension().COMPILER)


def _extension() -> Any:
    return importlib.import_module(EXTENSION)


class NativeStream:
    """Turns chunks of a waveform into log-mel frames; frame t starts at sample `t * hop_length`.

    Within `PARITY_GATE_LN` of the reference, but not the bits of `FrontendStream`. The same bits on every machine, and
    however the waveform is cut. One instance per stream and thread.
    """

    name: Final = "native"

    def __init__(self, spec: FrontendSpec) -> None:
        """Make a stream.

        Raises:
            ConfigError: the spec cannot be streamed (`centre`, `preemphasis`).
            UnsupportedError: the extension is not built here, or cannot do this spec.
        """
        require_streamable(spec)
        require_native(spec)
        self.spec = spec
        no_frames = np.empty((0, spec.n_mels), np.float32)
        no_frames.setflags(write=False)
        self._core: LogMel = _extension().LogMel(
            win_length=spec.win_length,
            hop_length=spec.hop_length,
            n_fft=spec.n_fft,
            n_mels=spec.n_mels,
            log_floor=spec.log_floor,
            offset=spec.offset,
            scale=spec.scale,
            **vars(native_tables(spec)),
            empty=np.empty,
            dtype=np.dtype(np.float32),
            no_frames=no_frames,
        )

    def reset(self) -> None:
        """Forget everything: the next sample is sample 0."""
        self._core.reset()

    def feed(self, chunk: Float32) -> Float32:
        """Take the next samples and return the frames they complete; as `FrontendStream.feed`.

        Raises:
            ShapeError: another rank or dtype.
        """
        try:
            return self._core.feed(chunk)
        except (TypeError, ValueError, BufferError):
            # Not what the extension reads in place: refused for good, or strided, and then copied.
            check_chunk(chunk)
            return self._core.feed(np.require(chunk, np.float32, ["C_CONTIGUOUS", "ALIGNED"]))
