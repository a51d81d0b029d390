"""Both front-ends of the runtime: as the reference, and the same bits however the audio is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeaudio.audio.resample import resample
from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.frontend.choice import Frontend, FrontendName, make_frontend
from edgeaudio.frontend.reference import PARITY_GATE_LN, parity_gap_ln, reference_log_mel
from edgeaudio.spec import FrontendSpec
from tests.frontends import FRONTENDS

SPEC = FrontendSpec()
N = 2 * SPEC.sample_rate


NewStream = Callable[[FrontendSpec], Frontend]


@pytest.fixture(scope="module", params=FRONTENDS)
def new_stream(request: pytest.FixtureRequest) -> NewStream:
    name: FrontendName = request.param
    return lambda spec: make_frontend(spec, name)


def _signals() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(7)
    t = np.arange(N) / SPEC.sample_rate
    white = rng.standard_normal(N)
    brown = np.cumsum(white)
    impulse = np.zeros(N)
    impulse[N // 3] = 1.0
    tones = {f"tone {hz} Hz": 0.9 * np.sin(2 * np.pi * hz * t) for hz in (100, 440, 1000, 3000, 7000)}
    return tones | {
        "DC 0.5 with noise": 0.5 + 1e-3 * white,
        "DC 0.5": np.full(N, 0.5),
        "white noise": 0.3 * white,
        "brown noise": 0.9 * brown / np.abs(brown).max(),
        "silence": np.zeros(N),
        "1-LSB noise": rng.integers(-1, 2, N) / 32768,
        "clipped square": np.clip(3 * np.sign(np.sin(2 * np.pi * 220 * t)), -1, 1),
        "impulse": impulse,
        "20 Hz": np.sin(2 * np.pi * 20 * t),
        "Nyquist": np.where(np.arange(N) % 2, 1.0, -1.0),
    }


@pytest.mark.parametrize("name", _signals())
def test_every_signal_is_within_the_parity_gate(name: str, new_stream: NewStream) -> None:
    waveform = _signals()[name].astype(np.float32)
    log_mel = new_stream(SPEC).feed(waveform)
    assert log_mel.shape == (SPEC.n_frames(N), SPEC.n_mels)
    assert log_mel.dtype == np.float32
    assert parity_gap_ln(log_mel, reference_log_mel(waveform, SPEC), SPEC) <= PARITY_GATE_LN


@pytest.mark.assets
def test_real_clips_are_within_the_parity_gate(shared_dir: Path, new_stream: NewStream) -> None:
    clips = sorted((shared_dir / "data" / "esc10" / "audio").glob("*.ogg"))[::40]
    assert clips
    for clip in clips:
        samples, rate_hz = soundfile.read(clip, dtype="float32")
        waveform = resample(samples[: 2 * rate_hz], rate_hz, SPEC.sample_rate)
        gap = parity_gap_ln(new_stream(SPEC).feed(waveform), reference_log_mel(waveform, SPEC), SPEC)
        assert gap <= PARITY_GATE_LN, clip.name


OTHER_SPECS = [
    FrontendSpec(sample_rate=8_000, win_length=200, hop_length=80, n_fft=256, n_mels=32, f_max=3_900),
    FrontendSpec(win_length=160, hop_length=400, n_fft=1024),  # Hop beyond the window: samples are skipped.
    FrontendSpec(win_length=512, hop_length=512, n_fft=512, n_mels=1),
    FrontendSpec(win_length=401, hop_length=1, n_mels=40),
    FrontendSpec(win_length=100, hop_length=16_384, n_fft=1024),
]


@pytest.mark.parametrize("spec", [SPEC, *OTHER_SPECS], ids=lambda spec: f"{spec.win_length}/{spec.hop_length}")
@settings(max_examples=25)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 159, 160, 161, 399, 400, 401, 1_000, 5_003]), max_size=8),
    hops=st.integers(0, 40),
    odd=st.integers(0, 500),
)
def test_any_chunking_gives_the_same_bits(
    spec: FrontendSpec, sizes: list[int], hops: int, odd: int, new_stream: NewStream
) -> None:
    n_samples = hops * spec.hop_length + odd
    waveform = np.random.default_rng(n_samples).standard_normal(n_samples).astype(np.float32)
    whole = new_stream(spec).feed(waveform)
    stream = new_stream(spec)
    parts, at, lengths = [], 0, itertools.cycle([*sizes, 97])
    while at < n_samples:
        n = next(lengths)
        parts.append(stream.feed(waveform[at : at + n]))
        at += n
    cut = np.concatenate([stream.feed(waveform[:0]), *parts])
    assert len(whole) == spec.n_frames(n_samples)
    assert cut.tobytes() == whole.tobytes()


def test_one_sample_at_a_time_gives_the_same_bits(new_stream: NewStream) -> None:
    waveform = np.random.default_rng(1).standard_normal(3_000).astype(np.float32)
    stream = new_stream(SPEC)
    cut = np.concatenate([stream.feed(waveform[i : i + 1]) for i in range(len(waveform))])
    assert cut.tobytes() == new_stream(SPEC).feed(waveform).tobytes()


def test_frame_t_covers_its_own_samples_only(new_stream: NewStream) -> None:
    waveform = np.random.default_rng(2).standard_normal(2_000).astype(np.float32)
    log_mel = new_stream(SPEC).feed(waveform)
    for t in range(len(log_mel)):
        samples = waveform[t * SPEC.hop_length :][: SPEC.win_length]
        assert new_stream(SPEC).feed(samples).tobytes() == log_mel[t].tobytes()


def test_the_callers_samples_are_not_changed_nor_kept(new_stream: NewStream) -> None:
    waveform = np.random.default_rng(3).standard_normal(1_000).astype(np.float32)
    expected = new_stream(SPEC).feed(waveform)
    stream, chunk, frames = new_stream(SPEC), np.empty(100, np.float32), []
    for at in range(0, 1_000, 100):
        chunk[:] = waveform[at : at + 100]  # One buffer again and again, as sound drivers do.
        frames.append(stream.feed(chunk))
    assert np.concatenate(frames).tobytes() == expected.tobytes()


def test_reset_is_total(new_stream: NewStream) -> None:
    waveform = np.random.default_rng(4).standard_normal(5_003).astype(np.float32)
    stream = new_stream(SPEC)
    first = stream.feed(waveform)
    stream.reset()
    assert stream.feed(waveform).tobytes() == first.tobytes()


def test_strided_chunks_are_read_right(new_stream: NewStream) -> None:
    stereo = np.random.default_rng(5).standard_normal((2_000, 2)).astype(np.float32)
    expected = new_stream(SPEC).feed(stereo[:, 1].copy())
    assert new_stream(SPEC).feed(stereo[:, 1]).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("changes", "field"), [({"centre": True}, "frontend.centre"), ({"preemphasis": 0.97}, "frontend.preemphasis")]
)
def test_specs_that_cannot_stream_are_refused(changes: dict[str, float], field: str, new_stream: NewStream) -> None:
    with pytest.raises(ConfigError, match=field):
        new_stream(FrontendSpec(**changes))


@pytest.mark.parametrize("chunk", [np.zeros((2, 3), np.float32), np.zeros(3), np.zeros(3, np.int16), np.float32(1)])
def test_other_shapes_and_dtypes_are_refused(chunk: NDArray[np.float32], new_stream: NewStream) -> None:
    with pytest.raises(ShapeError, match="float32"):
        new_stream(SPEC).feed(chunk)


def test_the_empty_answer_cannot_be_written_to(new_stream: NewStream) -> None:
    frames = new_stream(SPEC).feed(np.zeros(1, np.float32))
    assert frames.shape == (0, SPEC.n_mels)
    assert not frames.flags.writeable
