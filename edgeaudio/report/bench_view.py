"""From results to the rows that a benchmark page shows. No HTML here, and no layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from edgeaudio.bench.metrics import METRICS, fair_ratios, own_hop_ms, share_interval
from edgeaudio.bench.schema import (
    ArtefactResult,
    BenchResult,
    Ratio,
    Reason,
    StageName,
    StageResult,
    Summary,
)
from edgeaudio.report.bench_words import REASON_WORDS, facts, not_measured, states
from edgeaudio.report.latency import LatencyRow, latency_rows
from edgeaudio.report.page import Tile
from edgeaudio.report.words import count, kib, milliseconds, ms_digits, percent, plain

_NONE = "–"


@dataclass(frozen=True)
class ReasonRow:
    """One thing that speaks against the figures of some artefacts: what was found, and what that means."""

    artefacts: str
    level: str
    message: str
    meaning: str


@dataclass(frozen=True)
class Cell:
    """One artefact on one run of the device matrix; `missing` says why there is no figure."""

    p50: str = ""
    interval: str = ""
    p95: str = ""
    every: str = ""
    verdict: str = ""
    missing: str = ""


@dataclass(frozen=True)
class RunView:
    """One measured run: rows of cells under the heads that the template has."""

    id: str
    name: str
    where: str
    verdict: str
    reasons: tuple[ReasonRow, ...]
    latency: tuple[LatencyRow, ...]
    gpu: tuple[tuple[str, ...], ...]
    paced: tuple[tuple[str, ...], ...]
    sounds: tuple[tuple[str, ...], ...]
    starts: tuple[tuple[str, ...], ...]
    accuracy: tuple[tuple[str, ...], ...]
    ratios: tuple[tuple[str, ...], ...]
    exits: tuple[tuple[str, tuple[tuple[int, float, str], ...], str], ...]
    energy: tuple[tuple[str, ...], ...]
    estimates: tuple[tuple[str, ...], ...]
    states: tuple[tuple[str, ...], ...]
    facts: tuple[tuple[str, str], ...]
    not_measured: tuple[str, ...]


@dataclass(frozen=True)
class BenchView:
    """The whole page."""

    title: str
    lead: str
    tiles: tuple[Tile, ...]
    measured: tuple[RunView, ...]
    estimated: tuple[RunView, ...]
    matrix: tuple[tuple[str, tuple[Cell, ...]], ...]
    invalid: tuple[str, ...] = field(default=())

    @property
    def runs(self) -> tuple[RunView, ...]:
        """All runs, measured ones first."""
        return self.measured + self.estimated


def bench_view(results: Sequence[BenchResult]) -> BenchView:
    """What the page says about `results`, at least one."""
    names = run_names(results)
    runs = [(_run_view(result, f"run{n}", names[n]), result) for n, result in enumerate(results)]
    measured = [(view, result) for view, result in runs if result.kind == "measured"]
    bundles = list(dict.fromkeys(plain(result.bundle_name, 60) for result in results))
    devices = list(dict.fromkeys(plain(result.environment.device, 60) for result in results))
    return BenchView(
        title=f"{_listed(bundles)} on {_listed(devices)}",
        lead=f"{len(results)} run{'s' if len(results) > 1 else ''}, {_dates(results)}",
        tiles=_tiles([result for _, result in measured]),
        measured=tuple(view for view, _ in measured),
        estimated=tuple(view for view, result in runs if result.kind == "estimated"),
        matrix=_matrix([result for _, result in measured]),
        invalid=tuple(view.name for view, result in runs if result.verdict.level == "invalid"),
    )


def run_names(results: Sequence[BenchResult]) -> list[str]:
    """The device of each run; where several ran on one, also which run it was."""
    devices = Counter(result.environment.device for result in results)
    return [
        plain(result.environment.device, 60)
        + (f", {plain(result.run_id, 40)}" if devices[result.environment.device] > 1 else "")
        for result in results
    ]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _dates(results: Sequence[BenchResult]) -> str:
    days = sorted({plain(result.started_at[:10], 10) for result in results})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _run_view(result: BenchResult, id: str, name: str) -> RunView:
    items = result.artefacts
    board = plain(result.board.board.name) if result.board else "a board that nobody looked at"
    virtual = " (virtual machine)" if result.board and result.board.board.virtualised else ""
    return RunView(
        id=id,
        name=name,
        where="no device: counted on an emulated processor" if result.kind == "estimated" else board + virtual,
        verdict=result.verdict.level,
        reasons=tuple(_reasons(result)),
        latency=latency_rows(result),
        gpu=tuple(row for item in items if (row := _gpu(item))),
        paced=tuple(row for item in items if (row := _paced(item))),
        sounds=tuple(row for item in items if (row := _sound(item))),
        starts=tuple(row for item in items if (row := _start(item))),
        accuracy=tuple(row for item in items if (row := _accuracy(item))),
        ratios=tuple(_ratios(result)),
        exits=tuple(_exits(item) for item in items if item.exits),
        energy=tuple(row for item in items if (row := _energy(item))),
        estimates=tuple(row for item in items if (row := _estimate(item))),
        states=tuple(states(result)),
        facts=tuple(facts(result)),
        not_measured=tuple(plain(text, 400) for text in not_measured(result)),
    )


def _reasons(result: BenchResult) -> list[ReasonRow]:
    """The same finding on several artefacts is said once."""
    if not result.artefacts:
        return [
            ReasonRow("the run", reason.level, plain(reason.message, 400), REASON_WORDS["incomplete"])
            for reason in result.verdict.reasons
        ]
    found: dict[Reason, list[str]] = {}
    for item in result.artefacts:
        for reason in item.verdict.reasons:
            found.setdefault(reason, []).append(plain(item.artefact))
    return [
        ReasonRow(", ".join(names), reason.level, plain(reason.message, 400), REASON_WORDS.get(reason.code, ""))
        for reason, names in found.items()
    ]


def _summary(stages: Sequence[StageResult], name: StageName) -> Summary | None:
    return next((stage.summary for stage in stages if stage.name == name), None)


def _times(summary: Summary | None) -> tuple[str, ...]:
    """p50, its interval, p95, p99, longest."""
    if summary is None:
        return (_NONE,) * 5
    bounds = summary.p50_interval_us
    return (
        milliseconds(summary.p50.value_us),
        f"{ms_digits(bounds[0])} – {ms_digits(bounds[1])}" if bounds else _NONE,
        milliseconds(summary.p95.value_us),
        milliseconds(summary.p99.value_us),
        milliseconds(summary.max_us),
    )


def _paced(item: ArtefactResult) -> tuple[str, ...]:
    paced = item.paced
    if paced is None:
        return ()
    wait = _summary(paced.stages, "wait")
    late = f"{paced.deadline_misses:,} of {paced.n_hops:,} after {paced.deadline_ms:g} ms"
    times = _times(_summary(paced.stages, "total"))
    return (plain(item.artefact), *times, milliseconds(wait.p50.value_us) if wait else _NONE, late)


def _sound(item: ArtefactResult) -> tuple[str, ...]:
    sound = item.sound_to_event
    if sound is None:
        return ()
    onset = sound.onset_summary
    heard = f"{sound.n_heard:,} of {sound.n_sounds:,}"
    return (plain(item.artefact), *_times(sound.summary), milliseconds(onset.p50.value_us) if onset else _NONE, heard)


def _start(item: ArtefactResult) -> tuple[str, ...]:
    cold = item.cold_start
    if cold is None and item.load_ms is None:
        return ()
    first = _NONE if item.first_inference_ms is None else f"{item.first_inference_ms:.2f} ms"
    load = _NONE if item.load_ms is None else f"{item.load_ms:.1f} ms"
    if cold is None or not cold.to_first_answer_ms:
        return (plain(item.artefact), *[_NONE] * 5, load, first, _NONE, _NONE)
    spans = (cold.to_first_answer_ms, cold.import_ms, cold.load_ms, cold.first_inference_ms)
    return (
        plain(item.artefact),
        *(f"{median(values):.0f} ms" if values else _NONE for values in spans),
        str(len(cold.to_first_answer_ms)),
        load,
        first,
        kib(cold.peak_rss_bytes),
        kib(cold.pss_bytes),
    )


def _accuracy(item: ArtefactResult) -> tuple[str, ...]:
    check = item.accuracy
    if check is None:
        return ()
    low, high = share_interval(check.n_correct, check.n_clips)
    return (
        plain(item.artefact),
        f"{check.n_correct:,} of {check.n_clips:,}",
        percent(check.n_correct / check.n_clips),
        f"{low * 100:.1f} – {high * 100:.1f} %",
        f"{check.n_correct_on_host:,}",
        f"{check.n_same:,}",
        "passed" if check.passed else "failed",
    )


def _ratios(result: BenchResult) -> list[tuple[str, ...]]:
    return [
        (
            plain(ratio.artefact),
            plain(ratio.baseline),
            _ratio_words(ratio),
            f"{ratio.value:.3f}",
            f"{ratio.interval[0]:.3f} – {ratio.interval[1]:.3f}" if ratio.interval else _NONE,
            _apart(ratio.interval),
        )
        for ratio in fair_ratios(result)
    ]


def _ratio_words(ratio: Ratio) -> str:
    whole = "whole hop" if ratio.per == "hop" else "all stages"
    stage = {"total": whole, "frontend": "front-end"}.get(ratio.stage, ratio.stage)
    return stage if ratio.per == "hop" else f"{stage}, per second of sound"


def _apart(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "not known"
    return "within noise" if interval[0] <= 1 <= interval[1] else "faster" if interval[1] < 1 else "slower"


def _exits(item: ArtefactResult) -> tuple[str, tuple[tuple[int, float, str], ...], str]:
    """Name, `(colour, width in %, words)` of each exit, and what catching up cost."""
    words = [f"exit {share.exit}" for share in item.exits[:-1]] + ["the end"]
    bars = tuple(
        (number, 100 * share.share, f"{place} {percent(share.share, 0)}{_median(share.inference)}")
        for number, (share, place) in enumerate(zip(item.exits, words, strict=True))
    )
    caught_up = _NONE if item.catch_up_share is None else percent(item.catch_up_share)
    return plain(item.artefact), bars, caught_up


def _median(summary: Summary | None) -> str:
    known = summary.p50.value_us if summary else None
    return "" if known is None else f", median {milliseconds(known)}"


def _energy(item: ArtefactResult) -> tuple[str, ...]:
    energy = item.energy
    if energy is None or energy.per_inference_mj is None:
        return ()
    watts = (f"{value:.2f} W" if value is not None else _NONE for value in (energy.idle_w, energy.busy_w))
    return (plain(item.artefact), f"{energy.per_inference_mj:.3g} mJ", *watts, plain(energy.rail or _NONE))


def _matrix(results: Sequence[BenchResult]) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """Rows of artefacts, a cell per run."""
    names = dict.fromkeys(item.artefact for result in results for item in result.artefacts)
    names |= dict.fromkeys(item.artefact for result in results for item in result.not_run)
    return tuple((plain(name), tuple(_cell(name, result) for result in results)) for name in names)


def _cell(name: str, result: BenchResult) -> Cell:
    item = next((item for item in result.artefacts if item.artefact == name), None)
    if item is None:
        reasons = [missing.reason for missing in result.not_run if missing.artefact == name]
        return Cell(missing=plain(reasons[0], 200) if reasons else "not part of this run")
    summary = _summary(item.stages, "total")
    if summary is None:
        return Cell(verdict=item.verdict.level, missing="not timed")
    p50, interval, p95, *_ = _times(summary)
    hop_ms = own_hop_ms(item, result)
    every = "" if hop_ms is None else f"every {hop_ms:g} ms"
    return Cell(p50=p50, interval=interval, p95=p95, every=every, verdict=item.verdict.level)


def _estimate(item: ArtefactResult) -> tuple[str, ...]:
    estimate = item.estimate
    if estimate is None:
        return ()
    others = {stage: n for stage, n in estimate.instructions_per_stage.items() if stage != "inference"}
    stages = " · ".join(f"{plain(stage, 20)} {count(n)}" for stage, n in others.items())
    basis = f"measured on {plain(estimate.calibrated_on, 40)}" if estimate.calibrated_on else "assumed"
    return (
        plain(item.artefact),
        f"{estimate.instructions_per_inference:,}",
        stages or _NONE,
        f"{estimate.spread_share:.3%} of {estimate.n_counts}",
        f"{estimate.ipc[0]:g} – {estimate.ipc[1]:g}",
        f"{basis}, {estimate.clock_mhz:g} MHz",
        f"{estimate.latency_ms[0]:.3g} – {estimate.latency_ms[1]:.3g} ms",
        item.verdict.level,
    )


def _gpu(item: ArtefactResult) -> tuple[str, ...]:
    if item.gpu is None:
        return ()
    inference = _summary(item.stages, "inference")
    summaries = (item.gpu.kernels, item.gpu.copies, inference)
    medians = (milliseconds(summary.p50.value_us) if summary else _NONE for summary in summaries)
    return (plain(item.artefact), *medians)


def _tiles(results: Sequence[BenchResult]) -> tuple[Tile, ...]:
    """The figures that a hurried reader needs: of the bundle's artefacts that may be used and compare per hop."""
    usable = [
        (item, result)
        for result in results
        for item in result.artefacts
        if item.verdict.level != "invalid" and item.form != "foreign" and own_hop_ms(item, result) is None
    ]
    all_items = [item for result in results for item in result.artefacts]
    n_valid = sum(item.verdict.level == "valid" for item in all_items)
    why = "" if n_valid == len(all_items) else "the others say why not"
    tiles = [Tile(f"{n_valid} of {len(all_items)}", "measured artefacts valid", why)] if all_items else []
    for name, label in (("latency_ms_p50", "median per hop"), ("sound_to_event_ms_p50", "sound to event, median")):
        values = [(METRICS[name].read(item, result).value, item, result) for item, result in usable]
        known = [(value, item, result) for value, item, result in values if value is not None]
        if known:
            value, item, result = min(known, key=lambda triple: triple[0])
            detail = f"{plain(item.artefact, 40)} on {plain(result.environment.device, 40)}"
            tiles.append(Tile(milliseconds(value * 1e3), label, _flagged(detail, item)))
    smallest = min(usable, key=lambda pair: pair[0].size_bytes, default=None)
    if smallest:
        tiles.append(Tile(kib(smallest[0].size_bytes), "smallest file", plain(smallest[0].artefact, 40)))
    return tuple(tiles)


def _flagged(detail: str, item: ArtefactResult) -> str:
    return detail if item.verdict.level == "valid" else f"{detail}; {item.verdict.level}"
