"""The native front-end: its logarithm, any size of spec, bits that no machine changes, and what its binding refuses."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.frontend.native import stream as native_stream
from edgeaudio.frontend.native import tables as native_tables_module
from edgeaudio.frontend.native.stream import EXTENSION, NativeStream, why_not_built
from edgeaudio.frontend.native.tables import native_tables
from edgeaudio.frontend.reference import PARITY_GATE_LN, parity_gap_ln, reference_log_mel
from edgeaudio.spec import FrontendSpec
from tests.frontends import needs_native

ROOT = Path(__file__).resolve().parents[3]
SPEC = FrontendSpec()
#: As in ea_logmel.h: largest |error| of the logarithm, as a share of |ln x|. Measured 1.03e-7.
LN_BOUND = 1.1e-7


def test_it_is_built_where_make_setup_ran_with_a_compiler() -> None:
    """Without this, every test of the native front-end could be skipped and nobody would notice."""
    import shutil
    import sysconfig

    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("this checkout was not set up by make")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which("cc") is None or not headers.exists():
        pytest.skip("there is no C compiler here, or no Python.h")
    assert why_not_built() is None


@pytest.fixture(scope="module")
def extension() -> Any:
    if why_not_built() is not None:
        pytest.skip(str(why_not_built()))
    return native_stream._extension()


def test_python_and_c_agree_on_the_interface(extension: Any) -> None:
    assert extension.INTERFACE == native_stream.INTERFACE
    assert extension.BLOCK == native_tables_module.BLOCK
    assert (extension.MIN_FFT, extension.MAX_FFT) == (native_tables_module.MIN_FFT, native_tables_module.MAX_FFT)


# ---- the logarithm ----


def ln_error(extension: Any, x: NDArray[np.float32]) -> float:
    """Largest |error| as a share of |ln x|; ln 1 must be 0."""
    out = np.empty_like(x)
    extension.ln(x, out)
    exact = np.log(x.astype(np.float64))
    assert (out[exact == 0] == 0).all()
    return float((np.abs(out - exact) / np.where(exact == 0, 1, np.abs(exact))).max())


def test_ln_is_within_its_bound_on_every_float_from_a_half_to_two(extension: Any) -> None:
    for octave in (126, 127):
        for part in range(8):
            bits = np.arange(part << 20, (part + 1) << 20, dtype=np.uint32) + np.uint32(octave << 23)
            assert ln_error(extension, bits.view(np.float32)) <= LN_BOUND


def test_ln_is_within_its_bound_in_every_octave(extension: Any) -> None:
    mantissas = np.random.default_rng(0).integers(0, 1 << 23, 1 << 12).astype(np.uint32)
    mantissas[:2] = 0, (1 << 23) - 1
    octaves = np.arange(1, 255, dtype=np.uint32) << np.uint32(23)
    x = (octaves[:, None] + mantissas[None]).ravel().view(np.float32)
    assert ln_error(extension, x) <= LN_BOUND
    ordered = np.sort(x)
    out = np.empty_like(ordered)
    extension.ln(ordered, out)
    # Monotonic up to its own rounding: a quieter sound is never louder by more than the bound.
    assert np.diff(out).min() >= -2 * LN_BOUND * np.abs(out).max()


def test_ln_of_what_is_not_finite_is_nan(extension: Any) -> None:
    out = np.empty(3, np.float32)
    extension.ln(np.array([np.inf, -np.inf, np.nan], np.float32), out)
    assert np.isnan(out).all()


# ---- any spec ----


@st.composite
def specs(draw: st.DrawFn) -> FrontendSpec:
    n_fft = 2 ** draw(st.integers(4, 12))
    try:
        spec = FrontendSpec(
            n_fft=n_fft,
            win_length=draw(st.one_of(st.integers(2, n_fft), st.sampled_from([2, 3, n_fft - 1, n_fft]))),
            hop_length=draw(st.integers(1, 2 * n_fft)),
            n_mels=draw(st.integers(1, 128)),
            f_min=draw(st.sampled_from([0.0, 60.0, 2_000.0])),
            f_max=draw(st.sampled_from([3_000.0, 7_800.0, 8_000.0])),
            log_floor=draw(st.sampled_from([1e-5, 1e-3, 1.0])),
            offset=draw(st.floats(-10, 10)),
            scale=draw(st.floats(0.01, 10)),
        )
        native_tables(spec)
    except ConfigError:  # A band without a bin: refused for every front-end.
        assume(False)
    return spec


@needs_native
@given(spec=specs(), n_frames=st.integers(0, 6), more=st.integers(-1, 5_000), seed=st.integers(0, 2**32 - 1))
def test_any_size_is_within_the_gate_and_cut_anywhere_the_same(
    spec: FrontendSpec, n_frames: int, more: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n_samples = max(0, spec.n_samples(n_frames) + min(more, spec.hop_length))
    waveform = rng.uniform(-1, 1, n_samples).astype(np.float32)
    stream = NativeStream(spec)
    whole = stream.feed(waveform)
    assert parity_gap_ln(whole, reference_log_mel(waveform, spec), spec) <= PARITY_GATE_LN
    stream.reset()
    edges = np.sort(rng.integers(0, n_samples + 1, rng.integers(0, 12)))
    cut = [stream.feed(part) for part in np.split(waveform, edges)]
    assert np.concatenate(cut).tobytes() == whole.tobytes()


@needs_native
def test_the_largest_fft_is_within_the_gate() -> None:
    spec = FrontendSpec(n_fft=16_384, win_length=16_384, hop_length=16_384, n_mels=256)
    waveform = np.random.default_rng(0).uniform(-1, 1, 16_384).astype(np.float32)
    assert parity_gap_ln(NativeStream(spec).feed(waveform), reference_log_mel(waveform, spec), spec) <= PARITY_GATE_LN


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_fft": 400}, "n_fft is 400"),
        ({"n_fft": 8, "win_length": 8, "n_mels": 1}, "n_fft is 8"),
        ({"log_floor": 1e-39}, "log_floor is 1e-39"),
    ],
)
def test_tables_for_what_the_code_cannot_do_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedError, match=field):
        native_tables(FrontendSpec(**changes))


# ---- the same bits everywhere ----


@needs_native
def test_the_bits_are_those_of_every_other_machine() -> None:
    """The digest was taken on x86-64; tests/unit/frontend/test_native_c.py has other processors, emulated."""
    n = np.arange(16_000)
    waveform = ((n * n // 7 % 2_001 - 1_000) / 32_768).astype(np.float32)
    waveform[8_000:] += np.float32(0.5)
    digest = hashlib.sha256(NativeStream(SPEC).feed(waveform).astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == "08796df740fd01a2"


@needs_native
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_sample_spoils_its_own_frames_only(bad: float) -> None:
    waveform = np.random.default_rng(1).uniform(-1, 1, 5_000).astype(np.float32)
    good = NativeStream(SPEC).feed(waveform)
    waveform[2_000] = bad
    spoilt = NativeStream(SPEC).feed(waveform)
    starts = np.arange(len(good)) * SPEC.hop_length
    covers = (starts <= 2_000) & (starts + SPEC.win_length > 2_000)
    assert not np.isfinite(spoilt[covers]).any()
    assert spoilt[~covers].tobytes() == good[~covers].tobytes()


# ---- the binding ----


def arguments(**changes: Any) -> dict[str, Any]:
    given = {name: getattr(SPEC, name) for name in ("win_length", "hop_length", "n_fft", "n_mels", "log_floor")}
    given |= {"offset": SPEC.offset, "scale": SPEC.scale, **vars(native_tables(SPEC))}
    given |= {"empty": np.empty, "dtype": np.dtype(np.float32), "no_frames": np.empty((0, SPEC.n_mels), np.float32)}
    return given | changes


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"win_length": 399}, ValueError),
        ({"n_fft": 1024}, ValueError),
        ({"n_fft": 2**32 - 8}, ValueError),
        ({"n_mels": 0}, ValueError),
        ({"hop_length": 0}, ValueError),
        ({"log_floor": 0.0}, ValueError),
        ({"log_floor": float("nan")}, ValueError),
        ({"window": np.zeros(400)}, TypeError),
        ({"window": np.zeros((400, 1), np.float32)}, TypeError),
        ({"window": np.zeros(800, np.float32)[::2]}, (ValueError, BufferError)),
        ({"window": None}, TypeError),
        ({"weights": np.zeros(4, np.float32)}, ValueError),
        ({"band_first": np.full(64, 65_535, np.uint16)}, ValueError),
        ({"band_first": np.zeros(64, np.int16)}, TypeError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_tables_that_do_not_fit_are_refused(extension: Any, changes: dict[str, Any], error: type[Exception]) -> None:
    extension.LogMel(**arguments())
    with pytest.raises(error):
        extension.LogMel(**arguments(**changes))


def test_an_allocator_that_misbehaves_is_found_out(extension: Any) -> None:
    samples = np.zeros(SPEC.win_length, np.float32)
    for wrong in (np.empty((2, 64), np.float32), np.empty((1, 64)), b"", None):
        core = extension.LogMel(**arguments(empty=lambda shape, dtype, wrong=wrong: wrong))
        with pytest.raises((SystemError, TypeError, ValueError, BufferError)):
            core.feed(samples)


def test_an_allocator_that_feeds_the_same_stream_is_found_out(extension: Any) -> None:
    def feeds_again(shape: tuple[int, int], dtype: Any) -> Any:
        core.feed(np.zeros(SPEC.win_length - 1, np.float32))
        return np.empty(shape, dtype)

    core = extension.LogMel(**arguments(empty=feeds_again))
    with pytest.raises(SystemError, match="fed meanwhile"):
        core.feed(np.zeros(SPEC.win_length, np.float32))


def test_a_refused_chunk_leaves_the_stream_as_it_was(extension: Any) -> None:
    waveform = np.random.default_rng(2).uniform(-1, 1, 2_000).astype(np.float32)
    core = extension.LogMel(**arguments())
    first = core.feed(waveform[:1_001])
    for chunk in (np.zeros(5), np.zeros((2, 2), np.float32), waveform[::2], b"1234", None, np.float32(1)):
        with pytest.raises((TypeError, ValueError, BufferError)):
            core.feed(chunk)
    cut = np.concatenate([first, core.feed(waveform[1_001:])])
    assert cut.tobytes() == extension.LogMel(**arguments()).feed(waveform).tobytes()


def test_unaligned_and_byte_swapped_chunks(extension: Any) -> None:
    waveform = np.random.default_rng(3).uniform(-1, 1, 1_000).astype(np.float32)
    expected = NativeStream(SPEC).feed(waveform)
    shifted = np.frombuffer(b"\0" + waveform.tobytes(), np.uint8)[1:].view(np.float32)
    assert not shifted.flags.aligned
    assert NativeStream(SPEC).feed(shifted).tobytes() == expected.tobytes()
    read_only = waveform.copy()
    read_only.setflags(write=False)
    assert NativeStream(SPEC).feed(read_only).tobytes() == expected.tobytes()
    with pytest.raises(ConfigError, match="float32"):
        NativeStream(SPEC).feed(waveform.astype(">f4"))


def test_nothing_leaks(extension: Any) -> None:
    no_frames, dtype = np.empty((0, 64), np.float32), np.dtype(np.float32)
    samples = np.zeros(1_000, np.float32)
    core = extension.LogMel(**arguments(no_frames=no_frames))
    before = [sys.getrefcount(item) for item in (no_frames, dtype, samples, np.empty)]
    for _ in range(1_000):
        core.feed(samples)
        core.feed(samples[:0])
        core.reset()
        extension.LogMel(**arguments(no_frames=no_frames))
        with pytest.raises(ValueError, match="window has 400 values, wanted 399"):
            extension.LogMel(**arguments(no_frames=no_frames, win_length=399))
    after = [sys.getrefcount(item) for item in (no_frames, dtype, samples, np.empty)]
    assert max(abs(b - a) for a, b in zip(before, after, strict=True)) < 50


# ---- where it is not built ----


def test_where_it_is_not_built_the_message_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    with pytest.raises(UnsupportedError, match=r"not built here.*apt install gcc python3-dev.*front-end 'numpy'"):
        NativeStream(SPEC)


def test_a_build_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        INTERFACE = native_stream.INTERFACE + 1

    monkeypatch.setitem(sys.modules, EXTENSION, Other)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="built from other sources"):
        NativeStream(SPEC)
