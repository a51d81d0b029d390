"""Mutated audio files: no crash, no hang, no untyped error, and nothing absurd accepted.

Every file is decoded in a worker process, as datasets are. `EDGEAUDIO_FUZZ_N` sets how many
(2,000 in the ordinary run). A file that breaks a promise is kept under `corpus/audio/`, which is
replayed first: commit it with the fix.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.data.decode_pool import DecodeFacts, DecodeFailure, DecodeRequest, decode_all
from edgeaudio.spec import limits

CORPUS = Path(__file__).parent / "corpus" / "audio"
N_FILES = int(os.environ.get("EDGEAUDIO_FUZZ_N", "2000"))
BATCH = 500
FILE_TIMEOUT_S = 10.0  # The promise is 2 s; a shared machine may stop for a while.
MAX_S = 600.0

# What `decode_file` may answer; a slug beyond these (a crash, a hang) breaks the promise.
TYPED_REASONS = {"undecodable", "truncated", "empty", "channels", "sample_rate", "too_long", "not_finite", "level"}

SEEDS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("aiff", "AIFF", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("mp3", "MP3", None),
]
EXTREME_FIELDS = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 1)


def make_seeds() -> list[tuple[str, bytes]]:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, (4_000, 2)).astype(np.float32)
    seeds = []
    for suffix, container, subtype in SEEDS:
        buffer = io.BytesIO()
        sf.write(buffer, waveform, 16_000, format=container, subtype=subtype)
        seeds.append((suffix, buffer.getvalue()))
    return seeds


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One of: cut, flips in the header, flips anywhere, a header field at an extreme, a piece doubled."""
    out = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind in (1, 2):
        reach = min(128, len(out)) if kind == 1 else len(out)
        for position in rng.integers(0, reach, rng.integers(1, 9)):
            out[position] ^= int(rng.integers(1, 256))
    elif kind == 3:
        at = int(rng.integers(0, max(1, min(128, len(out) - 4))))
        out[at : at + 4] = int(rng.choice(EXTREME_FIELDS)).to_bytes(4, "little" if rng.integers(2) else "big")
    else:
        start, length = int(rng.integers(len(out))), int(rng.integers(1, 300))
        out[start:start] = out[start : start + length]
    return bytes(out)


def broken_promise(result: DecodeFacts | DecodeFailure) -> str | None:
    """What is wrong with an answer, or `None`."""
    if isinstance(result, DecodeFailure):
        return None if result.reason in TYPED_REASONS else f"{result.reason}: {result.message}"
    sane = (
        limits.SAMPLE_RATE_MIN_HZ <= result.sample_rate <= limits.SAMPLE_RATE_MAX_HZ
        and 1 <= result.channels <= limits.CHANNELS
        and 0 < result.duration_s <= MAX_S
        and np.isfinite([result.peak, result.rms]).all()
    )
    return None if sane else f"accepted: {result}"


def check(files: list[Path]) -> Counter[str]:
    """Decode all; keep and name the first that breaks a promise."""
    seen: Counter[str] = Counter()
    requests = [DecodeRequest(path, MAX_S) for path in files]
    for i, result in decode_all(requests, timeout_s=FILE_TIMEOUT_S):
        problem = broken_promise(result)
        if problem:
            CORPUS.mkdir(parents=True, exist_ok=True)
            kept = CORPUS / files[i].name
            kept.write_bytes(files[i].read_bytes())
            pytest.fail(f"{kept}: {problem}")
        seen[result.reason if isinstance(result, DecodeFailure) else "accepted"] += 1
    return seen


def test_files_that_once_broke_a_promise_keep_it() -> None:
    check(sorted(CORPUS.glob("*")))


def test_unmutated_seeds_are_accepted(tmp_path: Path) -> None:
    files = []
    for i, (suffix, data) in enumerate(make_seeds()):
        files.append(tmp_path / f"{i}.{suffix}")
        files[-1].write_bytes(data)
    assert check(files) == {"accepted": len(SEEDS)}


def mutated(seeds: list[tuple[str, bytes]], number: int) -> tuple[str, bytes]:
    """File `number`: its suffix and content."""
    rng = np.random.default_rng([7, number])
    suffix, data = seeds[int(rng.integers(len(seeds)))]
    for _ in range(int(rng.integers(1, 3))):
        data = mutate(data, rng) or b"\0"
    return suffix, data


def naive_decode(data: bytes) -> DecodeFacts | DecodeFailure:
    """What `decode_file` would be without its checks."""
    try:
        with sf.SoundFile(io.BytesIO(data)) as stream:
            waveform = stream.read(160_000, dtype="float32", always_2d=True)
            duration_s = stream.frames / stream.samplerate
            peak = float(np.abs(waveform).max(initial=0))
            return DecodeFacts(duration_s, stream.samplerate, stream.channels, stream.format, peak, peak)
    except (sf.SoundFileError, ZeroDivisionError):
        return DecodeFailure("undecodable", "")


def test_the_fuzzer_catches_a_decoder_without_checks() -> None:
    seeds = make_seeds()
    problems = [broken_promise(naive_decode(mutated(seeds, number)[1])) for number in range(500)]
    assert any(problems)


def test_mutated_files_are_decoded_or_refused_with_a_reason(tmp_path: Path) -> None:
    seeds = make_seeds()
    seen: Counter[str] = Counter()
    for start in range(0, N_FILES, BATCH):
        files = []
        for number in range(start, min(start + BATCH, N_FILES)):
            suffix, data = mutated(seeds, number)
            path = tmp_path / f"fuzz-{number:07d}.{suffix}"
            path.write_bytes(data)
            files.append(path)
        seen += check(files)
        for path in files:
            path.unlink()
    # A mutator that breaks nothing, or everything, would test nothing.
    assert seen.total() == N_FILES
    assert 0.05 < seen["accepted"] / N_FILES < 0.95
    assert len(seen) >= 5, seen
