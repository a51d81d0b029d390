"""Broken twins of the product, for `tests/test_planted_twins.py`: each must make a fault suite fail.

As a pytest plugin (`-p tests.planted`) this plants the twin that the variable EDGEAUDIO_PLANT names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

ENV = "EDGEAUDIO_PLANT"


@dataclass(frozen=True)
class Twin:
    """What is broken, the suite that must notice, and how it is planted."""

    what: str
    suite: str
    plant: Callable[[pytest.MonkeyPatch], None]


def _digests_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("edgeaudio.bundle.reader._check_digest", lambda *_: None)


def _structure_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("edgeaudio.bundle.container._compare", lambda *_: None)


def _json_errors_untyped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("edgeaudio.bundle.reader.parse_json", lambda data, source: json.loads(data))


def _samples_lost_between_chunks(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.frontend.stream import FrontendStream

    feed = FrontendStream.feed
    patch.setattr(FrontendStream, "feed", lambda self, chunk: feed(self, chunk[:-1] if len(chunk) == 161 else chunk))


def _reset_keeps_decisions(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.runtime.stream import StreamClassifier

    begin = StreamClassifier._begin

    def kept(self: StreamClassifier, start_sample: int) -> None:
        state = self._state
        begin(self, start_sample)
        self._state = state

    patch.setattr(StreamClassifier, "_begin", kept)


def _nan_let_through(patch: pytest.MonkeyPatch) -> None:
    def counted_only(samples: Any, stats: Any) -> Any:
        stats.raw_samples += samples.size
        stats.nan_samples += int((~np.isfinite(samples)).sum())
        return samples

    for module in ("edgeaudio.runtime.classifier", "edgeaudio.audio.source"):
        patch.setattr(f"{module}.scrub", counted_only)


def _positions_of_32_bits(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.runtime.windows import WindowStream

    reset = WindowStream.reset
    patch.setattr(
        WindowStream, "reset", lambda self, *, start_sample=0: reset(self, start_sample=start_sample & 0x7FFFFFFF)
    )


def _windows_across_gaps(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.runtime.stream import StreamClassifier

    def silent(self: StreamClassifier, dropped_samples: int) -> list[Any]:
        self._gaps += 1
        self._dropped_samples += dropped_samples
        return []

    patch.setattr(StreamClassifier, "gap", silent)


def _overruns_unnoticed(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.audio.ring import Ring

    take = Ring._take

    def unaware(self: Ring, max_frames: int) -> Any:
        return take(self, max_frames)._replace(lost=0, overwritten=0)

    patch.setattr(Ring, "_take", unaware)


def _first_frames_of_a_write_lost(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.audio.ring import Ring

    write = Ring.write
    patch.setattr(Ring, "write", lambda self, frames: write(self, frames[1:] if len(frames) > 2 else frames))


def _every_third_sample(patch: pytest.MonkeyPatch) -> None:
    def decimated(waveform: Any, from_hz: int, to_hz: int) -> Any:
        at = np.arange(0, len(waveform), from_hz / to_hz).astype(int)
        return waveform[at]

    patch.setattr("tests.unit.audio.test_resample.resample", decimated)


def _drift_unknown(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.runtime.clock import DeviceClock

    patch.setattr(DeviceClock, "_slope", property(lambda self: 0.0))


def _stall_unreported(patch: pytest.MonkeyPatch) -> None:
    from edgeaudio.runtime.worker import Worker

    patch.setattr(Worker, "_tell_gap", lambda self, ends, start_samples, known_s: None)


FUZZ = "tests/fuzz/test_bundle_fuzz.py"
CHUNKS = "tests/stream/test_chunking.py"
LIVE = "tests/unit/runtime/test_live.py"
RING = "tests/unit/audio/test_ring.py"
TWINS: dict[str, Twin] = {
    "digests-unchecked": Twin(
        "a bundle whose digests nobody compares",
        f"{FUZZ}::test_flipped_bits_in_payloads_are_refused_even_where_the_crc_is_mended",
        _digests_unchecked,
    ),
    "structure-unchecked": Twin(
        "a container whose headers nobody compares",
        f"{FUZZ}::test_every_single_bit_of_manifest_and_structure_counts",
        _structure_unchecked,
    ),
    "json-untyped": Twin(
        "a manifest parser whose errors are its own",
        f"{FUZZ}::test_garbled_manifest_text_gives_typed_errors_only",
        _json_errors_untyped,
    ),
    "samples-lost": Twin(
        "a front-end that loses a sample between chunks",
        f"{CHUNKS}::test_any_chunking_gives_the_probabilities_and_events_of_the_clip",
        _samples_lost_between_chunks,
    ),
    "reset-partial": Twin(
        "a reset that keeps the decision's state", f"{CHUNKS}::test_reset_is_total", _reset_keeps_decisions
    ),
    "nan": Twin(
        "NaN that is counted and let through",
        "tests/stream/test_live_promises.py::test_a1_a_bad_sample_is_silence_for_one_receptive_field",
        _nan_let_through,
    ),
    "int32-positions": Twin(
        "positions of 32 bits",
        f"{CHUNKS}::test_a_stream_that_starts_at_a_wrap_point_gives_the_same_events_shifted",
        _positions_of_32_bits,
    ),
    "gap-ignored": Twin(
        "windows that reach across a gap",
        f"{CHUNKS}::test_nothing_is_scored_across_a_gap_and_positions_go_on",
        _windows_across_gaps,
    ),
    "overrun-unnoticed": Twin(
        "a ring that overwrites and says nothing",
        f"{RING}::test_a_stall_loses_exactly_what_the_ring_cannot_hold",
        _overruns_unnoticed,
    ),
    "write-lossy": Twin(
        "a ring that drops a frame of each block",
        f"{RING}::test_what_was_written_is_read_or_said_to_be_lost",
        _first_frames_of_a_write_lost,
    ),
    "gap-unreported": Twin(
        "a stall without its gap event",
        f"{LIVE}::test_a_longer_stall_loses_exactly_the_overflow_in_one_gap",
        _stall_unreported,
    ),
    "decimation": Twin(
        "resampling by leaving samples out",
        "tests/unit/audio/test_resample.py::test_tones_above_half_the_target_rate_are_removed",
        _every_third_sample,
    ),
    "drift-unknown": Twin(
        "a clock that never learns its drift",
        "tests/unit/runtime/test_clock.py::"
        "test_drift_is_known_to_5_ppm_after_ten_minutes_and_times_to_50_ms_over_a_day",
        _drift_unknown,
    ),
}


def pytest_collection_finish() -> None:
    """Plant the twin once the suites are imported, for as long as this process lives."""
    if ENV in os.environ:
        TWINS[os.environ[ENV]].plant(pytest.MonkeyPatch())
