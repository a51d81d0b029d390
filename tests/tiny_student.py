"""A small real student with statistics that are not trivial, windows for it, and its int8 form (made once)."""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import nn

from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from edgeaudio.spec import ExitSpec
from edgeaudio.students.base import Student
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.exits import EarlyExitStudent

FRAMES, N_MELS, CLASSES = 99, 64, 6


@functools.cache
def tiny_student(width: int = 8) -> nn.Module:
    """A `DSCNN` in eval mode, random but with batch-norm statistics that folding must get right."""
    torch.manual_seed(0)
    return with_statistics(DSCNN(CLASSES, n_mels=N_MELS, width=width))


def with_statistics(student: nn.Module) -> nn.Module:
    """The student itself in eval mode, its batch norms as training might leave them."""
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.2, 1.0),
            ):
                assert tensor is not None
                tensor.uniform_(low, high)
    return student.eval()


def windows(n: int, *, seed: int = 1) -> torch.Tensor:
    """`(n, FRAMES, N_MELS)` with levels and tilts that differ from window to window."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(n, 1, 1, generator=generator)
    tilt = torch.randn(n, 1, 1, generator=generator) * torch.linspace(-1, 1, N_MELS)
    return level + tilt + 0.5 * torch.randn(n, FRAMES, N_MELS, generator=generator)


def logits(student: nn.Module, log_mel: torch.Tensor) -> torch.Tensor:
    """Float logits `(n, CLASSES)`."""
    with torch.no_grad():
        result: torch.Tensor = student(log_mel)
    return result


@functools.cache
def tiny_quantised() -> QuantisedStudent:
    """`tiny_student()` in int8, calibrated on `windows(64)`, with its form for TensorRT."""
    return quantise_ptq(tiny_student(), windows(64), symmetric=True)


@functools.cache
def tiny_exits(hidden: int = 0) -> EarlyExitStudent:
    """`tiny_student()` with exits after its first two sections, in eval mode."""
    torch.manual_seed(1)
    return EarlyExitStudent(cast(Student, tiny_student()), ExitSpec(after=(0, 1), hidden=hidden)).eval()
