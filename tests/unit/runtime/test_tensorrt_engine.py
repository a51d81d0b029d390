"""TensorRT against a fake: what it refuses, how it fails, whose engines it runs. *Not run on hardware*."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.bundle import StageArtefact
from edgeaudio.bundle.manifest import TensorInfo
from edgeaudio.bundle.writer import file_entry
from edgeaudio.catalog import resolve
from edgeaudio.errors import BundleError, ConfigError, UnsupportedError, VerificationError
from edgeaudio.runtime import Classifier, check_bundle
from edgeaudio.runtime.engines.tensorrt_engine import TensorRTEngine, build_ahead
from tests import fake_tensorrt as fakes
from tests import tiny_bundle as tiny
from tests import tiny_exits
from tests.fake_cuda import ILLEGAL_ADDRESS, NO_DEVICE
from tests.fake_tensorrt import Fake

RECORD = json.loads((Path(fakes.__file__).with_name("tensorrt_api.json")).read_text())
PAYLOAD = tiny.all_payloads()["tensorrt", "int8"]
ARTEFACT = tiny.artefact("tensorrt", "int8", PAYLOAD)


def log_mel(seed: int = 0) -> tiny.Float32:
    return np.random.default_rng(seed).uniform(-2, 3, tiny.INPUT_SHAPE[1:]).astype(np.float32)


def test_the_fake_has_no_name_that_nvidias_bindings_lack(fake_tensorrt: Fake) -> None:
    assert {version.partition(".")[0] for version in RECORD} == {"10", "11"}
    checked = 0
    for version, classes in RECORD.items():
        for name, item in vars(fake_tensorrt.module()).items():
            if not isinstance(item, type):
                continue
            own = {attribute for attribute in vars(item) if not attribute.startswith("_")}
            own -= {"Severity"}  # Held against the record below.
            assert own <= set(classes[name]), f"{name} in {version}"
            checked += len(own)
        assert set(fakes.Severity.__members__) == set(classes["ILogger.Severity"])
        assert {"name", "shape", "dtype"} <= set(classes["ITensor"])
        assert classes["(raised where nothing starts)"] == ["Builder: TypeError", "Runtime: TypeError"]
    assert checked >= len(RECORD) * 40


def test_the_fakes_error_codes_are_as_awkward_as_the_oldest_bindings() -> None:
    kinds = {version: dict(line.split(": ") for line in names["(what .name of a member is)"]) for version, names in
             RECORD.items()}  # fmt: skip
    assert kinds["10.3.0"] == {"DataType": "str", "ErrorCode": "method"}
    assert kinds["11.4.0.106"] == {"DataType": "str", "ErrorCode": "str"}
    assert callable(fakes.ErrorCode.INVALID_NODE.name)


def test_the_flag_of_strong_typing_is_the_one_that_is_recorded() -> None:
    for classes in RECORD.values():
        assert "STRONGLY_TYPED" in classes["NetworkDefinitionCreationFlag"]
        assert "TF32" in classes["BuilderFlag"]


@pytest.mark.parametrize("version", ["10.3.0", "10.16.2.10", "11.4.1"])
def test_networks_are_strongly_typed_and_floats_keep_their_bits(fake_tensorrt: Fake, version: str) -> None:
    fake_tensorrt.version = version
    reinstall(fake_tensorrt)
    engine = TensorRTEngine(ARTEFACT, PAYLOAD, workspace_bytes=1 << 20)
    assert fake_tensorrt.flags == [1 << fakes.NetworkDefinitionCreationFlag.STRONGLY_TYPED]
    assert fake_tensorrt.settings == {"workspace": 1 << 20, "cleared": fakes.BuilderFlag.TF32}
    assert engine.run(log_mel()) == pytest.approx(tiny.linear(log_mel()), abs=2 * tiny.OUTPUT_SCALE)
    assert engine.info["version"] == version


def reinstall(fake: Fake) -> None:
    sys.modules["tensorrt"] = fake.module()


def test_it_says_where_it_runs_and_that_nobody_tried(fake_tensorrt: Fake) -> None:
    info = TensorRTEngine(ARTEFACT, PAYLOAD).info
    assert (info["gpu"], info["compute_capability"], info["driver"]) == ("Orin (fake)", "8.7", "12.6")
    assert info["cache"] == "built, there was none"
    assert float(info["build_s"]) >= 0
    assert "not run on hardware" in info["note"]


def test_it_computes_what_the_reference_does(fake_tensorrt: Fake) -> None:
    engine, reference = (
        resolve("engines", name)(ARTEFACT, PAYLOAD, threads=2) for name in ("tensorrt", "tensorrt-reference")
    )
    for seed in range(4):
        assert np.array_equal(engine.run(log_mel(seed)), reference.run(log_mel(seed)))


def test_nothing_is_computed_before_the_stream_is_waited_for(fake_tensorrt: Fake) -> None:
    engine = TensorRTEngine(ARTEFACT, PAYLOAD)
    del fake_tensorrt.driver.calls[:]
    engine.run(log_mel())
    assert fake_tensorrt.driver.calls == [
        "cuCtxSetCurrent",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
    ]


def test_another_thread_may_run_it(fake_tensorrt: Fake) -> None:
    engine, answers = TensorRTEngine(ARTEFACT, PAYLOAD), []
    worker = threading.Thread(target=lambda: answers.append(engine.run(log_mel())))
    worker.start()
    worker.join()
    assert np.array_equal(answers[0], engine.run(log_mel()))


def test_all_memory_comes_back(fake_tensorrt: Fake) -> None:
    engine = TensorRTEngine(ARTEFACT, PAYLOAD)
    engine.run(log_mel())
    assert fake_tensorrt.driver.allocations == 5  # Two tensors, twice each, and a stream.
    del engine
    gc.collect()
    assert fake_tensorrt.driver.allocations == 0


def test_the_gpus_own_clock_tells_kernels_from_copies(fake_tensorrt: Fake) -> None:
    engine = TensorRTEngine(ARTEFACT, PAYLOAD)
    engine.run(log_mel())
    assert engine.take_gpu_us() == (0, 0)
    engine.start_clock()
    assert engine.take_gpu_us() == (0, 0)
    for kernels_ms in (0.5, 0.25):
        fake_tensorrt.kernels_ms = kernels_ms
        engine.run(log_mel())
        # One copy there, one back, a tenth of a millisecond each.
        assert engine.take_gpu_us() == pytest.approx((1e3 * kernels_ms, 200), rel=1e-3)
        assert engine.take_gpu_us() == (0, 0)
    assert fake_tensorrt.driver.allocations == 5 + 4
    del engine
    gc.collect()
    assert fake_tensorrt.driver.allocations == 0


def test_a_run_that_fails_has_no_times(fake_tensorrt: Fake) -> None:
    engine = TensorRTEngine(ARTEFACT, PAYLOAD)
    engine.start_clock()
    fake_tensorrt.driver.sync_code = ILLEGAL_ADDRESS
    with pytest.raises(VerificationError):
        engine.run(log_mel())
    assert engine.take_gpu_us() == (0, 0)


def test_engines_are_built_ahead_of_time_once(fake_tensorrt: Fake) -> None:
    bundle = tiny.tiny_bundle("onnx-fp32", "tensorrt-fp32", "tensorrt-int8")
    assert [(name, how) for name, how, _ in build_ahead(bundle)] == [
        ("tensorrt-fp32", "built, there was none"),
        ("tensorrt-int8", "built, there was none"),
    ]
    assert [how for _, how, _ in build_ahead(bundle)] == ["hit", "hit"]
    assert fake_tensorrt.builds == 2
    with pytest.raises(ConfigError, match=r"bundle 'tiny' has no tensorrt artefact; it has: onnx-fp32"):
        next(build_ahead(tiny.tiny_bundle("onnx-fp32")))


def test_a_stage_hands_on_its_hidden_tensor(fake_tensorrt: Fake) -> None:
    payloads = [tiny_exits._onnx_stage(stage, int8=False) for stage in (0, 1)]
    hidden = TensorInfo(name="hidden0", shape=tiny_exits.HIDDEN_SHAPE)
    answer = TensorInfo(name="logits", shape=(1, len(tiny.LABELS)))
    window = TensorInfo(name="log_mel", shape=tiny.INPUT_SHAPE)
    stages = [
        StageArtefact(
            **file_entry(f"stages/fp32-{stage}.tensorrt", payloads[stage]).model_dump(),
            format="tensorrt", precision="fp32", stage=stage, input=given, outputs=outputs,
        )
        for stage, given, outputs in ((0, window, (hidden, answer)), (1, hidden, (answer,)))
    ]  # fmt: skip
    first, second = (TensorRTEngine(stage, payload) for stage, payload in zip(stages, payloads, strict=True))
    left, logits = first.run_stage(log_mel())
    assert left is not None
    kept = left.copy()
    assert logits == pytest.approx(tiny_exits.exit_linear(log_mel()), abs=1e-4)
    nothing, final = second.run_stage(left)
    assert nothing is None
    assert final == pytest.approx(tiny.linear(log_mel()), abs=1e-4)
    first.run_stage(log_mel(1))
    assert np.array_equal(left, kept)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            fakes.ErrorCode.UNSUPPORTED_NODE,
            UnsupportedError,
            r"int8\.tensorrt: this TensorRT lacks an operator: node 4",
        ),
        (fakes.ErrorCode.INVALID_NODE, BundleError, r"int8\.tensorrt: TensorRT refuses the model: node 4"),
    ],
)
def test_a_refused_node_is_named(fake_tensorrt: Fake, code: Any, error: type[Exception], message: str) -> None:
    fake_tensorrt.refused = ("Gemm", code)
    with pytest.raises(error, match=rf"{message} \(Gemm\): Assertion failed"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("Tactic Device request: 414MB Available: 216MB. Device memory is insufficient", "Free GPU memory"),
        ("Could not find any implementation for node conv1", "Use engine 'onnx'"),
    ],
)
def test_a_failed_build_says_why_and_what_helps(fake_tensorrt: Fake, said: str, mend: str) -> None:
    fake_tensorrt.build_failure = said
    with pytest.raises(UnsupportedError, match=rf"TensorRT 10\.3\.0 cannot build an engine: {said}.*{mend}"):
        TensorRTEngine(ARTEFACT, PAYLOAD)
    fake_tensorrt.build_failure = None
    assert TensorRTEngine(ARTEFACT, PAYLOAD).info["cache"] == "built, there was none"


@pytest.mark.parametrize("later", [False, True], ids=["the runtime", "the builder"])
def test_tensorrt_that_does_not_start_says_so(
    fake_tensorrt: Fake, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorrt.starts = False
    if later:
        monkeypatch.setattr(sys.modules["tensorrt"].Runtime, "__init__", lambda self, logger: None)
    with pytest.raises(UnsupportedError, match=r"TensorRT 10\.3\.0 does not start here: CUDA initialization failure"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_an_engine_that_cannot_be_loaded_after_its_build_is_no_engine(fake_tensorrt: Fake) -> None:
    fake_tensorrt.deserialises = False
    with pytest.raises(UnsupportedError, match="cannot load what it has built: Serialization assertion"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


@pytest.mark.parametrize("free", [0, 9 * 64 * 4])
def test_no_gpu_memory_for_tensors_is_told_and_what_was_taken_comes_back(fake_tensorrt: Fake, free: int) -> None:
    fake_tensorrt.driver.memory_left = free
    with pytest.raises(UnsupportedError, match=r"no GPU memory for .* CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
        TensorRTEngine(ARTEFACT, PAYLOAD)
    gc.collect()
    assert fake_tensorrt.driver.allocations == 0


def test_no_gpu_memory_to_run_is_told(fake_tensorrt: Fake) -> None:
    fake_tensorrt.has_room = False
    with pytest.raises(UnsupportedError, match="has no room to run the engine"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_memory_that_tensorrt_does_not_take_is_told(fake_tensorrt: Fake) -> None:
    fake_tensorrt.takes_addresses = False
    with pytest.raises(VerificationError, match="takes no memory for 'log_mel'"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_a_run_that_fails_is_told_and_the_next_may_work(fake_tensorrt: Fake) -> None:
    engine = TensorRTEngine(ARTEFACT, PAYLOAD)
    fake_tensorrt.executes = False
    with pytest.raises(VerificationError, match=r"int8\.tensorrt: TensorRT failed to run it"):
        engine.run(log_mel())
    fake_tensorrt.executes = True
    fake_tensorrt.driver.sync_code = ILLEGAL_ADDRESS
    with pytest.raises(VerificationError, match=r"the GPU failed to run it: .*CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        engine.run(log_mel())
    assert np.isfinite(engine.run(log_mel())).all()


def without_module(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> Any:
        if name == "tensorrt":
            raise error
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", load)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"),
            r"not run on hardware\) needs TensorRT 10",
        ),
        (ModuleNotFoundError("No module named 'x'", name="x"), "is installed but cannot load: No module named 'x'"),
        (ImportError("libnvinfer.so.10: cannot open shared object file"), "cannot load: libnvinfer"),
    ],
)
def test_no_tensorrt_is_unsupported_with_the_way_out(
    fake_tensorrt: Fake, monkeypatch: pytest.MonkeyPatch, error: ImportError, message: str
) -> None:
    without_module(monkeypatch, error)
    with pytest.raises(UnsupportedError, match=message):
        TensorRTEngine(ARTEFACT, PAYLOAD)


@pytest.mark.parametrize("version", ["8.6.1", "9.0", "unknown"])
def test_an_old_tensorrt_is_refused(fake_tensorrt: Fake, version: str) -> None:
    fake_tensorrt.version = version
    reinstall(fake_tensorrt)
    with pytest.raises(UnsupportedError, match=f"needs TensorRT 10 or newer, this is {version}"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_no_driver_is_unsupported(fake_tensorrt: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module())
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(UnsupportedError, match=r"needs an NVIDIA GPU and its driver: libcuda\.so\.1 cannot be loaded"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_no_gpu_is_unsupported(fake_tensorrt: Fake) -> None:
    fake_tensorrt.driver.init_code = NO_DEVICE
    with pytest.raises(UnsupportedError, match=r"needs an NVIDIA GPU that works: cuInit failed with CUDA_ERROR_NO_DEV"):
        TensorRTEngine(ARTEFACT, PAYLOAD)
    fake_tensorrt.driver.init_code, fake_tensorrt.driver.devices = 0, 0
    with pytest.raises(UnsupportedError, match="the driver shows none"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_a_driver_without_a_symbol_is_too_old(fake_tensorrt: Fake) -> None:
    delattr(type(fake_tensorrt.driver.library), "cuStreamDestroy_v2")
    with pytest.raises(UnsupportedError, match=r"libcuda\.so\.1 is too old.*cuStreamDestroy_v2"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_an_unknown_code_of_the_driver_has_no_name(fake_tensorrt: Fake) -> None:
    fake_tensorrt.driver.init_code = 999
    with pytest.raises(UnsupportedError, match=r"an unknown error \(999\)"):
        TensorRTEngine(ARTEFACT, PAYLOAD)


def test_importing_the_engine_loads_neither_tensorrt_nor_a_driver() -> None:
    code = """
import ctypes, sys
def refuse(name, *rest, **more):
    raise AssertionError(name)
ctypes.CDLL = refuse
sys.modules["tensorrt"] = None  # Importing it fails.
import edgeaudio.catalog
edgeaudio.catalog.resolve("engines", "tensorrt")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_bundle_checks_itself_on_tensorrt_and_without_it(
    fake_tensorrt: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny.tiny_bundle("tensorrt-fp32", "tensorrt-int8", "onnx-fp32")
    assert check_bundle(bundle).complete
    assert Classifier(bundle, engine="tensorrt", precision="int8").engine_info["engine"] == "tensorrt"
    without_module(monkeypatch, ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"))
    report = check_bundle(bundle)
    assert {(item.subject, item.engine) for item in report.not_run} == {
        ("tensorrt-fp32", "tensorrt"),
        ("tensorrt-int8", "tensorrt"),
    }
    assert not report.failed
    assert not report.complete


def test_a_cache_that_is_no_ones_is_refused_before_anything_is_built(fake_tensorrt: Fake, tmp_path: Path) -> None:
    tmp_path.joinpath("open").mkdir()
    tmp_path.joinpath("open").chmod(0o777)
    with pytest.raises(ConfigError, match="may be written by others"):
        TensorRTEngine(ARTEFACT, PAYLOAD, cache_folder=tmp_path / "open")
    assert fake_tensorrt.builds == 0
