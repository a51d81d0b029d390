"""The page about one or many benchmark runs, and the same figures as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from edgeaudio.bench.csv_table import csv_text
from edgeaudio.bench.markdown import markdown_text
from edgeaudio.bench.schema import BenchResult
from edgeaudio.errors import ConfigError
from edgeaudio.report.bench_plots import pareto_panels, timeline_panels
from edgeaudio.report.bench_view import bench_view
from edgeaudio.report.latency import latency_panels
from edgeaudio.report.page import render_page, require_packages, shown
from edgeaudio.spec.fs import atomic_write


def write_bench_files(results: Sequence[BenchResult], outs: Sequence[Path]) -> list[Path]:
    """Write `results` to each of `outs`, in the form that its ending names; returns them.

    Raises:
        ConfigError: no results, or a file that ends in none of .html, .csv and .md; nothing is written then.
        UnsupportedError: the packages that pages need are not installed.
    """
    if not results:
        raise ConfigError("a report needs at least one result")
    unknown = [str(out) for out in outs if out.suffix.lower() not in _FORMS]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: wanted a file that ends in {', '.join(_FORMS)}")
    for out in outs:
        atomic_write(out, _FORMS[out.suffix.lower()](results).encode())
    return list(outs)


def render_bench_report(results: Sequence[BenchResult]) -> str:
    """The page as text. Equal results give equal text.

    Raises:
        UnsupportedError: the packages that pages need are not installed.
    """
    require_packages()
    panels = {
        f"run{n}": {
            "latency": shown(latency_panels(result, f"run{n}-")),
            "timeline": shown(timeline_panels(result, f"run{n}-")),
        }
        for n, result in enumerate(results)
    }
    template = resources.files("edgeaudio.report").joinpath("bench.html.j2")
    measured = [result for result in results if result.kind == "measured"]
    context = {"view": bench_view(results), "panels_of": panels, "pareto": shown(pareto_panels(measured)),
               "version": results[0].edgeaudio_version}  # fmt: skip
    return render_page(template, context)


#: Ending of a file -> what writes it.
_FORMS: Final[dict[str, Callable[[Sequence[BenchResult]], str]]] = {
    ".html": render_bench_report,
    ".csv": csv_text,
    ".md": markdown_text,
}
