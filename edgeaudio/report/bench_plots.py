"""The figures of a benchmark page besides histograms: hops over time with the board's state, and what pays for what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bench.board import BoardSample
from edgeaudio.bench.metrics import METRICS, own_hop_ms
from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.report.page import Panel
from edgeaudio.report.svg import INK, MUTED, SERIES, SURFACE, figure_svg, new_figure, plain_log_ticks, plot_style
from edgeaudio.report.words import plain

Float64 = NDArray[np.float64]

_TIMELINE_IN = (4.6, 3.7)
_PARETO_IN = (5.2, 4.0)
#: Points per artefact on a timeline: groups of hops, so that a long run does not make a heavy page.
_GROUPS = 120
#: Latencies that span more than this factor are drawn on a logarithmic axis.
_LOG_SPAN = 8.0
#: Names beside the points help up to here; more would cover each other.
_MAX_NAMED = 12
_HEAT, _CLOCK, _THROTTLED = SERIES[4], SERIES[5], SERIES[4]
_MARKS: Final = ("o", "s", "^", "D", "v", "P")


def timeline_panels(result: BenchResult, prefix: str = "") -> list[Panel]:
    """Hop latency of all artefacts over the run, above the board's temperature and clock on the same seconds."""
    timed = [item for item in result.artefacts if _total_ms(item).size]
    if not timed:
        return []
    with plot_style():
        figure = new_figure(*_TIMELINE_IN)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.1, 1))
        for number, item in enumerate(timed):
            _draw_hops(above, item, result, number)
        _draw_state(below, result.board.samples if result.board else ())
        for axes in (above, below):
            _shade_throttling(axes, result.board.samples if result.board else ())
        _finish(above, below, timed, result)
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        device = plain(result.environment.device, 40)
        label = f"Latency per hop over the run on {device}, with temperature and clock of the board"
        return [
            Panel(figure_svg(figure, name=f"{prefix}timeline", description=label), _timeline_caption(timed, result))
        ]


def _finish(above: Any, below: Any, timed: Sequence[ArtefactResult], result: BenchResult) -> None:
    values = np.concatenate([_total_ms(item) for item in timed])
    if values.max() > _LOG_SPAN * max(float(np.median(values)), 1e-3):
        above.set_yscale("log")
        plain_log_ticks(above.yaxis, float(values.max() / max(values.min(), 1e-3)))
    else:
        above.set_ylim(bottom=0)
    above.set_title("Hops over the run")
    above.set_ylabel("ms per hop")
    below.set_xlabel("seconds since the start of the run" if _clocked(result) else "hops, first to last")


def _timeline_caption(timed: Sequence[ArtefactResult], result: BenchResult) -> str:
    group = max(1, max(len(_total_ms(item)) for item in timed) // _GROUPS)
    caption = f"Lines are medians of {group} hops, dots the longest of them. " if group > 1 else ""
    if not _clocked(result):
        return f"{caption}The board was not watched, so hops are shown in their order."
    if not all(item.turns for item in timed):
        caption += "When each turn began was not kept: hops are spread evenly over the timed span. "
    flags = {flag for sample in _samples(result) for flag in sample.throttled_now or ()}
    return f"{caption}Shaded: {', '.join(sorted(flags))}." if flags else caption.strip()


def _samples(result: BenchResult) -> tuple[BoardSample, ...]:
    return result.board.samples if result.board else ()


def _clocked(result: BenchResult) -> bool:
    """Whether hops have a place in time."""
    return _span_of(result) is not None


def _span_of(result: BenchResult) -> tuple[float, float] | None:
    turns = [turn for item in result.artefacts for turn in item.turns]
    times = [sample.t_s for sample in _samples(result) if sample.phase == "during"]
    times += [turn.start_s for turn in turns] + [turn.end_s for turn in turns]
    return (min(times), max(times)) if len(set(times)) > 1 else None


def _hop_times_s(item: ArtefactResult, result: BenchResult, n: int) -> Float64:
    if item.turns and sum(turn.n_hops for turn in item.turns) == n:
        return np.concatenate(
            [np.linspace(turn.start_s, turn.end_s, turn.n_hops, endpoint=False) for turn in item.turns]
        )
    first, last = _span_of(result) or (0.0, float(n))
    return np.linspace(first, last, n)


def _total_ms(item: ArtefactResult) -> Float64:
    total = item.stage("total")
    return np.asarray(total.samples_us if total else (), dtype=np.float64) / 1e3


def _draw_hops(axes: Any, item: ArtefactResult, result: BenchResult, number: int) -> None:
    values_ms = _total_ms(item)
    times_s = _hop_times_s(item, result, len(values_ms))
    edges = np.unique(np.linspace(0, len(values_ms), min(_GROUPS, len(values_ms)) + 1).astype(int))
    groups = list(itertools.pairwise(edges))
    middle = [times_s[(start + end) // 2] for start, end in groups]
    colour, style = SERIES[number % len(SERIES)], ("-", (0, (4, 2)))[number // len(SERIES) % 2]
    medians = [float(np.median(values_ms[start:end])) for start, end in groups]
    axes.plot(middle, medians, color=colour, linestyle=style, linewidth=1.5, label=plain(item.artefact, 28))
    longest = [float(values_ms[start:end].max()) for start, end in groups]
    axes.plot(middle, longest, ".", color=colour, markersize=2.6, alpha=0.45)


def _draw_state(axes: Any, samples: Sequence[BoardSample]) -> None:
    heat = [(sample.t_s, max(sample.temperatures_c.values())) for sample in samples if sample.temperatures_c]
    clocks = [(sample.t_s, max(sample.frequencies_mhz)) for sample in samples if sample.frequencies_mhz]
    if heat:
        axes.tick_params(axis="y", labelcolor=_HEAT)
        axes.set_ylabel("°C", color=_HEAT)
        axes.plot(*zip(*heat, strict=True), color=_HEAT, marker=".", markersize=3)
        # So that a degree of noise does not look like a fire.
        low, high = min(t for _, t in heat), max(t for _, t in heat)
        axes.set_ylim(min(low, high - 10) - 2, max(high, low + 10) + 2)
    else:
        axes.set_yticks([])
    if clocks:
        twin = axes.twinx()
        twin.plot(*zip(*clocks, strict=True), color=_CLOCK, drawstyle="steps-post", linewidth=1.3)
        twin.set_ylim(0, max(mhz for _, mhz in clocks) * 1.15)
        twin.tick_params(axis="y", labelcolor=_CLOCK)
        twin.set_ylabel("MHz", color=_CLOCK)
        twin.grid(False)
    if not heat and not clocks:
        words = "temperature and clock are not known"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=9.5)


def _shade_throttling(axes: Any, samples: Sequence[BoardSample]) -> None:
    for sample, after in itertools.zip_longest(samples, samples[1:]):
        if sample.throttled_now:
            axes.axvspan(sample.t_s, after.t_s if after else sample.t_s + 1, color=_THROTTLED, alpha=0.15, linewidth=0)


def pareto_panels(results: Sequence[BenchResult]) -> list[Panel]:
    """Accuracy against median latency, a mark per file whose area grows with its bytes, a colour per run."""
    runs = [(result, [item for item in result.artefacts if _point(item, result)]) for result in results]
    runs = [(result, items) for result, items in runs if items]
    if not runs:
        return []
    largest = max(item.size_bytes for _, items in runs for item in items)
    with plot_style():
        figure = new_figure(*_PARETO_IN)
        axes = figure.subplots()
        for number, (result, items) in enumerate(runs):
            _draw_run(axes, result, items, number, largest)
        latencies_ms = [point[0] for result, items in runs for item in items if (point := _point(item, result))]
        _finish_pareto(axes, max(latencies_ms) / min(latencies_ms))
        if len(runs) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        n = sum(len(items) for _, items in runs)
        label = f"Accuracy against median latency of {n} files, sized by their bytes"
        caption = (
            "Filled and named: no other file of that run is as good in accuracy, latency and bytes and better in one. "
            f"Areas grow with bytes, up to {largest / 1024:.0f} KiB. Bars are 95 % Wilson intervals of accuracy."
        )
        if any(own_hop_ms(item, result) is not None for result, items in runs for item in items):
            caption += " Some answer more often than others, and do less each time: those are held against their like."
        return [Panel(figure_svg(figure, name="pareto", description=label), caption)]


def _point(item: ArtefactResult, result: BenchResult) -> tuple[float, float] | None:
    latency, accuracy = (METRICS[name].read(item, result).value for name in ("latency_ms_p50", "accuracy"))
    return None if latency is None or accuracy is None or latency <= 0 else (latency, accuracy)


def pareto_front(items: Sequence[ArtefactResult], result: BenchResult) -> list[ArtefactResult]:
    """Those that no other one that answers as often beats: at least as good in all three, and better in one."""
    costs = {}
    for index, item in enumerate(items):
        point = _point(item, result)
        if point is not None:
            costs[index] = (own_hop_ms(item, result), (point[0], -point[1], item.size_bytes))
    return [
        items[index]
        for index, (hop_ms, own) in costs.items()
        if not any(
            its_hop_ms == hop_ms and other != own and all(o <= m for o, m in zip(other, own, strict=True))
            for its_hop_ms, other in costs.values()
        )
    ]


def _draw_run(axes: Any, result: BenchResult, items: Sequence[ArtefactResult], number: int, largest_bytes: int) -> None:
    colour, mark = SERIES[number % len(SERIES)], _MARKS[number // len(SERIES) % len(_MARKS)]
    front = pareto_front(items, result)
    for item in items:
        latency_ms, accuracy = _point(item, result) or (0.0, 0.0)
        low, high = METRICS["accuracy"].read(item, result).interval or (accuracy, accuracy)
        axes.plot([latency_ms] * 2, [100 * low, 100 * high], color=colour, linewidth=1, alpha=0.4)
        on_front = item in front
        area = 22 + 150 * item.size_bytes / max(largest_bytes, 1)
        face = colour if on_front else SURFACE
        axes.scatter(latency_ms, 100 * accuracy, s=area, marker=mark, facecolors=face, edgecolors=colour, zorder=3)
        if on_front and len(front) <= _MAX_NAMED:
            axes.annotate(
                plain(item.artefact, 28), (latency_ms, 100 * accuracy), xytext=(6, 6), textcoords="offset points",
                color=INK, fontsize=8.5,
            )  # fmt: skip
    axes.plot([], [], mark, color=colour, label=plain(result.environment.device, 28))


def _finish_pareto(axes: Any, span: float) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.22, y=0.12)
    plain_log_ticks(axes.xaxis, span)
    axes.set_title("Accuracy, latency and size")
    axes.set_xlabel("median processing time per hop (ms)")
    axes.set_ylabel("clips right (%)")
