"""Ten kinds of sound, each a recipe of random numbers: `sound(rng) -> (CLIP_SAMPLES,)`, before room and noise.

They are told apart by what happens over time and across pitch, not by their average spectrum: the
ranges of pitch and brightness overlap on purpose. Every recipe sounds through the whole clip, so
that any second of it can be recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
CLIP_S = 3.0
CLIP_SAMPLES = int(CLIP_S * SAMPLE_RATE_HZ)

Wave = NDArray[np.float32]
Rng = np.random.Generator


def siren(rng: Rng) -> Wave:
    """A tone that glides up and down without a break."""
    low_hz = _log_uniform(rng, 350, 1_400)
    high_hz = min(low_hz * rng.uniform(1.35, 2.4), 3_400)
    cycle = (np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ / rng.uniform(0.35, 1.6) + rng.uniform()) % 1
    rise = rng.uniform(0.2, 0.8)
    glide = np.where(cycle < rise, cycle / rise, (1 - cycle) / (1 - rise))
    return _harmonics(low_hz * (high_hz / low_hz) ** glide, rng, n=int(rng.integers(1, 6)), rolloff=rng.uniform(1, 2))


def alarm_beep(rng: Rng) -> Wave:
    """Beeps of one fixed pitch, switched on and off."""
    tone = _harmonics(np.full(CLIP_SAMPLES, _log_uniform(rng, 450, 3_400)), rng, n=int(rng.integers(1, 5)), rolloff=1.5)
    period = int(rng.uniform(0.12, 0.8) * SAMPLE_RATE_HZ)
    on = (np.arange(CLIP_SAMPLES) + rng.integers(period)) % period < rng.uniform(0.3, 0.65) * period
    return tone * _smooth(on.astype(np.float32), int(rng.uniform(0.001, 0.008) * SAMPLE_RATE_HZ))


def doorbell(rng: Rng) -> Wave:
    """Two struck notes, high then low, each ringing out."""
    out = np.zeros(CLIP_SAMPLES, np.float32)
    first_hz = _log_uniform(rng, 450, 1_800)
    second_hz = first_hz * 2 ** (-rng.uniform(3, 7) / 12)
    gap_s, decay_s = rng.uniform(0.25, 0.55), rng.uniform(0.15, 0.5)
    partials, powers = np.array([1.0, 2.0, 2.76, 4.1]), np.array([1.0, 0.5, 0.3, 0.2]) * rng.uniform(0.2, 1, 4)
    for at in _events(rng, gap_s * 2 + rng.uniform(0, 0.3), jitter=0.02):
        for step, f_hz in enumerate((first_hz, second_hz)):
            note = _ring(rng, f_hz * partials, powers, decay_s, attack_s=0.002)
            _add(out, at + int(step * gap_s * SAMPLE_RATE_HZ), note)
    return out


def dog_bark(rng: Rng) -> Wave:
    """Short rough bursts whose pitch jumps up and falls, at uneven times."""
    out = np.zeros(CLIP_SAMPLES, np.float32)
    pitch_hz, formant_hz = _log_uniform(rng, 180, 750), _log_uniform(rng, 600, 2_000)
    length_s, breath = rng.uniform(0.13, 0.28), rng.uniform(0.2, 0.8)
    for at in _events(rng, rng.uniform(0.32, 0.65), jitter=0.2):
        x = np.linspace(0, 1, int(length_s * rng.uniform(0.8, 1.2) * SAMPLE_RATE_HZ), dtype=np.float32)
        glide = pitch_hz * rng.uniform(0.9, 1.1) * (0.6 + 0.8 * np.sin(np.pi * x**0.6))
        voice = _harmonics(glide, rng, n=14, rolloff=0.3, formant_hz=formant_hz)
        rough = 1 + breath * _smooth(rng.standard_normal(len(x), np.float32), 3)
        _add(out, at, voice * rough * np.sin(np.pi * x**0.5) ** 2 * rng.uniform(0.5, 1))
    return out


def rain(rng: Rng) -> Wave:
    """A steady hiss with countless small drops."""
    hiss = _smooth(rng.standard_normal(CLIP_SAMPLES, np.float32), int(rng.integers(1, 6)))
    drops = np.zeros(CLIP_SAMPLES, np.float32)
    count = int(_log_uniform(rng, 60, 700) * CLIP_S)
    drops[rng.integers(0, CLIP_SAMPLES, count)] = rng.exponential(1, count) * rng.choice([-1, 1], count)
    grain = _ring(rng, np.array([_log_uniform(rng, 900, 5_000)]), np.ones(1), rng.uniform(0.001, 0.004), attack_s=0)
    patter = np.convolve(drops, grain[:160])[:CLIP_SAMPLES]
    swell = 1 + 0.3 * np.sin(
        2 * np.pi * (rng.uniform(0.1, 0.5) * np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ + rng.uniform())
    )
    return ((hiss / _rms(hiss) + rng.uniform(0.3, 1.5) * patter / _rms(patter)) * swell).astype(np.float32)


def clock_tick(rng: Rng) -> Wave:
    """Tiny sharp clicks at a strictly even beat, every other one a little different."""
    out = np.zeros(CLIP_SAMPLES, np.float32)
    tones_hz = np.array([_log_uniform(rng, 1_300, 3_500), _log_uniform(rng, 2_500, 7_000)])
    ticks = [
        _ring(rng, tones_hz * rng.uniform(0.85, 1.15), rng.uniform(0.3, 1, 2), rng.uniform(0.002, 0.008), attack_s=0)
        for _ in range(2)
    ]
    loud = (1.0, rng.uniform(0.4, 1))
    for i, at in enumerate(_events(rng, rng.choice([0.2, 0.25, 0.33, 0.5]) * rng.uniform(0.9, 1.1), jitter=0)):
        _add(out, at, ticks[i % 2] * loud[i % 2])
    return out


def engine(rng: Rng) -> Wave:
    """A rich low hum whose speed wanders, throbbing with its firing."""
    t = np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ
    wander = 1 + rng.uniform(0.02, 0.2) * np.sin(2 * np.pi * (rng.uniform(0.1, 0.6) * t + rng.uniform()))
    pitch_hz = _log_uniform(rng, 28, 130) * wander
    hum = _harmonics(pitch_hz, rng, n=24, rolloff=rng.uniform(0.2, 1.0), formant_hz=_log_uniform(rng, 150, 1_200))
    firing = np.cumsum(pitch_hz / rng.integers(1, 4)) / SAMPLE_RATE_HZ % 1
    air = _smooth(rng.standard_normal(CLIP_SAMPLES, np.float32), int(rng.integers(2, 12)))
    puff = (1 - firing) ** rng.uniform(1, 4)
    return (hum / _rms(hum) + rng.uniform(0.2, 0.9) * air / _rms(air) * puff).astype(np.float32)


def bird_chirp(rng: Rng) -> Wave:
    """Phrases of very short whistles, each a fast sweep."""
    out = np.zeros(CLIP_SAMPLES, np.float32)
    from_hz, to_hz = _log_uniform(rng, 1_500, 5_500), _log_uniform(rng, 1_500, 6_500)
    length_s, bend, pause_s = rng.uniform(0.03, 0.11), rng.uniform(0.5, 2), rng.uniform(0.2, 0.5)
    for at in _events(rng, pause_s + length_s * 4, jitter=0.15):
        spacing = int(length_s * rng.uniform(1.1, 1.6) * SAMPLE_RATE_HZ)
        for i in range(int(rng.integers(2, 5))):
            x = np.linspace(0, 1, int(length_s * SAMPLE_RATE_HZ), dtype=np.float32)
            sweep_hz = from_hz * (to_hz / from_hz) ** (x**bend) * (1 + 0.12 * np.sin(np.pi * x) * rng.normal())
            _add(out, at + i * spacing, _harmonics(sweep_hz, rng, n=2, rolloff=3) * np.sin(np.pi * x))
    return out


def knock(rng: Rng) -> Wave:
    """Groups of two to five dull blows on wood."""
    out = np.zeros(CLIP_SAMPLES, np.float32)
    modes_hz = _log_uniform(rng, 110, 420) * np.array([1, 1.6, 2.4, 3.9]) * rng.uniform(0.9, 1.1, 4)
    powers, decay_s = np.array([1, 0.7, 0.5, 0.3]) * rng.uniform(0.4, 1, 4), rng.uniform(0.008, 0.035)
    spacing_s, count = rng.uniform(0.11, 0.26), int(rng.integers(2, 6))
    for at in _events(rng, spacing_s * count + rng.uniform(0.15, 0.5), jitter=0.05):
        for i in range(count):
            blow = _ring(rng, modes_hz, powers, decay_s, attack_s=0.0005) * rng.uniform(0.6, 1)
            _add(out, at + int((i * spacing_s + rng.normal(0, 0.006)) * SAMPLE_RATE_HZ), blow)
    return out


def glass_break(rng: Rng) -> Wave:
    """A crash, then splinters that ring high, each on its own, thinning out."""
    out = np.zeros(CLIP_SAMPLES, np.float32)
    low_hz, high_hz = _log_uniform(rng, 1_000, 2_500), rng.uniform(5_000, 7_500)
    for at in _events(rng, rng.uniform(0.7, 1.3), jitter=0.1):
        n = int(rng.uniform(0.04, 0.15) * SAMPLE_RATE_HZ)
        crash = rng.standard_normal(n, np.float32) * np.exp(-np.linspace(0, 6, n, dtype=np.float32))
        _add(out, at, crash)
        for delay_s in rng.exponential(rng.uniform(0.12, 0.3), int(rng.integers(8, 22))):
            tones_hz = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz), 2))
            splinter = _ring(rng, tones_hz, np.ones(2), rng.uniform(0.01, 0.06), attack_s=0)
            _add(out, at + int(delay_s * SAMPLE_RATE_HZ), splinter * rng.uniform(0.1, 0.5) * np.exp(-delay_s))
    return out


SOUNDS: dict[str, Callable[[Rng], Wave]] = {
    "alarm_beep": alarm_beep,
    "bird_chirp": bird_chirp,
    "clock_tick": clock_tick,
    "dog_bark": dog_bark,
    "doorbell": doorbell,
    "engine": engine,
    "glass_break": glass_break,
    "knock": knock,
    "rain": rain,
    "siren": siren,
}


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _rms(x: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) + 1e-9


def _smooth(x: Wave, width: int) -> Wave:
    """Moving mean over `width` samples, same length."""
    return x if width < 2 else np.convolve(x, np.full(width, 1 / width, np.float32), mode="same").astype(np.float32)


def _events(rng: Rng, period_s: float, *, jitter: float) -> Iterator[int]:
    """Sample positions through the clip; the first may lie before it. `jitter` is a share of the period."""
    at_s = -rng.uniform(0, period_s)
    while at_s < CLIP_S:
        yield int((at_s + rng.normal(0, jitter * period_s)) * SAMPLE_RATE_HZ)
        at_s += period_s


def _add(out: Wave, at: int, event: NDArray[np.floating]) -> None:
    """Add `event` at sample `at`, as much of it as lies inside."""
    start, stop = max(at, 0), min(at + len(event), len(out))
    if start < stop:
        out[start:stop] += event[start - at : stop - at]


def _harmonics(pitch_hz: NDArray[np.floating], rng: Rng, *, n: int, rolloff: float, formant_hz: float = 0.0) -> Wave:
    """Harmonics 1 to `n` of a gliding pitch below 7.5 kHz, falling as `1 / k**rolloff`, louder near `formant_hz`."""
    phase = np.cumsum(pitch_hz / SAMPLE_RATE_HZ)
    phase = (2 * np.pi * (phase - np.floor(phase))).astype(np.float32)
    top_hz, mean_hz = float(np.max(pitch_hz)), float(np.mean(pitch_hz))
    out = np.zeros(len(phase), np.float32)
    for k in range(1, n + 1):
        if k * top_hz > 7_500:
            break
        gain = k**-rolloff * rng.uniform(0.5, 1)
        if formant_hz:
            gain *= 0.15 + np.exp(-(np.log2(k * mean_hz / formant_hz) ** 2) / 0.5)
        out += np.float32(gain) * np.sin(np.float32(k) * phase + np.float32(rng.uniform(0, 6.28)))
    return out


def _ring(
    rng: Rng, tones_hz: NDArray[np.floating], powers: NDArray[np.floating], decay_s: float, *, attack_s: float
) -> Wave:
    """Struck tones that ring out; higher ones sooner. Six decay times long."""
    t = np.arange(int(6 * decay_s * SAMPLE_RATE_HZ) + 16, dtype=np.float32) / SAMPLE_RATE_HZ
    out = np.zeros(len(t), np.float32)
    for f_hz, power in zip(tones_hz, powers, strict=True):
        if f_hz < 7_800:
            damping = np.float32((f_hz / tones_hz[0]) ** 0.4 / decay_s)
            phase = np.float32(2 * np.pi * f_hz) * t + np.float32(rng.uniform(0, 2 * np.pi))
            out += np.float32(power) * np.exp(-t * damping) * np.sin(phase)
    if attack_s:
        out *= np.minimum(1, t / np.float32(attack_s))
    return out
