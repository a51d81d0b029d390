"""`DecodeCache`: every clip decoded and resampled once, then mapped from disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.data.cache_entry import read_entry, write_entry
from edgeaudio.data.clips import Clip, Skipped, clip_digest
from edgeaudio.data.decode_pool import DecodeFailure, DecodeRequest, decode_all
from edgeaudio.errors import AudioFileError, ConfigError, DataError
from edgeaudio.spec import digest_json, limits

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# Part of the key, with the decoders' versions: raise it when decoding gives other numbers.
_REVISION = 1
_CODE = digest_json([_REVISION, sf.__libsndfile_version__, soxr.__libsoxr_version__])[:8]

# A clip above this is a recording to be cut first; it bounds a worker's memory.
MAX_CLIP_S = 3600.0


class DecodeCache:
    """Mono float32 waveforms at `sample_rate`, one file per different clip content in `folder`.

    The key is the file's SHA-256, the rate, and the version of the code that decodes; the same
    folder may serve many datasets, rates and processes.
    """

    def __init__(
        self,
        folder: Path,
        sample_rate: int,
        *,
        workers: int = 2,
        max_clip_s: float = MAX_CLIP_S,
        file_timeout_s: float = 60.0,
    ) -> None:
        if not limits.SAMPLE_RATE_MIN_HZ <= sample_rate <= limits.SAMPLE_RATE_MAX_HZ:
            raise ConfigError(
                f"sample_rate is {sample_rate}, wanted {limits.SAMPLE_RATE_MIN_HZ} to {limits.SAMPLE_RATE_MAX_HZ}"
            )
        self.folder, self.sample_rate = folder, sample_rate
        self._workers, self._max_clip_s, self._file_timeout_s = workers, max_clip_s, file_timeout_s
        self._verified: set[Path] = set()

    def prepare(
        self, clips: Sequence[Clip], progress: Progress | None = None
    ) -> tuple[tuple[Clip, ...], tuple[Skipped, ...]]:
        """Decode what is not in the cache yet, in worker processes.

        A file that cannot be decoded, or whose decoder crashes or hangs, is skipped, never fatal.
        Killed and called again, it goes on where it was.

        Args:
            progress: called with (files done, files to do).
        Returns:
            The clips that `get` can serve, in the given order, and the others with reasons.
        Raises:
            DataError: the cache cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        failed: dict[str, Skipped] = {}
        entries: dict[str, Path] = {}
        wanted: dict[Path, Clip] = {}
        for clip in clips:
            try:
                entries[clip.id] = entry = self._entry(clip)
            except AudioFileError as error:
                failed[clip.id] = _skipped(clip, error.reason, str(error))
                continue
            if entry not in wanted and read_entry(entry, verify=False) is None:
                wanted[entry] = clip
        refused = self._decode(wanted, progress)
        for clip in clips:
            failure = refused.get(entries[clip.id]) if clip.id in entries else None
            if failure is not None:
                failed[clip.id] = _skipped(clip, failure.reason, failure.message)
        usable = tuple(clip for clip in clips if clip.id not in failed)
        if failed:
            logger.warning("skipped %d of %d clips; first: %s", len(failed), len(clips), next(iter(failed.values())))
        return usable, tuple(failed[clip.id] for clip in clips if clip.id in failed)

    def get(self, clip: Clip) -> NDArray[np.float32]:
        """The clip's waveform `(samples,)`, mapped read-only; let it go soon, it holds a file descriptor.

        The first call for a clip checks the entry's digest; a damaged or absent entry is decoded
        again, in this process.

        Raises:
            AudioFileError: the file cannot be decoded.
        """
        entry = self._entry(clip)
        waveform = read_entry(entry, verify=entry not in self._verified)
        if waveform is None:
            logger.info("decoding %s again: its cache entry is absent or damaged", clip.path)
            audio = decode_file(clip.path, max_s=self._max_clip_s)
            write_entry(entry, resample(audio.waveform, audio.sample_rate, self.sample_rate))
            waveform = read_entry(entry, verify=True)
            if waveform is None:
                raise DataError(f"{entry}: the entry just written reads back damaged. Check the disk.")
        self._verified.add(entry)
        return waveform

    def _entry(self, clip: Clip) -> Path:
        return self.folder / f"{clip_digest(clip)}-{self.sample_rate}-{_CODE}.npy"

    def _decode(self, wanted: dict[Path, Clip], progress: Progress | None) -> dict[Path, DecodeFailure]:
        entries = list(wanted)
        requests = [
            DecodeRequest(wanted[entry].path, self._max_clip_s, entry.absolute(), self.sample_rate) for entry in entries
        ]
        failures: dict[Path, DecodeFailure] = {}
        results = decode_all(requests, workers=self._workers, timeout_s=self._file_timeout_s)
        for done, (i, result) in enumerate(results, start=1):
            if isinstance(result, DecodeFailure):
                failures[entries[i]] = result
            if progress is not None:
                progress(done, len(entries))
        return failures


def check_skipped(skipped: Sequence[Skipped], total: int, max_fraction: float) -> None:
    """Refuse to go on when more than `max_fraction` of `total` clips were skipped.

    Raises:
        DataError: with the counts, the commonest reasons and the first files.
    """
    if len(skipped) <= max_fraction * total:
        return
    reasons = Counter(item.reason.partition(":")[0] for item in skipped)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
    first = "; ".join(item.reason for item in skipped[:3])
    raise DataError(
        f"{len(skipped)} of {total} clips cannot be used ({counts}), data.max_skipped allows {max_fraction:g}. "
        f"First: {first}. Mend or remove these files, or raise data.max_skipped."
    )


def _skipped(clip: Clip, reason: str, message: str) -> Skipped:
    return Skipped(str(clip.path), f"{reason}: {message}")
