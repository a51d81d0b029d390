"""Two runs side by side: what changed, whether that is more than noise, and which rules it breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgeaudio.bench.metrics import METRICS, Figure
from edgeaudio.bench.rules import Rule, relative_change
from edgeaudio.bench.schema import ArtefactResult, BenchResult, SoundToEvent
from edgeaudio.errors import BenchInvalidError, ConfigError

#: `apart`, `within noise`: by their 95 % intervals. `exact`: what does not scatter. `unknown`: it has no interval.
Noise = Literal["apart", "within noise", "exact", "unknown"]
_EXACT: Final = ("size_bytes",)
#: What must be equal before two runs are comparable.
_LIKENESS: Final[dict[str, Callable[[BenchResult], object]]] = {
    "kind": lambda result: result.kind,
    "bundle": lambda result: f"{result.bundle_name} {result.bundle_sha256[:12]}",
    "device": lambda result: result.environment.device,
    "board": lambda result: result.board.board.name if result.board else "unknown",
    "threads": lambda result: result.threads,
    "input rate": lambda result: f"{result.input_rate_hz} Hz",
    "hop": lambda result: f"{result.hop_ms:g} ms",
    "front-end": lambda result: " and ".join(
        sorted({item.engine_info.get("frontend", "unknown") for item in result.artefacts if item.engine_info})
    ),
    "cores": lambda result: _timed(result, " ".join(map(str, result.environment.affinity or result.options.affinity))),
    "priority": lambda result: _timed(result, result.environment.nice),
    "garbage collection": lambda result: _timed(result, "on" if result.options.gc_enabled else "off"),
    "governors": lambda result: _timed(result, "held at performance" if result.options.set_performance else "as found"),
}
#: The same of an artefact in both runs; None: it has no such figure, so there is nothing to hold against another.
_ARTEFACT_LIKENESS: Final[dict[str, Callable[[ArtefactResult, BenchResult], object]]] = {
    # Of a bundle the digest of the bundle says it, and another one is often what a comparison is about.
    "file": lambda item, result: item.sha256[:12] if item.form == "foreign" else None,
    "hop": lambda item, result: f"{item.hop_ms or result.hop_ms:g} ms",
    "clips": lambda item, result: item.accuracy.clips_sha256[:12] if item.accuracy else None,
    "deadline": lambda item, result: f"{item.paced.deadline_ms:g} ms" if item.paced else None,
    "sounds": lambda item, result: _sounds(item.sound_to_event) if item.sound_to_event else None,
}


def _timed(result: BenchResult, value: object) -> object:
    """Counts of instructions do not depend on it."""
    return value if result.kind == "measured" else None


def _sounds(sound: SoundToEvent) -> str:
    # How many of them make an event depends on the model, which may be what changed.
    return f"{sound.n_sounds} {sound.detail.partition(';')[0]}"


@dataclass(frozen=True)
class Change:
    """One metric of one artefact in both runs; `share` is relative: None where a run lacks it or it began at 0."""

    metric: str
    before: Figure
    after: Figure
    share: float | None
    noise: Noise | None


@dataclass(frozen=True)
class ArtefactChange:
    """All metrics of an artefact in two runs, in the order of `METRICS`."""

    artefact: str
    engine: str
    changes: tuple[Change, ...]

    def change(self, metric: str) -> Change:
        """The change of one metric."""
        return next(change for change in self.changes if change.metric == metric)


@dataclass(frozen=True)
class RuleOutcome:
    """What became of a rule on one artefact. A rule that cannot be checked has failed."""

    rule: Rule
    artefact: str
    failed: bool
    message: str


@dataclass(frozen=True)
class Comparison:
    """The second run held against the first; `differences` says in what else they differ."""

    before: BenchResult
    after: BenchResult
    differences: tuple[str, ...]
    artefacts: tuple[ArtefactChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    outcomes: tuple[RuleOutcome, ...]

    @property
    def failures(self) -> tuple[RuleOutcome, ...]:
        """The rules that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)


def refuse_invalid(result: BenchResult, source: Path | str) -> None:
    """Figures that must not be used are not compared and not published.

    Raises:
        BenchInvalidError: the verdict on `result` is invalid; gives the reasons.
    """
    if reasons := invalid_reasons(result):
        raise BenchInvalidError(f"{source}: these figures must not be used: {reasons}. Say --allow-invalid to do it.")


def invalid_reasons(result: BenchResult) -> str:
    """Why its figures must not be used, in one line; empty where they may be."""
    return "; ".join(reason.message for reason in result.verdict.reasons if reason.level == "invalid")


def differences(before: BenchResult, after: BenchResult) -> tuple[str, ...]:
    """In what two runs, or artefacts that both have, differ besides their figures, one phrase each."""
    pairs = [(name, read(before), read(after)) for name, read in _LIKENESS.items()]
    found = [f"{name} {first} and {second}" for name, first, second in pairs if first != second]
    return (*found, *_artefact_differences(before, after, {name for name, first, second in pairs if first != second}))


def _artefact_differences(before: BenchResult, after: BenchResult, known: set[str]) -> Iterator[str]:
    """What several artefacts have in common is said once, and what the runs are `known` to differ in not again."""
    seconds = _by_name(after)
    pairs = [(item, seconds[key]) for key, item in _by_name(before).items() if key in seconds]
    for name, read in _ARTEFACT_LIKENESS.items():
        unlike: dict[tuple[object, object], list[str]] = {}
        for first, second in pairs:
            values = read(first, before), read(second, after)
            if None not in values and values[0] != values[1]:
                unlike.setdefault(values, []).append(first.artefact)
        for values, artefacts in unlike.items() if name not in known else ():
            yield f"{name} {values[0]} and {values[1]} of {', '.join(artefacts)}"


def _by_name(result: BenchResult) -> dict[tuple[str, str], ArtefactResult]:
    return {(item.artefact, item.engine): item for item in result.artefacts}


def compare(
    before: BenchResult, after: BenchResult, rules: Sequence[Rule] = (), *, allow_different: bool = False
) -> Comparison:
    """Hold `after` against `before`, artefact by artefact of the same name and engine.

    Raises:
        ConfigError: they are unlike (other bundle, device, clips, options) and `allow_different` is off, they have no
            artefact in common, or a rule names one that they do not have.
    """
    unlike = differences(before, after)
    if unlike and not allow_different:
        raise ConfigError(f"these runs differ in {'; '.join(unlike)}. Say --allow-different to compare them.")
    firsts, seconds = _by_name(before), _by_name(after)
    both = [key for key in firsts if key in seconds]
    if not both:
        raise ConfigError(f"these runs have no artefact in common: {_names(firsts)} against {_names(seconds)}")
    artefacts = tuple(_changes(firsts[key], before, seconds[key], after) for key in both)
    return Comparison(
        before=before,
        after=after,
        differences=unlike,
        artefacts=artefacts,
        only_before=tuple(name for name, engine in firsts if (name, engine) not in seconds),
        only_after=tuple(name for name, engine in seconds if (name, engine) not in firsts),
        outcomes=tuple(outcome for rule in rules for outcome in _outcomes(rule, artefacts)),
    )


def _names(items: dict[tuple[str, str], ArtefactResult]) -> str:
    return ", ".join(f"{artefact} on {engine}" for artefact, engine in items) or "none"


def _changes(first: ArtefactResult, before: BenchResult, second: ArtefactResult, after: BenchResult) -> ArtefactChange:
    pairs = ((name, metric.read(first, before), metric.read(second, after)) for name, metric in METRICS.items())
    return ArtefactChange(first.artefact, first.engine, tuple(_change(*pair) for pair in pairs))


def _change(name: str, before: Figure, after: Figure) -> Change:
    if before.value is None or after.value is None:
        return Change(name, before, after, None, None)
    share = relative_change(before.value, after.value)
    return Change(name, before, after, share if math.isfinite(share) else None, _noise(name, before, after))


def _noise(name: str, before: Figure, after: Figure) -> Noise:
    if name in _EXACT:
        return "exact"
    if before.interval is None or after.interval is None:
        return "unknown"
    apart = before.interval[1] < after.interval[0] or after.interval[1] < before.interval[0]
    return "apart" if apart else "within noise"


def _outcomes(rule: Rule, artefacts: Sequence[ArtefactChange]) -> list[RuleOutcome]:
    meant = [item for item in artefacts if rule.artefact in (None, item.artefact)]
    if not meant:
        has = ", ".join(item.artefact for item in artefacts)
        raise ConfigError(f"rule '{rule}': both runs have no artefact {rule.artefact!r}; they have: {has}")
    return [_outcome(rule, item) for item in meant]


def _outcome(rule: Rule, item: ArtefactChange) -> RuleOutcome:
    change = item.change(rule.metric)
    if change.before.value is None or change.after.value is None:
        missing = change.before if change.before.value is None else change.after
        return RuleOutcome(rule, item.artefact, True, f"cannot be checked: {missing.reason}")
    failed = rule.fails(change.before.value, change.after.value)
    noise = f", {change.noise}" if change.noise == "within noise" else ""
    message = f"{change.before.value:.6g} to {change.after.value:.6g}, {percent_change(change.share)}{noise}"
    return RuleOutcome(rule, item.artefact, failed, message)


def percent_change(share: float | None) -> str:
    """`+5.2 %`; a dash where it is not known."""
    return "-" if share is None else f"{share * 100:+.1f} %"
