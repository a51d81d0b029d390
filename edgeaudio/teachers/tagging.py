"""What a foundation model hears in a recording: its strongest tags. Behind `edgeaudio tag`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeaudio.audio.resample import resample
from edgeaudio.errors import ConfigError, DataError, ShapeError
from edgeaudio.teachers.base import Teacher

# Longer recordings are windowed even when no window is asked for, so that memory stays bounded.
WHOLE_CLIP_S = 30.0
LONG_RECORDING_WINDOW_S = 10.0
_WINDOWS_PER_BATCH = 8


@dataclass(frozen=True)
class Tag:
    """One class with its probability; `mid` is the AudioSet id, None where the teacher has none."""

    label: str
    mid: str | None
    prob: float


def tag(
    teacher: Teacher,
    waveform: NDArray[np.float32],
    sample_rate: int,
    top_k: int = 5,
    window_s: float | None = None,
) -> list[Tag]:
    """The `top_k` strongest tags, strongest first.

    Args:
        waveform: `(samples,)` in [-1, 1] at `sample_rate` Hz; resampled to what the teacher needs.
        window_s: mean probability over consecutive windows of this length. None hears the recording
            as a whole up to 30 s, and in windows of 10 s beyond.
    Raises:
        ShapeError: not one-dimensional.
        DataError: empty or with NaN or infinity.
        ConfigError: `top_k` or `window_s` out of range.
    """
    if not 1 <= top_k <= len(teacher.labels):
        raise ConfigError(f"top_k is {top_k}, wanted 1 to {len(teacher.labels)}")
    audio = _checked(waveform)
    audio = resample(audio, sample_rate, teacher.frontend.sample_rate)
    probs = _mean_probs(teacher, _windows(audio, teacher.frontend.sample_rate, window_s))
    order = np.argsort(-probs, kind="stable")[:top_k]
    ids = teacher.labels.audioset_ids
    return [Tag(teacher.labels.names[i], ids[i] if ids else None, float(probs[i])) for i in order]


def _checked(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    audio = np.ascontiguousarray(waveform, dtype=np.float32)
    if audio.ndim != 1:
        raise ShapeError(f"waveform has shape {audio.shape}, wanted (samples,)")
    if not audio.size or not np.isfinite(audio).all():
        raise DataError("waveform is empty" if not audio.size else "waveform holds NaN or infinity")
    return audio


def _windows(audio: NDArray[np.float32], sample_rate: int, window_s: float | None) -> list[NDArray[np.float32]]:
    """Consecutive windows; a last one of less than half a window is dropped unless it is the only one."""
    if window_s is None:
        if len(audio) <= WHOLE_CLIP_S * sample_rate:
            return [audio]
        window_s = LONG_RECORDING_WINDOW_S
    if not 0.1 <= window_s <= WHOLE_CLIP_S:
        raise ConfigError(f"window_s is {window_s}, wanted 0.1 to {WHOLE_CLIP_S:g} seconds")
    length = round(window_s * sample_rate)
    windows = [audio[start : start + length] for start in range(0, len(audio), length)]
    if len(windows) > 1 and len(windows[-1]) < length / 2:
        windows.pop()
    return windows


def _mean_probs(teacher: Teacher, windows: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean sigmoid over windows, `(classes,)`; equally long neighbours share a batch."""
    total = np.zeros(len(teacher.labels))
    start = 0
    while start < len(windows):
        batch = [w for w in windows[start : start + _WINDOWS_PER_BATCH] if len(w) == len(windows[start])]
        _, logits = teacher.embed(torch.from_numpy(np.stack(batch)))
        total += torch.sigmoid(logits.double()).sum(dim=0).cpu().numpy()
        start += len(batch)
    return total / len(windows)
