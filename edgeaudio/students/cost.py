"""Parameters, multiply-accumulates and receptive field of a student, computed from its graph."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeaudio.bundle.manifest import Cost
from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.students.base import Student


def count_macs(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions, linear layers and matrix products for one forward pass of `inputs`."""
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        model.train(was_training)
    # It counts a product and its addition as two.
    macs: int = counter.get_total_flops() // 2
    return macs


def student_cost(student: Student, frontend: FrontendSpec, window: WindowSpec) -> Cost:
    """The cost of one window.

    Raises:
        ConfigError: the window does not hold a whole number of output steps, so that a stream and
            a window would not compute the same numbers; the message names the nearest windows.
    """
    assert isinstance(student, nn.Module)
    field, stride = student.receptive_field_frames, student.time_stride_frames
    rest = window.frames - field
    if rest < 0 or rest % stride:
        below = field + max(0, rest) // stride * stride
        raise ConfigError(
            f"window.frames is {window.frames}; this student sees {field} frames and moves by {stride}, "
            f"so use {below} or {below + stride}"
        )
    if window.hop_frames % stride:
        raise ConfigError(f"window.hop_frames is {window.hop_frames}; this student needs a multiple of {stride}")
    return Cost(
        params=sum(parameter.numel() for parameter in student.parameters()),
        macs_per_window=count_macs(student, torch.zeros(1, window.frames, frontend.n_mels)),
        receptive_field_frames=field,
        time_stride_frames=stride,
    )
