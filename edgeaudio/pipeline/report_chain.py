"""The chain in the report: what each step from the teacher to a staged int8 file cost and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import WorkDirError
from edgeaudio.pipeline.arms import DISTILLED
from edgeaudio.pipeline.report_data import ChainResult, ChainRow, PairedComparison, Score, SizedKind, SizedResult
from edgeaudio.pipeline.report_stats import mcnemar_exact_p
from edgeaudio.pipeline.report_view import p_value
from edgeaudio.pipeline.summary import ArmResult, ArtefactResult, ChainStep, ExitResult, RunSummary
from edgeaudio.report.words import count, kib

FLOAT = "torch-fp32"

#: How the page calls the networks that a summary knows by a word.
_TITLES = {"trained": "trained, before cuts", "without-exits": "without exit heads"}

Trend = Literal["up", "down", ""]
_Item = TypeVar("_Item", ArtefactResult, ChainStep, ExitResult)


def chain_result(summary: RunSummary) -> ChainResult | None:
    """The distilled arm's steps over all folds, each with the row it is held against; None where a run had none.

    Costs that differ between folds are the largest; mean MACs are weighted by clips.

    Raises:
        WorkDirError: a fold lacks a step that the first one has.
    """
    arms = _arms(summary, DISTILLED)
    if not any(arm.chain or arm.exits for arm in arms):
        return None
    rows = [_teacher_row(summary)]
    floats = [step.name for step in arms[0].chain if step.size_bytes is None]
    for name in floats:
        steps = [_step(arm, name) for arm in arms]
        rows.append(_network_row(summary, steps, _TITLES.get(name, name), before=len(rows) - 1))
    shipped = _shipped_row(summary, arms, before=len(rows) - 1)
    rows.append(shipped)
    at = len(rows) - 1
    for name in (step.name for step in arms[0].chain if step.size_bytes is not None):
        rows.append(_network_row(summary, [_step(arm, name) for arm in arms], name, before=at))
    rows_of = {}
    for name in summary.artefact_names(DISTILLED):
        if name.endswith("-int8"):
            rows_of[name] = len(rows)
            rows.append(_int8_row(summary, arms, shipped, name, before=at))
    for name in (result.name for result in arms[0].exits):
        rows.append(_exits_row(summary, arms, shipped, name, before=rows_of.get(name, at)))
    return ChainResult(DISTILLED, summary.labels, _members(summary), tuple(rows))


def sized_results(summary: RunSummary) -> tuple[SizedResult, ...]:
    """Everything of every arm that has a file size: artefacts, int8 rivals, and the stages of early exits."""
    found = []
    for name in [arm.arm for arm in summary.folds[0].arms] if summary.folds else ():
        arms = _arms(summary, name)
        artefacts = [item.name for item in arms[0].artefacts if item.size_bytes is not None]
        for artefact in artefacts:
            items = [_artefact(arm, artefact) for arm in arms]
            found.append(_sized(summary, name, artefact, "int8" if artefact.endswith("-int8") else "fp32", items))
        for rival in (step.name for step in arms[0].chain if step.size_bytes is not None):
            found.append(_sized(summary, name, rival, "rival", [_step(arm, rival) for arm in arms]))
        for chain in (result.name for result in arms[0].exits):
            found.append(_sized(summary, name, f"{chain} with exits", "exits", [_exit(arm, chain) for arm in arms]))
    return tuple(found)


def _sized(
    summary: RunSummary,
    arm: str,
    name: str,
    kind: SizedKind,
    items: Sequence[ArtefactResult | ChainStep | ExitResult],
) -> SizedResult:
    score = Score(sum(item.n_correct for item in items), summary.n_clips)
    return SizedResult(arm.replace("-", " "), name, kind, score, max(item.size_bytes or 0 for item in items))


def _arms(summary: RunSummary, name: str) -> list[ArmResult]:
    """The arm of every fold.

    Raises:
        WorkDirError: a fold without it.
    """
    arms = []
    for fold in summary.folds:
        arm = fold.arm(name)
        if arm is None:
            raise _missing(f"arm {name!r} of fold {fold.fold}")
        arms.append(arm)
    return arms


def _artefact(arm: ArmResult, name: str) -> ArtefactResult:
    return _named(arm.artefacts, name, f"artefact {name!r} of arm {arm.arm!r}")


def _step(arm: ArmResult, name: str) -> ChainStep:
    return _named(arm.chain, name, f"step {name!r} of arm {arm.arm!r}")


def _exit(arm: ArmResult, name: str) -> ExitResult:
    return _named(arm.exits, name, f"exits of {name!r} of arm {arm.arm!r}")


def _named(items: Sequence[_Item], name: str, what: str) -> _Item:
    found = next((item for item in items if item.name == name), None)
    if found is None:
        raise _missing(what)
    return found


def _missing(what: str) -> WorkDirError:
    return WorkDirError(f"summary.json: {what} is missing in a fold. Run the recipe again; finished stages are kept.")


def _right(summary: RunSummary, per_fold: Sequence[tuple[int, ...]]) -> NDArray[np.bool_]:
    """`(clips,)` over all folds: whether the answer is one of the clip's labels."""
    answers = (zip(tops, fold.labels, strict=True) for tops, fold in zip(per_fold, summary.folds, strict=True))
    return np.array([top in labels for pairs in answers for top, labels in pairs], dtype=np.bool_)


def _members(summary: RunSummary) -> NDArray[np.bool_]:
    """`(clips, classes)`: a clip belongs to each of its labels."""
    rows = [labels for fold in summary.folds for labels in fold.labels]
    return np.array([[c in labels for c in range(len(summary.labels))] for labels in rows], dtype=np.bool_)


def _teacher_row(summary: RunSummary) -> ChainRow:
    name, predictions = f"teacher {summary.teacher}", [fold.teacher_predictions for fold in summary.folds]
    right = _right(summary, [tops for tops in predictions if tops]) if all(predictions) else None
    return ChainRow(name, Score(summary.teacher_correct, summary.n_clips), right, note="whole clips")


def _network_row(summary: RunSummary, steps: Sequence[ChainStep], title: str, *, before: int) -> ChainRow:
    right = _right(summary, [step.predictions for step in steps])
    sizes = [step.size_bytes for step in steps if step.size_bytes is not None]
    return ChainRow(
        title,
        Score(int(right.sum()), summary.n_clips),
        right,
        before=before,
        note="held against the shipped int8 files" if sizes else "",
        params=max(step.params for step in steps),
        mean_macs=max(step.macs_per_window for step in steps),
        size_bytes=max(sizes) if sizes else None,
    )


def _shipped_row(summary: RunSummary, arms: Sequence[ArmResult], *, before: int) -> ChainRow:
    right = _right(summary, [arm.predictions[FLOAT] for arm in arms])
    params, macs = shipped_cost(summary, DISTILLED)
    return ChainRow(
        "shipped network, float",
        Score(int(right.sum()), summary.n_clips),
        right,
        before=before,
        params=params,
        mean_macs=macs,
    )


def shipped_cost(summary: RunSummary, arm: str) -> tuple[int, int]:
    """(parameters, MACs per window) of an arm's shipped network, the largest of the folds.

    An older summary knows only those of the network that the recipe builds.
    """
    found = [result for fold in summary.folds if (result := fold.arm(arm)) is not None]
    params = [result.params for result in found if result.params is not None]
    macs = [result.macs_per_window for result in found if result.macs_per_window is not None]
    return max(params, default=summary.params), max(macs, default=summary.macs_per_window)


def _int8_row(summary: RunSummary, arms: Sequence[ArmResult], shipped: ChainRow, name: str, *, before: int) -> ChainRow:
    right = _right(summary, [arm.predictions[name] for arm in arms])
    return ChainRow(
        name,
        Score(int(right.sum()), summary.n_clips),
        right,
        before=before,
        params=shipped.params,
        mean_macs=shipped.mean_macs,
        size_bytes=_size(summary, name),
        size_before=_size(summary, name.replace("int8", "fp32")),
    )


def _exits_row(
    summary: RunSummary, arms: Sequence[ArmResult], shipped: ChainRow, name: str, *, before: int
) -> ChainRow:
    results = [_exit(arm, name) for arm in arms]
    right = _right(summary, [result.predictions for result in results])
    weights = [fold.n_clips for fold in summary.folds]
    return ChainRow(
        f"{name} with exits",
        Score(int(right.sum()), summary.n_clips),
        right,
        before=before,
        params=shipped.params,
        mean_macs=float(np.average([result.mean_macs for result in results], weights=weights)),
        worst_macs=max(result.worst_case_macs for result in results),
        size_bytes=max(result.size_bytes for result in results),
        size_before=_size(summary, name),
    )


def _size(summary: RunSummary, artefact: str) -> int | None:
    return max(summary.sizes(DISTILLED, artefact), default=None)


@dataclass(frozen=True)
class Figure:
    """A figure and its change against the row before, `−42.3 %`, empty where nothing is known or changed."""

    value: str
    change: str = ""
    note: str = ""


@dataclass(frozen=True)
class StepView:
    """One row of the table of steps. `change` counts clips, `flips` is `lost / won`."""

    name: str
    note: str
    against: str
    right: str
    change: str
    trend: Trend
    flips: str
    p: str
    params: Figure
    macs: Figure
    size: Figure


@dataclass(frozen=True)
class ClassView:
    """One class: its clips, and for each step `(right, change against the step before, trend)`."""

    label: str
    n_clips: int
    cells: tuple[tuple[int, str, Trend], ...]


@dataclass(frozen=True)
class ChainView:
    """Both tables; `columns` are the steps of the per-class table, which need answers per clip."""

    arm: str
    steps: tuple[StepView, ...]
    columns: tuple[tuple[str, str], ...]
    classes: tuple[ClassView, ...]
    several_labels: bool
    teacher_counted_only: bool


def chain_view(chain: ChainResult) -> ChainView:
    """What the page says about the chain."""
    known = [row for row in chain.rows if row.right is not None]
    return ChainView(
        arm=chain.arm,
        steps=tuple(_step_view(chain, row) for row in chain.rows),
        columns=tuple((row.name, _against(chain, row)) for row in known),
        classes=tuple(_class_view(chain, known, c) for c in np.flatnonzero(chain.members.any(axis=0)).tolist()),
        several_labels=bool((chain.members.sum(axis=1) > 1).any()),
        teacher_counted_only=chain.rows[0].right is None,
    )


def _before(chain: ChainResult, row: ChainRow) -> ChainRow | None:
    return None if row.before is None else chain.rows[row.before]


def _against(chain: ChainResult, row: ChainRow) -> str:
    before = _before(chain, row)
    return before.name if before and before.right is not None else ""


def _step_view(chain: ChainResult, row: ChainRow) -> StepView:
    before = _before(chain, row)
    pair = _pair(before, row)
    change = row.score.n_correct - before.score.n_correct if before else None
    size_before = row.size_before or (before.size_bytes if before else None)
    return StepView(
        name=row.name,
        note=row.note,
        against=before.name if before else "",
        right=f"{row.score.n_correct:,} of {row.score.n_clips:,}",
        change=_signed(change) if change is not None else "–",
        trend=_trend(change or 0),
        flips=f"{pair.only_a:,} / {pair.only_b:,}" if pair else "–",
        p=p_value(mcnemar_exact_p(pair.only_a, pair.only_b)) if pair else "–",
        params=Figure(count(row.params), _relative(row.params, before.params if before else None)),
        macs=Figure(
            count(round(row.mean_macs)) if row.mean_macs is not None else "–",
            _relative(row.mean_macs, before.mean_macs if before else None),
            f"mean; at worst {count(row.worst_macs)}" if row.worst_macs is not None else "",
        ),
        size=Figure(kib(row.size_bytes), _relative(row.size_bytes, size_before)),
    )


def _pair(before: ChainRow | None, row: ChainRow) -> PairedComparison | None:
    if before is None or before.right is None or row.right is None:
        return None
    return PairedComparison.from_correct(before.name, row.name, before.right, row.right)


def _class_view(chain: ChainResult, rows: Sequence[ChainRow], label: int) -> ClassView:
    members = chain.members[:, label]
    cells = []
    for row in rows:
        n_right, before = _count(row, members), _before(chain, row)
        if before is None or before.right is None:
            cells.append((n_right, "", _trend(0)))
        else:
            change = n_right - _count(before, members)
            cells.append((n_right, _signed(change) if change else "", _trend(change)))
    return ClassView(chain.labels[label], int(members.sum()), tuple(cells))


def _count(row: ChainRow, members: NDArray[np.bool_]) -> int:
    assert row.right is not None
    return int((row.right & members).sum())


def _signed(change: int) -> str:
    """`+3`, `−2`, `0`."""
    return f"{change:+,}".replace("-", "−") if change else "0"


def _trend(change: int) -> Trend:
    return "up" if change > 0 else "down" if change < 0 else ""


def _relative(after: float | None, before: float | None) -> str:
    """`−42.3 %` of the value before; empty for an unknown or unchanged one."""
    if after is None or not before or after == before:
        return ""
    return f"{(after / before - 1) * 100:+.1f} %".replace("-", "−")
