"""Marks in the guest, between which count_instructions.c counts. On a real device they do nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

from edgeaudio.errors import ConfigError

# As in count_instructions.c: system calls that no kernel knows.
_FIRST, _END = 5000, 6000
_LIBC = ctypes.CDLL(None)

Given = TypeVar("Given")
Made = TypeVar("Made")


def marked(pair: int, work: Callable[[Given], Made], given: Given) -> Made:
    """`work(given)` between the two marks of `pair`; pairs are given in order, from 0 on.

    Raises:
        ConfigError: more pairs than there are marks.
    """
    first = _FIRST + 2 * pair
    if not _FIRST <= first < _END:
        raise ConfigError(f"pair of marks {pair}, wanted 0 to {(_END - _FIRST) // 2 - 1}")
    _LIBC.syscall(first)
    made = work(given)
    _LIBC.syscall(first + 1)
    return made
