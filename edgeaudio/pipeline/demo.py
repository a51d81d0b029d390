"""`edgeaudio demo`: the whole pipeline on the built-in dataset, then a benchmark and the report."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.local import LocalDevice
from edgeaudio.bench.schema import BenchOptions, BenchResult, write_result
from edgeaudio.bundle import Bundle
from edgeaudio.pipeline.arms import DISTILLED
from edgeaudio.pipeline.config import load_config
from edgeaudio.pipeline.prepare import Progress
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.report_build import BENCH_FILE, write_run_report
from edgeaudio.pipeline.run import run_recipe
from edgeaudio.pipeline.summary import RunSummary

# Enough hops for a p99; a demo need not be measured for longer.
DEMO_BENCH = BenchOptions(min_hops=300, min_seconds=1.0)


@dataclass(frozen=True)
class DemoResult:
    """What the demo made; paths are below the work directory."""

    summary: RunSummary
    bench: BenchResult
    bundle: Path
    report: Path


def demo_recipe() -> Recipe:
    """The recipe that ships with the package."""
    with resources.as_file(resources.files("edgeaudio.pipeline") / "demo.yaml") as path:
        return load_config(path, Recipe)


def run_demo(work: Path, *, progress: Progress, progress_bar: bool = False) -> DemoResult:
    """Run, benchmark, report; errors are those of `run_recipe`."""
    summary = run_recipe(demo_recipe(), work, progress=progress, progress_bar=progress_bar)
    arm = summary.folds[0].arm(DISTILLED)
    assert arm is not None
    bundle = work / arm.bundle
    progress("benchmark", 0, 1)
    bench: BenchResult = LocalDevice().bench(BenchJob(Bundle.read(bundle), options=DEMO_BENCH))
    write_result(bench, work / BENCH_FILE)
    progress("benchmark", 1, 1)
    report = write_run_report(work, work / "report.html")
    return DemoResult(summary, bench, bundle, report)
