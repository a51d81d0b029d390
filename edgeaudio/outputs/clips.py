"""`ClipSaver`: each event as an audio file that begins before the sound and ends after it."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import soundfile as sf

from edgeaudio.errors import ConfigError, closest_match_hint
from edgeaudio.outputs.base import Output
from edgeaudio.outputs.clip_folder import SIDECAR_BYTES, ClipFolder, clip_stem
from edgeaudio.outputs.history import AudioHistory
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.worker import OutputCounts, Worker
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.observer import EventRecord

_LOG = logging.getLogger(__name__)

_FORMATS = ("flac", "wav")

# Clips that wait for the disk: 16 of 30 s at 16 kHz are 31 MB.
_CAPACITY = 16

# How late, beside window and minimum duration, a start may be told.
_SLACK_S = 1.0


@dataclass(frozen=True)
class ClipOptions:
    """What is cut out: seconds before the sound, after it, and at most in all; `max_bytes` of all clips together."""

    pre_roll_s: float = 2.0
    post_roll_s: float = 1.0
    max_s: float = 30.0
    max_bytes: int = 1_000_000_000
    format: str = "flac"


@dataclass(frozen=True)
class _Open:
    """A clip that is not complete yet. `start`, `stop`, `limit`: positions; `stop` is None until the sound ends.

    record: the start's, with the end and the peak score as soon as they are known.
    """

    record: EventRecord
    start: int
    limit: int
    stop: int | None = None

    def is_complete(self, position: int) -> bool:
        return position >= (self.limit if self.stop is None else self.stop)

    def ended(self, end: EventRecord, stop: int) -> _Open:
        record = replace(self.record, t_end_s=end.t_end_s, score=end.score)
        return replace(self, record=record, stop=min(stop, self.limit))


@dataclass(frozen=True)
class _Clip:
    record: EventRecord
    samples: Float32
    start: int
    cut: bool


class ClipSaver(Output):
    """One file per event, in a folder with a quota. A sound that lasts longer than `max_s` is cut there."""

    name = "clips"

    def __init__(
        self, folder: Path, info: StreamInfo, options: ClipOptions = ClipOptions(), *, lossless: bool = False
    ) -> None:
        """Prepare `folder`.

        Args:
            lossless: wait for the disk rather than drop clips; only for inputs that can wait.
        Raises:
            ConfigError: the folder cannot be written to, or the options exclude each other.
        """
        self._rate = info.frontend.sample_rate
        self._options, self._lossless = options, lossless
        _check(options, self._rate)
        # The sound itself may lie up to one window behind the end of its event.
        self._tail = self._samples(info.window_s + options.post_roll_s)
        late_s = info.window_s + info.hop_s + info.min_duration_s + _SLACK_S
        self._history = AudioHistory(self._samples(options.max_s + options.pre_roll_s + late_s))
        self._folder = ClipFolder(folder, max_bytes=options.max_bytes)
        self._open: list[_Open] = []
        self._worker: Worker[_Clip] = Worker(self.name, self._save, capacity=_CAPACITY, wait_when_full=lossless)

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Observer`."""
        if position_samples != self._history.end:
            self._finish(all_of_them=True)
        self._history.write(samples, position_samples)
        self._finish()

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        if record.event == "start":
            start = self._samples(record.t_start_s) - self._samples(self._options.pre_roll_s)
            limit = start + self._samples(self._options.max_s)
            self._open.append(_Open(record, max(start, self._history.start), limit))
        elif record.event == "end" and record.t_end_s is not None:
            stop = self._samples(record.t_end_s) + self._tail
            self._open = [clip.ended(record, stop) if _same_sound(clip.record, record) else clip for clip in self._open]
        self._finish(all_of_them=record.event == "gap")

    def close(self) -> None:
        """See `Observer`."""
        self._finish(all_of_them=True)
        self._worker.close(None if self._lossless else 5.0)

    @property
    def counts(self) -> OutputCounts:
        """Clips."""
        return self._worker.counts

    def _samples(self, seconds: float) -> int:
        return round(seconds * self._rate)

    def _finish(self, *, all_of_them: bool = False) -> None:
        """Hand complete clips to the writer; with `all_of_them` the others as far as they are."""
        rest = []
        for clip in self._open:
            if not (all_of_them or clip.is_complete(self._history.end)):
                rest.append(clip)
                continue
            stop = clip.limit if clip.stop is None else clip.stop
            start, samples = self._history.read(clip.start, stop)
            cut = stop == clip.limit and self._history.end >= stop
            if len(samples):
                self._worker.put(_Clip(clip.record, samples, start, cut))
        self._open = rest

    def _save(self, clips: Sequence[_Clip]) -> None:
        for clip in clips:
            record = clip.record
            buffer = io.BytesIO()
            sf.write(buffer, clip.samples, self._rate, format=self._options.format.upper(), subtype="PCM_16")
            stem = clip_stem(record.wall_time, record.label or "")
            path = self._folder.save(stem, f".{self._options.format}", buffer.getvalue(), self._sidecar(clip))
            _LOG.info("saved %s", path)

    def _sidecar(self, clip: _Clip) -> dict[str, Any]:
        record = clip.record
        clip_start_s = clip.start / self._rate
        return {
            "label": record.label,
            "score": None if record.score is None else round(record.score, 6),
            "wall_time": record.wall_time,
            "t_start_s": record.t_start_s,
            "t_end_s": record.t_end_s,
            "clip_start_s": clip_start_s,
            "duration_s": len(clip.samples) / self._rate,
            "pre_roll_s": max(0.0, record.t_start_s - clip_start_s),
            "cut": clip.cut,
            "sample_rate": self._rate,
            "exit": record.exit,
            "bundle": record.bundle,
        }


def _same_sound(one: EventRecord, other: EventRecord) -> bool:
    return (one.label, one.t_start_s) == (other.label, other.t_start_s)


def _check(options: ClipOptions, rate_hz: int) -> None:
    if options.format not in _FORMATS:
        raise ConfigError(
            f"--clips-format {options.format!r} is not known. {closest_match_hint(options.format, _FORMATS)}"
        )
    if options.max_s <= options.pre_roll_s:
        raise ConfigError(
            f"--clips-max-s is {options.max_s:g} s, --clips-pre-roll-s {options.pre_roll_s:g} s: "
            "a clip would end before its sound begins. Give a longer maximum."
        )
    # PCM is the most that FLAC takes, but for its headers.
    largest = round(2 * options.max_s * rate_hz * 1.01) + 16_384 + SIDECAR_BYTES
    if largest > options.max_bytes:
        raise ConfigError(
            f"--clips-max-mb is {options.max_bytes / 1e6:g} MB, one clip may need {largest / 1e6:.3g} MB. "
            "Give more, or a smaller --clips-max-s."
        )
