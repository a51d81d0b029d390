"""Latencies on a page: the table, where the time goes, and how the samples lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bench.metrics import own_hop_ms
from edgeaudio.bench.schema import ArtefactResult, BenchResult, Percentile, StageName
from edgeaudio.report.page import Panel
from edgeaudio.report.svg import INK, SERIES, figure_svg, new_figure, plain_log_ticks, plot_style
from edgeaudio.report.words import kib, milliseconds, ms_digits, plain

_PANEL_IN = (4.6, 3.0)
_BINS = 60
_STAGES: tuple[StageName, ...] = ("resample", "frontend", "inference", "decision")
_STAGE_WORDS = {"resample": "resample", "frontend": "front-end", "inference": "inference", "decision": "decision"}
#: As `.st-...` in page.css.
STAGE_COLOURS: Final[dict[StageName, str]] = {
    "resample": SERIES[3], "frontend": SERIES[0], "inference": SERIES[1], "decision": SERIES[2],
}  # fmt: skip


@dataclass(frozen=True)
class LatencyRow:
    """One artefact's latencies; `split` is `(stage, width in %, text)` of the medians."""

    artefact: str
    engine: str
    size: str
    p50: str
    interval: str
    p95: str
    p99: str
    longest: str
    rtf: str
    load: str
    verdict: str
    reasons: tuple[str, ...]
    split: tuple[tuple[str, float, str], ...]


def latency_rows(bench: BenchResult) -> tuple[LatencyRow, ...]:
    """All artefacts of the run; stage bars share one scale."""
    widest_us = max((_split_sum(item) for item in bench.artefacts), default=0.0)
    return tuple(_latency_row(item, bench, widest_us) for item in bench.artefacts)


def _medians(item: ArtefactResult) -> list[tuple[StageName, float]]:
    found = []
    for name in _STAGES:
        stage = item.stage(name)
        if stage and stage.summary and stage.summary.p50.value_us is not None:
            found.append((name, stage.summary.p50.value_us))
    return found


def _split_sum(item: ArtefactResult) -> float:
    return sum(value for _, value in _medians(item))


def _latency_row(item: ArtefactResult, bench: BenchResult, widest_us: float) -> LatencyRow:
    total = item.stage("total")
    summary = total.summary if total else None
    bounds = summary.p50_interval_us if summary else None
    engine = " ".join(item.engine_info.get(key, "") for key in ("library", "version")).strip() or item.engine
    hop_ms = own_hop_ms(item, bench)
    return LatencyRow(
        artefact=item.artefact,
        engine=engine if hop_ms is None else f"{engine}, every {hop_ms:g} ms",
        size=kib(item.size_bytes),
        p50=milliseconds(summary.p50.value_us) if summary else "–",
        interval=f"{ms_digits(bounds[0])} – {ms_digits(bounds[1])}" if bounds else "–",
        p95=_percentile(summary.p95) if summary else "–",
        p99=_percentile(summary.p99) if summary else "–",
        longest=milliseconds(summary.max_us) if summary else "–",
        rtf=f"{item.rtf_p50:.4f}" if item.rtf_p50 is not None else "–",
        load=f"{item.load_ms:.0f} ms" if item.load_ms is not None else "–",
        verdict=item.verdict.level,
        reasons=tuple(reason.message for reason in item.verdict.reasons),
        split=tuple(
            (_STAGE_WORDS[name], 100 * value / widest_us, f"{_STAGE_WORDS[name]} {ms_digits(value)}")
            for name, value in _medians(item)
        )
        if widest_us > 0
        else (),
    )


def _percentile(percentile: Percentile) -> str:
    return milliseconds(percentile.value_us) if percentile.value_us is not None else f"not given: {percentile.reason}"


def latency_panels(bench: BenchResult, prefix: str = "") -> list[Panel]:
    """One histogram per artefact: whole hops as a line, their stages filled, on one logarithmic axis for all.

    Args:
        prefix: of the ids inside, where a page shows several runs.
    """
    timed = [item for item in bench.artefacts if len(_samples_ms(item, "total"))]
    if not timed:
        return []
    stages: tuple[StageName, ...] = ("total", *_STAGES)
    everything = np.concatenate([_samples_ms(item, name) for item in timed for name in stages])
    # Samples are whole microseconds: a stage that took less than one has no place on a logarithmic axis.
    bins = np.geomspace(max(float(everything.min()), 1e-3) * 0.9, max(float(everything.max()), 2e-3) * 1.1, _BINS)
    panels = []
    with plot_style():
        for number, item in enumerate(timed):
            figure = new_figure(*_PANEL_IN)
            axes = figure.subplots()
            _draw_latency(axes, item, bins)
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5)
            name, caption = plain(item.artefact, 40), _latency_caption(item)
            label = f"Latency per hop of {name} and of its stages"
            panels.append(Panel(figure_svg(figure, name=f"{prefix}latency{number}", description=label), caption))
    return panels


def _samples_ms(item: ArtefactResult, name: StageName) -> NDArray[np.float64]:
    stage = item.stage(name)
    return np.asarray(stage.samples_us if stage else (), dtype=np.float64) / 1e3


def _draw_latency(axes: Any, item: ArtefactResult, bins: NDArray[np.float64]) -> None:
    for name in _STAGES:
        samples = _samples_ms(item, name)
        if len(samples):
            counts, _ = np.histogram(np.maximum(samples, bins[0]), bins)
            axes.stairs(counts, bins, fill=True, color=STAGE_COLOURS[name], alpha=0.6, label=_STAGE_WORDS[name])
    counts, _ = np.histogram(_samples_ms(item, "total"), bins)
    axes.stairs(counts, bins, color=INK, linewidth=1.3, label="whole hop")
    axes.set_xscale("log")
    axes.set_xlim(bins[0], bins[-1])
    plain_log_ticks(axes.xaxis, bins[-1] / bins[0])
    _mark_percentiles(axes, item)
    axes.grid(False, axis="x")
    axes.set_title(plain(item.artefact, 40))
    axes.set_xlabel("processing time per hop (ms)")
    axes.set_ylabel("hops")


def _mark_percentiles(axes: Any, item: ArtefactResult) -> None:
    dashed: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (3, 2))}
    known = [value_us for _, value_us in _percentiles_us(item)[:2] if value_us is not None]
    for value_us in known:
        axes.axvline(value_us / 1e3, **dashed)
    if known:
        axes.plot([], [], label="p50 and p95", **dashed)


def _percentiles_us(item: ArtefactResult) -> list[tuple[str, float | None]]:
    total = item.stage("total")
    summary = total.summary if total else None
    if summary is None:
        return []
    percentiles = (("p50", summary.p50.value_us), ("p95", summary.p95.value_us), ("p99", summary.p99.value_us))
    return [*percentiles, ("longest", summary.max_us)]


def _latency_caption(item: ArtefactResult) -> str:
    known = [f"{name} {ms_digits(value_us)}" for name, value_us in _percentiles_us(item) if value_us is not None]
    return f"{len(_samples_ms(item, 'total')):,} hops: {', '.join(known)} ms"
