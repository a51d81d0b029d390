from __future__ import annotations

import shlex
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgeaudio import doctor
from edgeaudio.errors import UnsupportedError
from edgeaudio.frontend.native.stream import EXTENSION
from tests.frontends import needs_native


def without(monkeypatch: pytest.MonkeyPatch, *missing: str, driver: bool = True) -> doctor.Diagnosis:
    """A machine with everything, TensorRT and a GPU's driver too, but for what is missing."""
    real = metadata.version

    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "10.16.2" if name == "tensorrt" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor.cuda_driver, "is_there", lambda: driver)
    return doctor.diagnose(Path())


def test_all_is_usable_where_all_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = without(monkeypatch)
    assert all(capability.usable for capability in diagnosis.capabilities)
    assert diagnosis.engines == {"litert": True, "onnx": True, "tensorrt": True, "tensorrt-reference": True}


def test_a_missing_engine_is_named_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = without(monkeypatch, "ai-edge-litert")
    assert diagnosis.engines == {"litert": False, "onnx": True, "tensorrt": True, "tensorrt-reference": True}
    [litert] = [capability for capability in diagnosis.capabilities if capability.name == "engine litert"]
    assert litert.install is not None
    assert shlex.split(litert.install)[:4] == ["python", "-m", "pip", "install"]
    assert shlex.split(litert.install)[4].startswith("ai-edge-litert>=")


def test_tflite_runtime_does_where_there_is_no_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "ai-edge-litert":
            raise metadata.PackageNotFoundError(name)
        return "2.14.0" if name == "tflite-runtime" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    diagnosis = doctor.diagnose(Path())
    [litert] = [capability for capability in diagnosis.capabilities if capability.name == "engine litert"]
    assert diagnosis.engines["litert"]
    assert litert.packages == (doctor.PackageStatus("tflite-runtime", ">=2.14", "2.14.0"),)


def test_32_bits_are_told_of_tflite_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    diagnosis = without(monkeypatch, "ai-edge-litert", "tflite-runtime")
    [litert] = [capability for capability in diagnosis.capabilities if capability.name == "engine litert"]
    assert litert.install == "python -m pip install 'tflite-runtime>=2.14'"


def tensorrt(diagnosis: doctor.Diagnosis) -> doctor.Capability:
    name = "engine tensorrt (not run on hardware)"
    [capability] = [capability for capability in diagnosis.capabilities if capability.name == name]
    return capability


def test_tensorrt_needs_a_driver_first_and_then_nvidias_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert tensorrt(without(monkeypatch)).usable
    lacks_driver = tensorrt(without(monkeypatch, "tensorrt", driver=False))
    assert lacks_driver.install is not None
    assert "an NVIDIA GPU and its driver" in lacks_driver.install
    assert [package.installed for package in lacks_driver.packages] == [None, None]
    diagnosis = without(monkeypatch, "tensorrt")
    assert not diagnosis.engines["tensorrt"]
    assert tensorrt(diagnosis).install == "python -m pip install 'tensorrt>=10'"
    monkeypatch.setattr(doctor, "_JETSON", tmp_path)
    assert tensorrt(without(monkeypatch, "tensorrt")).install == "sudo apt-get install python3-libnvinfer"


def test_a_driver_is_looked_for_and_no_gpu_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeaudio.runtime.engines import cuda_driver

    asked: list[str] = []
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", asked.append)
    assert cuda_driver.is_there()
    assert asked == ["libcuda.so.1"]

    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", absent)
    assert not cuda_driver.is_there()


def test_training_is_installed_in_one_command_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = without(monkeypatch, "litert-torch")
    [train] = [capability for capability in diagnosis.capabilities if capability.name.startswith("distil")]
    assert train.install is not None
    assert {"torch==2.13.0", "litert-torch==0.10.0"} <= set(shlex.split(train.install))
    assert [package.name for package in train.packages if package.installed is None] == ["litert-torch"]


def test_signatures_need_one_package(monkeypatch: pytest.MonkeyPatch) -> None:
    [signatures] = [item for item in without(monkeypatch, "cryptography").capabilities if item.name == "signatures"]
    assert signatures.install is not None
    assert shlex.split(signatures.install)[4:] == ["cryptography>=44"]


@needs_native
def test_the_native_front_end_names_its_compiler() -> None:
    native = doctor.diagnose(Path()).native_frontend
    assert native.compiler
    assert native.install is None


def test_a_native_front_end_that_is_not_built_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    native = doctor.diagnose(Path()).native_frontend
    assert native.compiler is None
    assert "not built here" in native.reason
    assert native.install is not None
    assert "apt install gcc python3-dev" in native.install


def test_a_copy_that_pip_does_not_know_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    with pytest.raises(UnsupportedError, match="pip install"):
        doctor.diagnose(Path())


@pytest.mark.parametrize(
    ("architecture", "flag"), [("x86_64", "avx512_vnni"), ("aarch64", "asimddp"), ("armv7l", "neon")]
)
def test_the_flags_of_each_architecture_are_told(architecture: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: architecture)
    monkeypatch.setattr(doctor, "cpu_description", lambda: ("Some CPU", (flag,)))
    told = doctor.diagnose(Path()).machine.cpu_flags
    assert told[flag]
    assert sum(told.values()) == 1
