"""The benchmark of front-ends: the same bands or no figure, and the bar in words. Nothing is timed here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import frontend_speed as benchmark
from edgeaudio.errors import ParityError
from edgeaudio.frontend.choice import make_frontend
from edgeaudio.frontend.reference import PARITY_GATE_LN, parity_gap_ln
from tests.frontends import needs_native

WAVEFORM = (0.1 * np.random.default_rng(0).standard_normal(8_000)).astype(np.float32)


@needs_native
def test_only_the_same_bands_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaldi_native_fbank", reason="pip install '.[benchmarks]'")
    assert benchmark.check_same_bands(WAVEFORM) <= benchmark.SAME_BANDS
    ours = make_frontend(benchmark.SPEC, "native")
    monkeypatch.setattr(benchmark, "make_frontend", lambda spec, name: ours)
    monkeypatch.setattr(benchmark, "SPEC", benchmark.SPEC.model_copy(update={"f_max": 7_700.0}))
    with pytest.raises(ParityError, match="mel power differs"):
        benchmark.check_same_bands(WAVEFORM)


def test_every_contestant_computes_all_frames() -> None:
    batched, stream = benchmark.Batched(), make_frontend(benchmark.SPEC, "numpy")
    chunks = np.split(WAVEFORM, range(160, len(WAVEFORM), 160))
    log_mel = np.concatenate([batched.feed(chunk) for chunk in chunks])
    assert parity_gap_ln(log_mel, stream.feed(WAVEFORM), benchmark.SPEC) <= PARITY_GATE_LN


@pytest.mark.parametrize(
    ("native_us", "words"), [(1.0, "10.0x, stretch reached"), (2.5, "4.0x, bar reached"), (5.0, "2.0x, **below")]
)
def test_the_bar_is_judged_by_the_medians(native_us: float, words: str) -> None:
    found = {"native": [native_us, native_us, 900.0], "kaldi": [1.0, 10.0, 11.0]}
    [line] = benchmark.verdict({"C": {"10 ms": benchmark.rows(found, "kaldi")}})
    assert words in line
