"""Cores and priority are taken as asked for, recorded, and given back."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.probes import BoardWatch, power
from edgeaudio.bench.probes.system import Recording, Snapshot
from edgeaudio.bench.scheduling import scheduled
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.errors import ConfigError, UnsupportedError
from tests.boards import recorded_board
from tests.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system knows no affinity")

QUICK: dict[str, Any] = {"min_hops": 5, "min_seconds": 0, "warmup_hops": 0, "rounds": 1}


@pytest.fixture
def priority(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A pretended one, for only an administrator may take nice back."""
    held = [0]
    monkeypatch.setattr(os, "getpriority", lambda which, who: held[-1])
    monkeypatch.setattr(os, "setpriority", lambda which, who, value: held.append(value))
    return held


def test_the_run_stays_on_its_cores_and_says_so(priority: list[int]) -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    options = BenchOptions(**QUICK, affinity=(core,), nice=7)
    result = bench_bundle(tiny_bundle("onnx-fp32"), options=options)
    assert (result.environment.affinity, result.environment.nice) == ((core,), 7)
    assert (result.options.affinity, result.options.nice) == ((core,), 7)
    assert os.sched_getaffinity(0) == before
    assert priority == [0, 7, 0]


def test_without_the_options_nothing_is_touched(priority: list[int]) -> None:
    before = os.sched_getaffinity(0)
    result = bench_bundle(tiny_bundle("onnx-fp32"), options=BenchOptions(**QUICK))
    assert (result.environment.affinity, result.environment.nice) == (tuple(sorted(before)), 0)
    assert priority == [0]


def test_neither_the_watch_nor_the_readings_of_power_are_put_onto_the_measured_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.sched_getaffinity(0)
    if len(found) < 2:
        pytest.skip("one core is all there is")
    seen: list[tuple[bool, set[int]]] = []
    root, runner = recorded_board("jetson-orin-nano", tmp_path)
    again = Recording.again

    def spy(recording: Recording, *, commands: bool = True) -> Snapshot:
        thread = threading.current_thread()
        seen.append((thread is not threading.main_thread(), os.sched_getaffinity(0)))
        return again(recording, commands=commands)

    monkeypatch.setattr(power, "READING_INTERVAL_S", 0.002)
    monkeypatch.setattr(Recording, "again", spy)
    options = BenchOptions(**QUICK, affinity=(max(found),), idle_s=0.1)
    watch = BoardWatch(root, runner, interval_s=0.01)
    [item] = bench_bundle(tiny_bundle("onnx-fp32"), options=options, board=watch).artefacts
    assert item.energy is not None
    assert item.energy.rail == "VDD_IN"
    assert item.energy.busy_w is not None
    assert {cores == found for beside, cores in seen if beside} == {True}
    # The thread that measures was there meanwhile.
    assert {max(found)} in [cores for beside, cores in seen if not beside]


@pytest.mark.parametrize("core", [4_000, -1, 10**30])
def test_a_core_that_is_not_there_is_refused(core: int) -> None:
    before = os.sched_getaffinity(0)
    refused = pytest.raises(ConfigError, match=r"affinity .*: not all are cores of this machine; it has \[")
    with refused, scheduled(BenchOptions(affinity=(min(before), core))):
        pass
    assert os.sched_getaffinity(0) == before


def test_a_priority_that_is_not_allowed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(which: int, who: int, value: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    refused = pytest.raises(UnsupportedError, match=r"nice -5 is below -?\d+ and needs an administrator's rights")
    with refused, scheduled(BenchOptions(nice=-5)):
        pass


def test_all_is_given_back_after_an_error_which_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = os.sched_getaffinity(0), []

    def once(which: int, who: int, value: int) -> None:
        calls.append(value)
        if len(calls) > 1:  # Back to a better priority: not allowed.
            raise PermissionError

    monkeypatch.setattr(os, "setpriority", once)
    options = BenchOptions(affinity=(min(before),), nice=19)
    with pytest.raises(PermissionError, match="of the run"), scheduled(options):
        raise PermissionError("of the run")
    assert os.sched_getaffinity(0) == before
    assert len(calls) == 2
