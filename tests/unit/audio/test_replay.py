"""Injected faults do what they say, again and again the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.audio.faults import Faults, Span
from edgeaudio.audio.replay import Replay
from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import Sink
from edgeaudio.errors import AudioDeviceError, ConfigError

RATE = 16_000
TONE = (0.4 * np.sin(np.arange(RATE) / 7)).astype(np.float32)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    sf.write(tmp_path / "tone.wav", TONE, RATE, subtype="FLOAT")
    return tmp_path / "tone.wav"


class Heard(Sink):
    """A sink that keeps what a source says, and lets no time pass."""

    def __init__(self, clock: list[float] | None = None) -> None:
        self.frames: list[Any] = []
        self.waits: list[float] = []
        #: (frames heard before, lost, overrun)
        self.losses: list[tuple[int, int, bool]] = []
        self._clock = clock or [0.0]
        stop = threading.Event()
        super().__init__(Ring(1), live=True, stop=stop)
        self.wait = self._wait

    def _wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self._clock[0] += max(0.0, timeout or 0.0)
        return False

    def write(self, frames: Any) -> None:
        self.frames.append(frames[:, 0].copy())

    def lost(self, n_frames: int, *, overrun: bool = False) -> None:
        self.losses.append((sum(map(len, self.frames)), n_frames, overrun))

    @property
    def waveform(self) -> Any:
        return np.concatenate(self.frames)


def played(path: Path, **faults: Any) -> Heard:
    source, heard = Replay(path, Faults(**faults), realtime=False), Heard()
    source.open()
    source.capture(heard)
    source.close()
    return heard


def test_without_faults_it_is_the_file(tone: Path) -> None:
    heard = played(tone)
    assert np.array_equal(heard.waveform, TONE)
    assert heard.losses == []


def test_dropped_blocks_are_said_and_the_rest_is_whole(tone: Path) -> None:
    heard = played(tone, drops=0.2, seed=3)
    assert 5 < len(heard.losses) < 40
    assert {(lost, overrun) for _, lost, overrun in heard.losses} == {(160, True)}
    rebuilt, at = [], 0
    for before, lost, _ in [*heard.losses, (len(heard.waveform), 0, False)]:
        rebuilt += [heard.waveform[at:before], np.full(lost, np.nan)]
        at = before
    whole = np.concatenate(rebuilt)
    kept = np.isfinite(whole)
    assert len(whole) == len(TONE)
    assert np.array_equal(whole[kept], TONE[kept])


def test_doubled_blocks_are_there_twice(tone: Path) -> None:
    heard = played(tone, dups=0.1)
    doubled = [a for a, b in zip(heard.frames, heard.frames[1:], strict=False) if np.array_equal(a, b)]
    assert 3 < len(doubled) == len(heard.frames) - 100
    assert heard.losses == []


@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        ({"clip": 10.0}, np.clip(TONE * np.float32(10), -1, 1)),
        ({"dc": 0.25}, TONE + np.float32(0.25)),
        ({"silence": Span(0.25, 0.5)}, np.where((np.arange(RATE) // 4_000) == 2, np.float32(0), TONE)),
    ],
)
def test_levels_are_spoilt_as_told(tone: Path, faults: dict[str, Any], wanted: Any) -> None:
    assert np.array_equal(played(tone, **faults).waveform, wanted)


def test_nan_comes_in_the_wanted_share_and_alone(tone: Path) -> None:
    heard = played(tone, nan=0.1).waveform
    bad = np.isnan(heard)
    assert 0.08 < bad.mean() < 0.12
    assert np.array_equal(heard[~bad], TONE[~bad])


@given(seed=st.integers(0, 9), drops=st.floats(0, 0.5), dups=st.floats(0, 0.5), nan=st.floats(0, 0.01))
def test_the_same_seed_gives_the_same_faults(seed: int, drops: float, dups: float, nan: float) -> None:
    blocks = [TONE[at : at + 160, None] for at in range(0, 3_200, 160)]
    faults = Faults(drops=drops, dups=dups, nan=nan, seed=seed)

    def bits(faults: Faults) -> list[tuple[Any, ...]]:
        return [
            (block.lost, block.position, block.late_s, None if block.frames is None else block.frames.tobytes())
            for block in faults.applied(blocks, RATE)
        ]

    assert bits(faults) == bits(faults)
    # Which blocks come does not depend on what is done to their samples.
    bare = bits(Faults(drops=drops, dups=dups, seed=seed))
    assert nan or bits(faults) == bare


def test_real_time_is_kept_and_a_fast_clock_is_faster(tone: Path) -> None:
    for ppm in (0, 50_000, -50_000):
        clock = [100.0]
        source, heard = Replay(tone, Faults(rate_ppm=ppm), clock=lambda clock=clock: clock[0]), Heard(clock)
        source.open()
        source.capture(heard)
        assert clock[0] - 100 == pytest.approx(1 / (1 + ppm * 1e-6), rel=1e-9)
        assert np.array_equal(heard.waveform, TONE)


def test_jitter_delays_blocks_and_never_accumulates(tone: Path) -> None:
    clock, arrivals = [0.0], []

    class Timed(Heard):
        def write(self, frames: Any) -> None:
            arrivals.append(clock[0])
            super().write(frames)

    source, heard = Replay(tone, Faults(jitter_ms=50), clock=lambda: clock[0]), Timed(clock)
    source.open()
    source.capture(heard)
    late = np.array(arrivals) - 0.01 * np.arange(1, 101)
    assert late.min() > -1e-9
    assert 0.03 < late.max() <= 0.05 + 1e-9
    assert np.array_equal(heard.waveform, TONE)


def test_unplugged_faster_than_real_time_is_a_loss_of_exactly_that_length(tone: Path) -> None:
    heard = played(tone, unplug=Span(0.25, 0.5))
    assert heard.losses == [(8_000, 4_000, False)]
    assert np.array_equal(heard.waveform, np.concatenate([TONE[:8_000], TONE[12_000:]]))


def test_unplugged_in_real_time_it_goes_away_and_comes_back_where_the_world_is(tone: Path) -> None:
    clock = [0.0]
    source, heard = Replay(tone, Faults(unplug=Span(0.25, 0.5)), clock=lambda: clock[0]), Heard(clock)
    source.open()
    with pytest.raises(AudioDeviceError, match="unplugged"):
        source.capture(heard)
    source.close()
    assert len(heard.waveform) == 8_000
    clock[0] = 0.7
    with pytest.raises(AudioDeviceError, match="unplugged"):
        source.open()
    clock[0] = 0.8
    source.open()
    source.capture(heard)
    assert np.array_equal(heard.waveform, np.concatenate([TONE[:8_000], TONE[12_800:]]))


def test_faults_are_parsed() -> None:
    assert Faults.parse("drops=0.01, dups=0,jitter_ms=20,unplug=2@10,silence=1@0.5,seed=7") == Faults(
        drops=0.01, jitter_ms=20, unplug=Span(2, 10), silence=Span(1, 0.5), seed=7
    )
    assert Faults.parse("") == Faults()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop=1", "Did you mean 'drops'?"),
        ("drops", "needs a value"),
        ("drops=x", "drops=x is not a number"),
        ("drops=2", "drops is 2.0, wanted 0 to 1"),
        ("nan=nan", "nan is nan, wanted 0 to 1"),
        ("unplug=2", "says not when"),
        ("unplug=-1@2", "unplug is -1"),
        ("dc=1@2", "takes no start"),
        ("clip=0.5", "clip is 0.5"),
        ("seed=1.5", "not a number"),
    ],
)
def test_wrong_faults_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Faults.parse(text)


@pytest.mark.parametrize("faults", [Faults(jitter_ms=1), Faults(rate_ppm=-1)])
def test_faults_of_time_need_real_time(tone: Path, faults: Faults) -> None:
    with pytest.raises(ConfigError, match="--pace realtime"):
        Replay(tone, faults, realtime=False)
