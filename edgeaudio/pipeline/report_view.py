"""From `ReportData` to the words and numbers that the page shows. No HTML here, and no layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.pipeline.report_data import Confusion, ModelResult, PairedComparison, ReportData, Score
from edgeaudio.pipeline.report_stats import accuracy_interval, mcnemar_exact_p, paired_difference_interval
from edgeaudio.report.page import Tile
from edgeaudio.report.words import count, kib, milliseconds, percent

#: Above this many classes, cells are too small for counts and columns are numbered.
DENSE_CLASSES = 16
MAX_SKIPPED_SHOWN = 50
MAX_CONFUSED_PAIRS = 8
_SIGNIFICANT_P = 0.05


def p_value(p: float) -> str:
    """Two digits, never a bare zero."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


@dataclass(frozen=True)
class ModelRow:
    """A row of the headline and accuracy tables; positions on the axis are percent of its width.

    `verdict` is that of the timing; figures of an invalid one are not shown here.
    """

    name: str
    role: str
    note: str
    params: str
    macs: str
    size: str
    accuracy: str
    right: str
    interval: str
    p50: str
    p95: str
    rtf: str
    verdict: str
    folds: tuple[str, ...]
    dot: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Axis:
    """A truncated accuracy axis: its first value and its ticks `(position in %, label)`."""

    first: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, share: float) -> float:
        """Percent of the axis width."""
        return 100 * (share - self.first) / (1 - self.first)


def accuracy_axis(models: tuple[ModelResult, ...]) -> Axis:
    """From the ten per cent below the lowest interval to 100 %."""
    lows = [accuracy_interval(m.pooled.n_correct, m.pooled.n_clips)[0] for m in models if m.pooled]
    first = min(np.floor(min(lows, default=0.0) * 10) / 10, 0.9)
    step = 0.1 if first >= 0.5 else 0.2
    values = np.arange(1.0, first - 1e-9, -step)[::-1]
    axis = Axis(first=float(first), ticks=())
    return Axis(first=float(first), ticks=tuple((axis.place(float(v)), f"{v * 100:.0f}") for v in values))


def model_rows(data: ReportData) -> tuple[tuple[ModelRow, ...], tuple[str, ...], Axis]:
    """All rows, the fold names that head the fold columns, and the axis."""
    folds = tuple(sorted({fold for model in data.models for fold in model.by_fold}, key=lambda f: (len(f), f)))
    axis = accuracy_axis(data.models)
    return tuple(_model_row(model, folds, axis, data.bench) for model in data.models), folds, axis


def _model_row(model: ModelResult, folds: tuple[str, ...], axis: Axis, bench: BenchResult | None) -> ModelRow:
    score, timed = model.pooled, _timing_of(model, bench)
    usable = timed if timed and timed.verdict.level != "invalid" else None
    total = usable.stage("total") if usable else None
    summary = total.summary if total else None
    low, high = accuracy_interval(score.n_correct, score.n_clips) if score else (None, None)
    return ModelRow(
        name=model.name,
        role=model.role,
        note=model.note,
        params=count(model.params),
        macs=count(model.macs_per_window),
        size=kib(model.size_bytes),
        accuracy=percent(score.accuracy) if score else "not evaluated",
        right=f"{score.n_correct:,} of {score.n_clips:,}" if score else "–",
        interval=f"{low * 100:.1f} – {high * 100:.1f} %" if low is not None and high is not None else "–",
        p50=milliseconds(summary.p50.value_us) if summary else "–",
        p95=milliseconds(summary.p95.value_us) if summary else "–",
        rtf=f"{usable.rtf_p50:.4f}" if usable and usable.rtf_p50 is not None else "–",
        verdict=timed.verdict.level if timed else "",
        folds=tuple(_fold_cell(model.by_fold.get(fold)) for fold in folds),
        dot=axis.place(score.accuracy) if score else None,
        low=axis.place(low) if low is not None else None,
        high=axis.place(high) if high is not None else None,
    )


def _fold_cell(score: Score | None) -> str:
    return percent(score.accuracy) if score else "–"


def _timing_of(model: ModelResult, bench: BenchResult | None) -> ArtefactResult | None:
    if bench is None or model.artefact is None:
        return None
    return next((item for item in bench.artefacts if item.artefact == model.artefact), None)


def tiles(data: ReportData) -> tuple[Tile, ...]:
    """The four or five figures that a hurried reader needs; only those that exist."""
    found = []
    teacher = next((m for m in data.models if m.role == "teacher" and m.pooled), None)
    student = next((m for m in data.models if m.role == "student" and m.pooled), None)
    small = _smallest(data)
    if student and student.pooled:
        found.append(Tile(percent(student.pooled.accuracy), "student accuracy", student.name))
    if teacher and teacher.pooled:
        found.append(Tile(percent(teacher.pooled.accuracy), "teacher accuracy", teacher.name))
    if small and small.pooled:
        found.append(
            Tile(percent(small.pooled.accuracy), "smallest artefact", f"{small.name}, {kib(small.size_bytes)}")
        )
    if teacher and student and teacher.params and student.params:
        found.append(
            Tile(f"{teacher.params / student.params:,.0f} ×", "fewer parameters", f"{count(student.params)} left")
        )
    fastest = _fastest(data.bench)
    if fastest:
        median_us, item = fastest
        rtf = f", real-time factor {item.rtf_p50:.4f}" if item.rtf_p50 is not None else ""
        flag = "" if item.verdict.level == "valid" else f"; {item.verdict.level}, see Latency"
        found.append(Tile(milliseconds(median_us), "median per hop", f"{item.artefact}{rtf}{flag}"))
    return tuple(found)


def _smallest(data: ReportData) -> ModelResult | None:
    sized = [m for m in data.models if m.role == "artefact" and m.size_bytes and m.pooled]
    return min(sized, key=lambda m: m.size_bytes or 0, default=None)


def _fastest(bench: BenchResult | None) -> tuple[float, ArtefactResult] | None:
    timed = []
    for item in _at_the_hop(bench):
        total = item.stage("total")
        if total and total.summary and total.summary.p50.value_us is not None and item.verdict.level != "invalid":
            timed.append((total.summary.p50.value_us, item))
    return min(timed, key=lambda pair: pair[0], default=None)


def _at_the_hop(bench: BenchResult | None) -> list[ArtefactResult]:
    """The bundle's artefacts that answer once per hop of its windows: only those compare in time per hop."""
    if bench is None:
        return []
    return [item for item in bench.artefacts if item.form != "foreign" and item.hop_ms in (None, bench.hop_ms)]


@dataclass(frozen=True)
class PairedView:
    """A paired comparison in words."""

    raw: PairedComparison
    difference: str
    interval: str
    p: str
    sentence: str


def paired_views(comparisons: tuple[PairedComparison, ...]) -> tuple[PairedView, ...]:
    """Each comparison with its exact test and the interval of the difference; empty ones are left out."""
    views = []
    for pair in (pair for pair in comparisons if pair.n):
        p = mcnemar_exact_p(pair.only_a, pair.only_b)
        low, high = paired_difference_interval(pair.only_a, pair.only_b, pair.n)
        difference = (pair.only_a - pair.only_b) / pair.n
        if p >= _SIGNIFICANT_P:
            sentence = f"This many clips do not tell {pair.name_a} and {pair.name_b} apart."
        else:
            better = pair.name_a if difference > 0 else pair.name_b
            sentence = f"{better} is better by more than chance on these clips explains."
        interval = f"{low * 100:+.1f} to {high * 100:+.1f} points"
        views.append(PairedView(pair, f"{difference * 100:+.1f} points", interval, p_value(p), sentence))
    return tuple(views)


@dataclass(frozen=True)
class ConfusionView:
    """Rows of `(label, right share, cells)`, a cell being `(count, share of its row)`."""

    model: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[int, float], ...]], ...]
    dense: bool
    pairs: tuple[tuple[str, str, int, int], ...]


def confusion_view(confusion: Confusion) -> ConfusionView:
    """Shares per true class, and the pairs that are mistaken most often: (true, heard as, count, of)."""
    counts = confusion.counts
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows = tuple(
        (
            label,
            percent(shares[i, i], 0) if totals[i] else "–",
            tuple((int(n), round(float(share), 3)) for n, share in zip(counts[i], shares[i], strict=True)),
        )
        for i, label in enumerate(confusion.labels)
    )
    mistakes = sorted(
        ((int(counts[i, j]), i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    pairs = tuple(
        (confusion.labels[i], confusion.labels[j], n, int(totals[i])) for n, i, j in mistakes[:MAX_CONFUSED_PAIRS]
    )
    return ConfusionView(confusion.model, confusion.labels, rows, len(confusion.labels) > DENSE_CLASSES, pairs)


def environment_rows(data: ReportData) -> tuple[tuple[str, str], ...]:
    """What the caller gave, then what the benchmark recorded."""
    rows = [(str(key), str(value)) for key, value in data.environment.items()]
    if data.bench is None:
        return tuple(rows)
    process, record = data.bench.environment, data.bench.known_board
    board, state = record.board, record.samples[0] if record.samples else None
    clocks_mhz = sorted(set(state.frequencies_mhz)) if state else []
    governors = sorted(set(state.governors)) if state else []
    known = [
        ("device", process.device + (f" ({board.model})" if board.model else "")),
        ("CPU", f"{board.cpu_model} ({', '.join([board.architecture, *(f'{mhz:.0f} MHz' for mhz in clocks_mhz)])})"),
        ("cores", f"{board.cores_logical or 'unknown'}, benchmark threads {data.bench.threads}"),
        ("virtual machine", {True: "yes", False: "no", None: "unknown"}[board.virtualised]),
        ("memory", f"{board.memory_bytes / 2**30:.1f} GiB" if board.memory_bytes else "unknown"),
        ("system", f"{board.os}, kernel {board.kernel}"),
        ("governor", ", ".join(governors) or "not told by this system"),
        ("load average", record.load_text()),
        ("Python", process.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in process.packages.items())),
        ("garbage collector", data.bench.gc_note),
    ]
    return tuple(rows + known)
