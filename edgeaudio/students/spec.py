"""The student families as a recipe writes them: one spec per family, told apart by `family`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from edgeaudio.errors import closest_match_hint
from edgeaudio.spec import Spec


class DSCNNSpec(Spec):
    """`students.dscnn`: the streamable CNN, trained from scratch or from a pretraining on unlabelled sounds."""

    family: Literal["dscnn"] = "dscnn"
    width: int = Field(32, ge=4, le=128, description="the size dial")
    blocks: tuple[int, int, int] = Field((2, 2, 3), description="separable blocks of the three stages")
    embedding: int | None = Field(None, ge=4, le=1024, description="channels of the embedding; none is 6 x width")
    time_stride: Literal[2, 4] = 4
    dropout: float = Field(0.1, ge=0, lt=1)


class MNSpec(Spec):
    """`students.mn`: mn04's own first blocks, made streamable; starts from the teacher's AudioSet weights."""

    family: Literal["mn"] = "mn"
    blocks: int = Field(10, ge=3, le=15, description="the size dial: how many of mn04's 15 blocks are kept")
    embedding: int = Field(128, ge=8, le=1024, description="channels of the last 1x1 convolution")
    time_strides: int = Field(2, ge=1, le=5, description="how many of mn04's five strides also halve time")
    time_kernel: Literal[3, 5] = Field(3, description="widest kernel along time; 3 folds the ends of the 5x5 ones in")
    pointwise_from: int = Field(15, ge=3, le=15, description="blocks after so many look at one time step only")
    activation: Literal["relu", "hardswish"] = Field("relu", description="of the later blocks; int8 wants relu")
    squeeze_steps: int = Field(
        0, ge=0, le=64, description="squeeze-excite over this many trailing steps; 0 folds its mean gate into weights"
    )
    frozen: int = Field(0, ge=0, le=15, description="first blocks (and the stem) that training leaves as they start")
    initial: Literal["teacher", "random"] = Field("teacher", description="random is the control of an ablation")
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _frozen_blocks_have_learnt(self) -> Self:
        if self.frozen and self.initial == "random":
            raise ValueError("frozen blocks keep the weights they start with; with initial: random use frozen: 0")
        if self.frozen > self.blocks:
            raise ValueError(f"frozen is {self.frozen}, there are {self.blocks} blocks")
        return self


class TransformerSpec(Spec):
    """`students.transformer`: a windowed tiny transformer over log-mel patches."""

    family: Literal["transformer"] = "transformer"
    width: int = Field(32, ge=8, le=256, multiple_of=4, description="the size dial: channels of a token")
    depth: int = Field(4, ge=1, le=12, description="blocks of attention and a ReLU network")
    heads: int = Field(2, ge=1, le=8, description="of attention; they divide the width")
    mlp_ratio: int = Field(2, ge=1, le=4, description="hidden channels of a block's network, in widths")
    patch_frames: int = Field(9, ge=1, le=99, description="frames of one token; they divide the window's")
    patch_mels: int = Field(64, ge=4, le=256, description="bands of one token; all of them make frame tokens")
    merge: int = Field(0, ge=0, le=4, description="how often two neighbouring tokens are merged between blocks")
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width of {self.width}; use 1, 2 or 4")
        if self.merge >= self.depth:
            raise ValueError(
                f"merge is {self.merge}, but {self.depth} blocks have {self.depth - 1} places between them; "
                "merge less often or use more blocks"
            )
        return self


FAMILIES = ("dscnn", "mn", "transformer")


def _known_family(value: Any) -> Any:
    if isinstance(value, dict):
        family = value.get("family", "dscnn")
        if family not in FAMILIES:
            raise ValueError(f"student.family: {family!r} is not known. {closest_match_hint(str(family), FAMILIES)}")
        return {"family": family, **value}
    return value


StudentSpec = Annotated[
    Annotated[DSCNNSpec | MNSpec | TransformerSpec, Field(discriminator="family")], BeforeValidator(_known_family)
]
