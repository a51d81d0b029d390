"""`DeviceClock`: the clock of a sound card against the host's, from when samples come in.

A sound card that is 100 ppm fast gains 8.6 s a day. Positions stay what they are, counts of samples; this tells at
which time of the host a sample was heard, and how far off the card is.
"""

from __future__ import annotations

import math

# Samples come late, by the scheduler's whim, never early: of each bin the earliest counts.
_BIN_S = 1.0
# Older bins fade: a card's crystal warms up and cools down.
_MEMORY_S = 1800.0
# A jump of the delay: the length of a loss was estimated, or a buffer was resized. The rate is as before.
_JUMP_S = 0.05
# Seconds of sound before anything is said.
_WARM_UP_S = 60.0


class DeviceClock:
    """Fits host time against sample positions: an exponentially fading straight line."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._fade = math.exp(-_BIN_S / _MEMORY_S)
        self._bin = -1.0
        self._bin_x = self._bin_delay = math.inf
        self._first_x: float | None = None
        # Weighted sum of weights, means, and second moments about them; x is device seconds, y the delay.
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def saw(self, position_samples: int, host_s: float) -> None:
        """The sample before `position_samples` came in at `host_s`."""
        x = position_samples / self._sample_rate
        delay = host_s - x
        if x // _BIN_S != self._bin:
            if self._bin >= 0:
                self._learn(self._bin_x, self._bin_delay)
            self._bin, self._bin_delay = x // _BIN_S, math.inf
        if delay < self._bin_delay:
            self._bin_x, self._bin_delay = x, delay

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the device counts than the host; None in the first minute."""
        if self._first_x is None or self._x - self._first_x < _WARM_UP_S / 2 or self._xx <= 0:
            return None
        host_per_device = 1 + self._slope
        # An input that is no clock at all, such as one that is faster than the world.
        return (1 / host_per_device - 1) * 1e6 if host_per_device > 0.01 else None

    def host_s(self, position_samples: int) -> float | None:
        """When the host had the sample before `position_samples`; None before anything was learnt."""
        if not self._weight:
            return None if self._bin < 0 else position_samples / self._sample_rate + self._bin_delay
        x = position_samples / self._sample_rate
        return x + self._delay(x)

    @property
    def _slope(self) -> float:
        return self._xy / self._xx if self._xx > 0 else 0.0

    def _delay(self, x: float) -> float:
        return self._y + self._slope * (x - self._x)

    def _learn(self, x: float, delay: float) -> None:
        if self._first_x is None:
            self._first_x = x
        elif self.drift_ppm is not None and abs(delay - self._delay(x)) > _JUMP_S:
            self._y += delay - self._delay(x)
        self._weight = self._fade * self._weight + 1
        dx, dy = x - self._x, delay - self._y
        self._x += dx / self._weight
        self._y += dy / self._weight
        self._xx = self._fade * self._xx + dx * (x - self._x)
        self._xy = self._fade * self._xy + dx * (delay - self._y)
