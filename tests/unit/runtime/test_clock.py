"""A sound card's clock is found to a few parts per million, and times of the host stay right for days."""

from __future__ import annotations

import numpy as np
import pytest

from edgeaudio.runtime.clock import DeviceClock

RATE = 16_000
BLOCK = 1_600


def day(
    clock: DeviceClock, ppm: float, hours: float, *, jitter_s: float = 0.02, jumps: dict[int, int] | None = None
) -> float:
    """Feed `hours` of blocks that come late at random; the largest error in host time from the tenth minute on."""
    lateness = np.random.default_rng(0).exponential(0.007, round(hours * 36_000)).clip(0, 0.2)
    worst, position = 0.0, 0
    for number, late_s in enumerate(lateness.tolist(), 1):
        position += BLOCK + (jumps or {}).get(number, 0)
        true_s = 1_000 + number * 0.1 / (1 + ppm * 1e-6)
        clock.saw(position, true_s + late_s)
        if number > 6_000 and number % 50 == 0:
            heard_s = clock.host_s(position)
            assert heard_s is not None
            worst = max(worst, abs(heard_s - true_s))
    return worst


@pytest.mark.parametrize("ppm", [-200.0, -3.0, 0.0, 200.0])
def test_drift_is_known_to_5_ppm_after_ten_minutes_and_times_to_50_ms_over_a_day(ppm: float) -> None:
    clock = DeviceClock(RATE)
    day(clock, ppm, 1 / 6)
    assert clock.drift_ppm == pytest.approx(ppm, abs=5)
    clock = DeviceClock(RATE)
    assert day(clock, ppm, 24) < 0.05
    assert clock.drift_ppm == pytest.approx(ppm, abs=1)


def test_a_loss_of_misjudged_length_moves_the_times_not_the_rate() -> None:
    # 300 ms more are said to be lost than were.
    clock = DeviceClock(RATE)
    day(clock, 100.0, 2, jumps={20_000: 4_800})
    assert clock.drift_ppm == pytest.approx(100, abs=5)
    heard_s = clock.host_s(72_000 * BLOCK + 4_800)
    assert heard_s == pytest.approx(1_000 + 7_200 / (1 + 100e-6), abs=0.05)


def test_nothing_is_said_before_it_is_known() -> None:
    clock = DeviceClock(RATE)
    assert clock.drift_ppm is None
    assert clock.host_s(0) is None
    clock.saw(1_600, 5.1)
    assert clock.host_s(1_600) == pytest.approx(5.1)
    assert clock.host_s(0) == pytest.approx(5.0)
    for number in range(2, 250):
        clock.saw(number * 1_600, 5 + number * 0.1)
    assert clock.drift_ppm is None
    day(clock := DeviceClock(RATE), 0, 0.05)
    assert clock.drift_ppm == pytest.approx(0, abs=50)


def test_a_warming_crystal_is_followed() -> None:
    clock, host_s = DeviceClock(RATE), 0.0
    for number in range(1, 6 * 36_000):
        ppm = 0.0 if number < 3 * 36_000 else 40.0
        host_s += 0.1 / (1 + ppm * 1e-6)
        clock.saw(number * BLOCK, host_s)
    assert clock.drift_ppm == pytest.approx(40, abs=5)
    heard_s = clock.host_s((6 * 36_000 - 1) * BLOCK)
    assert heard_s == pytest.approx(host_s, abs=0.02)
