"""The built-in dataset: ten kinds of synthetic sound in ESC-50's layout, so that everything runs without a download.

Rooms, microphones, noise and other sounds in the background are varied so widely that an average
spectrum does not tell the classes apart (`tests/unit/data/test_synth.py` holds it to that).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf

from edgeaudio.data.rooms import room_response
from edgeaudio.data.synth_sounds import CLIP_SAMPLES, SAMPLE_RATE_HZ, SOUNDS, Rng, Wave
from edgeaudio.errors import ConfigError, DataError
from edgeaudio.spec.fs import atomic_write

SYNTH_CLASSES = tuple(SOUNDS)
SYNTH_LICENCE = "CC0-1.0"

# Raise it when a clip of the same seed would sound different.
_REVISION = 1

# Room and microphone work on the whole clip at once; a power of two leaves 1.09 s for the echo.
_FFT_SAMPLES = 65_536
_UNLABELLED = 1_000  # Takes the place of a class in the seeds of unlabelled clips.


def synth_clip(class_index: int, seed: int, index: int) -> Wave:
    """Clip `index` of a class: `(CLIP_SAMPLES,)` float32 at 16 kHz, the same for the same three numbers."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, class_index, index]))
    return _record(rng, [(class_index, 1.0)])


def synth_unlabelled_clip(seed: int, index: int) -> Wave:
    """A clip of one, two or three classes at similar levels, for distillation without labels."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, _UNLABELLED, index]))
    classes = rng.permutation(len(SYNTH_CLASSES))[: rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])]
    return _record(rng, [(int(c), 10 ** (rng.uniform(-6, 0) / 20)) for c in classes])


def write_synth(
    folder: Path,
    clips_per_class: int,
    seed: int,
    folds: int = 5,
    unlabelled: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `audio/*.wav`, `meta/esc50.csv` and, when asked for, `unlabelled/*.wav` under `folder`.

    The same call again does nothing; after a kill it starts over. The table is written last, so a
    half-written dataset does not load.

    Raises:
        ConfigError: a count out of range.
        DataError: `folder` holds something else.
    """
    recipe = _recipe(clips_per_class, seed, folds, unlabelled)
    if _claim(folder, recipe):
        return
    total = clips_per_class * len(SYNTH_CLASSES) + unlabelled
    done = 0
    rows: list[list[object]] = []
    for index in range(clips_per_class):
        for target, category in enumerate(SYNTH_CLASSES):
            fold, source = index % folds + 1, 100_000 * (target + 1) + index
            name = f"{fold}-{source}-A-{target}.wav"
            _write_wav(folder / "audio" / name, synth_clip(target, seed, index))
            rows.append([name, fold, target, category, False, source, "A"])
            done += 1
            if progress is not None:
                progress(done, total)
    for index in range(unlabelled):
        _write_wav(folder / "unlabelled" / f"{index:06d}.wav", synth_unlabelled_clip(seed, index))
        done += 1
        if progress is not None:
            progress(done, total)
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(
        [["filename", "fold", "target", "category", "esc10", "src_file", "take"], *rows]
    )
    atomic_write(folder / "meta" / "esc50.csv", table.getvalue().encode())


def _recipe(clips_per_class: int, seed: int, folds: int, unlabelled: int) -> dict[str, object]:
    if not (1 <= clips_per_class < 100_000 and 2 <= folds <= clips_per_class and unlabelled >= 0 and seed >= 0):
        raise ConfigError(
            f"clips_per_class {clips_per_class}, folds {folds}, unlabelled {unlabelled}, seed {seed}: wanted "
            "1 to 99999 clips per class, 2 to clips_per_class folds, and no negative number"
        )
    return {
        "revision": _REVISION,
        "clips_per_class": clips_per_class,
        "seed": seed,
        "folds": folds,
        "unlabelled": unlabelled,
        "licence": SYNTH_LICENCE,
    }


def _claim(folder: Path, recipe: dict[str, object]) -> bool:
    """Mark `folder` as ours before the first clip; True when the dataset of this recipe is complete there."""
    mark, wanted = folder / "meta" / "synth.json", (json.dumps(recipe, indent=1) + "\n").encode()
    if mark.is_file():
        if mark.read_bytes() != wanted:
            raise DataError(f"{folder}: holds a synthetic dataset made otherwise ({mark}). Choose another folder.")
        return (folder / "meta" / "esc50.csv").is_file()
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty and not a synthetic dataset. Choose another folder.")
    atomic_write(mark, wanted)
    return False


def _write_wav(path: Path, waveform: Wave) -> None:
    buffer = io.BytesIO()
    sf.write(buffer, waveform, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    atomic_write(path, buffer.getvalue())


def _record(rng: Rng, sources: list[tuple[int, float]]) -> Wave:
    """Sound the sources (class, gain) in one room before one microphone, with noise and maybe another sound."""
    sounds = list(SOUNDS.values())
    mix = np.zeros(CLIP_SAMPLES, np.float32)
    for class_index, gain in sources:
        mix += np.float32(gain) * _normal(sounds[class_index](rng))
    if rng.uniform() < 0.4:
        used = {class_index for class_index, _ in sources}
        other = int(rng.choice([i for i in range(len(sounds)) if i not in used]))
        mix += _normal(sounds[other](rng)) * np.float32(10 ** (rng.uniform(-30, -15) / 20))
    spectrum = (
        np.fft.rfft(mix, _FFT_SAMPLES)
        * np.fft.rfft(room_response(rng, SAMPLE_RATE_HZ), _FFT_SAMPLES)
        * _microphone(rng)
    )
    heard = _normal(np.fft.irfft(spectrum, _FFT_SAMPLES)[:CLIP_SAMPLES].astype(np.float32))
    heard += _noise(rng) * np.float32(10 ** (-rng.uniform(5, 32) / 20))
    level = 10 ** (rng.uniform(-34, -12) / 20)
    return (heard * np.float32(min(level, 0.98 / float(np.abs(heard).max())))).astype(np.float32)


def _normal(x: Wave) -> Wave:
    """Scale so that the loudest quarter of 50 ms blocks has RMS 1: pauses do not make a sound louder."""
    blocks = np.square(x[: len(x) // 800 * 800]).reshape(-1, 800).mean(axis=1)
    loudest = np.sort(blocks)[-len(blocks) // 4 :]
    scaled: Wave = x / np.float32(np.sqrt(loudest.mean()) + 1e-9)
    return scaled


def _microphone(rng: Rng) -> Wave:
    """A smooth random response over log frequency, up to about +-8 dB."""
    f_hz = np.fft.rfftfreq(_FFT_SAMPLES, 1 / SAMPLE_RATE_HZ)
    octave = np.log2(np.maximum(f_hz, 40) / 40)
    knots = np.linspace(0, octave[-1], 7)
    response_db = np.interp(octave, knots, rng.normal(0, 3.5, 7))
    response: Wave = np.power(10, response_db / 20).astype(np.float32)
    return response


def _noise(rng: Rng) -> Wave:
    """RMS 1; from white to brown, and in four of ten clips swelling like far-away talk."""
    n = CLIP_SAMPLES
    shape = np.arange(1, n // 2 + 2, dtype=np.float32) ** np.float32(-rng.uniform(0, 1))
    spectrum = np.fft.rfft(rng.standard_normal(n, np.float32)) * shape
    noise = np.fft.irfft(spectrum, n).astype(np.float32)
    if rng.uniform() < 0.4:
        steps = np.abs(rng.standard_normal(int(rng.integers(8, 24))))
        noise *= np.interp(np.linspace(0, len(steps) - 1, n), np.arange(len(steps)), steps).astype(np.float32)
    scaled: Wave = noise / np.float32(np.sqrt(np.square(noise).mean()) + 1e-9)
    return scaled
