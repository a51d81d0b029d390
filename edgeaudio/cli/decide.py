"""The options of `stream` that change how probabilities become events."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.spec import DecisionSpec

_EACH = "[LABEL=]"


@dataclass(frozen=True)
class DecisionOptions:
    """What was given (see `groups`); None where it was not."""

    HEADINGS: ClassVar = {"threshold": "Decision (default: the bundle's own)"}

    threshold: Annotated[
        list[str] | None, typer.Option(metavar=f"{_EACH}P", help="Score that starts an event, of all or one class.")
    ] = None
    threshold_off: Annotated[list[str] | None, typer.Option(metavar=f"{_EACH}P", help="Score below which it ends.")] = (
        None
    )
    min_duration: Annotated[list[str] | None, typer.Option(metavar=f"{_EACH}S", help="Shorter events are dropped.")] = (
        None
    )
    smoothing: Annotated[int | None, typer.Option(metavar="N", help="Windows of the moving mean.")] = None
    patience: Annotated[
        int | None, typer.Option(metavar="N", help="Windows in a row that an event needs to start.")
    ] = None
    refractory: Annotated[
        float | None, typer.Option(metavar="S", help="Pause of a class after each of its events.")
    ] = None
    allow: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Only these classes; may be repeated.")] = (
        None
    )
    deny: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Not these classes; may be repeated.")] = None
    top_k: Annotated[int | None, typer.Option(metavar="N", help="Only the N best scores of a window start events.")] = (
        None
    )


#: Option -> field of a `DecisionSpec`.
_PER_CLASS = {"threshold": "threshold_on", "threshold_off": "threshold_off", "min_duration": "min_duration_s"}
_FOR_ALL = {
    "smoothing": "smoothing_windows",
    "patience": "patience_windows",
    "refractory": "refractory_s",
    "allow": "allow",
    "deny": "deny",
    "top_k": "top_k",
}


def decision_of(own: DecisionSpec, given: DecisionOptions) -> DecisionSpec:
    """The bundle's own decision with what was given changed.

    A new `--threshold` takes a `threshold_off` above it down with it.

    Raises:
        ConfigError: a value that is none, or that does not fit.
    """
    from edgeaudio.spec import DecisionSpec

    if all(getattr(given, field.name) is None for field in fields(given)):
        return own
    changed: dict[str, Any] = own.model_dump()
    classes: dict[str, dict[str, float | None]] = changed.setdefault("classes", {})
    for option, name in _PER_CLASS.items():
        for label, value in _pairs(option, getattr(given, option) or []):
            (changed if label is None else classes.setdefault(label, {}))[name] = value
    if given.threshold_off is None:
        changed["threshold_off"] = min(changed["threshold_off"], changed["threshold_on"])
        for rules in classes.values():
            on, off = rules.get("threshold_on"), rules.get("threshold_off")
            if off is not None:
                rules["threshold_off"] = min(off, changed["threshold_on"] if on is None else on)
    for option, name in _FOR_ALL.items():
        value = getattr(given, option)
        if value is not None:
            changed[name] = tuple(value) if isinstance(value, list) else value
    return DecisionSpec.parse(changed, source="decision options")


def _pairs(option: str, values: list[str]) -> list[tuple[str | None, float]]:
    """`dog=0.8` -> ("dog", 0.8), `0.7` -> (None, 0.7)."""
    pairs = []
    for text in values:
        # From the right: a label may hold an equals sign, a number may not.
        label, equals, number = text.rpartition("=")
        try:
            pairs.append((label if equals else None, float(number)))
        except ValueError:
            name = option.replace("_", "-")
            raise ConfigError(f"--{name} {text!r}: wanted a number, or LABEL=NUMBER such as dog=0.8") from None
    return pairs
