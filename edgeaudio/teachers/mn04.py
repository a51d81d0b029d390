"""EfficientAT mn04: a MobileNetV3-style AudioSet tagger of width 0.4 (983,599 parameters, mAP 0.432).

Own implementation. Model and weights: Schmid, Koutini, Widmer, "Efficient Large-Scale Audio Tagging via
Transformer-to-CNN Knowledge Distillation", arXiv 2211.04772; MIT licence, (c) 2022 Florian Schmid.
Module names follow the published checkpoint so that it loads strictly.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import nn

from edgeaudio.errors import ShapeError
from edgeaudio.spec import FrontendSpec, LabelSet, digest_json
from edgeaudio.students.frontend import LogMel
from edgeaudio.students.mn_blocks import BLOCKS, STEM_CHANNELS, BlockShape
from edgeaudio.teachers.audioset import N_CLASSES, audioset_labels
from edgeaudio.teachers.weights import (
    Progress,
    cache_dir,
    fetch_file,
    generator_untouched,
    load_state_dict,
    load_strictly,
    state_digest,
)

MN04_FRONTEND = FrontendSpec(
    sample_rate=32_000,
    win_length=800,
    hop_length=320,
    n_fft=1024,
    n_mels=128,
    f_min=0.0,
    f_max=15_000.0,
    preemphasis=0.97,
    centre=True,
    log_floor=1e-5,
    offset=4.5,
    scale=0.2,
)
WEIGHTS_FILE = "mn04_as_mAP_432.pt"
WEIGHTS_URL = f"https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"
WEIGHTS_LIMIT_BYTES = 16 * 2**20
EMBEDDING_DIM = 384
HIDDEN_DIM = 512
DROPOUT = 0.2
# Part of the teacher's digest: raise it when the code below changes what the same weights compute.
CODE_REVISION = 1


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch norm, and the activation if any, as children 0, 1, 2."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channel gate: mean over frequency and time, two linear layers, sigmoid."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeeze)
        self.fc2 = nn.Linear(squeeze, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, freq, time)` -> the same shape, each channel scaled by its gate."""
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean(dim=(2, 3))))))
        return x * gate[:, :, None, None]


class ConcurrentSqueezeExcite(nn.Module):
    """The checkpoint's wrapper around one `SqueezeExcite` (its key prefix is `conc_se_layers.0`)."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcite(channels, squeeze)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `SqueezeExcite`."""
        return cast(torch.Tensor, self.conc_se_layers[0](x))


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, optional squeeze-and-excitation, project (1x1, no activation)."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.use_residual = shape.stride == 1 and shape.in_channels == shape.out_channels
        layers: list[nn.Module] = []
        if shape.expanded != shape.in_channels:
            layers.append(conv_norm(shape.in_channels, shape.expanded, 1, activation=shape.activation))
        layers.append(
            conv_norm(
                shape.expanded,
                shape.expanded,
                shape.kernel,
                stride=shape.stride,
                groups=shape.expanded,
                activation=shape.activation,
            )
        )
        if shape.squeeze:
            layers.append(ConcurrentSqueezeExcite(shape.expanded, shape.squeeze))
        layers.append(conv_norm(shape.expanded, shape.out_channels, 1))
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, freq, time)` -> `(batch, out_channels, freq / stride, time / stride)`."""
        y = cast(torch.Tensor, self.block(x))
        return x + y if self.use_residual else y


class MN04(nn.Module):
    """The network: `log_mel (batch, frames, 128)` of `MN04_FRONTEND` in, logits and embedding out."""

    def __init__(self, classes: int = N_CLASSES) -> None:
        super().__init__()
        last = BLOCKS[-1].out_channels
        self.features = nn.Sequential(
            conv_norm(1, STEM_CHANNELS, 3, stride=2, activation=nn.Hardswish),
            *(InvertedResidual(shape) for shape in BLOCKS),
            conv_norm(last, EMBEDDING_DIM, 1, activation=nn.Hardswish),
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(EMBEDDING_DIM, HIDDEN_DIM),
            nn.Hardswish(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN_DIM, classes),
        )
        self.apply(_initialise)

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that names the classes; fine-tuning replaces it."""
        return cast(nn.Linear, self.classifier[-1])

    def replace_last_layer(self, classes: int) -> None:
        """A fresh last layer for `classes` classes (weights from torch's global generator)."""
        layer = nn.Linear(HIDDEN_DIM, classes)
        _initialise(layer)
        self.classifier[-1] = layer

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, 128)` -> embedding `(batch, 384)`: the mean of the last feature map."""
        if log_mel.ndim != 3 or log_mel.shape[2] != MN04_FRONTEND.n_mels:
            raise ShapeError(f"log_mel has shape {tuple(log_mel.shape)}, wanted (batch, frames, 128)")
        image = log_mel.transpose(1, 2).unsqueeze(1)
        return cast(torch.Tensor, self.features(image)).mean(dim=(2, 3))

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, frames, 128)` -> logits `(batch, classes)`, embedding `(batch, 384)`."""
        embedding = self.forward_features(log_mel)
        # The classifier's own pooling (child 0) is the identity on an already pooled map.
        return self.classifier(embedding[:, :, None, None]), embedding


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def check_waveform(waveform: torch.Tensor, frontend: FrontendSpec) -> None:
    """Raise `ShapeError` unless `waveform` is `(batch, samples)` and long enough to reflect at its ends."""
    fewest = frontend.n_fft // 2 + 2
    if waveform.ndim != 2 or waveform.shape[1] < fewest:
        raise ShapeError(
            f"waveform has shape {tuple(waveform.shape)}, wanted (batch, samples) with at least {fewest} samples"
        )


class MN04Teacher:
    """`edgeaudio.teachers.base.Teacher` over `MN04`: always in eval mode, never with gradients."""

    name = "mn04"
    licence = "MIT"
    frontend: FrontendSpec = MN04_FRONTEND
    embedding_dim = EMBEDDING_DIM

    def __init__(self, network: MN04) -> None:
        self.network = network.eval().requires_grad_(False)
        self.log_mel = LogMel(self.frontend)
        self.labels: LabelSet = audioset_labels()

    @classmethod
    def load(cls, weights: Path | None = None, *, allow_unknown_digest: bool = False) -> MN04Teacher:
        """From a checkpoint file, or from the cache folder when `weights` is None. Never downloads.

        Raises:
            DataError: no such file; `fetch_weights` gets it.
            VerificationError: another digest than `WEIGHTS_SHA256`, or tensors that do not fit.
        """
        path = weights if weights is not None else cache_dir() / WEIGHTS_FILE
        state = load_state_dict(path, WEIGHTS_SHA256, allow_unknown_digest=allow_unknown_digest)
        with generator_untouched():
            network = MN04()
        load_strictly(network, state, str(path))
        return cls(network)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of weights, front-end and code revision."""
        return digest_json(
            {
                "name": self.name,
                "revision": CODE_REVISION,
                "frontend": self.frontend.digest(),
                "weights": state_digest(self.network.state_dict()),
            }
        )

    def to(self, device: torch.device | str) -> MN04Teacher:
        """Move to `device`; returns self."""
        self.network.to(device)
        self.log_mel.to(device)
        return self

    @torch.no_grad()
    def embed(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, samples)` float32 at 32 kHz -> embedding `(batch, 384)`, AudioSet logits `(batch, 527)`.

        Raises:
            ShapeError: another rank, or fewer than 514 samples.
        """
        check_waveform(waveform, self.frontend)
        logits, embedding = self.network(self.log_mel(waveform))
        return embedding, logits


def fetch_weights(
    url: str = WEIGHTS_URL,
    sha256: str = WEIGHTS_SHA256,
    to: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Download the published checkpoint (4 MB) to `to`, by default into the cache folder; see `fetch_file`."""
    target = to if to is not None else cache_dir() / WEIGHTS_FILE
    return fetch_file(url, sha256, target, limit_bytes=WEIGHTS_LIMIT_BYTES, progress=progress)
