"""`WindowStream`: chunks of a waveform in, log-mel windows with their position out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgeaudio.frontend.choice import FrontendChoice, make_frontend
from edgeaudio.frontend.stream import Float32
from edgeaudio.spec import FrontendSpec, WindowSpec


class Window(NamedTuple):
    """One window: its first sample in the stream, and `(frames, n_mels)` float32."""

    position_samples: int
    log_mel: Float32


class WindowStream:
    """Front-end, ring of frames and hop. Window w covers frames `[w * hop_frames, w * hop_frames + frames)`."""

    def __init__(
        self,
        frontend: FrontendSpec,
        window: WindowSpec,
        *,
        start_sample: int = 0,
        computed_by: FrontendChoice = "numpy",
    ) -> None:
        """Set up a stream; errors are those of `make_frontend`.

        Args:
            start_sample: the position of the first sample (a Python int: days of audio do not overflow).
            computed_by: which implementation computes log-mel.
        """
        self._frontend = make_frontend(frontend, computed_by)
        self._spec = window
        self._hop_samples = window.hop_samples(frontend)
        # Room for several windows, so that frames are moved to the front once per several hops.
        self._frames: Float32 = np.empty((2 * window.frames + 8 * window.hop_frames, frontend.n_mels), np.float32)
        self.reset(start_sample=start_sample)

    def reset(self, *, start_sample: int = 0) -> None:
        """Forget all audio: the next sample is `start_sample`."""
        self._frontend.reset()
        self._position = start_sample  # First sample of the next window.
        self._start = 0  # In `_frames`: first frame of the next window; beyond `_fill` where hop > window.
        self._fill = 0  # In `_frames`: frames held.

    def feed(self, chunk: Float32) -> list[Window]:
        """Take `(samples,)` float32 of any length and return the windows it completes, each with its own memory."""
        windows: list[Window] = []
        frames = self._frontend.feed(chunk)
        while len(frames):
            frames = frames[self._append(frames) :]
            self._emit(windows)
        return windows

    def _emit(self, windows: list[Window]) -> None:
        while self._start + self._spec.frames <= self._fill:
            log_mel = self._frames[self._start : self._start + self._spec.frames].copy()
            windows.append(Window(self._position, log_mel))
            self._start += self._spec.hop_frames
            self._position += self._hop_samples

    def _append(self, frames: Float32) -> int:
        if self._fill == len(self._frames):
            kept = max(0, self._fill - self._start)
            self._frames[:kept] = self._frames[self._fill - kept : self._fill]
            self._start = max(0, self._start - self._fill)
            self._fill = kept
        n = min(len(frames), len(self._frames) - self._fill)
        self._frames[self._fill : self._fill + n] = frames[:n]
        self._fill += n
        return n
