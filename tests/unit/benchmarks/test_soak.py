"""The soak finds what it is there to find: each promise is broken on purpose once."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak
from edgeaudio import Classifier, catalog
from edgeaudio.audio.ring import Ring
from edgeaudio.runtime.clock import DeviceClock
from tests import tiny_bundle as tiny


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
    monkeypatch.setattr(soak, "LOSS_EVERY_S", 10)
    return Classifier(tiny.tiny_bundle(), engine="fake")


def test_a_whole_stream_keeps_every_promise(classifier: Classifier) -> None:
    figures = soak.soak(classifier, 0.01, None)
    assert figures["broken"] == []
    assert figures["gaps"] == 3
    assert figures["dropped_samples"] == figures["said_lost_by_device"] == 480


@pytest.mark.parametrize("fault", ["lost", "doubled", "spoilt"])
def test_a_fault_on_the_way_is_found(classifier: Classifier, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Ring.write, itertools.count()

    def write(ring: Ring, frames: Any) -> None:
        if next(calls) == 5:
            frames = {"lost": frames[1:], "doubled": frames.repeat(2, axis=0), "spoilt": frames ^ 1}[fault]
        real(ring, frames)

    monkeypatch.setattr(Ring, "write", write)
    assert "no sample is wrong" in soak.soak(classifier, 0.005, None)["broken"]


def test_a_loss_that_nobody_said_is_found(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "mark", lambda *arguments, **options: None)
    broken = soak.soak(classifier, 0.005, None)["broken"]
    assert "none is lost but those that the device lost" in broken


@pytest.mark.parametrize("fault", [None, "deaf", "late"])
def test_a_clock_that_is_wrong_is_found(
    classifier: Classifier, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "DRIFT_KNOWN_AFTER_H", 0.05)
    real = DeviceClock.saw
    if fault == "deaf":
        monkeypatch.setattr(
            DeviceClock, "saw", lambda clock, position, host_s: real(clock, position, position / 16_000)
        )
    if fault == "late":
        monkeypatch.setattr(DeviceClock, "saw", lambda clock, position, host_s: real(clock, position, host_s + 0.2))
    broken = soak.soak(classifier, 0.055, -500.0)["broken"]
    assert (
        broken
        == {
            None: [],
            "deaf": ["drift is known", "host times are right"],
            "late": ["host times are right"],
        }[fault]
    )


def test_growing_memory_is_found() -> None:
    flat = [number for hour in range(100) for number in (float(hour), 2**26 + (hour % 3) * 4_096)]
    leak = [number + (i % 2) * flat[i - 1] * 2**20 / 50 for i, number in enumerate(flat)]
    assert soak._slope_mib_per_100_h(flat) == pytest.approx(0, abs=0.05)
    assert soak._slope_mib_per_100_h(leak) == pytest.approx(2, abs=0.05)
    assert soak._slope_mib_per_100_h(flat[:10]) is None


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.eab").write_bytes(tiny.tiny_bytes())
    out = tmp_path / "soak.json"
    assert soak.main([str(tmp_path / "x.eab"), "--hours", "0.002", "--engine", "litert", "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == json.loads(capsys.readouterr().out)
