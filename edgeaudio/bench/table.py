"""A benchmark as text for a terminal of 80 columns. Plain characters, no colour: fit for a log or a mail."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from statistics import median

from edgeaudio.bench.board import BoardSample
from edgeaudio.bench.metrics import broken_off, fair_ratios, own_hop_ms, refusals
from edgeaudio.bench.schema import ArtefactResult, BenchResult, InstructionEstimate, Percentile, StageName, Summary
from edgeaudio.spec.text import printable

WIDTH = 80
_NONE = "-"
_STAGES: tuple[StageName, ...] = ("resample", "frontend", "inference", "decision")
_Row = tuple[str, ...]


def format_table(result: BenchResult, width: int = WIDTH) -> str:
    """The whole result: what ran where, latencies, stages, what else was measured, verdict with reasons."""
    blocks = [_head(result, width)]
    if result.kind == "estimated":
        blocks.append(_rows("estimated", _ESTIMATE_HEAD, _each(result, _estimate), width))
    else:
        blocks.append(_rows("per hop, ms", _LATENCY_HEAD, [_latency(item) for item in result.artefacts], width))
        blocks.append(_rows("medians, us", _STAGE_HEAD, [_stages(item) for item in result.artefacts], width))
        blocks.append(_rows("real-time pace, ms", _PACED_HEAD, _each(result, _paced), width))
        blocks.append(_rows("beyond the hop", *_filled(_BEYOND_HEAD, _each(result, _beyond)), width))
    blocks.append(_foot(result, width))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(result: BenchResult, width: int) -> str:
    device, board = result.environment.device, result.board.board if result.board else None
    threads = f"{result.threads} thread{'s' if result.threads != 1 else ''}"
    cores = f", {board.cores_logical} cores" if board and board.cores_logical else ""
    virtual = ", virtual machine" if board and board.virtualised else ""
    rate = f"{result.input_rate_hz} Hz"
    if result.input_rate_hz != result.model_rate_hz:
        rate += f" resampled to {result.model_rate_hz} Hz"
    frontend = " and ".join(sorted({item.engine_info.get("frontend", "") for item in result.artefacts} - {""}))
    name = "estimated, no device" if result.kind == "estimated" else board.name if board else "a board not looked at"
    lines = [
        f"{result.bundle_name} ({result.bundle_sha256[:12]}) on {device}: {name}{cores}{virtual}, {threads}",
        f"hop {result.hop_ms:g} ms, window {result.window_ms:g} ms, {rate}, hops {result.pacing}"
        + (f", log-mel by {frontend}" if frontend else ""),
        *_states(result),
    ]
    return "\n".join(_wrap(line, width) for line in lines)


def _states(result: BenchResult) -> list[str]:
    """The state of the board from its first sample to its last, in one line."""
    samples = result.board.samples if result.board else ()
    if not samples:
        return []
    governors = sorted({governor for sample in samples for governor in sample.governors})
    clocks = [max(sample.frequencies_mhz) for sample in samples if sample.frequencies_mhz]
    heat = [max(sample.temperatures_c.values()) for sample in samples if sample.temperatures_c]
    known = [
        f"governor {' and '.join(governors)}" if governors else "",
        f"clock {_span(clocks)} MHz" if clocks else "",
        f"{_span(heat)} degrees" if heat else "",
        _throttling(samples),
    ]
    return [", ".join(phrase for phrase in known if phrase)]


def _throttling(samples: Sequence[BoardSample]) -> str:
    told = [sample.throttled_now for sample in samples if sample.throttled_now is not None]
    flags = sorted({flag for flags in told for flag in flags})
    return ", ".join(flags) or ("not throttled" if told else "throttling not told")


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


_LATENCY_HEAD = ("p50", "95 % of p50", "p95", "p99", "max", "rtf", "hops", "verdict")
_STAGE_HEAD = ("resample", "front-end", "inference", "decision", "load ms", "KiB")
_PACED_HEAD = ("p50", "p95", "p99", "max", "taken up", "late")
_BEYOND_HEAD = ("clips right", "to event ms", "heard", "cold ms", "MiB", "mJ")
_ESTIMATE_HEAD = ("M instructions", "spread", "IPC", "MHz", "ms", "clips right")


def _each(result: BenchResult, row: Callable[[ArtefactResult], _Row | None]) -> list[_Row]:
    return [cells for item in result.artefacts if (cells := row(item)) is not None]


def _latency(item: ArtefactResult) -> _Row:
    summary = _summary(item, "total")
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


def _stages(item: ArtefactResult) -> _Row:
    summaries = [_summary(item, name) for name in _STAGES]
    medians = [summary.p50.value_us if summary else None for summary in summaries]
    load = _NONE if item.load_ms is None else f"{item.load_ms:.1f}"
    cells = [_NONE if known is None else f"{known:.1f}" for known in medians]
    return (item.artefact, *cells, load, f"{item.size_bytes / 1024:.1f}")


def _paced(item: ArtefactResult) -> _Row | None:
    if item.paced is None:
        return None
    summaries = {stage.name: stage.summary for stage in item.paced.stages}
    total, wait = summaries.get("total"), summaries.get("wait")
    times = (_ms(total.p50), _ms(total.p95), _ms(total.p99), f"{total.max_us / 1e3:.2f}") if total else (_NONE,) * 4
    late = f"{item.paced.deadline_misses} of {item.paced.n_hops}"
    return (item.artefact, *times, _ms(wait.p50) if wait else _NONE, late)


def _beyond(item: ArtefactResult) -> _Row | None:
    sound, cold, energy = item.sound_to_event, item.cold_start, item.energy
    starts = cold.to_first_answer_ms if cold else ()
    cells = (
        _clips(item),
        _ms(sound.summary.p50) if sound and sound.summary else _NONE,
        f"{sound.n_heard} of {sound.n_sounds}" if sound else _NONE,
        f"{median(starts):.0f}" if starts else _NONE,
        f"{cold.peak_rss_bytes / 2**20:.1f}" if cold else _NONE,
        f"{energy.per_inference_mj:.3g}" if energy and energy.per_inference_mj is not None else _NONE,
    )
    return None if set(cells) == {_NONE} else (item.artefact, *cells)


def _clips(item: ArtefactResult) -> str:
    return f"{item.accuracy.n_correct} of {item.accuracy.n_clips}" if item.accuracy else _NONE


def _estimate(item: ArtefactResult) -> _Row | None:
    estimate: InstructionEstimate | None = item.estimate
    if estimate is None:
        return None
    return (
        item.artefact,
        f"{estimate.instructions_per_inference / 1e6:.3f}",
        f"{estimate.spread_share:.2%}",
        f"{estimate.ipc[0]:g}-{estimate.ipc[1]:g}",
        f"{estimate.clock_mhz:g}",
        f"{estimate.latency_ms[0]:.3g}-{estimate.latency_ms[1]:.3g}",
        _clips(item),
    )


def _summary(item: ArtefactResult, name: StageName) -> Summary | None:
    stage = item.stage(name)
    return stage.summary if stage else None


def _ms(percentile: Percentile) -> str:
    return _NONE if percentile.value_us is None else f"{percentile.value_us / 1e3:.3f}"


def _filled(head: _Row, rows: Sequence[_Row]) -> tuple[_Row, list[_Row]]:
    """Without the columns that hold nothing."""
    kept = [0, *(n for n in range(1, len(head) + 1) if any(row[n] != _NONE for row in rows))]
    return tuple(head[n - 1] for n in kept[1:]), [tuple(row[n] for n in kept) for row in rows]


def _rows(corner: str, head: Sequence[str], rows: Sequence[_Row], width: int) -> str:
    """Columns two spaces apart; where names are too long for that, each stands above its figures. Empty: nothing."""
    if not rows:
        return ""
    table = [(corner, *head), *((printable(row[0], width), *row[1:]) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    above = sum(widths) + 2 * len(head) > width
    if above:
        widths[0] = min(len(corner), width - sum(widths[1:]) - 2 * len(head))
    lines = []
    for row in table:
        name, cells = row[0], [cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True)]
        if above and row is not table[0]:
            lines.append(name)
            name = ""
        lines.append("  ".join([name[: widths[0]].ljust(widths[0]), *cells]).rstrip())
    ruler = "-" * (sum(widths) + 2 * len(head))
    return "\n".join([lines[0], ruler, *lines[1:]])


def _foot(result: BenchResult, width: int) -> str:
    lines = [] if result.kind == "estimated" else [_process(result)]
    bases = ((item.estimate.cpu, item.estimate.calibrated_on) for item in result.artefacts if item.estimate)
    lines += [
        f"counted on an emulated {cpu}; IPC {f'measured on {board}' if board else 'assumed'}; ms of inference"
        for cpu, board in dict.fromkeys(bases)
    ]
    lines += _ratio_lines(result)
    lines += [f"{item.artefact} answered {_exits(item)}" for item in result.artefacts if item.exits]
    often = ((item.artefact, own_hop_ms(item, result)) for item in result.artefacts)
    lines += [f"{artefact} answers every {hop_ms:g} ms" for artefact, hop_ms in often if hop_ms is not None]
    lines += [f"{item.artefact} not run: {item.reason}" for item in result.not_run]
    lines += broken_off(result)
    notes = ((item.artefact, item.engine_info.get("note")) for item in result.artefacts)
    lines += [f"{artefact}: {note}." for artefact, note in notes if note]
    lines += [f"{item.artefact}: {text}" for item in result.artefacts for text in refusals(item)]
    for item in result.artefacts:
        reasons = "; ".join(reason.message for reason in item.verdict.reasons)
        lines += [f"{item.artefact} is {item.verdict.level}: {reasons}."] if reasons else []
    lines += [f"the run broke off: {result.incomplete}"] if result.incomplete is not None else []
    lines.append(f"verdict: {result.verdict.level}")
    return "\n".join(_wrap(line, width) for line in lines)


def _process(result: BenchResult) -> str:
    load = f" Load average {result.board.load_text()}." if result.board and result.board.samples else ""
    return (
        f"peak memory {result.peak_rss_bytes / 2**20:.1f} MiB, whole process. Harness overhead "
        f"{result.overhead.p50_us:.2f} us per hop, not subtracted. Garbage collector: {result.gc_note}.{load}"
    )


def _exits(item: ArtefactResult) -> str:
    places = [f"at exit {share.exit}" for share in item.exits[:-1]] + ["at the end"]
    return ", ".join(f"{share.share:.0%} {place}" for share, place in zip(item.exits, places, strict=True))


def _ratio_lines(result: BenchResult) -> list[str]:
    """`inference against onnx-fp32: onnx-int8 0.52 (0.51-0.53), ...`"""
    by_base: dict[tuple[str, str], list[str]] = {}
    for ratio in fair_ratios(result):
        bounds = f" ({ratio.interval[0]:.2f}-{ratio.interval[1]:.2f})" if ratio.interval else ""
        stage = f"{ratio.stage} per second of sound" if ratio.per == "second" else ratio.stage
        by_base.setdefault((stage, ratio.baseline), []).append(f"{ratio.artefact} {ratio.value:.2f}{bounds}")
    return [f"{stage} against {baseline}: {', '.join(found)}" for (stage, baseline), found in by_base.items()]


def _wrap(line: str, width: int) -> str:
    return textwrap.fill(printable(line), width, subsequent_indent="  ")
