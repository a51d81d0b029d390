"""What a device lacks, and the command that installs it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from packaging.requirements import Requirement

from edgeaudio.bench.devices.fake import FakeBoard
from edgeaudio.bench.devices.preflight import (
    BASE_PACKAGES,
    ENGINE_PACKAGES,
    ENGINE_PACKAGES_32,
    Description,
    Finding,
    asked_packages,
    missing,
    preflight,
    satisfies,
)
from tests.test_project import PROJECT

GOOD: dict[str, Any] = {
    "executable": "/usr/bin/python3",
    "externally_managed": True,
    "has_ensurepip": False,
    "python_headers": False,
    "kernel": "6.12.34+rpt-rpi-2712",
    "os": "Debian GNU/Linux 12 (bookworm)",
    "folder": "/home/pi/.cache/edgeaudio/runs",
    "folder_writable": True,
    "apt": True,
    "root": False,
    "jetson": False,
    "swept": 0,
    **FakeBoard._described(),
}


def look(formats: set[str] | None = None, sent_bytes: int = 0, **changed: Any) -> dict[str, Finding]:
    packages = GOOD["packages"] | changed.pop("packages", {})
    description = Description.parse({**GOOD, "packages": packages, **changed}, source="pi5")
    findings = preflight(description, lambda command: f"ssh pi5 {shlex.quote(command)}", formats, sent_bytes)
    return {item.subject: item for item in findings}


def lacks(findings: dict[str, Finding]) -> list[str]:
    return [subject for subject, item in findings.items() if item.grade == "missing"]


def test_a_board_that_has_everything_lacks_nothing() -> None:
    findings = look()
    assert lacks(findings) == []
    assert missing(list(findings.values())) == ""


def test_what_is_missing_comes_with_one_command_that_brings_all() -> None:
    found = look(packages={"psutil": None})["psutil"]
    assert found.grade == "missing"
    assert found.mend is not None
    command, _, rest = found.mend.partition(", then ")
    assert shlex.split(command)[:2] == ["ssh", "pi5"]
    steps = shlex.split(command)[2].split(" && ")
    assert steps[0] == "sudo apt-get install -y python3-venv"
    assert steps[1] == "/usr/bin/python3 -m venv ~/edgeaudio"
    installed = shlex.split(steps[2])
    assert installed[:4] == ["~/edgeaudio/bin/python", "-m", "pip", "install"]
    assert set(installed[4:]) == {*BASE_PACKAGES, ENGINE_PACKAGES["onnx"], ENGINE_PACKAGES["tflite"]}
    assert rest == "set 'python: ~/edgeaudio/bin/python' in devices.yaml"


def test_in_a_virtual_environment_pip_installs_what_is_missing_alone() -> None:
    found = look(packages={"psutil": None}, externally_managed=False, executable="/home/pi/my env/bin/python")["psutil"]
    assert found.mend is not None
    command = shlex.split(found.mend)[2]
    assert shlex.split(command) == ["/home/pi/my env/bin/python", "-m", "pip", "install", "psutil>=5.9"]


def test_an_old_package_is_as_good_as_none() -> None:
    findings = look(packages={"pydantic": "1.10.4"})
    assert lacks(findings) == ["pydantic"]
    assert "pydantic is 1.10.4, wanted >=2.11,<2.12. Run: ssh pi5" in missing(list(findings.values()))


def test_an_old_python_gets_one_of_its_own() -> None:
    found = look(python="3.9.2")["Python"]
    assert found.grade == "missing"
    assert "uv venv --python 3.11" in (found.mend or "")


def test_one_engine_is_enough_unless_more_are_asked_for() -> None:
    without = {"onnxruntime": None, "tensorrt": None}
    assert lacks(look(packages=without)) == []
    assert lacks(look({"onnx"}, packages=without)) == ["engine of onnx, onnxruntime"]
    assert lacks(look({"tflite"}, packages=without)) == []
    none = look(packages=without | {"ai-edge-litert": None})
    assert len(lacks(none)) == 3


def test_a_32_bit_system_has_its_own_packages() -> None:
    findings = look(
        {"tflite"},
        architecture="armv7l",
        userland_bits=32,
        packages={"numpy": None, "soxr": None, "ai-edge-litert": None, "tflite-runtime": "2.14.0"},
    )
    assert lacks(findings) == ["numpy"]
    assert "python3-venv python3-numpy python3-psutil" in (findings["numpy"].mend or "")
    assert "--system-site-packages" in (findings["numpy"].mend or "")
    onnx = look({"onnx"}, userland_bits=32)["engine of onnx"]
    assert (onnx.grade, onnx.wanted) == ("missing", "a 64-bit system")


def test_a_jetson_gets_tensorrt_from_its_system() -> None:
    found = look({"tensorrt"}, jetson=True, packages={"tensorrt": None})["engine of tensorrt, tensorrt"]
    assert found.mend == "ssh pi5 'sudo apt-get install -y python3-libnvinfer'"
    assert look({"tensorrt"}, packages={"tensorrt": None})["engine of tensorrt, tensorrt"].mend is None


@pytest.mark.parametrize(
    ("changed", "subject"),
    [
        ({"free_disk_bytes": 10 * 2**20}, "disk at /home/pi/.cache/edgeaudio/runs"),
        ({"free_disk_bytes": 200 * 2**20, "sent_bytes": 40 * 2**20}, "disk at /home/pi/.cache/edgeaudio/runs"),
        ({"folder_writable": False}, "disk at /home/pi/.cache/edgeaudio/runs"),
    ],
)
def test_room_is_needed_for_what_is_sent(changed: dict[str, Any], subject: str) -> None:
    assert lacks(look(**changed)) == [subject]


@pytest.mark.parametrize(
    ("changed", "subject"),
    [
        ({"libc": "glibc 2.27"}, "libc"),
        ({"libc": ""}, "libc"),
        ({"architecture": "riscv64"}, "architecture"),
        ({"cpu_flags": ["asimd"]}, "int8 instructions"),
        ({"compiler": None}, "C compiler"),
    ],
)
def test_what_only_slows_down_or_may_work_is_noted(changed: dict[str, Any], subject: str) -> None:
    findings = look(**changed)
    assert findings[subject].grade == "note"
    assert lacks(findings) == []


@pytest.mark.parametrize(
    ("installed", "wanted", "fits"),
    [
        ("2.11.10", ">=2.11,<2.12", True),
        ("2.12", ">=2.11,<2.12", False),
        ("2", ">=2.0", True),
        ("1.9.9", ">=2.0", False),
        ("2.14.0", "==2.14.0", True),
        ("2.14.1", "==2.14.0", False),
        ("1.23.2+nv", ">=1.23", True),
        ("rolling", ">=1", False),
    ],
)
def test_versions_are_compared_as_numbers(installed: str, wanted: str, fits: bool) -> None:
    assert satisfies(installed, wanted) is fits


def test_the_versions_are_those_of_the_project() -> None:
    declared = {
        requirement.name: str(requirement.specifier)
        for group in (PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]["runtime"])
        for requirement in map(Requirement, group)
    }
    declared["tflite-runtime"] = PROJECT["project"]["optional-dependencies"]["runtime-tflite"][0].removeprefix(
        "tflite-runtime"
    )
    for text in (*BASE_PACKAGES, ENGINE_PACKAGES["onnx"], ENGINE_PACKAGES["tflite"], ENGINE_PACKAGES_32["tflite"]):
        assert text is not None
        asked = Requirement(text)
        assert declared[asked.name] == str(asked.specifier)
        assert asked.name in asked_packages()
