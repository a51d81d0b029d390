"""MN: the first blocks of the mn04 teacher, made streamable; `teachers.inherit` gives them its AudioSet weights.

Against `teachers.mn04`: time comes first and is never padded, later strides and the wide kernels act on frequency
alone where the spec says so, hard-swish becomes ReLU, and squeeze-excite either looks at a trailing mean or becomes
a constant gate inside the weights (int8 kernels fuse neither hard-swish nor gates).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import nn

from edgeaudio.errors import ConfigError
from edgeaudio.students.base import ImageInput, MeanPool
from edgeaudio.students.mn_blocks import BLOCKS, STEM_CHANNELS, BlockShape
from edgeaudio.students.spec import MNSpec

_BN_EPS = 1e-3
# mn04 looks at 128 bands and halves them in its stem; students with at most 64 leave that out.
_STEM_HALVES_ABOVE_MELS = 64


class Kernel(NamedTuple):
    """Size and stride of a convolution along time and frequency."""

    time: int
    freq: int
    time_stride: int
    freq_stride: int


def conv_bn(channels_in: int, channels_out: int, kernel: Kernel, groups: int = 1) -> nn.Sequential:
    """Convolution valid in time and padded in frequency, then batch norm."""
    conv = nn.Conv2d(
        channels_in,
        channels_out,
        (kernel.time, kernel.freq),
        stride=(kernel.time_stride, kernel.freq_stride),
        padding=(0, kernel.freq // 2),
        groups=groups,
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out, eps=_BN_EPS))


POINT = Kernel(1, 1, 1, 1)


class TrailingSqueezeExcite(nn.Module):
    """Channel gates from the mean over frequency and the last `steps` time steps; crops what it had to wait for."""

    def __init__(self, channels: int, squeeze: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time, freq)` -> `(batch, channels, time - steps + 1, freq)`."""
        mean = nn.functional.avg_pool2d(x.mean(dim=3, keepdim=True), (self.steps, 1), stride=1)
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))
        return x[:, :, self.steps - 1 :] * gate


class MNBlock(nn.Module):
    """Expand, depthwise, optional trailing gate, project; the residual is cropped in time."""

    def __init__(self, shape: BlockShape, kernel: Kernel, activation: type[nn.Module], squeeze_steps: int) -> None:
        super().__init__()
        self.expand = (
            nn.Sequential(conv_bn(shape.in_channels, shape.expanded, POINT), activation())
            if shape.expanded != shape.in_channels
            else nn.Identity()
        )
        self.depthwise = nn.Sequential(
            conv_bn(shape.expanded, shape.expanded, kernel, groups=shape.expanded), activation()
        )
        gated = bool(shape.squeeze and squeeze_steps)
        self.gate = TrailingSqueezeExcite(shape.expanded, shape.squeeze, squeeze_steps) if gated else nn.Identity()
        self.project = conv_bn(shape.expanded, shape.out_channels, POINT)
        self.waits = squeeze_steps - 1 if gated else 0
        self.crop = (kernel.time // 2 + self.waits, kernel.time // 2)
        self.residual = shape.stride == 1 and shape.in_channels == shape.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time, freq)` in and out."""
        y: torch.Tensor = self.project(self.gate(self.depthwise(self.expand(x))))
        if self.residual:
            before, after = self.crop
            y = y + x[:, :, before : x.shape[2] - after]
        return y


class MN(nn.Module):
    """The mn family; see `students.spec.MNSpec` for its options.

    Args:
        n_classes: logits.
        spec: the size dial and what was changed to make the blocks streamable.
        n_mels: bands of the student's front-end; 64 keeps mn04's frequency resolution inside.
    Raises:
        ConfigError: bands that cannot be halved as often as the kept blocks do.
    """

    streamable = True

    def __init__(self, n_classes: int, spec: MNSpec | None = None, n_mels: int = 64) -> None:
        super().__init__()
        spec = spec or MNSpec()
        kept = BLOCKS[: spec.blocks]
        halvings = sum(shape.stride == 2 for shape in kept)
        if n_mels % 2**halvings:
            raise ConfigError(
                f"frontend.n_mels is {n_mels}; {spec.blocks} blocks of mn halve frequency {halvings} times, "
                f"wanted a multiple of {2**halvings}"
            )
        self.spec = spec
        strides_left = spec.time_strides - 1
        stem = Kernel(3, 3, 2, 2 if n_mels > _STEM_HALVES_ABOVE_MELS else 1)
        later = nn.Hardswish if spec.activation == "hardswish" else nn.ReLU
        self.stem = nn.Sequential(conv_bn(1, STEM_CHANNELS, stem), later())
        self.blocks = nn.ModuleList()
        frames, step = stem.time, stem.time_stride
        for number, shape in enumerate(kept):
            time_stride = 2 if shape.stride == 2 and strides_left > 0 else 1
            strides_left -= time_stride - 1
            time_kernel = min(shape.kernel, spec.time_kernel) if number < spec.pointwise_from else 1
            kernel = Kernel(time_kernel, shape.kernel, time_stride, shape.stride)
            activation = later if shape.activation is nn.Hardswish else nn.ReLU
            block = MNBlock(shape, kernel, activation, spec.squeeze_steps)
            self.blocks.append(block)
            frames += (kernel.time - 1) * step
            step *= time_stride
            frames += block.waits * step
        last = kept[-1].out_channels
        self.last = nn.Sequential(conv_bn(last, spec.embedding, POINT), later())
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.embedding, n_classes)
        self.embedding_dim = spec.embedding
        self.receptive_field_frames = frames
        self.time_stride_frames = step
        ends = self._section_ends()
        self.section_channels = (*(kept[end - 1].out_channels for end in ends), spec.embedding)

    @classmethod
    def build(cls, spec: MNSpec, n_classes: int, *, n_mels: int, frames: int) -> MN:
        """See `Student.build`; any window of at least the receptive field will do."""
        return cls(n_classes, spec, n_mels)

    def _section_ends(self) -> list[int]:
        """How many blocks each section but the last ends after: wherever frequency is halved next."""
        kept = BLOCKS[: self.spec.blocks]
        return [number for number, shape in enumerate(kept) if shape.stride == 2 and number] + [len(kept)]

    def train(self, mode: bool = True) -> MN:
        """As `nn.Module.train`; frozen blocks keep their weights and their batch-norm statistics."""
        super().train(mode)
        if self.spec.frozen:
            for part in (self.stem, *list(self.blocks)[: self.spec.frozen]):
                part.eval().requires_grad_(False)
        return self

    def sections(self) -> list[nn.Module]:
        """Blocks between two halvings of frequency, and what makes the embedding; see `Student.sections`."""
        ends = self._section_ends()
        starts = [0, *ends[:-1]]
        parts: list[nn.Module] = [
            nn.Sequential(*self.blocks[start:end]) for start, end in zip(starts, ends, strict=True)
        ]
        parts[0] = nn.Sequential(ImageInput(), self.stem, parts[0])
        return [*parts, nn.Sequential(self.last, MeanPool())]

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time, freq)` -> `(batch, channels)`."""
        return hidden.mean(dim=(2, 3))

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> `(batch, embedding_dim)`, the mean over output steps."""
        x = self.stem(log_mel.unsqueeze(1))
        for block in self.blocks:
            x = block(x)
        return cast(torch.Tensor, self.last(x)).mean(dim=(2, 3))

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> logits `(batch, n_classes)`."""
        logits: torch.Tensor = self.head(self.dropout(self.forward_features(log_mel)))
        return logits
