"""`write_report`: one self-contained HTML page. No script, no request, readable on a phone and on paper.

The page is `report.html.j2` with `report.css`; `report_view` finds the words, `report_plots` the figures.
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
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from markupsafe import Markup

    here = resources.files("edgeaudio.pipeline")
    environment = Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": view.count, "kib": view.kib, "percent": view.percent}
    # Markup marks what was made here and holds no text of others unescaped: our style sheet and our figures.
    css = Markup(here.joinpath("report.css").read_text(encoding="utf-8"))
    template = environment.from_string(here.joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(data=data, css=css, **_context(data, Markup))


def _context(data: ReportData, trusted: Any) -> dict[str, Any]:
    from edgeaudio.pipeline.report_chain import chain_view
    from edgeaudio.pipeline.report_plots import (
        Panel,
        frontend_panels,
        latency_panels,
        learning_curve_panels,
        size_panels,
    )
    from edgeaudio.pipeline.report_sweep import sweep_panels, sweep_view

    def shown(panels: list[Panel]) -> list[dict[str, Any]]:
        return [{"svg": trusted(panel.svg), "caption": panel.caption} for panel in panels]

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
        "latency": view.latency_rows(data.bench) if data.bench else (),
        "latency_panels": shown(latency_panels(data.bench)) if data.bench else [],
        "frontend_panels": shown(frontend_panels(data.frontend_example)) if data.frontend_example else [],
        "sweep": sweep_view(data.sweep) if data.sweep else None,
        "sweep_panels": shown(sweep_panels(data.sweep)) if data.sweep else [],
        "skipped": skipped[: view.MAX_SKIPPED_SHOWN],
        "skipped_more": max(0, len(skipped) - view.MAX_SKIPPED_SHOWN),
        "environment_rows": view.environment_rows(data),
    }
