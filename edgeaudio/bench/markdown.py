"""Results as Markdown: what a person pastes into an issue or a README. The command and the verdict stand beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from edgeaudio.bench.metrics import METRICS, Figure, broken_off, own_hop_ms
from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.spec.text import printable

_SPECIAL = re.compile(r"([\\`*\[\]|])")
_NONE = "–"
_HEAD = ("artefact", "p50 ms", "95 % interval", "p95 ms", "p99 ms", "rtf", "KiB", "clips right", "verdict")
_ESTIMATE_HEAD = (
    "artefact", "processor", "M instructions", "spread", "assumed IPC", "MHz", "estimated ms", "clips right", "verdict",
)  # fmt: skip


def markdown_text(results: Iterable[BenchResult]) -> str:
    """One section per run; estimates say in their heading that no device was used."""
    return "\n".join(_section(result) for result in results)


def escaped(text: str) -> str:
    """`text` as Markdown that shows it and does nothing else: one line, no markup, no HTML."""
    return _SPECIAL.sub(r"\\\1", html.escape(printable(text), quote=False))


def _section(result: BenchResult) -> str:
    device = escaped(result.environment.device)
    board = escaped(result.board.board.name) if result.board else "board not probed"
    estimated = result.kind == "estimated"
    where = f"{device}: estimated, no device" if estimated else f"{device} ({board})"
    lines = [
        f"## {escaped(result.bundle_name)} on {where}",
        "",
        f"Run {escaped(result.run_id)}, {escaped(result.started_at)}, edgeaudio {escaped(result.edgeaudio_version)}, "
        f"bundle `{result.bundle_sha256[:12]}`, {result.threads} thread{'s' if result.threads > 1 else ''}, "
        f"hop {result.hop_ms:g} ms. Verdict: **{result.verdict.level}**.",
        "",
    ]
    if result.incomplete is not None:
        lines += [f"**The run broke off: {escaped(result.incomplete)}. These figures must not be used.**", ""]
    rows = [_estimate(item) if estimated else _row(item, result) for item in result.artefacts]
    lines += _table(_ESTIMATE_HEAD if estimated else _HEAD, rows)
    lines += ["", *_notes(result)] if _notes(result) else []
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---", *["---:"] * (len(head) - 2), "---"]
    return [f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows)]


def _row(item: ArtefactResult, result: BenchResult) -> tuple[str, ...]:
    def figure(name: str) -> Figure:
        return METRICS[name].read(item, result)

    interval = figure("latency_ms_p50").interval
    return (
        escaped(item.artefact),
        _number(figure("latency_ms_p50"), ".3f"),
        f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else _NONE,
        _number(figure("latency_ms_p95"), ".3f"),
        _number(figure("latency_ms_p99"), ".3f"),
        _number(figure("rtf_p50"), ".4f"),
        f"{item.size_bytes / 1024:.1f}",
        _clips(item),
        item.verdict.level,
    )


def _clips(item: ArtefactResult) -> str:
    return f"{item.accuracy.n_correct} of {item.accuracy.n_clips}" if item.accuracy else _NONE


def _estimate(item: ArtefactResult) -> tuple[str, ...]:
    estimate = item.estimate
    if estimate is None:
        return (escaped(item.artefact), *[_NONE] * 7, item.verdict.level)
    calibrated = f", calibrated on {escaped(estimate.calibrated_on)}" if estimate.calibrated_on else ""
    return (
        escaped(item.artefact),
        escaped(estimate.cpu),
        f"{estimate.instructions_per_inference / 1e6:.3f}",
        f"{estimate.spread_share:.3%}",
        f"{estimate.ipc[0]:g}–{estimate.ipc[1]:g}{calibrated}",
        f"{estimate.clock_mhz:g}",
        f"{estimate.latency_ms[0]:.3g}–{estimate.latency_ms[1]:.3g}",
        _clips(item),
        item.verdict.level,
    )


def _number(figure: Figure, form: str) -> str:
    return _NONE if figure.value is None else format(figure.value, form)


def _notes(result: BenchResult) -> list[str]:
    notes = [
        f"- {escaped(item.artefact)} is {item.verdict.level}: {escaped(reason.message)}."
        for item in result.artefacts
        for reason in item.verdict.reasons
    ]
    often = ((item, own_hop_ms(item, result)) for item in result.artefacts)
    notes += [
        f"- {escaped(item.artefact)} answers every {hop_ms:g} ms." for item, hop_ms in often if hop_ms is not None
    ]
    notes += [f"- {escaped(text)}" for text in broken_off(result)]
    return notes + [f"- {escaped(item.artefact)} was not run: {escaped(item.reason)}." for item in result.not_run]
