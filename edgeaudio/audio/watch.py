"""`WatchedFolder`: every audio file that appears in a folder, once, also across restarts."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgeaudio.audio.files import FileSource
from edgeaudio.audio.resample import StreamResampler
from edgeaudio.audio.source import AudioFormat, Mixer, Sink, SourceStats, scrub
from edgeaudio.errors import AudioFileError, ConfigError
from edgeaudio.spec.fs import atomic_write

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".caf", ".au", ".w64", ".rf64"}
)
JOURNAL = ".edgeaudio-heard.jsonl"


class Seen(NamedTuple):
    """One state of a file: written to again, it is another one."""

    name: str
    size_bytes: int
    mtime_ns: int

    def line(self) -> bytes:
        """As the journal has it."""
        return json.dumps(self._asdict()).encode() + b"\n"


class HeardFiles:
    """The journal of files that were classified: one JSON line each, synced before the next file is begun."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Read it as far as it is whole: a line that a power cut tore off is dropped, its file is heard again.

        Raises:
            ConfigError: it cannot be read or written.
        """
        self.path = path
        try:
            heard = _read_journal(path)
            # Files that are gone need no line: the journal does not grow with the years.
            self._heard = {seen for seen in heard if (folder / seen.name).exists()}
            atomic_write(path, b"".join(seen.line() for seen in sorted(self._heard)))
        except OSError as error:
            raise ConfigError(f"journal {path}: {error}. Name another one with --journal FILE.") from error

    def __contains__(self, seen: Seen) -> bool:
        return seen in self._heard

    def add(self, seen: Seen) -> None:
        """This file was classified."""
        self._heard.add(seen)
        with self.path.open("ab") as stream:
            stream.write(seen.line())
            stream.flush()
            os.fsync(stream.fileno())


class WatchedFolder:
    """A source (see `AudioSource`): the audio files of a folder, those that are there and those that come.

    A file is taken when nothing was written to it for `settle_s`, oldest first, resampled to `sample_rate`, and noted
    in the journal when it has been classified. A kill or power cut in between means that it is heard again, never that
    it is left out. Hidden files, links and folders are not looked at; a file that cannot be decoded is logged once.
    """

    live = False
    reopens = False

    def __init__(
        self,
        folder: Path | str,
        *,
        sample_rate: int,
        channel: int | None = None,
        journal: Path | None = None,
        settle_s: float = 2.0,
        poll_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`channel` counts from 1; None is the mean of all. `journal` is in the folder unless named."""
        self.folder, self.name = Path(folder), f"folder {folder}"
        self.scrubbed = SourceStats()
        self.refused = 0
        self._sample_rate, self._channel = sample_rate, channel
        self._journal = journal or self.folder / JOURNAL
        self._settle_s, self._poll_s, self._clock = settle_s, poll_s, clock
        self._first_seen_s: dict[Seen, float] = {}

    def open(self) -> AudioFormat:
        """See `AudioSource.open`. Raises ConfigError when there is no such folder, or its journal cannot be written."""
        if not self.folder.is_dir():
            raise ConfigError(f"{self.folder} is no folder")
        self._heard = HeardFiles(self._journal, self.folder)
        return AudioFormat(self._sample_rate)

    def capture(self, sink: Sink) -> None:
        """See `AudioSource.capture`: ends only when it is stopped."""
        while not sink.stopped():
            for seen in self._complete():
                if not self._hear(seen, sink):
                    return
            sink.wait(self._poll_s)

    def close(self) -> None:
        """See `AudioSource.close`: nothing is open between two files."""

    def _complete(self) -> list[Seen]:
        """Files to hear now, oldest first."""
        now_s, wall_s = self._clock(), time.time()
        waiting = [seen for seen in self._listed() if seen not in self._heard]
        self._first_seen_s = {seen: self._first_seen_s.get(seen, now_s) for seen in waiting}
        settled = [
            seen
            for seen in waiting
            # Both clocks: the file's may be of another machine.
            if now_s - self._first_seen_s[seen] >= self._settle_s or wall_s - seen.mtime_ns / 1e9 >= self._settle_s
        ]
        return sorted(settled, key=lambda seen: (seen.mtime_ns, seen.name))

    def _listed(self) -> list[Seen]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                wanted = os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith(".")
                if wanted and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    found.append(Seen(entry.name, stat.st_size, stat.st_mtime_ns))
        return found

    def _hear(self, seen: Seen, sink: Sink) -> bool:
        """One file from begin to end; False when stopped before its end."""
        # A name may hold bytes that are no text; it must not break the line it is printed in.
        sink.begin_file(os.fsencode(seen.name).decode(errors="backslashreplace"))
        try:
            self._play(self.folder / seen.name, sink)
        except (AudioFileError, ConfigError) as error:
            self.refused += 1
            logger.warning("left out: %s", str(error).encode(errors="backslashreplace").decode())
        if sink.stopped() or not sink.end_file():
            return False
        self._heard.add(seen)
        return True

    def _play(self, path: Path, sink: Sink) -> None:
        source = FileSource(path)
        audio = source.open()
        mixer, resampler = Mixer(audio.channels, self._channel), StreamResampler(audio.sample_rate, self._sample_rate)
        for frames in source.chunks():
            mono = mixer.mix(scrub(frames, self.scrubbed))
            sink.write(resampler.feed(mono)[:, None])
            if sink.stopped():
                return
        sink.write(resampler.flush()[:, None])


def _read_journal(path: Path) -> list[Seen]:
    if not path.exists():
        return []
    heard = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            seen = Seen(**json.loads(line))
        except (ValueError, TypeError):
            seen = None
        if seen is None or seen.line() != line:
            logger.warning("%s: a line that is not whole was dropped", path)
            continue
        heard.append(seen)
    return heard
