from typing import Any

from numpy.typing import NDArray

INTERFACE: int
BLOCK: int
MIN_FFT: int
MAX_FFT: int
COMPILER: str

class LogMel:
    def __new__(
        cls,
        *,
        win_length: int,
        hop_length: int,
        n_fft: int,
        n_mels: int,
        log_floor: float,
        offset: float,
        scale: float,
        window: NDArray[Any],
        twiddles: NDArray[Any],
        split: NDArray[Any],
        band_first: NDArray[Any],
        band_blocks: NDArray[Any],
        weights: NDArray[Any],
        empty: Any,
        dtype: Any,
        no_frames: NDArray[Any],
    ) -> LogMel: ...
    def feed(self, chunk: NDArray[Any], /) -> NDArray[Any]: ...
    def reset(self) -> None: ...

def ln(x: NDArray[Any], out: NDArray[Any], /) -> None: ...
