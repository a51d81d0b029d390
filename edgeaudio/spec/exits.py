"""Early exits: where they are asked for, when a window may stop, and what calibration found."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeaudio.spec.base import Spec

#: Exits beside the final head. Thresholds are searched jointly, which three dimensions still allow.
MAX_EXITS = 3


def _within_confidence(threshold: float | None) -> float | None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(
            f"an exit threshold is a confidence from 0 to 1, not {threshold:g}; null is an exit that is never taken"
        )
    return threshold


#: A window stops at an exit whose confidence reaches this; None is an exit that is never taken.
ExitThreshold = Annotated[float | None, AfterValidator(_within_confidence)]


class ExitSpec(Spec):
    """Exit heads inside a student, and how much their use may cost."""

    after: tuple[int, ...] = Field(
        min_length=1, max_length=MAX_EXITS, description="sections (from 0) that an exit head follows; not the last one"
    )
    hidden: int = Field(0, ge=0, le=1024, description="channels of a hidden layer in each exit head; 0 has none")
    max_drop: float = Field(
        0.0125, ge=0, lt=1, description="share of held-out windows or clips that may be lost; 0.0125 is 1 in 80"
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.after[0] < 0 or list(self.after) != sorted(set(self.after)):
            raise ValueError(f"exits.after is {list(self.after)}; wanted section numbers from 0, rising, each once")
        return self


class ExitCalibration(Spec):
    """What the thresholds do on the held-out training windows that they were chosen on.

    accuracy, full_accuracy: with exits and without, over clips where `n_clips` is given, else over windows; for
    multi-label tasks the mean overlap of answered and true labels.
    share: of windows that stop at each exit, the final one last. macs: per window, mean and with no exit taken.
    standard_errors: of the loss, by so many it lies below `max_drop` at least.
    """

    thresholds: tuple[ExitThreshold, ...] = Field(min_length=1, max_length=MAX_EXITS)
    max_drop: float = Field(ge=0, lt=1)
    n_windows: int = Field(ge=1)
    n_clips: int | None = Field(None, ge=1)
    accuracy: float = Field(ge=0, le=1)
    full_accuracy: float = Field(ge=0, le=1)
    share: tuple[float, ...]
    mean_macs: float = Field(ge=0)
    worst_case_macs: int = Field(ge=0)
    standard_errors: float = Field(0, ge=0)

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that bundles without a margin are byte for byte, and readable, as before there was one.
        fields: dict[str, Any] = serialise(self)
        return {key: value for key, value in fields.items() if key != "standard_errors" or value != 0}
