"""What is asked of the package index for a guest is what edgeaudio needs there."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement

from edgeaudio.bench.emulation.targets import ARM64, ARMHF, CPUS, Architecture, cpu_named
from edgeaudio.errors import ConfigError
from tests.test_project import PROJECT, canonical

#: On 32 bits from Debian, or without a wheel and not needed before audio has another rate than the bundle.
NOT_OF_THE_INDEX = {
    "arm64": set[str](),
    "armhf": {"numpy", "psutil", "pyyaml", "cffi", "pycparser", "soxr", "onnxruntime", "ai-edge-litert"},
}


def needed(architecture: Architecture) -> set[str]:
    """Names of `edgeaudio[runtime]` and of all that they require on Linux."""
    lines = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["runtime"]
    environment = {"platform_machine": architecture.machine, "sys_platform": "linux", "python_version": "3.11"}
    left, found = [Requirement(line) for line in lines], set[str]()
    while left:
        requirement = left.pop()
        name = canonical(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
        if name in found or name in NOT_OF_THE_INDEX[architecture.name] or not applies:
            continue
        found.add(name)
        left += map(Requirement, metadata.requires(requirement.name) or [])
    return found


@pytest.mark.parametrize("architecture", [ARM64, ARMHF], ids=lambda architecture: architecture.name)
def test_all_that_is_needed_is_asked_for_and_nothing_else(architecture: Architecture) -> None:
    assert {canonical(name) for name in architecture.wheels} == needed(architecture)
    assert len(architecture.wheels) == len(set(architecture.wheels))


@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda cpu: cpu.name)
def test_a_cpu_is_described_as_linux_does(cpu: object) -> None:
    described = cpu.cpuinfo  # type: ignore[attr-defined]
    assert described.count("processor\t: ") == 4
    assert ("asimddp" in described) == ("cortex-a76" in repr(cpu))
    assert ("CPU architecture: 7" in described) == ("armv7l" in repr(cpu))


def test_an_unknown_cpu_is_refused_with_the_nearest_name() -> None:
    assert cpu_named("cortex-a72").architecture is ARM64
    with pytest.raises(ConfigError, match=r"CPU model 'cortex-a73' is not emulated\. Did you mean 'cortex-a7"):
        cpu_named("cortex-a73")
