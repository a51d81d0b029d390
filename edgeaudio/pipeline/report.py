"""`write_report`: one self-contained HTML page. No script, no request, readable on a phone and on paper.

The page is `report.html.j2` in the frame of `edgeaudio.report`; `report_view` finds the words, `report_plots` the
figures.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from edgeaudio.bench.schema import BenchResult
from edgeaudio.pipeline import report_view as view
from edgeaudio.pipeline.report_data import (
    Confusion,
    FrontendExample,
    LabelStoreInfo,
    LearningCurve,
    ModelResult,
    PairedComparison,
    ReportData,
    Score,
)
from edgeaudio.pipeline.report_stats import accuracy_interval
from edgeaudio.report.latency import latency_panels, latency_rows
from edgeaudio.report.page import render_page, shown
from edgeaudio.spec.fs import atomic_write

__all__ = [
    "BenchResult",
    "Confusion",
    "FrontendExample",
    "LabelStoreInfo",
    "LearningCurve",
    "ModelResult",
    "PairedComparison",
    "ReportData",
    "Score",
    "accuracy_interval",
    "render_report",
    "write_report",
]


def write_report(data: ReportData, out: Path) -> None:
    """Render `data` and write the page to `out`; a reader sees the old page or the whole new one."""
    atomic_write(out, render_report(data).encode())


def render_report(data: ReportData) -> str:
    """The page as text. Equal data give equal text."""
    template = resources.files("edgeaudio.pipeline").joinpath("report.html.j2")
    return render_page(template, {"data": data, **_context(data)})


def _context(data: ReportData) -> dict[str, Any]:
    from edgeaudio.pipeline.report_chain import chain_view
    from edgeaudio.pipeline.report_plots import frontend_panels, learning_curve_panels, size_panels
    from edgeaudio.pipeline.report_sweep import sweep_panels, sweep_view

    rows, folds, axis = view.model_rows(data)
    curves, left_out = learning_curve_panels(data.curves)
    teacher = next((model.pooled for model in data.models if model.role == "teacher"), None)
    skipped = data.label_store.skipped if data.label_store else ()
    return {
        "tiles": view.tiles(data),
        "rows": rows,
        "folds": folds,
        "axis": axis,
        "size_panels": shown(size_panels(data.sized, teacher)),
        "chain": chain_view(data.chain) if data.chain else None,
        "pairs": view.paired_views(data.comparisons),
        "curve_panels": shown(curves),
        "curves_left_out": left_out,
        "confusion": view.confusion_view(data.confusion) if data.confusion else None,
        "latency": latency_rows(data.bench) if data.bench else (),
        "latency_panels": shown(latency_panels(data.bench)) if data.bench else [],
        "frontend_panels": shown(frontend_panels(data.frontend_example)) if data.frontend_example else [],
        "sweep": sweep_view(data.sweep) if data.sweep else None,
        "sweep_panels": shown(sweep_panels(data.sweep)) if data.sweep else [],
        "skipped": skipped[: view.MAX_SKIPPED_SHOWN],
        "skipped_more": max(0, len(skipped) - view.MAX_SKIPPED_SHOWN),
        "environment_rows": view.environment_rows(data),
    }
