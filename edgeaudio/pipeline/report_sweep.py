"""The sweep in the report: its Pareto-optimal trials in words, and accuracy against each cost as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeaudio.pipeline.sweep_spec import Objective, SweepResult, SweepTrial
from edgeaudio.report.page import Panel
from edgeaudio.report.svg import INK, MUTED, SERIES, figure_svg, new_figure, plot_style
from edgeaudio.report.words import count, kib, percent

_PANEL_IN = (4.6, 2.95)
#: Numbers beside the points of the front help up to here; more would cover each other.
_MAX_NUMBERED = 12
#: A cost that spans more than this factor is drawn on a logarithmic axis.
_LOG_SPAN = 8.0

#: How the page shows an objective: its title, the unit on an axis, and what a value is divided by there.
_AXES: dict[Objective, tuple[str, str, float]] = {
    "accuracy": ("accuracy", "accuracy on the validation fold (%)", 0.01),
    "bytes": ("size", "int8 file (KiB)", 1024.0),
    "latency": ("latency", "median processing time per hop (ms)", 1.0),
    "macs": ("MACs", "MACs per window (thousands)", 1e3),
}


@dataclass(frozen=True)
class SweepView:
    """Rows of `(trial, figures, parameters as (field, value), command)`, and failures by reason."""

    lead: str
    objectives: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...], tuple[tuple[str, str], ...], str], ...]
    failures: tuple[tuple[int, str], ...]


def sweep_view(sweep: SweepResult) -> SweepView:
    """What the page says about a sweep."""
    folds = ", ".join(map(str, sweep.excluded_folds))
    n_right = len(sweep.trials) - len(sweep.failed)
    lead = (
        f"{n_right} of {len(sweep.trials)} trials came to a result. All were judged on fold {sweep.validation_fold}; "
        f"fold(s) {folds}, which the recipe is tested on, took no part."
    )
    return SweepView(
        lead=lead,
        objectives=tuple(_AXES[objective][0] for objective in sweep.objectives),
        rows=tuple((t.number, _figures(t), _parameters(t), t.command) for t in sweep.front),
        failures=tuple((t.number, t.reason or "") for t in sweep.failed if t.same_as is None),
    )


def _figures(trial: SweepTrial) -> tuple[str, ...]:
    forms: dict[Objective, Callable[[float], str]] = {
        "accuracy": percent,
        "bytes": lambda value: kib(int(value)),
        "latency": lambda value: f"{value:.3g} ms",
        "macs": lambda value: count(int(value)),
    }
    return tuple(forms[objective](value) for objective, value in trial.objectives.items())


def _parameters(trial: SweepTrial) -> tuple[tuple[str, str], ...]:
    pairs = trial.parameters.items()
    return tuple((field, f"{value:.4g}" if isinstance(value, float) else str(value)) for field, value in pairs)


def sweep_panels(sweep: SweepResult) -> list[Panel]:
    """The first objective against each other one; against the number of the trial when it is the only one."""
    done = [trial for trial in sweep.trials if trial.state == "complete"]
    if not done:
        return []
    height, *costs = sweep.objectives
    panels = []
    with plot_style():
        for number, cost in enumerate(costs or [None]):
            figure = new_figure(*_PANEL_IN)
            axes = figure.subplots()
            _draw(axes, done, cost, height)
            title = _AXES[cost][0] if cost else "trial"
            axes.set_title(f"{_AXES[height][0].capitalize()} by {title}")
            axes.set_xlabel(_AXES[cost][1] if cost else "trial")
            axes.set_ylabel(_AXES[height][1])
            front = ", ".join(str(trial.number) for trial in sweep.front)
            label = f"{_AXES[height][0]} against {title} of {len(done)} trials; Pareto-optimal are {front}"
            panels.append(Panel(figure_svg(figure, name=f"sweep{number}", description=label), _caption(sweep)))
    return panels


def _caption(sweep: SweepResult) -> str:
    if len(sweep.objectives) == 1:
        return "Filled: the best trials."
    among = "" if len(sweep.objectives) == 2 else f" in all {len(sweep.objectives)} objectives"
    return f"Filled and numbered: no other trial is better{among}."


def _draw(axes: Any, done: Sequence[SweepTrial], cost: Objective | None, height: Objective) -> None:
    front = [trial for trial in done if trial.pareto]
    others = [trial for trial in done if not trial.pareto]
    axes.scatter(*_points(others, cost, height), s=26, facecolors="none", edgecolors=MUTED, linewidths=1.1)
    axes.scatter(*_points(front, cost, height), s=34, color=SERIES[0], zorder=3)
    if len(front) <= _MAX_NUMBERED:
        for trial, x, y in zip(front, *_points(front, cost, height), strict=True):
            axes.annotate(str(trial.number), (x, y), xytext=(4, 4), textcoords="offset points", color=INK, fontsize=8.5)
    xs, _ = _points(done, cost, height)
    if cost and min(xs) > 0 and max(xs) > _LOG_SPAN * min(xs):
        axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)


def _points(trials: Sequence[SweepTrial], cost: Objective | None, height: Objective) -> tuple[list[float], list[float]]:
    xs = [trial.objectives[cost] / _AXES[cost][2] if cost else float(trial.number) for trial in trials]
    return xs, [trial.objectives[height] / _AXES[height][2] for trial in trials]
