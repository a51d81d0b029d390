"""The figures of the report, as small panels that a phone can show one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.pipeline.report_data import FrontendExample, LearningCurve, Score, SizedKind, SizedResult
from edgeaudio.pipeline.report_stats import accuracy_interval
from edgeaudio.report.page import Panel
from edgeaudio.report.svg import MUTED, SERIES, SURFACE, figure_svg, new_figure, plot_style

_PANEL_IN = (4.6, 2.75)
_SIZES_IN = (5.2, 4.0)
#: Sizes that span more than this factor are drawn on a logarithmic axis.
_LOG_SPAN = 4.0
#: What a file is drawn as: its mark, whether that is filled, and the words of the key.
_SIZE_MARKS: dict[SizedKind, tuple[str, bool, str]] = {
    "fp32": ("o", False, "float file"),
    "int8": ("o", True, "int8 file"),
    "rival": ("^", True, "int8, other training"),
    "exits": ("D", True, "stages with exits"),
}
_MAX_POINTS = 150
_MAX_MEAN_POINTS = 80
_MAX_PANELS = 6
_TITLES = {
    "train_loss": "Training loss",
    "val_loss": "Held-out loss",
    "val_accuracy": "Held-out accuracy",
    "val_acc": "Held-out accuracy",
    "lr": "Learning rate",
}


def learning_curve_panels(curves: Sequence[LearningCurve]) -> tuple[list[Panel], list[str]]:
    """One panel per metric, one colour per arm: thin lines are folds, the thick line their mean.

    Returns:
        The panels, and the names of metrics that were left out above six.
    """
    metrics = sorted({name for curve in curves for name in curve.series}, key=_metric_order)
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    panels = []
    with plot_style():
        for number, metric in enumerate(metrics[:_MAX_PANELS]):
            figure = new_figure(*_PANEL_IN)
            axes = figure.subplots()
            for colour, arm in zip(_colours(len(arms)), arms, strict=True):
                runs = [curve.series[metric] for curve in curves if curve.arm == arm and metric in curve.series]
                if runs:
                    _draw_runs(axes, runs, colour, arm)
            axes.set_title(_title(metric))
            axes.set_xlabel("step")
            if len(arms) > 1:
                axes.legend()
            label = f"{_title(metric)} by step for {', '.join(arms)}"
            panels.append(Panel(figure_svg(figure, name=f"curve{number}", description=label)))
    return panels, metrics[_MAX_PANELS:]


def _title(metric: str) -> str:
    part = metric.removeprefix("train_")
    return _TITLES.get(metric) or (f"Training loss: {part}" if part != metric else metric)


def _metric_order(name: str) -> tuple[int, str]:
    first = ["train_loss", "val_loss", "val_accuracy", "val_acc"]
    return (first.index(name) if name in first else len(first) + name.startswith("train_"), name)


def _colours(n: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(n)]


def _draw_runs(
    axes: Any, runs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], colour: str, arm: str
) -> None:
    thinned = [_thin(*run) for run in runs]
    marker = "o" if all(len(steps) == 1 for steps, _ in thinned) else None
    if len(thinned) == 1:
        axes.plot(*thinned[0], color=colour, label=arm, marker=marker)
        return
    for steps, values in thinned:
        axes.plot(steps, values, color=colour, linewidth=0.9, alpha=0.35, marker=marker)
    # Only where every fold has been: a mean over fewer folds would jump where one ends.
    first, last = max(steps[0] for steps, _ in thinned), min(steps[-1] for steps, _ in thinned)
    grid = np.unique(np.concatenate([steps for steps, _ in thinned]))
    grid = grid[(grid >= first) & (grid <= last)]
    mean = np.mean([np.interp(grid, steps, values) for steps, values in thinned], axis=0)
    axes.plot(
        *_thin(grid, mean, _MAX_MEAN_POINTS), color=colour, linewidth=2.2, label=f"{arm} (mean of {len(thinned)})"
    )


def _thin(
    steps: NDArray[np.float64], values: NDArray[np.float64], most: int = _MAX_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over equal stretches, so that a long run does not make a heavy page."""
    if len(steps) <= most:
        return steps, values
    edges = np.linspace(0, len(steps), most + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(steps)))
    return np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts


def size_panels(sized: Sequence[SizedResult], teacher: Score | None) -> list[Panel]:
    """Accuracy against bytes, a colour per arm and a mark per kind of file; bars are 95 % Wilson intervals."""
    if not sized:
        return []
    arms = list(dict.fromkeys(item.arm for item in sized))
    with plot_style():
        figure = new_figure(*_SIZES_IN)
        axes = figure.subplots()
        for colour, arm in zip(_colours(len(arms)), arms, strict=True):
            for item in (item for item in sized if item.arm == arm):
                _draw_size(axes, item, colour)
        if teacher is not None:
            axes.axhline(100 * teacher.accuracy, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.margins(x=0.08, y=0.06)
        axes.set_title("Accuracy against bytes")
        axes.set_xlabel("size (KiB)")
        axes.set_ylabel("clips right (%)")
        _span_sizes(axes, sized)
        figure.legend(handles=_size_key(arms, sized, teacher), loc="outside lower center", ncols=3)
        label = f"Accuracy against bytes of {len(sized)} files of {', '.join(arms)}"
        return [Panel(figure_svg(figure, name="sizes", description=label), "Bars are 95 % Wilson intervals.")]


def _draw_size(axes: Any, item: SizedResult, colour: str) -> None:
    middle = 100 * item.score.accuracy
    low, high = (100 * edge for edge in accuracy_interval(item.score.n_correct, item.score.n_clips))
    marker, filled, _ = _SIZE_MARKS[item.kind]
    at_kib = item.size_bytes / 1024
    axes.plot([at_kib, at_kib], [low, high], color=colour, linewidth=1.1, alpha=0.45)
    axes.plot(
        at_kib, middle, marker, color=colour, markerfacecolor=colour if filled else SURFACE, markersize=6, zorder=3
    )


def _span_sizes(axes: Any, sized: Sequence[SizedResult]) -> None:
    """A logarithmic axis in plain numbers where sizes lie far apart."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    sizes = [item.size_bytes for item in sized]
    if max(sizes) > _LOG_SPAN * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _size_key(arms: Sequence[str], sized: Sequence[SizedResult], teacher: Score | None) -> list[Any]:
    from matplotlib.lines import Line2D

    key = [Line2D([], [], color=colour, label=arm) for colour, arm in zip(_colours(len(arms)), arms, strict=True)]
    for kind, (marker, filled, words) in _SIZE_MARKS.items():
        if any(item.kind == kind for item in sized):
            face = MUTED if filled else SURFACE
            key.append(Line2D([], [], linestyle="", marker=marker, color=MUTED, markerfacecolor=face, label=words))
    if teacher is not None:
        key.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="teacher"))
    return key


def frontend_panels(example: FrontendExample) -> list[Panel]:
    """The waveform and the log-mel picture of one clip, on one time scale."""
    duration_s = len(example.waveform) / example.sample_rate
    with plot_style():
        wave = new_figure(*_PANEL_IN)
        axes = wave.subplots()
        times_s, low, high = _envelope(example.waveform, example.sample_rate)
        axes.fill_between(times_s, low, high, color=SERIES[0], linewidth=0.6)
        axes.set_xlim(0, duration_s)
        axes.set_ylim(-1.02 * _peak(example.waveform), 1.02 * _peak(example.waveform))
        axes.set_title("Waveform")
        axes.set_xlabel("seconds")
        mel = new_figure(*_PANEL_IN)
        axes = mel.subplots()
        extent = (0, len(example.log_mel) * example.hop_s, 0, example.log_mel.shape[1])
        axes.imshow(example.log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", rasterized=True)
        axes.grid(False)
        axes.set_xlim(0, duration_s)
        axes.tick_params(color=MUTED)
        axes.set_title("Log-mel, as the student sees it")
        axes.set_xlabel("seconds")
        axes.set_ylabel("mel band")
        return [
            Panel(figure_svg(wave, name="waveform", description=f"Waveform of a clip of {example.label}")),
            Panel(figure_svg(mel, name="logmel", description=f"Log-mel spectrogram of a clip of {example.label}")),
        ]


def _peak(waveform: NDArray[np.float32]) -> float:
    return max(float(np.abs(waveform).max(initial=0.0)), 1e-3)


def _envelope(
    waveform: NDArray[np.float32], sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """Smallest and largest sample of each of up to 600 stretches."""
    edges = np.unique(np.linspace(0, len(waveform), min(600, len(waveform)) + 1).astype(int)[:-1])
    times_s = edges / sample_rate
    return times_s, np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)
