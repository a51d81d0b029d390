"""`DecisionSpec`: how a stream of probabilities becomes events."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeaudio.spec.base import Spec

#: Fields that the first bundles did not have. At their defaults they are left out, so that those bundles keep their
#: bytes and their readers.
_LATER_FIELDS = ("classes", "patience_windows", "refractory_s", "allow", "deny", "top_k")


class ClassDecision(Spec):
    """What is different for one class; None is as for all."""

    threshold_on: float | None = Field(None, ge=0, le=1)
    threshold_off: float | None = Field(None, ge=0, le=1)
    min_duration_s: float | None = Field(None, ge=0, le=3600)


class Rule(NamedTuple):
    """What holds for one class."""

    threshold_on: float
    threshold_off: float
    min_duration_s: float


class DecisionSpec(Spec):
    """Smoothing, hysteresis, patience, durations, and which classes count.

    A class's event starts when its smoothed score has been at least `threshold_on` for `patience_windows` windows in
    a row, and ends when it falls below `threshold_off`; events shorter than `min_duration_s` are dropped, and for
    `refractory_s` after an event its class starts no other.
    """

    smoothing_windows: int = Field(3, ge=1, le=1000, description="moving mean over this many windows")
    threshold_on: float = Field(0.6, ge=0, le=1)
    threshold_off: float = Field(0.4, ge=0, le=1)
    min_duration_s: float = Field(0.4, ge=0, le=3600)
    classes: dict[str, ClassDecision] = Field({}, description="what is different for single classes, by label")
    patience_windows: int = Field(1, ge=1, le=1000, description="windows in a row that an event needs to start")
    refractory_s: float = Field(0, ge=0, le=86_400, description="pause of a class after each of its events")
    allow: tuple[str, ...] = Field((), description="labels that may have events; none named is all")
    deny: tuple[str, ...] = Field((), description="labels that may not")
    top_k: int | None = Field(None, ge=1, description="only the so many best scores of a window start events")

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.threshold_off > self.threshold_on:
            raise ValueError(f"threshold_off {self.threshold_off} is above threshold_on {self.threshold_on}")
        for label, own in self.classes.items():
            on = self.threshold_on if own.threshold_on is None else own.threshold_on
            if own.threshold_off is not None and own.threshold_off > on:
                raise ValueError(f"classes.{label!r}: threshold_off {own.threshold_off} is above threshold_on {on}")
        both = sorted(set(self.allow) & set(self.deny))
        if both:
            raise ValueError(f"allow and deny both name {both}")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialise(self)
        defaults = type(self).model_fields
        absent = [name for name in _LATER_FIELDS if getattr(self, name) == defaults[name].default]
        return {name: value for name, value in fields.items() if name not in absent}

    @property
    def named_labels(self) -> set[str]:
        """All labels that are spoken of; a bundle must have them."""
        return {*self.classes, *self.allow, *self.deny}

    def may_start(self, label: str) -> bool:
        """Whether the class may have events at all."""
        return label not in self.deny and (not self.allow or label in self.allow)

    def rule(self, label: str) -> Rule:
        """What holds for one class. Without an own `threshold_off` it is at most the class's `threshold_on`."""
        own = self.classes.get(label, ClassDecision())
        on = self.threshold_on if own.threshold_on is None else own.threshold_on
        off = min(self.threshold_off, on) if own.threshold_off is None else own.threshold_off
        return Rule(on, off, self.min_duration_s if own.min_duration_s is None else own.min_duration_s)
