"""A benchmark measures what it says, says what it measured, and refuses the rest."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.bench import harness, rounds
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.candidate import Candidate
from edgeaudio.bench.devices.config import LocalSpec
from edgeaudio.bench.governor import performance_governor
from edgeaudio.bench.harness import bench_bundle, run_bench
from edgeaudio.bench.local import LocalDevice
from edgeaudio.bench.probes import BoardWatch, power
from edgeaudio.bench.schema import BenchOptions, BenchResult, read_result, write_result
from edgeaudio.bench.stats import summarise
from edgeaudio.bench.table import format_table
from edgeaudio.bundle import Artefact
from edgeaudio.catalog import ENGINES, resolve
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.frontend.choice import FrontendChoice
from tests.boards import recorded_board
from tests.frontends import FRONTENDS
from tests.tiny_bundle import FakeEngine, Float32, tiny_bundle

QUICK = BenchOptions(min_hops=30, min_seconds=0, warmup_hops=2, rounds=2)
ALL = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")


class WrongEngine(FakeEngine):
    """Answers, but not what the golden vectors say."""

    def run(self, log_mel: Float32) -> Float32:
        return super().run(log_mel) + np.float32(0.5)


class AbsentEngine(FakeEngine):
    """Its library is not installed."""

    format = "tflite"

    def __init__(self, artefact: Artefact, payload: bytes, *, threads: int = 1) -> None:
        raise UnsupportedError("engine 'litert' needs ai-edge-litert")


@pytest.fixture
def fake_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"onnx": "FakeEngine", "litert": "AbsentEngine"}.items():
        module = "tests.tiny_bundle" if value == "FakeEngine" else __name__
        monkeypatch.setitem(ENGINES, name, f"{module}:{value}")


@pytest.fixture(scope="module")
def real_result() -> BenchResult:
    return bench_bundle(tiny_bundle(), options=QUICK)


def test_every_artefact_is_timed_with_all_its_stages(real_result: BenchResult) -> None:
    assert [item.artefact for item in real_result.artefacts] == list(ALL)
    for item in real_result.artefacts:
        assert item.parity.passed
        assert item.n_hops == 30
        assert [stage.name for stage in item.stages] == ["resample", "frontend", "inference", "decision", "total"]
        total = item.stage("total")
        assert total is not None
        assert total.summary is not None
        parts = np.sum([stage.samples_us for stage in item.stages[1:4]], axis=0)
        assert np.abs(np.array(total.samples_us) - parts).max() <= 2  # Each rounded to a microsecond.
        assert total.summary.p99.reason == "30 samples, p99 needs 299"
        assert item.rtf_p50 == pytest.approx(total.summary.p50.value_us / 40_000)  # type: ignore[operator]
        assert item.engine_info["version"]


def test_the_record_tells_when_each_turn_was(real_result: BenchResult) -> None:
    assert real_result.board is not None
    first, last = (real_result.board.samples[index].t_s for index in (0, -1))
    turns = [turn for item in real_result.artefacts for turn in item.turns]
    for item in real_result.artefacts:
        assert [turn.n_hops for turn in item.turns] == [15, 15]
    in_order = sorted(turns, key=lambda turn: turn.start_s)
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(in_order))
    assert first < in_order[0].start_s
    assert in_order[-1].end_s < last


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_the_front_end_that_was_timed_is_checked_and_recorded(frontend: FrontendChoice) -> None:
    options = QUICK.model_copy(update={"frontend": frontend})
    [item] = bench_bundle(tiny_bundle("onnx-fp32"), options=options).artefacts
    assert item.parity.detail.startswith(f"frontend on {frontend} passed")
    assert item.engine_info["frontend"] == frontend


def test_the_record_holds_what_could_change_the_figures(real_result: BenchResult) -> None:
    assert real_result.bundle_sha256 == tiny_bundle().sha256
    assert (real_result.hop_ms, real_result.window_ms) == (40, 105)
    assert {"numpy", "onnxruntime", "ai-edge-litert"} <= set(real_result.environment.packages)
    record = real_result.board
    assert record is not None
    assert record.board.cpu_model != "unknown"
    assert record.board.cores_logical
    assert [sample.phase for sample in record.samples][:2] == ["before", "during"]
    assert record.samples[-1].phase == "after"
    assert {item.energy.reason for item in real_result.artefacts if item.energy} == {power.NOT_ASKED}
    assert real_result.peak_rss_bytes > 10 * 2**20
    assert 0 < real_result.overhead.p50_us < real_result.overhead.max_us
    assert real_result.gc_note == "collected before each turn, off while timing"


def test_statistics_can_be_recomputed_from_the_raw_samples(real_result: BenchResult) -> None:
    total = real_result.artefacts[0].stage("total")
    assert total is not None
    assert total.summary is not None
    again = summarise(total.samples_us)
    assert again.mean_us == pytest.approx(total.summary.mean_us, abs=0.5)
    assert again.max_us == pytest.approx(total.summary.max_us, abs=0.5)


def test_a_result_survives_its_file(real_result: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_result(real_result, path)
    assert read_result(path) == real_result
    value = json.loads(path.read_text())
    value["hop_ms"] = "long"
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=r"bench\.json: hop_ms"):
        read_result(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not a readable benchmark result"):
        read_result(path)


@pytest.mark.usefixtures("fake_engines")
def test_the_resampler_is_a_stage_only_where_the_rates_differ() -> None:
    bundle = tiny_bundle("onnx-fp32")
    same = run_bench(bundle, "onnx", "fp32", options=QUICK).artefacts[0].stage("resample")
    assert same is not None
    assert not same.in_path
    assert same.samples_us == ()
    assert "not in path" in (same.reason or "")
    options = QUICK.model_copy(update={"input_rate_hz": 48_000})
    resampled = run_bench(bundle, "onnx", "fp32", options=options)
    stage = resampled.artefacts[0].stage("resample")
    assert resampled.input_rate_hz == 48_000
    assert stage is not None
    assert stage.in_path
    assert sum(stage.samples_us) > 0


@pytest.mark.usefixtures("fake_engines")
def test_both_minimums_hold() -> None:
    bundle = tiny_bundle("onnx-fp32")
    options = BenchOptions(min_hops=1, min_seconds=0.2, warmup_hops=0, rounds=2)
    by_time = run_bench(bundle, "onnx", "fp32", options=options).artefacts[0]
    assert by_time.timed_s >= 0.2
    assert by_time.n_hops > 1
    by_hops = run_bench(bundle, "onnx", "fp32", options=QUICK.model_copy(update={"min_hops": 31})).artefacts[0]
    assert by_hops.n_hops == 32  # Two rounds of 16.


@pytest.mark.usefixtures("fake_engines")
def test_artefacts_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    real = rounds.run_turn

    def spy(candidate: Candidate, hops: int, seconds: float, most: int) -> None:
        turns.append(candidate.name)
        real(candidate, hops, seconds, most)

    monkeypatch.setattr(rounds, "run_turn", spy)
    # int8 replays the float golden logits here: the fake engine is exact.
    bench_bundle(tiny_bundle("onnx-fp32", "onnx-int8"), options=QUICK)
    assert turns == ["onnx-fp32", "onnx-int8", "onnx-int8", "onnx-fp32"]


def test_an_artefact_with_wrong_answers_is_invalid_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "onnx", f"{__name__}:WrongEngine")
    result = bench_bundle(tiny_bundle("onnx-fp32"), options=QUICK)
    (item,) = result.artefacts
    assert not item.parity.passed
    assert (item.n_hops, item.stages, item.load_ms) == (0, (), None)
    assert result.verdict.level == "invalid"
    assert "golden vectors do not replay" in result.verdict.reasons[0].message
    assert "invalid" in format_table(result)


@pytest.mark.usefixtures("fake_engines")
def test_what_cannot_run_here_is_listed_and_refused_when_named() -> None:
    bundle = tiny_bundle("onnx-fp32", "tflite-fp32")
    result = bench_bundle(bundle, options=QUICK)
    assert [item.artefact for item in result.artefacts] == ["onnx-fp32"]
    assert [item.artefact for item in result.not_run] == ["tflite-fp32"]
    assert "tflite-fp32 not run: engine 'litert' needs" in " ".join(format_table(result).split())
    with pytest.raises(UnsupportedError, match="ai-edge-litert"):
        bench_bundle(bundle, ["tflite-fp32"], options=QUICK)
    with pytest.raises(UnsupportedError, match="no artefact can run here"):
        bench_bundle(tiny_bundle("tflite-fp32"), options=QUICK)


@pytest.mark.parametrize("names", [["onnx-fp16"], [], ["onnx-fp32", "onnx-fp32"]])
def test_unknown_or_repeated_artefacts_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="wanted each once of"):
        bench_bundle(tiny_bundle(), names, options=QUICK)
    with pytest.raises(ConfigError, match="at least 1"):
        bench_bundle(tiny_bundle(), threads=0, options=QUICK)


@pytest.mark.usefixtures("fake_engines")
@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_held_and_given_back(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = rounds.run_turn

    def spy(candidate: Candidate, hops: int, seconds: float, most: int) -> None:
        seen.append(gc.isenabled())
        real(candidate, hops, seconds, most)

    monkeypatch.setattr(rounds, "run_turn", spy)
    assert gc.isenabled()
    bench_bundle(tiny_bundle("onnx-fp32"), options=QUICK.model_copy(update={"gc_enabled": enabled}))
    assert seen == [enabled, enabled]
    assert gc.isenabled()


@pytest.mark.usefixtures("fake_engines")
def test_the_board_is_watched_while_artefacts_are_timed(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-4-throttled", tmp_path)
    result = bench_bundle(tiny_bundle("onnx-fp32"), options=QUICK, board=BoardWatch(root, runner, interval_s=1e6))
    assert result.board is not None
    assert result.board.board.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert [sample.throttled_now for sample in result.board.samples] == [("frequency-capped", "throttled")] * 3
    assert [sample.phase for sample in result.board.samples] == ["before", "during", "after"]
    assert "Raspberry Pi 4 Model B Rev 1.4, 4 cores, 1 thread" in " ".join(format_table(result).split())


@pytest.mark.usefixtures("fake_engines")
def test_the_energy_of_an_artefact_is_of_its_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "READING_INTERVAL_S", 0.002)
    root, runner = recorded_board("jetson-orin-nano", tmp_path)
    current = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"
    real = FakeEngine.run

    def draws_current(engine: FakeEngine, log_mel: Float32) -> Float32:
        current.write_text("1864\n")
        time.sleep(0.001)
        return real(engine, log_mel)

    watch = BoardWatch(root, runner)
    rest = watch.rest

    def at_rest(seconds: float) -> None:
        current.write_text("864\n")
        rest(seconds)

    monkeypatch.setattr(FakeEngine, "run", draws_current)
    monkeypatch.setattr(watch, "rest", at_rest)
    options = QUICK.model_copy(update={"idle_s": 0.3})
    [item] = bench_bundle(tiny_bundle("onnx-fp32"), options=options, board=watch).artefacts
    assert item.energy is not None
    assert (item.energy.rail, item.energy.reason) == ("VDD_IN", None)
    assert item.energy.idle_w == pytest.approx(5.048 * 0.864)
    assert item.energy.per_inference_mj is not None
    assert item.energy.per_inference_mj > 4  # A millisecond at about 5 W more.


@pytest.mark.usefixtures("fake_engines")
def test_the_governor_is_held_for_the_run_and_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, runner = recorded_board("raspberry-pi-5", tmp_path)
    held = functools.partial(performance_governor, root=root, folder=tmp_path / "journal")
    monkeypatch.setattr(harness, "performance_governor", held)
    governor = root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    for asked, during in ((False, "ondemand"), (True, "performance")):
        options = QUICK.model_copy(update={"set_performance": asked})
        result = bench_bundle(tiny_bundle("onnx-fp32"), options=options, board=BoardWatch(root, runner, interval_s=1e6))
        assert result.board is not None
        assert {sample.governors for sample in result.board.samples} == {(during,) * 4}
        assert result.options.set_performance is asked
        assert governor.read_text() == "ondemand\n"


@pytest.mark.usefixtures("fake_engines")
def test_the_local_device_of_the_catalogue_benches_in_this_process() -> None:
    device = resolve("devices", "local")("local", LocalSpec())
    assert isinstance(device, LocalDevice)
    result = device.bench(BenchJob(tiny_bundle("onnx-fp32"), options=QUICK))
    assert result.environment.device == "local"


@pytest.mark.parametrize("rate_hz", [None, 44_100])
def test_the_table_fits_80_columns(rate_hz: int | None, real_result: BenchResult) -> None:
    result = real_result
    if rate_hz:
        result = bench_bundle(tiny_bundle(), options=QUICK.model_copy(update={"input_rate_hz": rate_hz}))
    text = format_table(result)
    assert max(map(len, text.splitlines())) <= 80
    for name in ALL:
        assert text.count(f"\n{name}") >= 2
    assert "p99 needs 299" in text
    assert text.splitlines()[-1] == f"verdict: {result.verdict.level}"


def test_no_training_package_is_imported() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'scipy', 'matplotlib', 'onnx', 'jinja2'): sys.modules[name] = None\n"
        "import edgeaudio.bench.local, edgeaudio.bench.table\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_engine_chooses_the_artefacts_that_it_runs() -> None:
    result = bench_bundle(tiny_bundle(), engine="litert", options=QUICK)
    assert [(item.artefact, item.engine) for item in result.artefacts] == [
        ("tflite-fp32", "litert"),
        ("tflite-int8", "litert"),
    ]
    with pytest.raises(ConfigError, match=r"no tensorrt artefact for engine 'tensorrt'; it has: onnx-fp32, "):
        bench_bundle(tiny_bundle(), engine="tensorrt", options=QUICK)
    with pytest.raises(ConfigError, match=r"wanted each once of \['tflite-fp32'"):
        bench_bundle(tiny_bundle(), ["onnx-fp32"], engine="litert", options=QUICK)


def test_tensorrt_is_timed_on_its_own_engine_and_says_what_it_is(fake_tensorrt: Any) -> None:
    bundle = tiny_bundle("onnx-fp32", "tensorrt-int8")
    result = bench_bundle(bundle, options=QUICK)
    assert [(item.artefact, item.engine) for item in result.artefacts] == [
        ("onnx-fp32", "onnx"),
        ("tensorrt-int8", "tensorrt"),
    ]
    onnx, tensorrt = result.artefacts
    assert (tensorrt.engine_info["gpu"], tensorrt.engine_info["provider"]) == ("Orin (fake)", "TensorRT")
    assert onnx.gpu is None
    assert tensorrt.gpu is not None
    assert tensorrt.gpu.kernels.n == tensorrt.gpu.copies.n == tensorrt.n_hops == 30
    assert set(tensorrt.gpu.kernels_us) == {500}
    assert set(tensorrt.gpu.copies_us) == {200}
    assert "tensorrt-int8: this engine was not run on hardware by its makers." in " ".join(format_table(result).split())


def test_where_there_is_no_tensorrt_the_rest_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    bundle = tiny_bundle("onnx-fp32", "tensorrt-int8")
    result = bench_bundle(bundle, options=QUICK)
    assert [item.artefact for item in result.artefacts] == ["onnx-fp32"]
    assert [item.artefact for item in result.not_run] == ["tensorrt-int8"]
    assert "not run on hardware" in result.not_run[0].reason
    reference = bench_bundle(bundle, engine="tensorrt-reference", options=QUICK)
    assert [(item.artefact, item.engine) for item in reference.artefacts] == [("tensorrt-int8", "tensorrt-reference")]
