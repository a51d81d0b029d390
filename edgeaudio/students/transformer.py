"""Transformer: attention over log-mel tokens of one window, made of what int8 kernels have: no layer norm, no GELU.

After LeViT (Graham et al., arXiv 2104.01136): every projection is a 1x1 convolution with a batch norm behind it,
which folds into its weights. As in pre-norm blocks the residual stream itself is never normalised, and no branch
feels its scale, but at run time no norm is left. Tokens stay on their `(time, freq)` grid, and neighbours may be
merged between blocks. Softmax and both matrix products of attention run in int8 in ONNX and in TFLite.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeaudio.errors import ConfigError
from edgeaudio.students.base import ImageInput, MeanPool
from edgeaudio.students.dscnn import conv_bn
from edgeaudio.students.spec import TransformerSpec

# Channels of the pooled embedding, as a multiple of `width`.
EMBEDDING_FACTOR = 2
_POSITION_STD = 0.02
Grid = tuple[int, int]


class Attention(nn.Module):
    """Every token looks at every token. `(batch, width, time, freq)` in and out.

    Args:
        grid: tokens along time and frequency.
    """

    def __init__(self, width: int, heads: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.width = width
        self.heads = heads
        self.query, self.key, self.value, self.project = (conv_bn(width, width, (1, 1)) for _ in range(4))
        # The usual division by sqrt(channels per head), where it costs nothing: the norm folds into the weights.
        nn.init.constant_(self.query[1].weight, (width // heads) ** -0.5)  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class docstring."""
        # Channels last between the convolutions, as int8 kernels hold them: both formats then need fewer transposes.
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        attention = torch.softmax(query.permute(0, 2, 1, 3) @ key.permute(0, 2, 3, 1), dim=-1)
        mixed = attention @ value.permute(0, 2, 1, 3)
        grid = mixed.permute(0, 2, 1, 3).reshape(-1, *self.grid, self.width)
        projected: torch.Tensor = self.project(grid.permute(0, 3, 1, 2))
        return projected

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, width, time, freq)` -> `(batch, tokens, heads, width // heads)`."""
        return x.permute(0, 2, 3, 1).reshape(-1, self.grid[0] * self.grid[1], self.heads, self.width // self.heads)


class Block(nn.Module):
    """Attention and a ReLU network, each added to the stream. `(batch, width, time, freq)` in and out."""

    def __init__(self, width: int, heads: int, grid: Grid, mlp_ratio: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, grid)
        self.mlp = nn.Sequential(
            conv_bn(width, mlp_ratio * width, (1, 1)), nn.ReLU(), conv_bn(mlp_ratio * width, width, (1, 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class docstring."""
        x = x + self.attention(x)
        merged: torch.Tensor = x + self.mlp(x)
        return merged


class PatchTokens(nn.Module):
    """`(batch, 1, frames, n_mels)` -> `(batch, width, time, freq)`: a token per patch, plus its learned position."""

    def __init__(self, width: int, patch: Grid, grid: Grid) -> None:
        super().__init__()
        self.embed = conv_bn(1, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, width, *grid))
        nn.init.trunc_normal_(self.positions, std=_POSITION_STD)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class docstring."""
        tokens: torch.Tensor = self.embed(image) + self.positions
        return tokens


def merged_grid(grid: Grid) -> tuple[Grid, Grid]:
    """What merging does to a grid: the kernel over neighbours, and the grid after it.

    The longer side is halved (time, where both are equal). Pairs where it is even; where it is odd, threes
    that overlap by one, so that no token is left out.
    """
    time, freq = grid
    if time >= freq:
        return (2 + time % 2, 1), (time // 2, freq)
    return (1, 2 + freq % 2), (time, freq // 2)


def token_merge(width: int, kernel: Grid) -> nn.Module:
    """Neighbouring tokens -> one, a learned weighted sum per channel that starts as their mean."""
    stride = (min(kernel[0], 2), min(kernel[1], 2))
    merge = conv_bn(width, width, kernel, stride=stride, groups=width)
    nn.init.constant_(merge[0].weight, 1 / (kernel[0] * kernel[1]))  # type: ignore[index]
    return merge


class Transformer(nn.Module):
    """The windowed transformer family; see `students.spec.TransformerSpec` for its options.

    About 6 k parameters at width 12, depth 1 and 3 frames per token, 60 k as the spec has it, 500 k at width 92
    and depth 6.

    Args:
        n_classes: logits.
        spec: the size dial and the token grid.
        n_mels: bands of the student's front-end; a multiple of `patch_mels`.
        frames: of the window; a multiple of `patch_frames`.
    Raises:
        ConfigError: patches that do not tile the window, or too few tokens for the merges.
    """

    streamable = False
    time_stride_frames = 1

    def __init__(
        self, n_classes: int, spec: TransformerSpec | None = None, *, n_mels: int = 64, frames: int = 99
    ) -> None:
        super().__init__()
        spec = spec or TransformerSpec()
        width, patch = spec.width, (spec.patch_frames, spec.patch_mels)
        grid = _token_grid(spec, n_mels, frames)
        self.spec = spec
        self.tokens = PatchTokens(width, patch, grid)
        # With merges spread evenly: after which blocks one follows.
        merges_after = {(number * spec.depth) // (spec.merge + 1) for number in range(1, spec.merge + 1)}
        self.blocks = nn.ModuleList()
        for index in range(spec.depth):
            merge: nn.Module = nn.Identity()
            if index in merges_after:
                kernel, grid = merged_grid(grid)
                merge = token_merge(width, kernel)
            self.blocks.append(nn.Sequential(merge, Block(width, spec.heads, grid, spec.mlp_ratio)))
        self.embedding_dim = EMBEDDING_FACTOR * width
        self.last = nn.Sequential(conv_bn(width, self.embedding_dim, (1, 1)), nn.ReLU())
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(self.embedding_dim, n_classes)
        self.receptive_field_frames = frames
        self.section_channels = (*[width] * spec.depth, self.embedding_dim)

    @classmethod
    def build(cls, spec: TransformerSpec, n_classes: int, *, n_mels: int, frames: int) -> Transformer:
        """See `Student.build`; it takes windows of `frames` and no others."""
        return cls(n_classes, spec, n_mels=n_mels, frames=frames)

    def sections(self) -> list[nn.Module]:
        """Tokens and the first block, the other blocks, and what makes the embedding; see `Student.sections`."""
        first, *others = self.blocks
        return [nn.Sequential(ImageInput(), self.tokens, first), *others, nn.Sequential(self.last, MeanPool())]

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time, freq)` -> `(batch, channels)`, the mean over tokens."""
        return hidden.mean(dim=(2, 3))

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> `(batch, embedding_dim)`, the mean over tokens."""
        x = self.tokens(log_mel.unsqueeze(1))
        for block in self.blocks:
            x = block(x)
        pooled: torch.Tensor = self.last(x).mean(dim=(2, 3))
        return pooled

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> logits `(batch, n_classes)`."""
        logits: torch.Tensor = self.head(self.dropout(self.forward_features(log_mel)))
        return logits


def _token_grid(spec: TransformerSpec, n_mels: int, frames: int) -> Grid:
    """Tokens along time and frequency before any merge."""
    if n_mels % spec.patch_mels:
        raise ConfigError(
            f"student.patch_mels is {spec.patch_mels}, frontend.n_mels is {n_mels}: the bands would not be whole "
            f"patches; use {_nearest_divisors(n_mels, spec.patch_mels)} bands per token"
        )
    if frames % spec.patch_frames:
        below = frames // spec.patch_frames * spec.patch_frames
        windows = " or ".join(str(length) for length in (below, below + spec.patch_frames) if length)
        raise ConfigError(
            f"student.patch_frames is {spec.patch_frames}, window.frames is {frames}: {frames - below} frames would "
            f"be left over; use {_nearest_divisors(frames, spec.patch_frames)} frames per token, or a window of "
            f"{windows} frames"
        )
    grid = (frames // spec.patch_frames, n_mels // spec.patch_mels)
    left = grid
    for merges_done in range(spec.merge):
        if left == (1, 1):
            raise ConfigError(
                f"student.merge is {spec.merge}, but {grid[0]} x {grid[1]} tokens can be merged {merges_done} times; "
                "merge less often or use smaller patches"
            )
        _, left = merged_grid(left)
    return grid


def _nearest_divisors(number: int, wanted: int) -> str:
    """The divisors of `number` on both sides of `wanted`, which is none: "3 or 9"."""
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    below = [divisor for divisor in divisors if divisor < wanted][-1:]
    above = [divisor for divisor in divisors if divisor > wanted][:1]
    return " or ".join(map(str, below + above))
