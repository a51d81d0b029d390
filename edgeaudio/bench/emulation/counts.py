"""Reading what count_instructions.c writes. Pure; starts nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edgeaudio.errors import BenchInvalidError

# Work that other threads did between two markers, over that of the marking thread: a scheduler tick, not a kernel.
MAX_OTHER_THREADS = 0.001
# Instruction counts of one thread repeat to some 0.01 %; more means that something else was counted too.
MAX_SPREAD = 0.01


def parse_counts(text: str, source: str) -> list[int]:
    """The plugin's lines -> instructions of the marking thread within each pair of markers 0-1, 2-3, ...

    Raises:
        BenchInvalidError: not what the plugin writes for a guest that ran to its end, or another thread worked too.
    """
    marks = _marks(text, source)
    counts = []
    for (own_before, all_before), (own_after, all_after) in zip(marks[::2], marks[1::2], strict=True):
        own, others = own_after - own_before, (all_after - all_before) - (own_after - own_before)
        if others > MAX_OTHER_THREADS * own:
            raise BenchInvalidError(
                f"{source}: other threads ran {others} instructions beside {own}; wanted one thread"
            )
        counts.append(own)
    return counts


def _marks(text: str, source: str) -> list[tuple[int, int]]:
    marks: list[tuple[int, int]] = []
    ended = False
    for line in text.splitlines():
        match line.split():
            case ["mark", number, own_text, all_text] if (
                not ended and number == str(len(marks)) and own_text.isdecimal() and all_text.isdecimal()
            ):
                marks.append((int(own_text), int(all_text)))
            case ["end", _] if not ended:
                ended = True
            case _:
                raise BenchInvalidError(f"{source}: line {line!r:.80} after {len(marks)} markers; counts are damaged")
    if not ended or not marks or len(marks) % 2:
        raise BenchInvalidError(f"{source}: {len(marks)} markers, {'an' if ended else 'no'} end; the guest broke off")
    return marks


def spread(counts: Sequence[int]) -> float:
    """(largest - smallest) / median."""
    return (max(counts) - min(counts)) / statistics.median(counts)


def check_spread(name: str, counts: Sequence[int]) -> None:
    """Raise `BenchInvalidError` where the counts of the same work, `name`, do not repeat."""
    if spread(counts) > MAX_SPREAD:
        raise BenchInvalidError(
            f"{name}: counts from {min(counts):,} to {max(counts):,}, {spread(counts):.1%} apart; "
            f"wanted {MAX_SPREAD:.0%} at most"
        )
