"""Reading what count_instructions.c writes. Pure; starts nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from edgeaudio.errors import BenchInvalidError

#: Numbers of markers; after the last comes the first again.
N_MARKS = 1000
# Work that other threads did between two markers, over that of the marking thread: a scheduler tick, not a kernel.
MAX_OTHER_THREADS = 0.001
# Instruction counts of one thread repeat to some 0.01 %; more means that something else was counted too.
MAX_SPREAD = 0.01


class Segment(NamedTuple):
    """Instructions between two markers: of the thread that gave them, and of all others."""

    own: int
    others: int

    @property
    def helped(self) -> bool:
        """Whether other threads did work meanwhile."""
        return self.others > MAX_OTHER_THREADS * self.own


def parse_segments(text: str, source: str) -> list[Segment]:
    """The plugin's lines -> what ran between each marker and the next.

    Raises:
        BenchInvalidError: not what the plugin writes for a guest that ran to its end.
    """
    marks = _marks(text, source)
    return [
        Segment(own_after - own_before, (all_after - all_before) - (own_after - own_before))
        for (own_before, all_before), (own_after, all_after) in pairwise(marks)
    ]


def parse_counts(text: str, source: str) -> list[int]:
    """The plugin's lines -> instructions of the marking thread within each pair of markers 0-1, 2-3, ...

    Raises:
        BenchInvalidError: not what the plugin writes for a guest that ran to its end, or another thread worked too.
    """
    segments = parse_segments(text, source)
    if not len(segments) % 2:
        raise BenchInvalidError(f"{source}: {len(segments) + 1} markers make no pairs; the guest broke off")
    counts = []
    for segment in segments[::2]:
        if segment.helped:
            raise BenchInvalidError(
                f"{source}: other threads ran {segment.others} instructions beside {segment.own}; wanted one thread"
            )
        counts.append(segment.own)
    return counts


def _marks(text: str, source: str) -> list[tuple[int, int]]:
    marks: list[tuple[int, int]] = []
    ended = False
    for line in text.splitlines():
        match line.split():
            case ["mark", number, own_text, all_text] if (
                not ended and number == str(len(marks) % N_MARKS) and own_text.isdecimal() and all_text.isdecimal()
            ):
                marks.append((int(own_text), int(all_text)))
            case ["end", _] if not ended:
                ended = True
            case _:
                raise BenchInvalidError(f"{source}: line {line!r:.80} after {len(marks)} markers; counts are damaged")
    if not ended or not marks:
        raise BenchInvalidError(f"{source}: {len(marks)} markers, {'an' if ended else 'no'} end; the guest broke off")
    return marks


def spread(counts: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(counts) - min(counts)) / statistics.median(counts)


def check_spread(name: str, counts: Sequence[int]) -> None:
    """Raise `BenchInvalidError` where the counts of the same work, `name`, do not repeat."""
    if spread(counts) > MAX_SPREAD:
        raise BenchInvalidError(
            f"{name}: counts from {min(counts):,} to {max(counts):,}, {spread(counts):.1%} apart; "
            f"wanted {MAX_SPREAD:.0%} at most"
        )
