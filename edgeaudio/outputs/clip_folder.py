"""`ClipFolder`: saved clips and their sidecars on disk, written atomically, the oldest deleted above a quota."""

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from edgeaudio.errors import ConfigError
from edgeaudio.spec.fs import atomic_write

#: More than any sidecar line holds.
SIDECAR_BYTES = 2048

# Only files with such names are ever deleted: the folder may hold others.
_STEM = r"\d{8}T\d{6}\.\d{3}Z_[a-z0-9-]+(?:_\d+)?"
_OURS = re.compile(rf"(?P<stem>{_STEM})\.(?:flac|wav|json)")
_LEFT_OVER = re.compile(rf"\.{_STEM}\.(?:flac|wav|json)\..*\.tmp")


class _Saved(NamedTuple):
    modified_ns: int
    stem: str
    size_bytes: int
    paths: tuple[Path, ...]


class ClipFolder:
    """A folder of clips. Each is two files: `STEM.json`, one line, and then the audio, so audio is never without."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Make `folder` where needed, and remove what a power cut left half-written.

        Raises:
            ConfigError: it cannot be written to.
        """
        self.folder, self._max_bytes = folder, max_bytes
        try:
            # What a microphone heard is not for every user of the machine.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            for path in folder.iterdir():
                if _LEFT_OVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder}: clips cannot be saved there: {error.strerror}. Choose another folder."
            ) from error

    def save(self, stem: str, suffix: str, audio: bytes, sidecar: Mapping[str, Any]) -> Path:
        """Write a clip and its sidecar, after deleting the oldest clips that would exceed the quota with it.

        Returns:
            The audio file; its stem has a number behind it where `stem` was taken.
        """
        path = self._free(stem, suffix)
        line = json.dumps({"file": path.name, **sidecar}, ensure_ascii=False).encode() + b"\n"
        self._make_room(len(audio) + len(line))
        atomic_write(path.with_suffix(".json"), line)
        atomic_write(path, audio)
        return path

    def _free(self, stem: str, suffix: str) -> Path:
        path, number = self.folder / f"{stem}{suffix}", 2
        while path.exists() or path.with_suffix(".json").exists():
            path, number = self.folder / f"{stem}_{number}{suffix}", number + 1
        return path

    def _make_room(self, n_bytes: int) -> None:
        clips = sorted(self._clips())
        held = sum(clip.size_bytes for clip in clips)
        for clip in clips:
            if held + n_bytes <= self._max_bytes:
                return
            # The sidecar last, so that audio is never without.
            for path in sorted(clip.paths, key=lambda path: path.suffix == ".json"):
                path.unlink(missing_ok=True)
            held -= clip.size_bytes

    def _clips(self) -> Iterator[_Saved]:
        by_stem: dict[str, list[os.DirEntry[str]]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                match = _OURS.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    by_stem.setdefault(match["stem"], []).append(entry)
        for stem, files in by_stem.items():
            status = [file.stat(follow_symlinks=False) for file in files]
            yield _Saved(
                modified_ns=min(one.st_mtime_ns for one in status),
                stem=stem,
                size_bytes=sum(one.st_size for one in status),
                paths=tuple(Path(file.path) for file in files),
            )


def clip_stem(wall_time: str, label: str) -> str:
    """A file name's stem from an ISO 8601 time with offset and any label: `20261120T140322.417Z_dog-bark`."""
    when = datetime.fromisoformat(wall_time).astimezone(UTC)
    return f"{when:%Y%m%dT%H%M%S}.{when.microsecond // 1000:03d}Z_{slug(label)}"


def slug(label: str) -> str:
    """`label` in small letters, digits and hyphens, 40 at most; `sound` where none is left."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "sound"
