"""Faults that audio hardware has, injected on purpose and repeatably."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import ConfigError, closest_match_hint

Frames = NDArray[np.float32]


class Span(NamedTuple):
    """`length_s` seconds that begin at `start_s`."""

    length_s: float
    start_s: float


@dataclass(frozen=True)
class Faults:
    """What goes wrong, per block of 10 ms. Equal faults with equal seed do the same.

    drops, dups: share of blocks that are lost (and reported as lost), or come twice.
    jitter_ms: blocks come up to so much late. rate_ppm: the device's clock is so much fast. Both need real time.
    clip: amplified so much and cut at full scale. nan: share of samples. dc: added to each sample.
    silence, unplug: zeros, or no device, for a while.
    """

    drops: float = 0.0
    dups: float = 0.0
    jitter_ms: float = 0.0
    rate_ppm: float = 0.0
    clip: float = 1.0
    nan: float = 0.0
    dc: float = 0.0
    silence: Span | None = None
    unplug: Span | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("drops", "dups", "nan"):
            _check(name, getattr(self, name), 0, 1)
        _check("jitter_ms", self.jitter_ms, 0, 60_000)
        _check("rate_ppm", self.rate_ppm, -100_000, 100_000)
        _check("clip", self.clip, 1, 1e6)
        _check("dc", self.dc, -2, 2)
        _check("seed", self.seed, 0, 2**63)
        for name in ("silence", "unplug"):
            span = getattr(self, name)
            if span is not None:
                _check(name, span.length_s, 0, 1e9)
                _check(f"{name} start", span.start_s, 0, 1e9)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """`drops=0.01,jitter_ms=20,unplug=2@10`: names of the fields, spans as seconds@start.

        Raises:
            ConfigError: unknown name, or a value that is none.
        """
        known = {field.name for field in fields(cls)}
        given: dict[str, float | int | Span] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.partition("=")
            if name not in known:
                raise ConfigError(f"--inject: {name!r} is no fault. {closest_match_hint(name, known)}")
            if not equals:
                raise ConfigError(f"--inject: {name} needs a value, such as {name}=0.1")
            given[name] = _value(name, value)
        return cls(**given)  # type: ignore[arg-type]

    def applied(self, blocks: Iterable[Frames], sample_rate: int) -> Iterator[Injected]:
        """Blocks `(n, channels)` with the faults of this file, in order; unplugging and time are the replay's."""
        rng = np.random.default_rng(self.seed)
        position = 0
        for block in blocks:
            start, position = position, position + len(block)
            # As many numbers are drawn for every block, so that one fault does not move another.
            chances = rng.random(3)
            bad = rng.random(block.shape) < self.nan if self.nan else None
            if chances[0] < self.drops:
                yield Injected(None, len(block), position, 0.0)
                continue
            spoilt = self._spoilt(block, bad, start, sample_rate)
            late_s = float(chances[2]) * self.jitter_ms / 1000
            yield Injected(spoilt, 0, position, late_s)
            if chances[1] < self.dups:
                yield Injected(spoilt, 0, position, late_s)

    def _spoilt(self, block: Frames, bad: NDArray[np.bool_] | None, start: int, sample_rate: int) -> Frames:
        if self.silence is not None:
            at_s = (start + np.arange(len(block))) / sample_rate
            quiet = (at_s >= self.silence.start_s) & (at_s < self.silence.start_s + self.silence.length_s)
            block = np.where(quiet[:, None], np.float32(0), block)
        if self.clip != 1:
            block = (block * np.float32(self.clip)).clip(-1, 1)
        if self.dc:
            block = block + np.float32(self.dc)
        return block if bad is None else np.where(bad, np.float32(np.nan), block)


class Injected(NamedTuple):
    """`frames`, or `lost` frames in their stead; `position` in the file behind them; `late_s` after their time."""

    frames: Frames | None
    lost: int
    position: int
    late_s: float


def _value(name: str, text: str) -> float | int | Span:
    value, at, start = text.partition("@")
    try:
        if name in ("silence", "unplug"):
            if not at:
                raise ConfigError(f"--inject: {name}={text} says not when: {name}=SECONDS@START")
            return Span(float(value), float(start))
        if at:
            raise ConfigError(f"--inject: {name} takes no start: {name}={value}")
        return int(text) if name == "seed" else float(text)
    except ValueError:
        raise ConfigError(f"--inject: {name}={text} is not a number") from None


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN too.
        raise ConfigError(f"--inject: {name} is {value}, wanted {low:g} to {high:g}")
