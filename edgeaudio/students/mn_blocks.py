"""The blocks of mn04, for the teacher and for the students that start from its first ones.

Source: Schmid, Koutini, Widmer, arXiv 2211.04772 (MobileNetV3 of width 0.4).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class BlockShape(NamedTuple):
    """One row of the network table; `squeeze` 0 means no squeeze-and-excitation."""

    kernel: int
    in_channels: int
    expanded: int
    out_channels: int
    squeeze: int
    activation: type[nn.Module]
    stride: int


_RE, _HS = nn.ReLU, nn.Hardswish
STEM_CHANNELS = 8
BLOCKS = (
    BlockShape(3, 8, 8, 8, 0, _RE, 1),
    BlockShape(3, 8, 24, 16, 0, _RE, 2),
    BlockShape(3, 16, 32, 16, 0, _RE, 1),
    BlockShape(5, 16, 32, 16, 8, _RE, 2),
    BlockShape(5, 16, 48, 16, 16, _RE, 1),
    BlockShape(5, 16, 48, 16, 16, _RE, 1),
    BlockShape(3, 16, 96, 32, 0, _HS, 2),
    BlockShape(3, 32, 80, 32, 0, _HS, 1),
    BlockShape(3, 32, 72, 32, 0, _HS, 1),
    BlockShape(3, 32, 72, 32, 0, _HS, 1),
    BlockShape(3, 32, 192, 48, 48, _HS, 1),
    BlockShape(3, 48, 272, 48, 72, _HS, 1),
    BlockShape(5, 48, 272, 64, 72, _HS, 2),
    BlockShape(5, 64, 384, 64, 96, _HS, 1),
    BlockShape(5, 64, 384, 64, 96, _HS, 1),
)
