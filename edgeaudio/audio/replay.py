"""`Replay`: a file played as if a microphone heard it: in real time, and with the faults of real devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeaudio.audio.faults import Faults, Injected
from edgeaudio.audio.files import FileSource
from edgeaudio.audio.source import AudioFormat, Sink, SourceStats
from edgeaudio.errors import AudioDeviceError, ConfigError

_BLOCK_S = 0.01


class Replay:
    """A source (see `AudioSource`): in real time it is live and is opened again; else it goes as fast as it is read."""

    def __init__(
        self,
        path: Path | str,
        faults: Faults | None = None,
        *,
        realtime: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`realtime`: at the file's own pace, by `clock`.

        Raises:
            ConfigError: faults of time without real time.
        """
        if faults is not None and not realtime and (faults.jitter_ms or faults.rate_ppm):
            raise ConfigError("--inject: jitter_ms and rate_ppm are about time; give --pace realtime too")
        self.name, self.live, self.reopens = f"replay of {path}", realtime, realtime
        self._path, self._faults, self._clock = path, faults or Faults(), clock
        self._file: FileSource | None = None
        self.scrubbed = SourceStats()
        self._blocks: Iterator[Injected] = iter(())
        self._plugged = True
        #: On the clock, when frame 0 was due.
        self._origin_s = 0.0

    def open(self) -> AudioFormat:
        """See `AudioSource.open`; fails while it is unplugged."""
        if self._file is None:
            self._file = FileSource(self._path)
            self._audio = self._file.open()
            chunks = self._file.chunks(max(1, round(_BLOCK_S * self._audio.sample_rate)))
            self._blocks = self._faults.applied(chunks, self._audio.sample_rate)
            # Of the device's clock: real seconds per frame.
            self._frame_s = 1 / (self._audio.sample_rate * (1 + self._faults.rate_ppm * 1e-6))
        unplug = self._faults.unplug
        if not self._plugged and unplug and self._clock() < self._origin_s + unplug.start_s + unplug.length_s:
            raise AudioDeviceError("it is unplugged (injected)")
        return self._audio

    def capture(self, sink: Sink) -> None:
        """See `AudioSource.capture`."""
        skip_to = 0
        if self._plugged:
            self._origin_s = self._clock()
        elif self.live:
            # While it was unplugged the world went on.
            skip_to = round((self._clock() - self._origin_s) / self._frame_s)
        missing = 0
        for block in self._blocks:
            n_frames = block.lost if block.frames is None else len(block.frames)
            if self._pulled_at(block.position - n_frames):
                self._plugged = False
                skip_to = self._pulled_until()
                if self.live:
                    raise AudioDeviceError("it was unplugged (injected)")
            if block.position <= skip_to:
                missing += n_frames
                continue
            # Live, whoever opened it again has counted by the clock.
            if missing and not self.live:
                sink.lost(missing)
            missing = 0
            if self.live and sink.wait(self._origin_s + block.position * self._frame_s + block.late_s - self._clock()):
                return
            if block.frames is None:
                sink.lost(block.lost, overrun=True)
            else:
                sink.write(block.frames)
            if sink.stopped():
                return

    def close(self) -> None:
        """See `AudioSource.close`. Of an unplugged replay the file stays open: it goes on when it is opened again."""
        if self._file is not None and self._plugged:
            self._file.close()

    def _pulled_at(self, position: int) -> bool:
        unplug = self._faults.unplug
        return self._plugged and unplug is not None and position >= unplug.start_s * self._audio.sample_rate

    def _pulled_until(self) -> int:
        unplug = self._faults.unplug
        assert unplug is not None
        return round((unplug.start_s + unplug.length_s) * self._audio.sample_rate)
