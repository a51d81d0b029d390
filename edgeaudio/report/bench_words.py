"""What a benchmark page says in sentences: reasons in plain words, what was not measured, and the board as facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from edgeaudio.bench.board import BoardSample, Phase
from edgeaudio.bench.metrics import broken_off, refusals
from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.report.words import kib, plain

#: Reason code -> what it means for someone who wants to use the figure.
REASON_WORDS: Final[dict[str, str]] = {
    "incomplete": "The run did not reach its end. What was measured until then is shown, and belongs in no average.",
    "parity": "The file does not give the answers that it was shipped with. How fast wrong answers come is no use.",
    "accuracy": "On this device the file hears other things than on the machine that made it.",
    "too-few-samples": "Too little was measured to say anything.",
    "few-samples": "The median can be used; rare slow hops may not have been seen.",
    "provider": "Something else than what was asked for ran the model, often far slower. Libraries do so silently.",
    "throttled": "The board held its processor back. A cooler or rested board is faster than this.",
    "under-voltage": "The power supply or its cable is too weak. With a better one the board is faster than this.",
    "clock-moved": "The processor ran at several speeds. The figures mix them: fix the clock with --set-performance.",
    "temperature": "The board was hot enough to slow down soon, if it did not already.",
    "drift": "It became slower or faster while it was measured. Longer runs will show another figure.",
    "other-load": "Other programs were busy. Stop them and measure again.",
    "off-cpu": "The measurement had to wait for a processor: the figures hold those waits.",
    "overhead": "Measuring itself takes a noticeable part of so short a hop.",
    "deadline": "Hops came faster than they were answered, so in a live stream they would queue and be lost.",
    "unheard": "Events that the same audio gives without a clock did not come, or none at all.",
    "unwatched": "Whether the board was throttled, hot or busy meanwhile is not known.",
    "spread": "Counting the same work again gave another count: too uncertain for a gate.",
    "not-judged": "Nobody has judged these figures.",
}


def not_measured(result: BenchResult) -> list[str]:
    """What a reader might look for and not find, each with how to get it."""
    found = [f"{plain(item.artefact)} was not run: {item.reason}." for item in result.not_run]
    if result.kind == "estimated":
        return [*found, "Times, memory and energy: no device was used, instructions were counted instead."]
    found += broken_off(result)
    items = result.artefacts
    options = {
        "Hops at the rate of real time (--pace S).": any(item.paced for item in items),
        "Fresh processes (--cold-starts N).": any(item.cold_start for item in items),
        "From a sound to its event (--sounds N).": any(item.sound_to_event for item in items),
        "Accuracy on this device (--clips DIR).": any(item.accuracy for item in items),
    }
    found += [words for words, measured in options.items() if not measured]
    found += _energy(items)
    found += list(_silent_board(result))
    return found + [f"{plain(item.artefact)}: {text}." for item in items for text in refusals(item)]


def _energy(items: Sequence[ArtefactResult]) -> list[str]:
    known = [item.energy for item in items if item.energy]
    if not known:
        return ["Energy of an inference (--idle S, where the board tells its power)."]
    silent = (energy.reason or "no reason is known" for energy in known if energy.per_inference_mj is None)
    return [f"Energy: {reason}." for reason in dict.fromkeys(silent)]


def _silent_board(result: BenchResult) -> Iterator[str]:
    samples = result.board.samples if result.board else ()
    if not samples:
        yield "The state of the board: nobody watched it."
        return
    if all(sample.throttled_now is None for sample in samples):
        yield "Whether the board throttled: it does not tell."
    if not any(sample.frequencies_mhz for sample in samples):
        yield "The clock: this system does not tell it."
    if not any(sample.temperatures_c for sample in samples):
        yield "The temperature: this system does not tell it."


def facts(result: BenchResult) -> list[tuple[str, str]]:
    """What ran where and how, as name and value; what is not known is left out."""
    options, machine = result.options, result.environment
    rows: list[tuple[str, object]] = [
        ("run", f"{result.run_id}, {result.started_at}"),
        ("bundle", f"{result.bundle_name} ({result.bundle_sha256[:16]})"),
        *_board_facts(result),
        ("threads", result.threads),
        ("cores used", " ".join(map(str, machine.affinity)) if machine.affinity else None),
        ("measured", f"at least {options.min_hops} hops and {options.min_seconds:g} s per artefact, in "
                     f"{options.rounds} turns, after {options.warmup_hops} hops of warm-up; hops {result.pacing}"),
        ("input", f"{result.input_rate_hz:,} Hz, model {result.model_rate_hz:,} Hz, hop {result.hop_ms:g} ms, "
                  f"window {result.window_ms:g} ms"),
        ("harness overhead", f"{result.overhead.p50_us:.2f} µs per hop, longest {result.overhead.max_us:.0f} µs; not "
                             "subtracted"),
        ("garbage collector", result.gc_note),
        ("largest resident set", kib(result.peak_rss_bytes)),
        ("Python", machine.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in machine.packages.items())),
        ("edgeaudio", result.edgeaudio_version),
    ]  # fmt: skip
    if result.kind == "estimated":
        rows = [row for row in rows if row[0] not in ("measured", "harness overhead", "largest resident set")]
    return [(name, plain(str(value), 400)) for name, value in rows if value not in (None, "", "unknown")]


def _board_facts(result: BenchResult) -> list[tuple[str, object]]:
    if result.board is None:
        return []
    board = result.board.board
    bits = f", {board.userland_bits}-bit programs" if board.userland_bits else ""
    physical = f", {board.cores_physical} physical" if board.cores_physical else ""
    locked = {True: "locked by jetson_clocks", False: "not locked", None: None}[board.clocks_locked]
    return [
        ("board", board.model),
        ("SoC", board.soc),
        ("processor", f"{board.cpu_model} ({board.architecture}{bits})"),
        ("cores", f"{board.cores_logical}{physical}" if board.cores_logical else None),
        ("virtual machine", {True: "yes", False: "no", None: None}[board.virtualised]),
        ("memory", f"{board.memory_bytes / 2**30:.1f} GiB" if board.memory_bytes else None),
        ("system", board.os),
        ("kernel", board.kernel),
        ("C library", board.libc),
        ("firmware", board.firmware),
        ("JetPack", board.jetpack),
        ("power mode", board.power_mode),
        ("clocks", locked),
    ]


def states(result: BenchResult) -> list[tuple[str, ...]]:
    """The board before, during and after: phase, governor, clock, hottest zone, throttling, load, power."""
    phases: tuple[Phase, ...] = ("before", "during", "after")
    found = [(phase, result.board.of(phase) if result.board else ()) for phase in phases]
    return [(phase, *_state(samples)) for phase, samples in found if samples]


def _state(samples: Sequence[BoardSample]) -> tuple[str, ...]:
    governors = sorted({governor for sample in samples for governor in sample.governors})
    clocks = [max(sample.frequencies_mhz) for sample in samples if sample.frequencies_mhz]
    heat = [max(sample.temperatures_c.values()) for sample in samples if sample.temperatures_c]
    told = [sample.throttled_now for sample in samples if sample.throttled_now is not None]
    flags = sorted({flag for flags in told for flag in flags})
    loads = [sample.load_average_1min for sample in samples if sample.load_average_1min is not None]
    rails = [sample.power_w for sample in samples if sample.power_w]
    # Rails may feed each other: the largest is the nearest to a whole.
    largest = max(rails[0], key=lambda rail: rails[0][rail]) if rails else ""
    watts = [rail[largest] for rail in rails if largest in rail]
    return (
        plain(", ".join(governors)) or "–",
        f"{span(clocks)} MHz" if clocks else "–",
        f"{span(heat)} °C" if heat else "–",
        plain(", ".join(flags)) or ("no" if told else "not told"),
        f"{max(loads):.2f}" if loads else "–",
        f"{plain(largest, 20)} {span(watts, 1)} W" if watts else "–",
    )


def span(values: Sequence[float], digits: int = 0) -> str:
    """`47 – 61`, or one value where they are the same."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} – {high}"
