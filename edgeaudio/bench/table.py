"""A benchmark as text for a terminal of 80 columns. Plain characters, no colour: fit for a log or a mail."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgeaudio.bench.schema import ArtefactResult, BenchResult, Percentile, StageName

WIDTH = 80
_NONE = "-"
_STAGES: tuple[tuple[StageName, str], ...] = (
    ("resample", "resample"),
    ("frontend", "front-end"),
    ("inference", "inference"),
    ("decision", "decision"),
)


def format_table(result: BenchResult, width: int = WIDTH) -> str:
    """The whole result: what ran where, latencies, stages, footprint, verdict with reasons."""
    blocks = [
        _head(result, width),
        _rows("per hop, ms", _LATENCY_HEAD, [_latency(item) for item in result.artefacts]),
        _rows("medians, us", _STAGE_HEAD, [_stages(item) for item in result.artefacts]),
        _foot(result, width),
    ]
    return "\n\n".join(blocks) + "\n"


def _head(result: BenchResult, width: int) -> str:
    board = result.known_board.board
    threads = f"{result.threads} thread{'s' if result.threads != 1 else ''}"
    virtual = ", virtual machine" if board.virtualised else ""
    rate = f"{result.input_rate_hz} Hz"
    if result.input_rate_hz != result.model_rate_hz:
        rate += f" resampled to {result.model_rate_hz} Hz"
    # Records older than the native front-end do not name it.
    frontend = " and ".join(sorted({item.engine_info.get("frontend", "numpy") for item in result.artefacts}))
    lines = [
        f"{result.bundle_name} ({result.bundle_sha256[:12]}) on {result.environment.device}: "
        f"{board.name}, {board.cores_logical or 'unknown'} cores{virtual}, {threads}",
        f"hop {result.hop_ms:g} ms, window {result.window_ms:g} ms, {rate}, hops {result.pacing}, "
        f"log-mel by {frontend}",
    ]
    return "\n".join(_wrap(line, width, "  ") for line in lines)


_LATENCY_HEAD = ("p50", "95 % of p50", "p95", "p99", "max", "rtf", "hops", "verdict")
_STAGE_HEAD = ("resample", "front-end", "inference", "decision", "load ms", "KiB")


def _latency(item: ArtefactResult) -> tuple[str, ...]:
    total = item.stage("total")
    summary = total.summary if total else None
    if summary is None:
        return (item.artefact, *[_NONE] * 6, str(item.n_hops), item.verdict.level)
    bounds = summary.p50_interval_us
    return (
        item.artefact,
        _ms(summary.p50),
        f"{bounds[0] / 1e3:.3f}-{bounds[1] / 1e3:.3f}" if bounds else _NONE,
        _ms(summary.p95),
        _ms(summary.p99),
        f"{summary.max_us / 1e3:.2f}",
        f"{item.rtf_p50:.4f}" if item.rtf_p50 is not None else _NONE,
        str(item.n_hops),
        item.verdict.level,
    )


def _ms(percentile: Percentile) -> str:
    return _NONE if percentile.value_us is None else f"{percentile.value_us / 1e3:.3f}"


def _stages(item: ArtefactResult) -> tuple[str, ...]:
    medians = []
    for name, _ in _STAGES:
        stage = item.stage(name)
        known = stage.summary.p50.value_us if stage and stage.summary else None
        medians.append(_NONE if known is None else f"{known:.1f}")
    load = _NONE if item.load_ms is None else f"{item.load_ms:.1f}"
    return (item.artefact, *medians, load, f"{item.size_bytes / 1024:.1f}")


def _rows(corner: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [(corner, *head), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _foot(result: BenchResult, width: int) -> str:
    lines = [
        f"peak memory {result.peak_rss_bytes / 2**20:.1f} MiB, whole process. Harness overhead "
        f"{result.overhead.p50_us:.2f} us per hop, not subtracted. Garbage collector: {result.gc_note}. "
        f"Load average {result.known_board.load_text()}."
    ]
    lines += [f"{item.artefact} not run: {item.reason}" for item in result.not_run]
    notes = ((item.artefact, item.engine_info.get("note")) for item in result.artefacts)
    lines += [f"{artefact}: {note}." for artefact, note in notes if note]
    lines += [f"{item.artefact}: {text}" for item in result.artefacts for text in _refusals(item)]
    for item in result.artefacts:
        reasons = "; ".join(reason.message for reason in item.verdict.reasons)
        lines += [f"{item.artefact} is {item.verdict.level}: {reasons}."] if reasons else []
    lines.append(f"verdict: {result.verdict.level}")
    return "\n".join(_wrap(line, width, "  ") for line in lines)


def _refusals(item: ArtefactResult) -> list[str]:
    """Why a percentile has a dash."""
    total = item.stage("total")
    if total is None or total.summary is None:
        return []
    summary = total.summary
    reasons = [percentile.reason for percentile in (summary.p50, summary.p95, summary.p99)]
    return [reason for reason in reasons if reason]


def _wrap(line: str, width: int, indent: str) -> str:
    return textwrap.fill(line, width, subsequent_indent=indent)
