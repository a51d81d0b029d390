"""DSCNN: a depthwise-separable CNN over log-mel, valid in time, ReLU only, one size dial.

Depthwise-separable keyword spotting networks: Zhang et al., "Hello Edge", arXiv 1711.07128. Ours differs:
no padding along time (so a window, a clip and a stream compute the same numbers), frequency is
reduced early and collapsed by a learned kernel, residual adds crop the input in time.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeaudio.errors import ConfigError
from edgeaudio.students.base import ImageInput, MeanPool
from edgeaudio.students.spec import DSCNNSpec

TIME_KERNEL = 3
STAGE_BLOCKS = (2, 2, 3)
# Channels of stem, three stages and the embedding, as multiples of `width`.
CHANNEL_FACTORS = (0.5, 1.0, 2.0, 4.0, 6.0)


def conv_bn(
    channels_in: int, channels_out: int, kernel: tuple[int, int], **options: int | tuple[int, int]
) -> nn.Module:
    """Convolution without bias, then batch norm."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, bias=False, **options)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class SeparableBlock(nn.Module):
    """Depthwise 3x3, pointwise 1x1, a residual where shapes allow. `(batch, c, time, freq)`."""

    def __init__(self, channels_in: int, channels_out: int, stride: tuple[int, int]) -> None:
        super().__init__()
        # padding=(0, 1): frequency is padded, time never.
        self.depthwise = conv_bn(
            channels_in, channels_in, (TIME_KERNEL, 3), stride=stride, padding=(0, 1), groups=channels_in
        )
        self.pointwise = conv_bn(channels_in, channels_out, (1, 1))
        self.relu = nn.ReLU()
        self.residual = stride == (1, 1) and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pointwise(self.relu(self.depthwise(x)))
        if self.residual:
            y = y + x[:, :, TIME_KERNEL // 2 : -(TIME_KERNEL // 2)]
        activated: torch.Tensor = self.relu(y)
        return activated


class DSCNN(nn.Module):
    """The streamable CNN family.

    Args:
        n_classes: logits.
        n_mels: bands of the student's front-end; a multiple of 16.
        width: the size dial; about 6 k parameters at 8, 80 k at 32, 500 k at 84.
        time_stride: frames per output step, 2 or 4; 4 halves the cost and widens the receptive field.
        dropout: on the embedding, in training only.
        blocks: separable blocks of the three stages.
        embedding: channels of the embedding; none is 6 x width.
    Raises:
        ConfigError: a size the family does not have.
    """

    streamable = True

    def __init__(
        self,
        n_classes: int,
        n_mels: int = 64,
        width: int = 32,
        time_stride: int = 4,
        dropout: float = 0.1,
        *,
        blocks: tuple[int, int, int] = STAGE_BLOCKS,
        embedding: int | None = None,
    ) -> None:
        super().__init__()
        if not 4 <= width <= 128 or width % 2:
            raise ConfigError(f"student.width is {width}; wanted an even number from 4 to 128")
        if time_stride not in (2, 4):
            raise ConfigError(f"student.time_stride is {time_stride}; wanted 2 or 4")
        if n_mels % 16:
            raise ConfigError(
                f"frontend.n_mels is {n_mels}; dscnn halves frequency four times, wanted a multiple of 16"
            )
        if min(blocks) < 1:
            raise ConfigError(f"student.blocks is {list(blocks)}; every stage needs a block, which halves frequency")
        stem, *stage_channels, usual = (int(width * factor) for factor in CHANNEL_FACTORS)
        embedding = embedding or usual
        self.stem = nn.Sequential(conv_bn(1, stem, (TIME_KERNEL, 3), stride=(2, 2), padding=(0, 1)), nn.ReLU())
        self.stages = nn.ModuleList()
        frames, step = TIME_KERNEL, 2
        channels = stem
        for index, (n_blocks, channels_out) in enumerate(zip(blocks, stage_channels, strict=True)):
            separable: list[nn.Module] = []
            for block in range(n_blocks):
                stride = (1, 1)
                if block == 0:
                    stride = (2 if index == 1 and time_stride == 4 else 1, 2)
                separable.append(SeparableBlock(channels, channels_out, stride))
                frames += (TIME_KERNEL - 1) * step
                step *= stride[0]
                channels = channels_out
            self.stages.append(nn.Sequential(*separable))
        self.collapse = nn.Sequential(
            conv_bn(channels, channels, (1, n_mels // 16), groups=channels),
            conv_bn(channels, embedding, (1, 1)),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embedding, n_classes)
        self.embedding_dim = embedding
        self.section_channels = (*stage_channels, embedding)
        self.receptive_field_frames = frames
        self.time_stride_frames = step

    @classmethod
    def build(cls, spec: DSCNNSpec, n_classes: int, *, n_mels: int, frames: int) -> DSCNN:
        """See `Student.build`; any window of at least the receptive field will do."""
        return cls(
            n_classes,
            n_mels,
            spec.width,
            spec.time_stride,
            spec.dropout,
            blocks=spec.blocks,
            embedding=spec.embedding,
        )

    def sections(self) -> list[nn.Module]:
        """Stem and first stage, the other stages, and what makes the embedding; see `Student.sections`."""
        first, *others = self.stages
        return [
            nn.Sequential(ImageInput(), self.stem, first),
            *others,
            nn.Sequential(self.collapse, MeanPool()),
        ]

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time, freq)` -> `(batch, channels)`."""
        return hidden.mean(dim=(2, 3))

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> `(batch, embedding_dim)`, the mean over output steps."""
        x = self.stem(log_mel.unsqueeze(1))
        for stage in self.stages:
            x = stage(x)
        pooled: torch.Tensor = self.collapse(x).mean(dim=(2, 3))
        return pooled

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> logits `(batch, n_classes)`."""
        logits: torch.Tensor = self.head(self.dropout(self.forward_features(log_mel)))
        return logits
