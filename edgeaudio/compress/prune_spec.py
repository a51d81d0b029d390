"""What a recipe says about structured pruning; free of torch, so that a recipe can be read anywhere."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edgeaudio.spec import Spec

PruneTarget = Literal["macs", "params", "bytes"]


class PruneSpec(Spec):
    """How small a student becomes, in what it is measured, and which channels go first; see `compress.prune`."""

    target: PruneTarget = Field("params", description="bytes is the estimate of the int8 weights")
    amount: int | None = Field(None, ge=1, description="at most so many of the target; instead of keep")
    keep: float | None = Field(None, gt=0, lt=1, description="share of the target that stays; instead of amount")
    steps: int = Field(4, ge=1, le=100, description="cuts, each by the same factor; more if max_layer_share binds")
    importance: Literal["taylor", "magnitude"] = Field("taylor", description="taylor asks data, magnitude the weights")
    ranking: Literal["importance", "importance_per_cost"] = Field(
        "importance", description="per cost divides by what a channel costs in the target"
    )
    round_to: int = Field(1, ge=1, le=64, description="pruned layers keep a multiple of so many channels")
    min_channels: int = Field(4, ge=1, le=1024, description="no layer is cut to fewer")
    max_layer_share: float = Field(0.5, gt=0, le=1, description="most of a layer's channels that one step removes")
    recover_windows: int = Field(0, ge=0, description="windows of training after each step; 0 trains nothing")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.amount is None) == (self.keep is None):
            raise ValueError("give either amount (absolute) or keep (a share), not both and not neither")
        return self
