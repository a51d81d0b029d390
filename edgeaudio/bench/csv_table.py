"""Results as CSV: one row per artefact and run, one column per figure. For spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from edgeaudio.bench.metrics import METRICS, Metric
from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.spec.text import printable

_Cell = str | float | int | None
#: A spreadsheet takes text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class Column:
    """One column; `words` say what is in it."""

    name: str
    words: str
    read: Callable[[ArtefactResult, BenchResult], _Cell]


def csv_text(results: Iterable[BenchResult]) -> str:
    """All artefacts of all `results` under one header, a line each. What is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        for item in result.artefacts:
            writer.writerow([_plain(column.read(item, result)) for column in COLUMNS.values()])
    return out.getvalue()


def _plain(value: _Cell) -> str:
    if isinstance(value, str):
        shown = printable(value)
        return f"'{shown}" if shown.startswith(_FORMULA) else shown
    return "" if value is None else str(int(value)) if float(value).is_integer() else repr(value)


def _info(*keys: str) -> Callable[[ArtefactResult, BenchResult], _Cell]:
    return lambda item, result: next((item.engine_info[key] for key in keys if key in item.engine_info), None)


def _board(item: ArtefactResult, result: BenchResult) -> _Cell:
    return result.board.board.name if result.board else None


def _governor(item: ArtefactResult, result: BenchResult) -> _Cell:
    samples = result.board.samples if result.board else ()
    return " ".join(sorted({governor for sample in samples for governor in sample.governors})) or None


def _reasons(item: ArtefactResult, result: BenchResult) -> _Cell:
    return " ".join(reason.code for reason in item.verdict.reasons)


def _interval(metric: Metric, end: int) -> Callable[[ArtefactResult, BenchResult], _Cell]:
    def read(item: ArtefactResult, result: BenchResult) -> _Cell:
        interval = metric.read(item, result).interval
        return interval[end] if interval else None

    return read


def _value(metric: Metric) -> Callable[[ArtefactResult, BenchResult], _Cell]:
    return lambda item, result: metric.read(item, result).value


def _all_columns() -> Iterable[Column]:
    yield Column("run_id", "the run", lambda item, result: result.run_id)
    yield Column("started_at", "UTC, ISO 8601", lambda item, result: result.started_at)
    yield Column("kind", "measured, or estimated: counted on an emulated processor", lambda item, result: result.kind)
    yield Column("incomplete", "why the run broke off; empty: it did not", lambda item, result: result.incomplete)
    yield Column("device", "name in devices.yaml, or local", lambda item, result: result.environment.device)
    yield Column("board", "model of the board, else its processor", _board)
    yield Column("governor", "all that were seen", _governor)
    yield Column("bundle_name", "the bundle", lambda item, result: result.bundle_name)
    yield Column("bundle_sha256", "its digest", lambda item, result: result.bundle_sha256)
    yield Column("edgeaudio_version", "of the device's side", lambda item, result: result.edgeaudio_version)
    yield Column("threads", "of the engine", lambda item, result: result.threads)
    yield Column("artefact", "such as onnx-int8", lambda item, result: item.artefact)
    yield Column("form", "windowed, stateful, exits, stateful-exits or foreign", lambda item, result: item.form)
    yield Column("engine", "what ran it", lambda item, result: item.engine)
    yield Column("library", "of the engine", _info("library"))
    yield Column("library_version", "of that library", _info("version"))
    yield Column("provider", "provider or delegate that took the graph", _info("provider", "delegate"))
    yield Column("frontend", "what computed log-mel: native or numpy", _info("frontend"))
    yield Column("precision", "fp32 or int8", lambda item, result: item.precision)
    yield Column("sha256", "of the model file", lambda item, result: item.sha256)
    yield Column("verdict", "valid, suspect or invalid", lambda item, result: item.verdict.level)
    yield Column("reasons", "codes, separated by spaces", _reasons)
    yield Column("hop_ms", "how often it answers", lambda item, result: item.hop_ms or result.hop_ms)
    yield Column("n_hops", "hops that were timed", lambda item, result: item.n_hops)
    yield Column("timed_s", "seconds over which they were timed", lambda item, result: item.timed_s)
    yield Column("drift_share", "last third over first third, minus 1", lambda item, result: item.drift_share)
    for metric in METRICS.values():
        yield Column(metric.name, metric.words, _value(metric))
        if metric.name in _WITH_INTERVAL:
            yield Column(f"{metric.name}_low", "lower end of its 95 % interval", _interval(metric, 0))
            yield Column(f"{metric.name}_high", "upper end of its 95 % interval", _interval(metric, 1))


_WITH_INTERVAL: Final = ("latency_ms_p50", "latency_ms_p95", "inference_ms_p50", "accuracy")
#: Column name -> column, in order.
COLUMNS: Final[dict[str, Column]] = {column.name: column for column in _all_columns()}
