"""Marks in the guest, between which count_instructions.c counts. On a real device they do nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Generic, TypeVar

from edgeaudio.bench.emulation.counts import N_MARKS
from edgeaudio.errors import ConfigError

# As in count_instructions.c: system calls that no kernel knows.
_FIRST = 5000
_LIBC = ctypes.CDLL(None)

Given = TypeVar("Given")
Made = TypeVar("Made")
Label = TypeVar("Label")


def marked(pair: int, work: Callable[[Given], Made], given: Given) -> Made:
    """`work(given)` between the two marks of `pair`; pairs are given in order, from 0 on.

    Raises:
        ConfigError: more pairs than there are marks.
    """
    if not 0 <= pair < N_MARKS // 2:
        raise ConfigError(f"pair of marks {pair}, wanted 0 to {N_MARKS // 2 - 1}")
    first = _FIRST + 2 * pair
    _LIBC.syscall(first)
    made = work(given)
    _LIBC.syscall(first + 1)
    return made


class Segments(Generic[Label]):
    """Cuts a run into segments, each from its mark to the next; `labels` says what each of them is.

    While `marking` is off nothing is marked.
    """

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self.marking = False

    def begin(self, label: Label) -> None:
        """The segment before ends here, and `label` begins."""
        if self.marking:
            number = len(self.labels) % N_MARKS
            self.labels.append(label)
            _LIBC.syscall(_FIRST + number)
